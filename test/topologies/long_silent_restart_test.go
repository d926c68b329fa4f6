//go:build long

package topologies

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestLongGracefulRestartWithBFD: the daemon is started again while routers have
// BFD with it, which ends with the daemon. FRR keeps the routes of graceful restart
// in any case, for BGP has ended before BFD; BIRD when it is told to. No packet is
// lost: where a router drops the routes, the other one carries all.
func TestLongGracefulRestartWithBFD(t *testing.T) {
	for _, mode := range []bfdMode{withBGP, graceful} {
		for _, way := range restartings() {
			t.Run(fmt.Sprintf("%s/%s", mode, way.name), func(t *testing.T) { restartWithBFD(t, mode, way) })
		}
	}
}

func restartWithBFD(t *testing.T, mode bfdMode, way restarting) {
	t.Helper()
	l := lab.Start(t, "vipa")
	for _, p := range legs() {
		speakBFD(t, l.Node(p.node), unhurried, mode, p.local4, p.local6)
	}
	prompt(t, l, "r1", "r5", "client")
	s := startPaths(t, l, pathConfig{bfd: unhurried.host(), more: "shutdown: {mode: restart}\n"})
	waitClientHasBoth(t, l)
	waitBFD(t, s, unhurried)
	watches := map[string][]*lab.RouteWatch{}
	for _, p := range legs() {
		watches[p.router] = watchRoutes(t, l, p, vip4, vip6)
	}
	probes := probeVIPs(l, probePorts(t, l, vip4, legs()...), probePorts(t, l, vip6, legs()...))

	way.end(s)
	for _, p := range legs() {
		lab.Eventually(t, 20*time.Second, p.node+" notices that BFD has ended", func() error {
			up, err := l.Node(p.node).BFDSessions()
			return errors.Join(err, lab.That(!up[p.local4.String()] && !up[p.local6.String()], "up: %v", up))
		})
	}
	s = startSpeaker(t, l)
	waitBFD(t, s, unhurried)
	waitClientHasBoth(t, l)
	noLoss(t, probes)
	for _, p := range legs() {
		for _, w := range watches[p.router] {
			w.Stop()
			t.Logf("%s: %v", p.router, w)
			want := p.router == "frr" || mode == graceful
			if kept := len(w.Events()) == 1; kept != want {
				t.Errorf("%s with %s has kept its route: %t, want %t", p.router, mode, kept, want)
			}
		}
	}
}

// TestLongGracefulPrice: routers that are told to keep the routes when BFD goes
// down keep them, too, when a path really dies: FRR until its hold time is over,
// BIRD until the restart time is. The host leaves as fast as ever.
func TestLongGracefulPrice(t *testing.T) {
	l := lab.Start(t, "vipa")
	for _, p := range legs() {
		speakBFD(t, l.Node(p.node), unhurried, graceful, p.local4, p.local6)
	}
	prompt(t, l, "r1", "r5", "client")
	s := startPaths(t, l, pathConfig{bfd: unhurried.host()})
	waitClientHasBoth(t, l)
	waitBFD(t, s, unhurried)
	watches := map[string][]*lab.RouteWatch{}
	for _, p := range legs() {
		watches[p.router] = watchRoutes(t, l, p, vip4, vip6)
	}
	failed := time.Now()
	for _, p := range legs() {
		l.DropFrames("host", p.ifc)
	}
	st := s.WaitStatus(20*time.Second, "all sessions have ended", func(st *status.Status) error {
		for _, p := range st.Peers {
			if p.State != "Down" {
				return fmt.Errorf("peer %v is %s", p.Address, p.State)
			}
		}
		return nil
	})
	for _, p := range st.Peers {
		lab.Within(t, fmt.Sprintf("leaving %v", p.Address), failed, p.BFD.Since.Sub(failed), unhurried.detection()+longestOutage/2)
	}
	// The hold time is 9 s, of which a keepalive time may be over; the restart time 30 s.
	for router, limits := range map[string][2]time.Duration{"frr": {4 * time.Second, 11 * time.Second}, "bird": {25 * time.Second, 35 * time.Second}} {
		for _, w := range watches[router] {
			kept := w.Wait(time.Minute, failed, "none", noLegs).Time.Sub(failed)
			t.Logf("%s has kept its route for %s", router, millis(kept))
			if kept < limits[0] {
				t.Errorf("%s has kept its route for %v, want %v", router, kept, limits)
			}
			lab.Within(t, "the route that "+router+" keeps", failed, kept, limits[1])
		}
	}
}

// TestLongSpeakerKilledWithBFD: BFD has a process of its own, so a speaker process that
// dies takes none of it along, and by graceful restart no router loses a route.
func TestLongSpeakerKilledWithBFD(t *testing.T) {
	eachLeg(t, func(t *testing.T, victim, other leg) {
		l, s := bfdSample(t, unhurried, withBGP)
		before := waitBFD(t, s, unhurried)
		watches := append(watchRoutes(t, l, other, vip4, vip6), watchRoutes(t, l, victim, vip4, vip6)...)
		probes := probeVIPs(l, probePorts(t, l, vip4, legs()...), probePorts(t, l, vip6, legs()...))
		if err := syscall.Kill(speakerAt(before, victim.ifc).PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.WaitStatus(20*time.Second, "another process", func(st *status.Status) error {
			p := speakerAt(st, victim.ifc)
			return lab.That(p.Restarts == 1 && p.PID != 0, "%+v", p)
		})
		st := s.WaitStatus(20*time.Second, "all is announced again", lab.Established)
		noLoss(t, probes)
		unchanged(t, watches)
		for _, p := range st.Peers {
			if was := peerAt(before, p.Address); !p.BFD.Since.Equal(was.BFD.Since) || p.BFD.State != "Up" || p.BFD.Downs != was.BFD.Downs {
				t.Errorf("BFD with %v: %+v, before %+v", p.Address, p.BFD, was.BFD)
			}
		}
		untouched(t, before, st, other.ifc)
	})
}
