package topologies

import (
	"fmt"
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

// silentPath lets a path fail silently and come back. On a busy machine a single
// time may be anything: the best of five counts.
func silentPath(t *testing.T, fails, stays leg, b bfdTimers, limit time.Duration) {
	t.Helper()
	l, s := bfdSample(t, b, withBGP)
	sessions := startSessions(t, l, localVia(t, l.Node("client"), fails.via4))
	wire := l.Node("host").Capture()
	var gap, silence time.Duration
	for range 5 {
		gap, silence = silentPathOnce(t, l, s, wire, sessions, fails, stays)
		if gap < limit && silence < longestOutage {
			break
		}
	}
	if gap >= limit || silence >= longestOutage {
		t.Errorf("a client had no answer for %v, want less than %v, and a TCP session for %v, want less than %v", gap, limit, silence, longestOutage)
	}
	noResets(t, wire, sessions)
}

// silentPathOnce does it once and returns the longest gap of a client and the
// longest silence of a TCP session.
func silentPathOnce(t *testing.T, l *lab.Lab, s *lab.Speaker, wire *lab.Capture, sessions []*lab.Session, fails, stays leg) (gap, silence time.Duration) {
	t.Helper()
	host, router := l.Node("host"), l.Node(fails.node)
	watches := []*lab.RouteWatch{router.WatchRoute(vip4), router.WatchRoute(vip6)}
	probes := clientProbes(t, l, fails, stays)

	failed := time.Now()
	l.DropFrames("host", fails.ifc)
	dropping := time.Now()
	var moved time.Time
	for _, w := range watches {
		if at := w.Wait(5*time.Second, failed, "none", noLegs).Time; at.After(moved) {
			moved = at
		}
		w.Stop()
	}
	waitEgress(t, host, 2*time.Second, stays.ifc)
	gap, stall := gapOf(probes, failed)
	silence = waitAllAlive(sessions, failed)
	t.Logf("%s fails: frames are lost %s after the order; the router has no route after %s, the last packet of a VIP leaves by it after %s; longest gap of a client %s (noise %s), of a TCP session %s",
		fails.ifc, millis(dropping.Sub(failed)), millis(moved.Sub(failed)), millis(lastFromVIP(wire, fails.ifc).Sub(failed)), millis(gap), millis(stall), millis(silence))
	for _, peer := range fails.peers() {
		hasEvent(t, s, failed, "bfd", "bfd down", peer.String(), "control detection time expired")
		hasEvent(t, s, failed, "peer", "peer down", peer.String(), fmt.Sprintf("BFD with %v down: control detection time expired", peer))
	}

	passed := time.Now()
	l.PassFrames("host", fails.ifc)
	allBack(t, l, s)
	waitAllAlive(sessions, failed)
	up := s.WaitStatus(time.Second, "all is back", lab.Established)
	for _, peer := range fails.peers() {
		if p := peerAt(up, peer); p.Since.Sub(p.BFD.Since) < holdUp {
			t.Errorf("peer %v is up %v after BFD, before its hold-up", peer, p.Since.Sub(p.BFD.Since))
		}
	}
	t.Logf("%s is used again %s after frames pass", fails.ifc, millis(time.Since(passed)))
	return gap, silence
}
