package topologies

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// rankedGap is the longest time for which a client has no answer when the host of the
// best rank fails and nobody but routers decides.
const rankedGap = time.Second

// startRanked starts both hosts with BFD to their routers, one of them with the better
// rank, and waits until that one has the traffic.
func (m *mobility) startRanked(best, other string) {
	m.t.Helper()
	m.session = ", bfd: " + usual.host()
	speakBFD(m.t, m.l.Node("r1"), usual, withBGP, netip.MustParseAddr("10.68.1.1"))
	speakBFD(m.t, m.l.Node("r2"), usual, withBGP, netip.MustParseAddr("10.68.5.1"))
	prompt(m.t, m.l, "r1", "r2")
	for rank, name := range map[int]string{1: best, 2: other} {
		m.startRank(name, rank)
	}
	m.through(wayTo(best))
}

// startRank starts one of them and waits until its session has BFD.
func (m *mobility) startRank(name string, rank int) {
	m.t.Helper()
	m.start(name, fmt.Sprintf("role: {rank: %d}", rank))
	m.gate(name, "announced", announcedVIP)
	waitBFD(m.t, m.hosts[name], usual)
}

// wayTo is the interface of r1 that leads to a host.
func wayTo(host string) string { return map[string]string{"a": "e1", "b": "e2"}[host] }

// fails measures for how long the client has no answer while a host fails and the
// other one takes over.
func (m *mobility) fails(how, other string, fail func()) {
	m.t.Helper()
	probe := m.probe()
	since := time.Now()
	fail()
	m.through(wayTo(other))
	probe.WaitAnswered(20 * time.Second)
	result := probe.Stop()
	m.t.Logf("%s: %d probes lost, longest gap %s, longest stall %s", how, result.Lost(), result.Gap(since), result.Stall(since))
	lab.Within(m.t, how+": no answer", since, result.Gap(since), rankedGap)
}

// TestRankedTakeover: when the host of the best rank dies, or falls silent while its
// link has carrier, the other one has the traffic within a second, whichever of them it is.
func TestRankedTakeover(t *testing.T) {
	t.Parallel()
	for best, other := range map[string]string{"a": "b", "b": "a"} {
		t.Run(best, func(t *testing.T) {
			t.Parallel()
			m := startMobility(t)
			m.startRanked(best, other)
			m.fails(best+" is silent", other, func() { m.l.DropFrames(best, "en1") })
			m.l.PassFrames(best, "en1")
			m.gate(best, "is back", announcedVIP)
			waitBFD(t, m.hosts[best], usual)
			m.through(wayTo(best))
			m.fails(best+" is killed", other, func() { m.hosts[best].Kill() })
		})
	}
}
