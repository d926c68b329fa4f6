package bgp

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// When an interface fails, its session's last words reach the router by another
// one, over routers in between, although the session itself never leaves its
// link.
func TestLastWordsPassRouters(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		between, far := ns.New("between"), ns.New("far")
		ns.VethTo("en1", far, "link")
		ns.VethTo("en5", between, "near")
		between.VethTo("out", far, "fabric")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		ns.IP("addr add 10.68.5.1/24 dev en5")
		ns.IP("route add default via 10.68.5.2")
		between.IP("addr add 10.68.5.2/24 dev near")
		between.IP("addr add 10.68.7.1/24 dev out")
		between.IP("route add 10.68.1.0/24 via 10.68.7.2")
		between.Sysctl("net/ipv4/conf/all/forwarding", "1")
		far.IP("addr add 10.68.1.2/24 dev link")
		far.IP("addr add 10.68.7.2/24 dev fabric")
		far.IP("route add 10.68.5.0/24 via 10.68.7.1")
		far.Sysctl("net/ipv4/conf/all/rp_filter", "0")
		far.Sysctl("net/ipv4/conf/fabric/rp_filter", "0")

		host, router := netip.MustParseAddr("10.68.1.1"), netip.MustParseAddr("10.68.1.2")
		s := startSpeaker(t, SpeakerOptions{})
		cfg := conf("en1", 65010, host, peer(router, 65001))
		cfg.Paths = []Path{path4(1)}
		apply(t, s, cfg)
		var raw *rawPeer
		far.Do(func() error {
			raw = dialRaw(t, router, host, 65001, rawOptions{})
			return nil
		})
		awaitEstablished(t, s, router)

		ns.IP("link set en1 down")
		cfg.Peers, cfg.DownReason = nil, "interface en1: administratively down"
		if err := s.Apply(context.Background(), cfg); err != nil {
			t.Fatal(err)
		}
		const want = "notification 6/2 interface en1: administratively down"
		raw.await(patience, func(seen []string) bool { return slices.Contains(seen, want) })
	})
}

// The last words leave also where their time is over at once, as on a machine that
// stands still at that moment.
func TestLastWordsInNoTime(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	s.timing.ceaseWait = 0
	cfg := conf("en1", 65010, host, peer(router, 65001))
	for range 20 {
		apply(t, s, cfg)
		p := dialRaw(t, router, host, 65001, rawOptions{})
		awaitEstablished(t, s, router)
		down := cfg
		down.Peers, down.DownReason = nil, "link down"
		apply(t, s, down)
		if got := p.await(patience, hasPrefix("notification")); got[0] != "notification 6/2 link down" {
			t.Fatalf("messages %q", got)
		}
	}
}

// Peers that go are told their own reason where they have one, through the
// process, and a change of the reasons alone says nothing to anybody.
func TestEachPeerIsToldItsReason(t *testing.T) {
	host, own, common, stays := addr(t), addr(t), addr(t), addr(t)
	m := startManager(t, Options{}, nil)
	cfg := conf("en1", 65010, host, peer(own, 65001), peer(common, 65002), peer(stays, 65003))
	announce(m, cfg)
	raws := map[netip.Addr]*rawPeer{}
	for i, a := range []netip.Addr{own, common, stays} {
		raws[a] = dialRaw(t, a, host, uint32(65001+i), rawOptions{})
	}
	awaitUp(t, m, "en1", 3)

	cfg.DownReason, cfg.DownReasons = "interface en1: healthy", map[netip.Addr]string{own: "not yet", stays: "never said"}
	announce(m, cfg)
	for a, raw := range raws {
		if got := raw.quiet(100 * time.Millisecond); got != nil {
			t.Errorf("reasons alone told %s %q", a, got)
		}
	}
	long := "BFD down for 12 s: " + strings.Repeat("ä", 100)
	cfg.Peers, cfg.DownReason, cfg.DownReasons = cfg.Peers[2:], "interface en1: link down", map[netip.Addr]string{own: long}
	m.Withdraw(Desired{Speakers: []SpeakerConfig{cfg}})
	for a, want := range map[netip.Addr]string{own: long[:127], common: "interface en1: link down"} {
		raws[a].await(patience, func(seen []string) bool { return slices.Contains(seen, "notification 6/2 "+want) })
	}
	if got := raws[stays].quiet(50 * time.Millisecond); got != nil || raws[stays].ended() != nil {
		t.Errorf("the peer that stays got %q, %v", got, raws[stays].ended())
	}
	cfg.Peers, cfg.DownReason, cfg.DownReasons = nil, "", nil
	m.Withdraw(Desired{Speakers: []SpeakerConfig{cfg}})
	raws[stays].await(patience, func(seen []string) bool {
		return slices.Contains(seen, "notification 6/2 peer removed from the configuration")
	})
}

// What goes to the process is bounded, and reasons alone make no message.
func TestReasonsAreBoundedAndQuiet(t *testing.T) {
	local := netip.MustParseAddr("192.0.2.1")
	cfg := conf("en1", 65010, local, peer(local.Next(), 65001))
	told := &told{paths: map[pathKey]Path{}}
	if _, any := told.next(cfg, 1); !any {
		t.Fatal("nothing is told")
	}
	cfg.DownReason, cfg.DownReasons = strings.Repeat("x", 1000), map[netip.Addr]string{}
	for a := local; len(cfg.DownReasons) < 2*maxDownReasons; a = a.Next() {
		cfg.DownReasons[a] = strings.Repeat("y", 1000)
	}
	if m, any := told.next(cfg, 2); any {
		t.Errorf("reasons alone make a message: %+v", m.Sessions)
	}
	cfg.Peers = nil
	m, any := told.next(cfg, 3)
	if !any || len(m.Sessions.Config.DownReason) != maxReason || len(m.Sessions.Config.DownReasons) != maxDownReasons {
		t.Fatalf("told %v with %d reasons, want %d", any, len(m.Sessions.Config.DownReasons), maxDownReasons)
	}
	for a, text := range m.Sessions.Config.DownReasons {
		if len(text) != maxReason {
			t.Errorf("%s is told %d octets", a, len(text))
		}
	}
}
