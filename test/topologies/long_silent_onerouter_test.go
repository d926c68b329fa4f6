//go:build long

package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// TestLongSilentPathOneRouter: one link of two to the same router dies silently,
// at the end of the cable or behind a switch. With BFD the router takes the leg
// out of its route within the detection time; the best of five counts.
func TestLongSilentPathOneRouter(t *testing.T) {
	for _, topology := range oneRouter() {
		for _, b := range []struct {
			timers bfdTimers
			limit  time.Duration
		}{{usual, 250 * time.Millisecond}, {fast, 100 * time.Millisecond}} {
			t.Run(fmt.Sprintf("%s/%v", topology, b.timers.interval), func(t *testing.T) {
				silentLeg(t, topology, b.timers, b.limit)
			})
		}
	}
}

func silentLeg(t *testing.T, topology string, b bfdTimers, limit time.Duration) {
	t.Helper()
	l := lab.Start(t, topology)
	router := l.Node("router")
	var addresses []netip.Addr
	for _, p := range legs() {
		addresses = append(addresses, p.local4, p.local6)
	}
	speakBFD(t, router, b, withBGP, addresses...)
	prompt(t, l, "router")
	s := startPaths(t, l, pathConfig{bfd: b.host(), more: "damping: {enabled: false}\n"})
	waitBFD(t, s, b)
	rounds(t, 5, limit/5, func(r *round) {
		failed := time.Now()
		if gap := silentLegOnce(t, l, s, b); gap >= limit {
			r.errorf(failed, time.Now(), "a client had no answer for %v, want less than %v", gap, limit)
		}
	})
}

// silentLegOnce lets en1 fail and come back, and returns the longest gap of a
// client.
func silentLegOnce(t *testing.T, l *lab.Lab, s *lab.Speaker, b bfdTimers) time.Duration {
	t.Helper()
	router, client, host := l.Node("router"), l.Node("client"), l.Node("host")
	s.WaitStatus(60*time.Second, "all is up", lab.Established)
	waitBFD(t, s, b)
	waitRouterHasBoth(t, router)
	waitEgress(t, host, 20*time.Second, "en1", "en5")
	server := netip.AddrPortFrom(vip4.Addr(), 7)
	how := "iif e9 from " + client4.String()
	probe := lab.StartProbe(client, host, server, lab.ProbeOptions{Ports: slices.Concat(portsVia(t, router, how, server, "e1", 2), portsVia(t, router, how, server, "e5", 2))})
	probe.WaitAnswered(5 * time.Second)
	watches := []*lab.RouteWatch{router.WatchRoute(vip4), router.WatchRoute(vip6)}
	failed := time.Now()
	l.DropFrames("host", "en1")
	var moved time.Duration
	for _, w := range watches {
		moved = max(moved, w.Wait(30*time.Second, failed, "by e5", onlyBy("e5")).Time.Sub(failed))
		w.Stop()
	}
	waitEgress(t, host, 20*time.Second, "en5")
	gap, stall := gapOf([]*lab.Probe{probe}, failed)
	t.Logf("the router has moved after %s, longest gap of a client %s (noise %s)", millis(moved), millis(gap), millis(stall))
	l.PassFrames("host", "en1")
	return gap
}
