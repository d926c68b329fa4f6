//go:build long

package topologies

import (
	"errors"
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
		var failed time.Time
		var moved time.Duration
		rounds(t, 1, attachmentLimit/40, func(r *round) {
			if r.n > 0 { // long before the router's hold time is over
				l.PassFrames("host", fails.ifc)
				allBack(t, l, s)
			}
			failed = time.Now()
			l.DropFrames("host", fails.ifc)
			waitEgress(t, l.Node("host"), 20*time.Second, stays.ifc)
			if moved = time.Since(failed); moved > attachmentLimit {
				r.errorf(failed, failed.Add(moved), "the host has left %s after %v only", fails.ifc, moved)
			}
		})
		kept := watch.Wait(30*time.Second, failed, "none", noLegs).Time.Sub(failed)
		for _, one := range sessions {
			one.WaitAlive(time.Minute)
		}
		t.Logf("the host has left %s after %s, the router after %s, longest silence of a TCP session %s",
			fails.ifc, millis(moved), millis(kept), millis(waitAllAlive(sessions, failed)))
		// Its hold time is 9 s.
		lab.Within(t, "the route by the dead path", failed, kept, 11*time.Second)
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
	// Without damping: BFD goes down as well when the machine stands still.
	c, limit := pathConfig{onlyDial: true, more: "damping: {enabled: false}\n"}, 10*time.Second
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
		s.WaitStatus(20*time.Second, way.name, outOfUse(at.ifc, way.reason))
		var moved time.Duration
		for _, w := range watches {
			moved = max(moved, w.Wait(30*time.Second, gone, "by e5", onlyBy("e5")).Time.Sub(gone))
			w.Stop()
		}
		for _, one := range sessions {
			one.WaitAlive(time.Minute)
		}
		t.Logf("%s is %s: the router has moved after %s, longest silence of a TCP session %s", at.ifc, way.name, millis(moved), millis(waitAllAlive(sessions, gone)))
		lab.Within(t, "the router's way", gone, moved, limit)
		way.back(h, at)
		s.WaitStatus(60*time.Second, "all is back", lab.Established)
		waitRouterHasBoth(t, router)
		waitEgress(t, host, 20*time.Second, "en1", "en5")
		waitAllAlive(sessions, gone)
		s.WaitStatus(20*time.Second, "all is up", func(st *status.Status) error {
			n := interfaceAt(st, at.ifc)
			return errors.Join(lab.Established(st), lab.That(n.Usable && n.Reason == "", "interface %+v", n))
		})
	}
	noResets(t, wire, sessions)
}
