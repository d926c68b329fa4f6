package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/doctor"
	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// A router hangs while its links stay up and its kernel forwards: with BFD the
// host leaves it within the detection time, and no client notices.
func TestFrozenRouterWithBFD(t *testing.T) {
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		l, s := bfdSample(t, usual, withBGP)
		sessions := startSessions(t, l, localVia(t, l.Node("client"), fails.via4))
		wire := l.Node("host").Capture()
		untilCalm(t, usual.detection()/2, func() []string {
			return frozenOnce(t, l, s, wire, sessions, fails, stays)
		})
		noResets(t, wire, sessions)
	})
}

// frozenOnce lets a router hang and go on, and tells what was not as it should be.
func frozenOnce(t *testing.T, l *lab.Lab, s *lab.Speaker, wire *lab.Capture, sessions []*lab.Session, fails, stays leg) (wrong []string) {
	t.Helper()
	host, router := l.Node("host"), l.Node(fails.node)
	frozen := time.Now()
	router.Freeze()
	s.WaitStatus(10*time.Second, "its sessions have ended", func(st *status.Status) error {
		for _, peer := range fails.peers() {
			if p := peerAt(st, peer); p.State == "Established" {
				return fmt.Errorf("%v is %s", peer, p.State)
			}
		}
		return nil
	})
	waitEgress(t, host, 20*time.Second, stays.ifc)
	t.Logf("the host's traffic has moved after %s at the latest", millis(time.Since(frozen)))
	silence := waitAllAlive(sessions, frozen)
	t.Logf("longest silence of a TCP session: %s", millis(silence))
	if silence > longestOutage {
		wrong = append(wrong, fmt.Sprintf("a TCP session was silent for %v", silence))
	}
	for _, peer := range fails.peers() {
		var list []lab.Message
		for step := 0; step < 100 && len(list) == 0; step++ { // by then it has mostly been sent
			<-time.After(10 * time.Millisecond)
			list = to(wire, peer, frozen, func(m lab.Message) bool { return m.Type == lab.Notification && m.Code == 6 })
		}
		want := fmt.Sprintf("BFD with %v down: control detection time expired", peer)
		if len(list) != 1 || list[0].Text != want {
			wrong = append(wrong, fmt.Sprintf("%v was sent %v, want one Cease that says %q", peer, list, want))
			continue
		}
		after := list[0].Time.Sub(frozen)
		t.Logf("Cease to %v after %s", peer, millis(after))
		// Room for a busy machine, and far below the hold time.
		if after > usual.detection()+longestOutage/2 {
			wrong = append(wrong, fmt.Sprintf("the session with %v ends after %v", peer, after))
		}
	}
	router.Thaw()
	allBack(t, l, s)
	waitAllAlive(sessions, frozen)
	return wrong
}

// A router that does not speak BFD gets its BGP session, unless BFD is required;
// when it begins to, that session comes up and the other one does not notice.
func TestBFDNeverUp(t *testing.T) {
	t.Parallel()
	eachLeg(t, func(t *testing.T, required, other leg) {
		t.Parallel()
		l := lab.Start(t, "vipa")
		peers := map[netip.Addr]string{}
		for _, p := range other.peers() {
			peers[p] = "bfd: " + lasting.host()
		}
		for _, p := range required.peers() {
			peers[p] = "bfd: " + lasting.host("required: true")
		}
		l.Node("host").WriteFile(lab.ConfigPath, pathConfig{peers: peers}.String())
		s := lab.StartSpeaker(l.Node("host"), binary(t))
		before := s.WaitStatus(15*time.Second, "sessions without BFD are up where it is not required", func(st *status.Status) error {
			for _, p := range st.Peers {
				switch want := fmt.Sprintf("BFD with %v is required and not up", p.Address); {
				case p.BFD == nil || p.BFD.State != "Down":
					return fmt.Errorf("peer %v: bfd %+v", p.Address, p.BFD)
				case p.Interface == other.ifc && (p.State != "Established" || p.Announced != 1):
					return fmt.Errorf("peer %v is %s, %d announced", p.Address, p.State, p.Announced)
				case p.Interface == required.ifc && (p.State != "Down" || p.LastError != want):
					return fmt.Errorf("peer %v is %s: %s", p.Address, p.State, p.LastError)
				}
			}
			return lab.That(len(st.Peers) == 4 && interfaceAt(st, required.ifc).Usable, "%+v", st.Interfaces)
		})
		text, err := s.Command("status")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range required.peers() {
			if want := fmt.Sprintf("BFD with %v is required and not up", p); !strings.Contains(text, want) {
				t.Errorf("status does not say %q:\n%s", want, text)
			}
		}
		// Where it is not required, nothing but this shows that it is not there.
		if r := diagnosis(t, s, "bfd"); len(r.Findings) != 2 || !slices.ContainsFunc(r.Findings, func(f doctor.Finding) bool {
			return f.Found == fmt.Sprintf("the session with %v (%s) is established, and its BFD session is Down", other.peers()[0], other.ifc)
		}) {
			t.Errorf("doctor finds %+v", r.Findings)
		}
		for _, p := range legs() {
			speakBFD(t, l.Node(p.node), lasting, withBGP, p.local4, p.local6)
		}
		waitBFD(t, s, lasting)
		if r := diagnosis(t, s, "bfd"); !r.Good() {
			t.Errorf("with BFD doctor finds %+v", r.Findings)
		}
		untouched(t, before, s.WaitStatus(15*time.Second, "all sessions are up", lab.Established), other.ifc)
	})
}

// The router's operator switches BFD off: that is no failure. Its BGP sessions
// stay, its routes too, and it may be switched on again. FRR says so; BIRD falls
// silent instead, see TestLongBFDGivenUp.
func TestBFDAdminDown(t *testing.T) {
	t.Parallel()
	l, s := bfdSample(t, lasting, withBGP)
	shut, router := legs()[0], l.Node("r1")
	watches := append(watchRoutes(t, l, legs()[0], vip4, vip6), watchRoutes(t, l, legs()[1], vip4, vip6)...)
	before := waitBFD(t, s, lasting)

	frrConfigure(router, "bfd", "profile host", "shutdown")
	st := s.WaitStatus(5*time.Second, "the router says AdminDown", func(st *status.Status) error {
		for _, peer := range shut.peers() {
			if b := peerAt(st, peer).BFD; b.State == "Up" || b.RemoteState != "AdminDown" || b.Downs != peerAt(before, peer).BFD.Downs {
				return fmt.Errorf("peer %v: %+v", peer, b)
			}
		}
		return nil
	})
	if n := interfaceAt(st, shut.ifc); !n.Usable || len(n.Failures) > 0 || n.Penalty.Flaps != interfaceAt(before, shut.ifc).Penalty.Flaps {
		t.Errorf("interface %+v", n)
	}
	frrConfigure(router, "bfd", "profile host", "no shutdown")
	st = waitBFD(t, s, lasting)
	unchanged(t, watches)
	for _, p := range legs() {
		untouched(t, before, st, p.ifc)
	}
	waitEgress(t, l.Node("host"), 10*time.Second, "en1", "en5")
}

// FRR's bfdd is killed, which looks like a path that dies, and started again.
func TestBFDDaemonKilled(t *testing.T) {
	t.Parallel()
	l, s := bfdSample(t, lasting, withBGP)
	r1, fails := l.Node("r1"), legs()[0]
	before := waitBFD(t, s, lasting)
	killed := time.Now()
	r1.Daemon("bfdd").Kill()
	s.WaitStatus(5*time.Second, "BFD is down", func(st *status.Status) error {
		for _, peer := range fails.peers() {
			if p := peerAt(st, peer); p.State != "Down" || p.BFD.Downs != peerAt(before, peer).BFD.Downs+1 {
				return fmt.Errorf("peer %v is %s: %+v", peer, p.State, p.BFD)
			}
		}
		return nil
	})
	t.Logf("its sessions have ended after %s", millis(time.Since(killed)))
	waitEgress(t, l.Node("host"), 10*time.Second, "en5")
	speakBFD(t, r1, lasting, withBGP)
	waitBFD(t, s, lasting)
	allBack(t, l, s)
}

// The daemon is told to stop: routers hear by BGP and BFD that it was an order.
func TestStopWithBFD(t *testing.T) {
	t.Parallel()
	l, s := bfdSample(t, lasting, withBGP)
	const admin = `add table netdev lab_bfd
add chain netdev lab_bfd in { type filter hook ingress device %[1]s priority 0; udp dport 3784 @th,72,2 0 counter; }`
	for _, p := range legs() {
		l.Node(p.node).Run("nft", fmt.Sprintf(admin, p.dev))
	}
	wire := l.Node("host").Capture()
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(20 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, p := range legs() {
		node := l.Node(p.node)
		lab.Eventually(t, 2*time.Second, p.node+" hears AdminDown", func() error {
			out := node.Run("nft", "list", "table", "netdev", "lab_bfd")
			return lab.That(!strings.Contains(out, "packets 0 "), "%s", out)
		})
		for _, peer := range p.peers() {
			cease := wire.WaitMessage(time.Second, "Cease to "+peer.String(), func(m lab.Message) bool {
				return m.Out && m.Dst.Addr() == peer && m.Type == lab.Notification
			})
			t.Log(cease)
			if cease.Code != 6 || cease.Subcode != 2 || strings.Contains(cease.Text, "BFD") {
				t.Errorf("the last word is %v", cease)
			}
		}
		for _, m := range wire.Messages() {
			if !m.Out && m.Type == lab.Notification {
				t.Errorf("a router ended its session itself: %v", m)
			}
		}
	}
}
