package topologies

import (
	"net/netip"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// longestOutage is what a TCP session may be silent when an interface fails: the
// first retransmission comes after 200 ms, the second after 600 ms.
const longestOutage = time.Second

// An interface is set down: sessions live on by the other, and back again.
func TestScenario02InterfaceLoss(t *testing.T) {
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		l, s := startSample(t)
		surviveLoss(t, l, s, fails, stays, failures()[0])
	})
}

// A cable is pulled: carrier is lost while the interface is administratively up.
func TestScenario03CablePull(t *testing.T) {
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		l, s := startSample(t)
		surviveLoss(t, l, s, fails, stays, failures()[1])
	})
}

// surviveLoss lets one leg fail and come back, then the other, with sessions
// open both ways.
func surviveLoss(t *testing.T, l *lab.Lab, s *lab.Speaker, fails, stays leg, f failure) {
	t.Helper()
	host, router := l.Node("host"), l.Node(fails.node)
	sessions := startSessions(t, l, localVia(t, l.Node("client"), fails.via4))
	wire := host.Capture()

	failed := time.Now()
	f.fail(l, fails.ifc)
	gap := waitAllAlive(sessions, failed)
	t.Logf("longest silence of %d sessions: %v", len(sessions), gap.Round(time.Millisecond))
	lab.Within(t, "the silence of a session", failed, gap, longestOutage)
	waitLive(t, router, vip4)
	waitLive(t, router, vip6)
	waitLive(t, l.Node(stays.node), vip4, stays.local4.String()+"@"+stays.dev)
	waitEgress(t, host, 10*time.Second, stays.ifc)

	// Traffic goes on for a while; none of it by the failed leg, a second after its
	// failure, or as soon as a machine that stood still lets it be so.
	moved := time.Now()
	if soon := failed.Add(time.Second); moved.Before(soon) {
		moved = soon
	}
	lab.Eventually(t, 5*time.Second, "a second of traffic", func() error {
		return lab.That(time.Since(moved) > time.Second, "not yet")
	})
	waitAllAlive(sessions, failed)
	if late := wire.Packets(func(p lab.Packet) bool {
		return p.Dev == fails.ifc && p.Out && p.Time.After(moved) && (p.Src == vip4.Addr() || p.Src == vip6.Addr())
	}); len(late) > 0 {
		t.Errorf("%d packets leave by %s %v and more after its failure, the first: %v", len(late), fails.ifc, moved.Sub(failed), late[0])
	}
	sameTupleOn(t, wire, sessions[0], stays.ifc, moved)

	f.heal(l, fails.ifc)
	s.WaitStatus(15*time.Second, "all is back", lab.Established)
	waitClientHasBoth(t, l)
	waitEgress(t, host, 5*time.Second, "en1", "en5")
	waitAllAlive(sessions, failed)

	// And the way back: now the first leg carries all.
	failed = time.Now()
	f.fail(l, stays.ifc)
	gap = waitAllAlive(sessions, failed)
	t.Logf("longest silence when %s fails afterwards: %v", stays.ifc, gap.Round(time.Millisecond))
	lab.Within(t, "the silence of a session when "+stays.ifc+" fails", failed, gap, longestOutage)
	noResets(t, wire, sessions)
}

// sameTupleOn checks that the session's packets come and go by one interface
// since then, with the same addresses and ports.
func sameTupleOn(t *testing.T, wire *lab.Capture, s *lab.Session, ifc string, since time.Time) {
	t.Helper()
	count := map[string]int{}
	for _, p := range wire.Packets(func(p lab.Packet) bool { return ofSession(p, s) && p.Time.After(since) }) {
		way := "in by "
		if p.Out {
			way = "out by "
		}
		count[way+p.Dev]++
	}
	if len(count) != 2 || count["in by "+ifc] == 0 || count["out by "+ifc] == 0 {
		t.Errorf("packets of the session %v to %v: %v, want in and out by %s only", s.Local, s.Remote, count, ifc)
	}
}

func noResets(t *testing.T, wire *lab.Capture, sessions []*lab.Session) {
	t.Helper()
	for _, s := range sessions {
		for _, p := range wire.Packets(func(p lab.Packet) bool { return ofSession(p, s) && p.Flags&(lab.RST|lab.FIN) != 0 }) {
			t.Errorf("session %v to %v: %v", s.Local, s.Remote, p)
		}
	}
}

func ofSession(p lab.Packet, s *lab.Session) bool {
	src, dst := netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort)
	return src == s.Local && dst == s.Remote || src == s.Remote && dst == s.Local
}

// A router hangs while its links stay up: the hold timer ends its sessions, and
// traffic leaves it.
func TestScenario04PathFailure(t *testing.T) {
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		l := lab.Start(t, "vipa")
		host, router := l.Node("host"), l.Node(fails.node)
		wire := host.Capture()
		s := startSpeaker(t, l)
		waitClientHasBoth(t, l)
		sessions := startSessions(t, l, localVia(t, l.Node("client"), fails.via4))
		frozen := time.Now()
		router.Freeze()
		for _, peer := range []netip.Addr{fails.peer4, fails.peer6} {
			ended := wire.WaitMessage(15*time.Second, "Hold Timer Expired to "+peer.String(), func(m lab.Message) bool {
				return m.Out && m.Dst.Addr() == peer && m.Type == lab.Notification && m.Code == 4 && m.Subcode == 0
			})
			const hold = 9 * time.Second
			heard := lastHeard(wire, peer, ended.Time)
			if after := ended.Time.Sub(heard); after < hold {
				t.Errorf("%v: ended %v after the router's last message, want its hold time of %v", peer, after, hold)
			}
			lab.Within(t, "the end of the session after the router's last message", heard, ended.Time.Sub(heard), hold+time.Second)
			if ended.Dev != fails.ifc {
				t.Errorf("the NOTIFICATION leaves by %s", ended.Dev)
			}
		}
		waitEgress(t, host, 10*time.Second, stays.ifc)
		waitLive(t, l.Node("client"), vip4, stays.via4.String()+"@e9")
		t.Logf("longest silence: %v", waitAllAlive(sessions, frozen).Round(time.Millisecond))

		router.Thaw()
		s.WaitStatus(15*time.Second, "all is back", lab.Established)
		waitClientHasBoth(t, l)
		waitAllAlive(sessions, frozen)
		noResets(t, wire, sessions)
	})
}
