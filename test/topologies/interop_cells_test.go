//go:build long

package topologies

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

func checkIPv4(t *testing.T, r *interopRun) {
	r.path(t, interop4, vip4, interop4)
	r.routed(t, vip4, "e1")
}

func checkIPv6(t *testing.T, r *interopRun) {
	r.path(t, interop6, vip6, interop6)
	r.routed(t, vip6, "e1")
}

func checkRFC8950(t *testing.T, r *interopRun) {
	r.path(t, interop8950, vip4, interop8950)
	r.path(t, interop8950, vip6, interop8950)
	r.routed(t, vip4, "e2")
	r.routed(t, vip6, "e2")
	p := r.peerAt(t, "fd68:12::2", "RFC 8950 is up", established)
	if !p.Negotiated.ExtendedNextHop {
		t.Errorf("negotiated: %+v", p.Negotiated)
	}
}

func isUnnumbered(p *status.Peer) bool { return p.Found == "unnumbered" }

func checkUnnumbered(t *testing.T, r *interopRun) {
	p := r.peer(t, established, "the unnumbered session is up", isUnnumbered)
	if !p.LocalAddress.IsLinkLocalUnicast() || !p.Address.IsLinkLocalUnicast() {
		t.Errorf("session from %v to %v", p.LocalAddress, p.Address)
	}
	r.path(t, p.LocalAddress, vip6, p.LocalAddress)
	r.routed(t, vip6, "e3")
	if r.software == lab.OpenBGPD { // see rfc8950
		if err := r.without(p.LocalAddress, vip4); err != nil {
			t.Error(err)
		}
		return
	}
	r.path(t, p.LocalAddress, vip4, p.LocalAddress)
	r.routed(t, vip4, "e3")
}

func checkMD5(t *testing.T, r *interopRun) {
	r.path(t, interopMD5, vip4, interopMD5)
	r.down(t, interopWrong, "10.68.13.2", "TCPMD5Failure")
}

func checkGTSM(t *testing.T, r *interopRun) {
	r.path(t, interopGTSM, vip4, interopGTSM)
	r.down(t, interopTTL, "fd68:14::2", "TCPMinTTLDrop")
}

func checkBFD(t *testing.T, r *interopRun) {
	up := func(want bool) func() error {
		return func() error {
			sessions, err := r.router.BFDSessions()
			if err != nil {
				return err
			}
			return lab.That(sessions[interopBFD.String()] == want, "%v", sessions)
		}
	}
	lab.Eventually(t, 30*time.Second, "the router's BFD session is up", up(true))
	r.peerAt(t, "10.68.15.2", "BFD is up", func(p *status.Peer) error {
		return errors.Join(established(p), lab.That(p.BFD != nil && p.BFD.State == "Up", "BFD: %+v", p.BFD))
	})
	r.path(t, interopBFD, vip4, interopBFD)

	failed := time.Now()
	r.l.DropFrames("host", "en5")
	lab.Eventually(t, 30*time.Second, "the router has left the path", func() error { return r.without(interopBFD, vip4) })
	left := time.Since(failed)
	t.Logf("left after %s", left.Round(10*time.Millisecond))
	// Of its hold time of 9 s a keepalive time of 3 s is over at the most.
	lab.Within(t, "leaving the path", failed, left, 6*time.Second)
	lab.Eventually(t, 20*time.Second, "the router's BFD session is down", up(false))
}

// without is an error while the router has a path of the VIP from a neighbour.
func (r *interopRun) without(from netip.Addr, vip netip.Prefix) error {
	list, err := r.router.PathsFrom(from, vip)
	if err != nil {
		return err
	}
	return lab.That(len(list) == 0, "it has %v", list)
}

func checkAddPath(t *testing.T, r *interopRun) {
	hops := func(want ...netip.Addr) func() error {
		return func() error {
			list, err := r.router.PathsFrom(interopAddPath, twoWays)
			if err != nil {
				return err
			}
			var got []netip.Addr
			for _, p := range list {
				got = append(got, p.NextHop)
			}
			slices.SortFunc(got, netip.Addr.Compare)
			return lab.That(slices.Equal(got, want), "%v", list)
		}
	}
	lab.Eventually(t, 30*time.Second, "two paths from one neighbour", hops(interop4, interopMD5))
	list, err := r.router.PathsFrom(interopAddPath, twoWays)
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	// BIRD does not show the IDs, but has no other way to tell two paths of one
	// neighbour apart.
	if r.software != lab.BIRD && (list[0].ID == 0 || list[1].ID == 0 || list[0].ID == list[1].ID) {
		t.Errorf("IDs of %v", list)
	}
	began := r.peerAt(t, "10.68.255.2", "ADD-PATH is up", established).Transitions
	r.l.Unplug("host", "en6")
	lab.Eventually(t, 10*time.Second, "only the path of the other interface", hops(interop4))
	if p := r.peerAt(t, "10.68.255.2", "ADD-PATH stays up", established); p.Transitions != began || !p.Negotiated.AddPath {
		t.Errorf("%+v", p)
	}
}

// checkGR looks at the one session of its interface that comes up: where two do and
// the router waits for no End-of-RIB, as OpenBGPD, GoBGP may say in the OPEN of the
// second that nothing was kept, before the speaker can start that anew.
func checkGR(t *testing.T, r *interopRun) {
	r.path(t, interopGTSM, vip4, interopGTSM)
	wire := r.host.Capture()
	t.Cleanup(func() {
		if t.Failed() {
			r.said(t, wire, "10.68.14.2")
		}
	})
	var watch *lab.RouteWatch
	if r.software == lab.FRR || r.software == lab.BIRD {
		watch = r.router.WatchRoute(vip4)
	}
	// Once the session is as wanted, with a path at every look.
	kept := func(what string, ok func(up bool, p lab.Path) error) {
		t.Helper()
		lab.Eventually(t, 40*time.Second, what, func() error {
			up, err := r.router.Up(interopGTSM)
			if err != nil {
				return err
			}
			list, err := r.router.PathsFrom(interopGTSM, vip4)
			if err != nil {
				return err
			}
			if len(list) != 1 {
				t.Fatalf("%s: the router has %d paths, session up: %t", what, len(list), up)
			}
			return ok(up, list[0])
		})
	}
	r.s.Kill()
	kept("the session is down and the path is kept", func(up bool, p lab.Path) error {
		return lab.That(!up && (p.Stale || r.software == lab.BIRD), "up: %t, %v", up, p)
	})
	r.s = lab.StartSpeaker(r.host, binary(t))
	kept("the session is back and the path fresh", func(up bool, p lab.Path) error {
		return lab.That(up && !p.Stale, "up: %t, %v", up, p)
	})
	r.path(t, interopGTSM, vip4, interopGTSM)
	if watch == nil {
		return
	}
	watch.Stop()
	for _, e := range watch.Events() {
		if len(lab.Live(e.Hops)) == 0 {
			t.Errorf("the router's kernel was without a route: %v", watch)
		}
	}
}

// said logs what the host and one of the router's addresses have said.
func (r *interopRun) said(t *testing.T, wire *lab.Capture, router string) {
	t.Helper()
	a := netip.MustParseAddr(router)
	for _, m := range wire.Messages() {
		if m.Src.Addr() == a || m.Dst.Addr() == a {
			t.Logf("%s %v", m.Time.Format("05.000"), m)
		}
	}
}

func checkGSHUT(t *testing.T, r *interopRun) {
	for from, vip := range map[netip.Addr]netip.Prefix{interop4: vip4, interop6: vip6} {
		if p := r.path(t, from, vip, from); slices.Contains(p.Communities, gracefulShutdownText) {
			t.Errorf("announced as drained before the stop: %v", p)
		}
	}
	r.s.Signal(syscall.SIGTERM)
	// Both are looked at in turn: they are so for a few seconds only.
	todo := map[netip.Addr]netip.Prefix{interop4: vip4, interop6: vip6}
	lab.Eventually(t, 20*time.Second, "GRACEFUL_SHUTDOWN", func() error {
		var errs []error
		for from, vip := range todo {
			err := r.lastChoice(from, vip)
			if err == nil {
				delete(todo, from)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	for from, vip := range map[netip.Addr]netip.Prefix{interop4: vip4, interop6: vip6} {
		lab.Eventually(t, 30*time.Second, "withdrawn", func() error { return r.without(from, vip) })
	}
	if code := r.s.Wait(40 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// lastChoice is an error unless the router's path of a VIP has GRACEFUL_SHUTDOWN, and
// is the last that it would choose.
func (r *interopRun) lastChoice(from netip.Addr, vip netip.Prefix) error {
	list, err := r.router.PathsFrom(from, vip)
	if err != nil {
		return err
	}
	if len(list) != 1 || !slices.Contains(list[0].Communities, gracefulShutdownText) {
		return fmt.Errorf("%v: %v", vip, list)
	}
	if r.software == lab.ExaBGP {
		return nil // it chooses nothing
	}
	last := uint32(0)
	if r.software == lab.GoBGP {
		last = 1 // its policies cannot set 0
	}
	return lab.That(list[0].LocalPref != nil && *list[0].LocalPref == last, "not the last choice: %v", list[0])
}

const gracefulShutdownText = "65535:0"
