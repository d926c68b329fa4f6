//go:build long

package topologies

import (
	"net/netip"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestLongSilentPathHoldTime: without BFD and without another way for the last
// words, a router keeps its route through a dead path until its hold time is over.
// TCP sessions outlive that, too.
func TestLongSilentPathHoldTime(t *testing.T) {
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		l := lab.Start(t, "vipa")
		s := startPaths(t, l, pathConfig{})
		waitClientHasBoth(t, l)
		sessions := startSessions(t, l, localVia(t, l.Node("client"), fails.via4))
		wire := l.Node("host").Capture()
		watch := l.Node(fails.node).WatchRoute(vip4)
		failed := time.Now()
		l.DropFrames("host", fails.ifc)
		waitEgress(t, l.Node("host"), 5*time.Second, stays.ifc)
		moved := time.Since(failed)
		kept := watch.Wait(15*time.Second, failed, "none", noLegs).Time.Sub(failed)
		for _, one := range sessions {
			one.WaitAlive(30 * time.Second)
		}
		t.Logf("the host has left %s after %s, the router after %s, longest silence of a TCP session %s",
			fails.ifc, millis(moved), millis(kept), millis(waitAllAlive(sessions, failed)))
		if moved > attachmentLimit || kept > 11*time.Second {
			t.Error("that is too long")
		}
		l.PassFrames("host", fails.ifc)
		allBack(t, l, s)
		waitAllAlive(sessions, failed)
		noResets(t, wire, sessions)
	})
}

// TestLongInterfaceVanishesBehindSwitch: an interface of the host goes away while
// a switch keeps the carrier of the router, and the address of the last words has
// gone, too. With BFD the router moves within the detection time, without it when
// its hold time is over.
func TestLongInterfaceVanishesBehindSwitch(t *testing.T) {
	for _, topology := range []string{"switched-frr", "switched-bird"} {
		for _, with := range []string{"with BFD", "without BFD"} {
			t.Run(topology+"/"+with, func(t *testing.T) {
				vanishBehindSwitch(t, topology, with == "with BFD")
			})
		}
	}
}

func vanishBehindSwitch(t *testing.T, topology string, withBFD bool) {
	t.Helper()
	l := lab.Start(t, topology)
	host, router := l.Node("host"), l.Node("router")
	c, limit := pathConfig{onlyDial: true}, 10*time.Second
	if withBFD {
		var addresses []netip.Addr
		for _, p := range legs() {
			addresses = append(addresses, p.local4, p.local6)
		}
		speakBFD(t, router, usual, withBGP, addresses...)
		prompt(t, l, "router")
		c.bfd, limit = usual.host(), time.Second
	}
	s := startPaths(t, l, c)
	waitRouterHasBoth(t, router)
	if withBFD {
		waitBFD(t, s, usual)
	}
	sessions := startSessions(t, l, netip.AddrPort{})
	wire := host.Capture()
	at := legs()[0]
	h := &homes{t: t, l: l, host: host, elsewhere: l.Node("sw")}
	for _, way := range vanishings() {
		if way.name == "deleted" { // the switch's port would go with it
			continue
		}
		watches := []*lab.RouteWatch{router.WatchRoute(vip4), router.WatchRoute(vip6)}
		gone := time.Now()
		way.gone(h, at)
		s.WaitStatus(5*time.Second, way.name, outOfUse(at.ifc, way.reason))
		var moved time.Duration
		for _, w := range watches {
			moved = max(moved, w.Wait(15*time.Second, gone, "by e5", onlyBy("e5")).Time.Sub(gone))
			w.Stop()
		}
		for _, one := range sessions {
			one.WaitAlive(30 * time.Second)
		}
		t.Logf("%s is %s: the router has moved after %s, longest silence of a TCP session %s", at.ifc, way.name, millis(moved), millis(waitAllAlive(sessions, gone)))
		if moved > limit {
			t.Errorf("the router needs %v, want %v at the most", moved, limit)
		}
		way.back(h, at)
		s.WaitStatus(20*time.Second, "all is back", lab.Established)
		waitRouterHasBoth(t, router)
		waitEgress(t, host, 5*time.Second, "en1", "en5")
		waitAllAlive(sessions, gone)
		if n := interfaceAt(s.WaitStatus(time.Second, "all is up", lab.Established), at.ifc); n.Reason != status.Reason("") {
			t.Errorf("interface %+v", n)
		}
	}
	noResets(t, wire, sessions)
}
