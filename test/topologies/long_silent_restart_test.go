//go:build long

package topologies

import (
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
		speakBFD(t, l.Node(p.node), usual, mode, p.local4, p.local6)
	}
	prompt(t, l, "r1", "r5", "client")
	s := startPaths(t, l, pathConfig{bfd: usual.host(), more: "shutdown: {mode: restart}\n"})
	waitClientHasBoth(t, l)
	waitBFD(t, s, usual)
	watches := map[string][]*lab.RouteWatch{}
	for _, p := range legs() {
		watches[p.router] = watchRoutes(t, l, p, vip4, vip6)
	}
	probes := probeVIPs(l, probePorts(t, l, vip4, legs()...), probePorts(t, l, vip6, legs()...))

	ended := time.Now()
	way.end(s)
	lab.Eventually(t, 5*time.Second, "routers notice that BFD has ended", func() error {
		return lab.That(time.Since(ended) > 10*usual.detection(), "not yet")
	})
	s = startSpeaker(t, l)
	waitBFD(t, s, usual)
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
		speakBFD(t, l.Node(p.node), usual, graceful, p.local4, p.local6)
	}
	prompt(t, l, "r1", "r5", "client")
	s := startPaths(t, l, pathConfig{bfd: usual.host()})
	waitClientHasBoth(t, l)
	waitBFD(t, s, usual)
	watches := map[string][]*lab.RouteWatch{}
	for _, p := range legs() {
		watches[p.router] = watchRoutes(t, l, p, vip4, vip6)
	}
	failed := time.Now()
	for _, p := range legs() {
		l.DropFrames("host", p.ifc)
	}
	st := s.WaitStatus(5*time.Second, "all sessions have ended", func(st *status.Status) error {
		for _, p := range st.Peers {
			if p.State != "Down" {
				return fmt.Errorf("peer %v is %s", p.Address, p.State)
			}
		}
		return nil
	})
	for _, p := range st.Peers {
		if after := p.BFD.Since.Sub(failed); after > usual.detection()+longestOutage/2 {
			t.Errorf("the host has left %v after %v", p.Address, after)
		}
	}
	// The hold time is 9 s, the restart time 30 s.
	for router, limits := range map[string][2]time.Duration{"frr": {5 * time.Second, 11 * time.Second}, "bird": {25 * time.Second, 35 * time.Second}} {
		for _, w := range watches[router] {
			kept := w.Wait(40*time.Second, failed, "none", noLegs).Time.Sub(failed)
			t.Logf("%s has kept its route for %s", router, millis(kept))
			if kept < limits[0] || kept > limits[1] {
				t.Errorf("%s has kept its route for %v, want %v", router, kept, limits)
			}
		}
	}
}

// TestLongSpeakerKilledWithBFD: BFD has a process of its own, so a speaker process that
// dies takes none of it along, and by graceful restart no router loses a route.
func TestLongSpeakerKilledWithBFD(t *testing.T) {
	eachLeg(t, func(t *testing.T, victim, other leg) {
		l, s := bfdSample(t, usual, withBGP)
		before := waitBFD(t, s, usual)
		watches := append(watchRoutes(t, l, other, vip4, vip6), watchRoutes(t, l, victim, vip4, vip6)...)
		probes := probeVIPs(l, probePorts(t, l, vip4, legs()...), probePorts(t, l, vip6, legs()...))
		if err := syscall.Kill(speakerAt(before, victim.ifc).PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.WaitStatus(5*time.Second, "another process", func(st *status.Status) error {
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
