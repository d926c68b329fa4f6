package topologies

import (
	"net/netip"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// cutOffBound is how long it may take until another host has a VIP whose owner is cut
// off from its router, once BFD has seen it: a second, the time to give it up and to
// take it, and what a busy machine adds. The router's hold time is longer.
const cutOffBound = 5 * time.Second

// endedBound is that of an owner whose router has ended the session.
const endedBound = 2 * time.Second

// TestOwnerCutOff: an owner that loses its only router for good, or whose session that
// router ends, gives the VIP up, and keeps nothing that would go out with its next session.
func TestOwnerCutOff(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.session = ", bfd: " + lasting.host()
	speakBFD(t, m.l.Node("r1"), lasting, withBGP, netip.MustParseAddr("10.68.1.1"))
	speakBFD(t, m.l.Node("r2"), lasting, withBGP, netip.MustParseAddr("10.68.5.1"))
	m.owned()
	waitBFD(t, m.hosts["a"], lasting)
	since := time.Now()
	m.l.DropFrames("a", "en1")
	m.gate("b", "owns it", func(v *status.VIP) bool { return v.Announced && v.Role.Owns })
	took := time.Since(since)
	t.Logf("taken over after %s", took)
	lab.Within(t, "taking over", since, took, lasting.detection()+cutOffBound)
	m.gate("a", "has let go", func(v *status.VIP) bool { return !v.Bound && v.Role.Owner == "b" && !v.Role.Held })
	m.l.PassFrames("a", "en1")
	m.gate("a", "is ready again", func(v *status.VIP) bool { return v.Reason == status.NotOwner && len(v.Role.Ready) == 2 })
	m.through("e2")

	// A router that ends the session itself has nothing of it from then on.
	end, again := m.endSession("b")
	since = time.Now()
	end()
	m.gate("a", "owns it", func(v *status.VIP) bool { return v.Announced && v.Role.Owns })
	took = time.Since(since)
	t.Logf("taken over %s after the router has ended the session", took)
	lab.Within(t, "taking over", since, took, endedBound)
	again()
	m.gate("b", "is ready again", func(v *status.VIP) bool { return v.Reason == status.NotOwner && len(v.Role.Ready) == 2 })
}

// endSession returns what makes the router of a host end its session with it, and what
// undoes that.
func (m *mobility) endSession(host string) (end, again func()) {
	r1, r2 := m.l.Node("r1"), m.l.Node("r2")
	if host == "a" {
		return func() { frrConfigure(r1, "router bgp", "neighbor 10.68.1.1 shutdown") },
			func() { frrConfigure(r1, "router bgp", "no neighbor 10.68.1.1 shutdown") }
	}
	return func() { r2.BIRDC("disable b") }, func() { r2.BIRDC("enable b") }
}
