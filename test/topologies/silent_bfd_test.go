package topologies

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// A path loses every frame while carrier stays at both ends: with BFD at 50 ms × 3
// no client is without an answer for 250 ms, whichever way its packets take, and
// TCP sessions live on.
func TestSilentPathWithBFD(t *testing.T) {
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		silentPath(t, fails, stays, usual, 250*time.Millisecond)
	})
}

// How often a path is made to fail: until so many tries, of those that count, were
// below the limit, or so many were not. A try in which this machine was busy says
// nothing if it was above; there are to be few.
const (
	silentTries = 3
	silentVoids = 5
)

// silentPath lets a path fail silently and come back, and tells of each try.
func silentPath(t *testing.T, fails, stays leg, b bfdTimers, limit time.Duration) {
	t.Helper()
	l, s := bfdSample(t, b, withBGP)
	sessions := startSessions(t, l, localVia(t, l.Node("client"), fails.via4))
	wire := l.Node("host").Capture()
	var good, bad, void int
	for good < silentTries && bad < silentTries && void < silentVoids {
		began := time.Now()
		gap, silence, wrong := silentPathOnce(t, l, s, wire, sessions, fails, stays)
		why := lab.Busy(began, time.Now(), limit/5)
		switch {
		case gap < limit && silence < longestOutage && len(wrong) == 0:
			good++
		case why != "":
			void++
			t.Logf("this try does not count, for %s: gap %v, limit %v; a TCP session was silent for %v, limit %v; %q", why, gap, limit, silence, longestOutage, wrong)
		case len(wrong) > 0:
			t.Fatal(strings.Join(wrong, "\n"))
		default:
			bad++
			t.Logf("a client had no answer for %v, limit %v, and a TCP session for %v, limit %v", gap, limit, silence, longestOutage)
		}
	}
	switch {
	case void == silentVoids:
		t.Logf("this machine is too busy: %d tries do not count, %d were below the limit, %d above", void, good, bad)
	case good < silentTries:
		t.Errorf("%d tries were above the limit of %v, %d below", bad, limit, good)
	}
	noResets(t, wire, sessions)
}

// silentPathOnce does it once and returns the longest gap of a client, the longest
// silence of a TCP session, and what else was not as it should be.
func silentPathOnce(t *testing.T, l *lab.Lab, s *lab.Speaker, wire *lab.Capture, sessions []*lab.Session, fails, stays leg) (gap, silence time.Duration, wrong []string) {
	t.Helper()
	host, router := l.Node("host"), l.Node(fails.node)
	watches := []*lab.RouteWatch{router.WatchRoute(vip4), router.WatchRoute(vip6)}
	probes := clientProbes(t, l, fails, stays)

	failed := time.Now()
	l.DropFrames("host", fails.ifc)
	dropping := time.Now()
	var moved time.Time
	for _, w := range watches {
		if at := w.Wait(10*time.Second, failed, "none", noLegs).Time; at.After(moved) {
			moved = at
		}
		w.Stop()
	}
	waitEgress(t, host, 20*time.Second, stays.ifc)
	gap, stall := gapOf(probes, failed)
	silence = waitAllAlive(sessions, failed)
	t.Logf("%s fails: frames are lost %s after the order; the router has no route after %s, the last packet of a VIP leaves by it after %s; longest gap of a client %s (noise %s), of a TCP session %s",
		fails.ifc, millis(dropping.Sub(failed)), millis(moved.Sub(failed)), millis(lastFromVIP(wire, fails.ifc).Sub(failed)), millis(gap), millis(stall), millis(silence))
	for _, peer := range fails.peers() {
		wrong = append(wrong, lacksEvent(t, s, failed, "bfd", "bfd down", peer.String(), "control detection time expired")...)
		wrong = append(wrong, lacksEvent(t, s, failed, "peer", "peer down", peer.String(), fmt.Sprintf("BFD with %v down: control detection time expired", peer))...)
	}

	passed := time.Now()
	l.PassFrames("host", fails.ifc)
	allBack(t, l, s)
	waitAllAlive(sessions, failed)
	up := s.WaitStatus(20*time.Second, "all is back", lab.Established)
	for _, peer := range fails.peers() {
		if p := peerAt(up, peer); p.Since.Sub(p.BFD.Since) < holdUp {
			wrong = append(wrong, fmt.Sprintf("peer %v is up %v after BFD, before its hold-up", peer, p.Since.Sub(p.BFD.Since)))
		}
	}
	t.Logf("%s is used again %s after frames pass", fails.ifc, millis(time.Since(passed)))
	return gap, silence, wrong
}
