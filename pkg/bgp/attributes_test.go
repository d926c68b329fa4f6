package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// announced counts the prefixes of each set of attributes, over the UPDATEs that
// came since the last call, and these.
func (p *rawPeer) announced() (byAttrs map[string]int, updates int) {
	byAttrs = map[string]int{}
	for _, m := range p.seen() {
		if !strings.HasPrefix(m, "[+") {
			byAttrs[m]++
			continue
		}
		updates++
		prefixes, attrs, _ := strings.Cut(m, "] via ")
		byAttrs[attrs] += strings.Count(prefixes, "+")
	}
	return byAttrs, updates
}

// awaitAnnounced adds up what comes until it is as wanted, and returns how many
// UPDATEs it took.
func (p *rawPeer) awaitAnnounced(want map[string]int) int {
	p.t.Helper()
	got, updates := map[string]int{}, 0
	eventually(p.t, patience, func() string { return fmt.Sprintf("got %v, want %v", got, want) }, func() bool {
		more, n := p.announced()
		for k, v := range more {
			got[k] += v
		}
		updates += n
		return cmp.Equal(got, want)
	})
	return updates
}

func many(n int, change func(int, *Path)) []Path {
	out := make([]Path, 0, n)
	for i := range n {
		p := path4(i)
		if change != nil {
			change(i, &p)
		}
		out = append(out, p)
	}
	return out
}

// The attributes of a peer change what this peer gets, at the start and later,
// by a few messages and without a reset; the others hear nothing of it. A prepend
// loses no route, however many have the same attributes.
func TestAttributesOfOnePeer(t *testing.T) {
	const n = 10000
	host, one, other := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	med, pref := uint32(500), uint32(9)
	egp, incomplete := uint8(1), uint8(2)
	cfg := conf("en1", 65010, host, peer(one, 65001), peer(other, 65002))
	cfg.Peers[0].Attributes = &Attributes{
		MED: &med, LocalPref: &pref, Prepend: 1, Communities: []uint32{65010<<16 | 7, 65010<<16 | 9},
		LargeCommunities:    []LargeCommunity{{65010, 1, 2}},
		ExtendedCommunities: []ExtendedCommunity{{0, 2, 0xfd, 0xf2, 0, 0, 0, 5}, {2, 3, 0, 1, 0, 0, 0, 6}},
	}
	own := uint32(3)
	cfg.Paths = many(n, func(_ int, p *Path) { p.MED, p.Communities = &own, []uint32{65010<<16 | 9} })
	apply(t, s, cfg)
	p1, p2 := dialRaw(t, one, host, 65001, rawOptions{}), dialRaw(t, other, host, 65002, rawOptions{})
	via := host.String() + " [{AsPath: 65010"
	plain := via + "} {Med: 3} {Communities: 65010:9}]"
	updates := p1.awaitAnnounced(map[string]int{
		via + " 65010} {Med: 500} {Communities: 65010:7, 65010:9} {Extcomms: [65010:5], [1.0:6]} {LargeCommunity: [ 65010:1:2]}]": n,
	})
	t.Logf("%d paths in %d and %d UPDATEs", n, updates, p2.awaitAnnounced(map[string]int{plain: n}))

	for _, step := range []struct {
		attrs *Attributes
		want  string
	}{
		{&Attributes{Prepend: 10}, via + strings.Repeat(" 65010", 10) + "} {Med: 3} {Communities: 65010:9}]"},
		{&Attributes{Communities: []uint32{0xffff0000}}, via + "} {Med: 3} {Communities: 65010:9, planned-shut}]"},
		{&Attributes{MED: &med}, via + "} {Med: 500} {Communities: 65010:9}]"},
		{&Attributes{Origin: &incomplete}, host.String() + " [{Origin: ?} {AsPath: 65010} {Med: 3} {Communities: 65010:9}]"},
		{&Attributes{Origin: &egp, MED: &med}, host.String() + " [{Origin: e} {AsPath: 65010} {Med: 500} {Communities: 65010:9}]"},
		{nil, plain},
		{&Attributes{Prepend: 3, MED: new(uint32)}, via + " 65010 65010 65010} {Med: 0} {Communities: 65010:9}]"},
	} {
		cfg.Peers[0].Attributes = step.attrs
		apply(t, s, cfg)
		apply(t, s, cfg)
		updates := p1.awaitAnnounced(map[string]int{step.want: n})
		if updates > n/50 {
			t.Errorf("%d UPDATEs for %d paths", updates, n)
		}
	}
	cfg.Peers[0].Attributes.LocalPref = &pref // says nothing to an external peer
	apply(t, s, cfg)
	cfg.Paths[0].MED = &med
	apply(t, s, cfg)
	p1.await(patience, func(all []string) bool {
		return slices.Equal(all, []string{"[+10.100.0.0/32] via " + via + " 65010 65010 65010} {Med: 0} {Communities: 65010:9}]"})
	})
	if diff := cmp.Diff([]string{"[+10.100.0.0/32] via " + via + "} {Med: 500} {Communities: 65010:9}]"}, p2.gets(1, 100*time.Millisecond)); diff != "" {
		t.Errorf("the other peer (-want +got):\n%s", diff)
	}
	for _, a := range []netip.Addr{one, other} {
		if got := peerState(s.State(), a); got.State != Established || got.Transitions != 1 {
			t.Errorf("session flapped: %+v", got)
		}
	}
	if e := s.State().Error; e != "" {
		t.Errorf("error: %s", e)
	}
}

// LOCAL_PREF of an internal peer, and what cannot be.
func TestAttributesOfAnInternalPeer(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65010))
	pref := uint32(9)
	cfg.Peers[0].Attributes = &Attributes{LocalPref: &pref, Prepend: 2}
	cfg.Paths = []Path{path4(1)}
	err := s.Apply(context.Background(), cfg)
	if err == nil || !strings.Contains(err.Error(), "its paths are not prepended, because it is internal") {
		t.Errorf("apply: %v", err)
	}
	p := dialRaw(t, router, host, 65010, rawOptions{})
	p.awaitAnnounced(map[string]int{host.String() + " [{AsPath: } {LocalPref: 9}]": 1})
	// What is about to go is not preferred, whatever the peer is told otherwise.
	cfg.Peers[0].Attributes = &Attributes{LocalPref: &pref}
	last := uint32(0)
	going := cfg.Paths[0]
	going.LocalPref, going.Communities = &last, []uint32{7, 0xffff0000}
	cfg.Paths = []Path{going}
	apply(t, s, cfg)
	p.awaitAnnounced(map[string]int{host.String() + " [{AsPath: } {LocalPref: 0} {Communities: 0:7, planned-shut}]": 1})
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	p.awaitAnnounced(map[string]int{host.String() + " [{AsPath: } {LocalPref: 9}]": 1})
	cfg.Peers[0].Attributes = nil
	apply(t, s, cfg)
	p.awaitAnnounced(map[string]int{host.String() + " [{AsPath: } {LocalPref: 100}]": 1})
}

// Many paths that change together are sent packed, exactly they, to all peers
// that are up, and with and without ADD-PATH; a peer that comes up meanwhile
// gets all.
func TestManyChangesArePacked(t *testing.T) {
	const n = 3000
	for _, addPath := range []bool{false, true} {
		t.Run(fmt.Sprintf("ADD-PATH %t", addPath), func(t *testing.T) {
			host, one, two, late := addr(t), addr(t), addr(t), addr(t)
			s := startSpeaker(t, SpeakerOptions{})
			cfg := conf("en1", 65010, host, peer(one, 65001), peer(two, 65002), peer(late, 65003))
			cfg.Peers[0].AddPath, cfg.Peers[2].AddPath = addPath, addPath
			cfg.Peers[1].Attributes = &Attributes{Prepend: 2}
			cfg.Paths = many(n, nil)
			apply(t, s, cfg)
			p1, p2 := dialRaw(t, one, host, 65001, rawOptions{addPath: addPath}), dialRaw(t, two, host, 65002, rawOptions{})
			alone, thrice := host.String()+" [{AsPath: 65010}", host.String()+" [{AsPath: 65010 65010 65010}"
			p1.awaitAnnounced(map[string]int{alone + "]": n})
			p2.awaitAnnounced(map[string]int{thrice + "]": n})
			awaitEstablished(t, s, one)
			awaitEstablished(t, s, two)

			cfg.Paths = many(n, func(_ int, p *Path) { p.Communities = []uint32{0xffff0000} })
			start := time.Now()
			done := make(chan error, 1)
			go func() { done <- s.Apply(context.Background(), cfg) }()
			p3 := dialRaw(t, late, host, 65003, rawOptions{addPath: addPath})
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			const shut = " {Communities: planned-shut}]"
			updates := p1.awaitAnnounced(map[string]int{alone + shut: n}) + p2.awaitAnnounced(map[string]int{thrice + shut: n})
			if updates > n/50 {
				t.Errorf("%d UPDATEs for two times %d paths", updates, n)
			}
			t.Logf("%d paths in %d UPDATEs for two peers, %s", n, updates, time.Since(start))
			eventually(t, patience, func() string { return fmt.Sprintf("late peer has %d paths", len(p3.routes())) }, func() bool {
				all := p3.routes()
				for _, v := range all {
					if !strings.Contains(v, "planned-shut") {
						return false
					}
				}
				return len(all) == n
			})

			for i := 100; i < 100+bulkFrom*2; i++ {
				cfg.Paths[i].Communities = nil
			}
			cfg.Paths = append(cfg.Paths[1:], many(n+500, nil)[n:]...) // one goes, 500 come
			apply(t, s, cfg)
			p1.awaitAnnounced(map[string]int{alone + "]": bulkFrom*2 + 500, "[-10.100.0.0/32]": 1})
			p2.awaitAnnounced(map[string]int{thrice + "]": bulkFrom*2 + 500, "[-10.100.0.0/32]": 1})
			apply(t, s, cfg)
			for _, p := range []*rawPeer{p1, p2} {
				if got := p.quiet(100 * time.Millisecond); got != nil {
					t.Errorf("the same again sent %d messages", len(got))
				}
			}
			for _, a := range []netip.Addr{one, two, late} {
				if got := peerState(s.State(), a); got.Transitions != 1 {
					t.Errorf("session flapped: %+v", got)
				}
			}
		})
	}
}

// Several paths of a prefix of which one changes: exactly it is sent.
func TestManyChangesOfOneIDAreExact(t *testing.T) {
	const n = bulkFrom * 2
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("rr", 65010, host, peer(router, 65001))
	cfg.Peers[0].AddPath = true
	for i := range n {
		for id := uint32(1); id < 3; id++ {
			p := path4(i)
			p.ID, p.NextHop = id, netip.AddrFrom4([4]byte{192, 0, 2, byte(id)})
			cfg.Paths = append(cfg.Paths, p)
		}
	}
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{addPath: true})
	p.awaitAnnounced(map[string]int{"192.0.2.1 [{AsPath: 65010}]": n, "192.0.2.2 [{AsPath: 65010}]": n})
	for i := range cfg.Paths {
		if cfg.Paths[i].ID == 2 {
			cfg.Paths[i].NextHop = netip.AddrFrom4([4]byte{192, 0, 2, 9})
		}
	}
	apply(t, s, cfg)
	p.awaitAnnounced(map[string]int{"192.0.2.9 [{AsPath: 65010}]": n})
	if got := p.quiet(100 * time.Millisecond); got != nil {
		t.Errorf("messages %q", got)
	}
}

// A withdraw, or the end of a session, does not wait behind ten thousand
// changes, and what they left undone is done later.
func TestBulkIsCutShort(t *testing.T) {
	const n = 10000
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
	cfg.Paths = many(n, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Apply(ctx, cfg) }()
	<-time.After(50 * time.Millisecond)
	cancel()
	if err := <-done; err == nil {
		t.Log("all was in before the end")
	}
	apply(t, s, cfg)
	p.awaitAnnounced(map[string]int{host.String() + " [{AsPath: 65010}]": n})
	cfg.Paths = append(cfg.Paths, path6(1))
	cfg.Paths[n].NextHop = netip.MustParseAddr("fd00::1")
	apply(t, s, cfg)
	p.await(patience, hasPrefix("[+2001:db8::1/128]")) // nothing is held back any more
}

// What GoBGP's policies can write of extended communities.
func TestPolicyText(t *testing.T) {
	for c, want := range map[ExtendedCommunity]string{
		{0, 2, 0xfd, 0xf2, 0, 1, 0, 0}: "rt:65010:65536", {2, 2, 0, 1, 0, 0, 0, 9}: "rt:1.0:9", {1, 2, 10, 0, 0, 1, 0, 9}: "rt:10.0.0.1:9",
		{0, 3, 0xfd, 0xf2, 0, 0, 0, 1}: "soo:65010:1",
		{3, 0x0b, 0, 0, 0, 0, 0, 1}:    "", {0x40, 4, 0xfd, 0xf2, 0, 0, 0, 1}: "", {0x40, 2, 0xfd, 0xf2, 0, 0, 0, 1}: "",
		{2, 2, 0, 0, 0xfd, 0xf2, 0, 9}: "rt:0.65010:9", {0xff}: "",
	} {
		got, err := policyText(c)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%x: %q, %v, want %q", c[:], got, err, want)
		}
	}
}

// No bundle is so large that its paths would not fit into one UPDATE, whatever
// their attributes are.
func TestBundlesFit(t *testing.T) {
	for _, communities := range []int{0, 1, 40, maxCommunities} {
		for _, large := range []int{0, 1, 40, maxLarge} {
			p := path4(1)
			p.Prepend, p.Communities, p.LargeCommunities = maxPrepend, make([]uint32, communities), make([]LargeCommunity, large)
			p.ExtendedCommunities = make([]ExtendedCommunity, min(large, maxExtended))
			var b bundles
			b.next(p)
			paths := 1
			for b.next(p) == 1 {
				paths++
			}
			size := bgp.BGP_HEADER_LENGTH + 4 + attributesSize(p) + peerRoom + paths*prefixRoom
			if size > 4096+prefixRoom || paths < 1 {
				t.Errorf("%d paths with %d and %d communities: %d octets", paths, communities, large, size)
			}
		}
	}
}
