package speaker

import (
	"net/netip"
	"testing"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/status"
)

// A peer that takes no IPv6 next hop for IPv4 has the VIP if it takes several
// paths and one of them has an IPv4 next hop.
func TestHopFor(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddr("10.68.1.1"), netip.MustParseAddr("fd01::1")
	pl := &Placement{NextHop: v6, Paths: []status.Path{{ID: 1, NextHop: v6}, {ID: 2, NextHop: v4}}}
	for name, tt := range map[string]struct {
		peer bgp.PeerState
		want netip.Addr
	}{
		"one path":                         {bgp.PeerState{IPv4: true}, v6},
		"several paths":                    {bgp.PeerState{IPv4: true, AddPath: true}, v4},
		"several paths, extended next hop": {bgp.PeerState{IPv4: true, AddPath: true, ExtendedNextHop: true}, v6},
		"another family":                   {bgp.PeerState{IPv6: true, AddPath: true}, v6},
	} {
		if got := hopFor(pl, &tt.peer, prefix("10.68.6.1/32")); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
