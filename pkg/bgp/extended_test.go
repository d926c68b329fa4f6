package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// extendedHop is the capability of RFC 8950 for IPv4 unicast.
func extendedHop() []bgp.ParameterCapabilityInterface {
	return []bgp.ParameterCapabilityInterface{
		bgp.NewCapExtendedNexthop([]*bgp.CapExtendedNexthopTuple{bgp.NewCapExtendedNexthopTuple(bgp.RF_IPv4_UC, bgp.AFI_IP6)}),
	}
}

// on6 runs a test with a speaker of both families on fd77::1, and routers on
// fd77::2 and fd77::3.
func on6(t *testing.T, o SpeakerOptions, test func(t *testing.T, s *Speaker, cfg SpeakerConfig, host, r1, r2 netip.Addr)) {
	t.Helper()
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		host, r1, r2 := netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2"), netip.MustParseAddr("fd77::3")
		for _, a := range []netip.Addr{host, r1, r2} {
			ns.IP("addr add %s/128 dev lo nodad", a)
		}
		cfg := conf("en1", 65010, host, peer(r1, 65001), peer(r2, 65002))
		cfg.RouterID = netip.MustParseAddr("10.0.0.1")
		cfg.Paths = []Path{path4(1), path6(1)}
		test(t, startSpeaker(t, o), cfg, host, r1, r2)
	})
}

// Both families run over an IPv6 session, IPv4 with an IPv6 next hop, if the
// peer offers that (RFC 8950).
func TestFamiliesOverIPv6(t *testing.T) {
	on6(t, SpeakerOptions{}, func(t *testing.T, s *Speaker, cfg SpeakerConfig, host, r1, r2 netip.Addr) {
		cfg.Peers[1].TTLSecurity = true
		apply(t, s, cfg)
		p := dialRaw(t, r1, host, 65001, rawOptions{caps: extendedHop()})
		got := p.await(patience, func(all []string) bool { return len(all) == 2 })
		slices.Sort(got)
		if diff := cmp.Diff([]string{
			"[+10.100.0.1/32] via fd77::1 [{AsPath: 65010}]", "[+2001:db8::1/128] via fd77::1 [{AsPath: 65010}]",
		}, got); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		if ttl, minTTL, _ := socketTo(t, host, r1); ttl != 1 || minTTL != 0 {
			t.Errorf("hop limit %d, at least %d", ttl, minTTL)
		}
		acceptRaw(t, r2, 65002, rawOptions{control: setHops(255)})
		awaitEstablished(t, s, r2)
		if ttl, minTTL, _ := socketTo(t, host, r2); ttl != 255 || minTTL != 255 {
			t.Errorf("hop limit %d, at least %d", ttl, minTTL)
		}
		cfg.Paths = cfg.Paths[:1]
		apply(t, s, cfg)
		if diff := cmp.Diff([]string{"[-2001:db8::1/128]"}, p.gets(1, 100*time.Millisecond)); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
	})
}

// A peer that did not offer it gets no IPv4 with an IPv6 next hop: not at first,
// not what changes, not among many, and not when it came without what it had
// offered before. All else it gets, and once.
func TestNoIPv6NextHopUnasked(t *testing.T) {
	on6(t, SpeakerOptions{}, func(t *testing.T, s *Speaker, cfg SpeakerConfig, host, r1, r2 netip.Addr) {
		const v6 = "[+2001:db8::1/128] via fd77::1 [{AsPath: 65010}]"
		apply(t, s, cfg)
		p := dialRaw(t, r1, host, 65001, rawOptions{})
		q := dialRaw(t, r2, host, 65002, rawOptions{caps: extendedHop()})
		q.await(patience, func(all []string) bool { return len(all) == 2 })
		p.await(patience, hasPrefix(v6))

		med := uint32(3)
		hop4 := Path{Prefix: path4(2).Prefix, NextHop: netip.MustParseAddr("192.0.2.7")}
		cfg.Paths = []Path{{Prefix: path4(1).Prefix, MED: &med}, hop4, path6(1)}
		apply(t, s, cfg)
		q.await(patience, func(all []string) bool { return len(all) == 2 })
		if diff := cmp.Diff([]string{"[+10.100.0.2/32] via 192.0.2.7 [{AsPath: 65010}]"}, p.gets(1, 50*time.Millisecond)); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		cfg.Paths = append(many(bulkFrom, nil), cfg.Paths[1:]...)
		cfg.Paths[2].Prefix = path4(5000).Prefix // 2 is hop4's
		apply(t, s, cfg)
		q.awaitAnnounced(map[string]int{"fd77::1 [{AsPath: 65010}]": bulkFrom})
		if got := p.quiet(50 * time.Millisecond); strings.Contains(strings.Join(got, ""), "+10.100.0.1/32") {
			t.Errorf("messages %q", got)
		}
		cfg.Paths = []Path{path4(1), path6(1)}
		apply(t, s, cfg)

		_ = q.conn.Close()
		eventually(t, patience, func() string { return "the session ended" }, func() bool { return peerState(s.State(), r2).State != Established })
		q = dialRaw(t, r2, host, 65002, rawOptions{})
		if got := q.gets(1, 200*time.Millisecond); !slices.Equal(got, []string{v6}) {
			t.Errorf("messages without the capability %q", got)
		}
	})
}

// Of several paths of a prefix that of an IPv6 next hop is held back as well, and
// when another gets one, it is withdrawn.
func TestNoIPv6NextHopUnaskedOfSeveral(t *testing.T) {
	host, r1 := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(r1, 65010))
	cfg.Peers[0].AddPath = true
	hop := func(id uint32, a string) Path {
		return Path{Prefix: path4(1).Prefix, ID: id, NextHop: netip.MustParseAddr(a)}
	}
	cfg.Paths = []Path{hop(1, "192.0.2.1"), hop(2, "fd00::2")}
	apply(t, s, cfg)
	p := dialRaw(t, r1, host, 65010, rawOptions{addPath: true})
	if diff := cmp.Diff([]string{"[+10.100.0.1/32] via 192.0.2.1 [{AsPath: } {LocalPref: 100}]"}, p.gets(1, 200*time.Millisecond)); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	cfg.Paths[0] = hop(1, "fd00::1")
	apply(t, s, cfg)
	if diff := cmp.Diff([]string{"[-10.100.0.1/32]"}, p.gets(1, 200*time.Millisecond)); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	cfg.Paths[0] = hop(1, "192.0.2.1")
	apply(t, s, cfg)
	p.await(patience, hasPrefix("[+10.100.0.1/32] via 192.0.2.1"))
}

// A peer that was held back is then sent each path once.
func TestPathsOverIPv6AreSentOnce(t *testing.T) {
	on6(t, SpeakerOptions{}, func(t *testing.T, s *Speaker, cfg SpeakerConfig, host, r1, _ netip.Addr) {
		const n = 1000
		cfg.Paths = many(n, nil)
		apply(t, s, cfg)
		p := dialRaw(t, r1, host, 65001, rawOptions{caps: extendedHop()})
		start := time.Now()
		messages := p.awaitAnnounced(map[string]int{"fd77::1 [{AsPath: 65010}]": n})
		t.Logf("%d messages, %s", messages, time.Since(start))
		if more := p.quiet(100 * time.Millisecond); len(more) > 0 {
			t.Errorf("%d messages more", len(more))
		}
	})
}

// After a crash nobody is held back, for the routes that a router kept must not
// see an End-of-RIB before their paths. One that turns out not to take them is
// started anew.
func TestIPv6NextHopAfterCrash(t *testing.T) {
	on6(t, SpeakerOptions{Restarting: true}, func(t *testing.T, s *Speaker, cfg SpeakerConfig, host, r1, r2 netip.Addr) {
		if err := s.Apply(context.Background(), cfg); err != nil {
			t.Fatal(err)
		}
		p := dialRaw(t, r1, host, 65001, rawOptions{caps: extendedHop(), restart: 120})
		p.await(patience, func(all []string) bool { return len(all) == 2 })
		q := dialRaw(t, r2, host, 65002, rawOptions{restart: 120})
		q.await(patience, hasPrefix("notification 6/4 IPv4 with an IPv6 next hop was not negotiated"))
		q = dialRaw(t, r2, host, 65002, rawOptions{restart: 120})
		if got := q.gets(1, 200*time.Millisecond); !slices.Equal(got, []string{"[+2001:db8::1/128] via fd77::1 [{AsPath: 65010}]"}) {
			t.Errorf("messages without the capability %q", got)
		}
		if got := p.quiet(time.Millisecond); got != nil {
			t.Errorf("the other peer was sent %q", got)
		}
		if st := peerState(s.State(), r1); st.Transitions != 1 {
			t.Errorf("%s", fmt.Sprintf("the other session flapped: %+v", st))
		}
	})
}

// An interface that loses its addresses and gets them back one after the other
// has IPv4 with another next hop for a moment. The peers get what is for them
// afterwards.
func TestNextHopThatWasAnotherForAMoment(t *testing.T) {
	for name, hop := range map[string]netip.Addr{"the session's own": {}, "IPv6": netip.MustParseAddr("fd77::1")} {
		t.Run(name, func(t *testing.T) {
			on6(t, SpeakerOptions{}, func(t *testing.T, s *Speaker, cfg SpeakerConfig, host, r1, _ netip.Addr) {
				t.Helper()
				four, six := path4(1), path6(1)
				four.NextHop, six.NextHop = netip.MustParseAddr("10.0.0.1"), host
				cfg.Peers, cfg.Paths = cfg.Peers[:1], []Path{four, six}
				without, moment := cfg, cfg
				without.Peers, moment.Peers = nil, nil
				four.NextHop = hop
				moment.Paths = []Path{four}
				apply(t, s, moment)
				apply(t, s, without)
				apply(t, s, without)
				apply(t, s, cfg)
				p := dialRaw(t, r1, host, 65001, rawOptions{})
				p.await(patience, contains("+2001:db8::1/128"))
			})
		})
	}
}
