package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// What a router sends for a watched prefix is told, although it is refused, also
// if it comes from a host of the same AS number.
func TestSeen(t *testing.T) {
	t.Parallel()
	for _, origin := range []uint32{65020, 65010} {
		t.Run(fmt.Sprintf("from AS %d", origin), func(t *testing.T) {
			t.Parallel()
			host, router := addr(t), addr(t)
			vip, other := path4(1), path4(2)
			s := startSpeaker(t, SpeakerOptions{})
			cfg := conf("en1", 65010, host, peer(router, 65001))
			cfg.Watch = []netip.Prefix{vip.Prefix}
			apply(t, s, cfg)
			p := dialRaw(t, router, host, 65001, rawOptions{})
			awaitEstablished(t, s, router)
			attrs := []bgp.PathAttributeInterface{
				bgp.NewPathAttributeOrigin(0),
				bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{65001, origin})}),
				bgp.NewPathAttributeNextHop(router.String()),
				bgp.NewPathAttributeCommunities([]uint32{GracefulShutdown}),
				bgp.NewPathAttributeLargeCommunities([]*bgp.LargeCommunity{{ASN: 1, LocalData1: 2, LocalData2: 3}, {ASN: origin, LocalData1: 6800001, LocalData2: 42}}),
			}
			var nlri []*bgp.IPAddrPrefix
			for _, one := range []Path{vip, other} {
				nlri = append(nlri, bgp.NewIPAddrPrefix(32, one.Prefix.Addr().String()))
			}
			if err := p.write(bgp.NewBGPUpdateMessage(nil, attrs, nlri)); err != nil {
				t.Fatal(err)
			}
			seen := func(list ...SeenPath) {
				t.Helper()
				eventually(t, patience, func() string { return fmt.Sprintf("seen %+v, want %+v", s.State().Seen, list) },
					func() bool { return slices.EqualFunc(s.State().Seen, list, sameSeen) })
			}
			want := SeenPath{
				Prefix: vip.Prefix, Peer: router, NextHop: router, OriginAS: origin, Shutdown: true,
				LargeCommunities: []LargeCommunity{{origin, 6800001, 42}},
			}
			seen(want)
			if got := s.State().Announced; len(got) != 0 {
				t.Errorf("announced %v, which is another's", got)
			}
			if err := p.write(bgp.NewBGPUpdateMessage(nlri[:1], nil, nil)); err != nil {
				t.Fatal(err)
			}
			seen()
			cfg.Watch = []netip.Prefix{other.Prefix}
			apply(t, s, cfg)
			want.Prefix = other.Prefix
			seen(want)
			cfg.Watch = nil
			apply(t, s, cfg)
			seen()
		})
	}
}

// A process is believed only what can be true.
func TestSeenBelievable(t *testing.T) {
	t.Parallel()
	vip, router := path4(1).Prefix, netip.MustParseAddr("192.0.2.1")
	cfg := SpeakerConfig{Watch: []netip.Prefix{vip}, Peers: []Peer{{Address: router}}}
	good := SeenPath{Prefix: vip, Peer: router}
	got := believable([]SeenPath{
		{Prefix: path4(2).Prefix, Peer: router},
		{Prefix: vip, Peer: netip.MustParseAddr("192.0.2.2")},
		{Prefix: vip, Peer: router, LargeCommunities: make([]LargeCommunity, maxSeenLarge+1)},
		good,
		{Prefix: vip, Peer: router, OriginAS: 65020}, // a second one
	}, &cfg)
	if !slices.EqualFunc(got, []SeenPath{good}, sameSeen) {
		t.Errorf("believed %+v, want %+v", got, good)
	}
}

// However many VIPs there are, what each router sends for each of them is told:
// one that is not would look as if nobody else announced it.
func TestSeenOfManyPrefixes(t *testing.T) {
	t.Parallel()
	const vips = 10000
	cfg := SpeakerConfig{Peers: []Peer{{Address: netip.MustParseAddr("192.0.2.1")}, {Address: netip.MustParseAddr("192.0.2.2")}}}
	var sent []SeenPath
	for i := range vips {
		vip := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 68, byte(i >> 8), byte(i)}), 32)
		cfg.Watch = append(cfg.Watch, vip)
		for _, p := range cfg.Peers {
			sent = append(sent, SeenPath{Prefix: vip, Peer: p.Address})
		}
	}
	if got := cleanWatch(cfg.Watch); len(got) != vips {
		t.Errorf("%d of %d prefixes are watched", len(got), vips)
	}
	if got := believable(sent, &cfg); !slices.EqualFunc(got, sent, sameSeen) {
		t.Errorf("%d of %d paths are believed", len(got), len(sent))
	}
}
