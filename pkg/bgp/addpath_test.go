package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// via is a path of the first prefix by one of several next hops.
func via(id uint32) Path {
	p := path4(1)
	p.ID, p.NextHop = id, netip.AddrFrom4([4]byte{192, 0, 2, byte(id)})
	return p
}

// routes is what a raw peer holds: next hop and attributes by path identifier
// of the wire and prefix.
func (p *rawPeer) routes() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]string{}
	key := func(n bgp.AddrPrefixInterface) string { return fmt.Sprintf("%d %s", n.PathIdentifier(), n) }
	for _, m := range p.msgs {
		u, ok := m.Body.(*bgp.BGPUpdate)
		if !ok {
			continue
		}
		hop := ""
		var set []string
		for _, n := range u.WithdrawnRoutes {
			delete(out, key(n))
		}
		for _, a := range u.PathAttributes {
			switch v := a.(type) {
			case *bgp.PathAttributeNextHop:
				hop = v.Value.String()
			case *bgp.PathAttributeLocalPref:
				hop += fmt.Sprintf(" pref %d", v.Value)
			case *bgp.PathAttributeMpUnreachNLRI:
				for _, n := range v.Value {
					delete(out, key(n))
				}
			case *bgp.PathAttributeOrigin, *bgp.PathAttributeAsPath:
			default:
				set = append(set, a.String())
			}
		}
		for _, n := range u.NLRI {
			out[key(n)] = strings.TrimSpace(hop + " " + strings.Join(set, " "))
		}
	}
	return out
}

func (p *rawPeer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.msgs)
}

func hopsOf(p *rawPeer) []string {
	var out []string
	for _, v := range p.routes() {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}

// A peer with ADD-PATH has every path, all others the one with the lowest ID,
// in whatever order paths come and go, and nothing is said twice.
func TestPathsByID(t *testing.T) {
	for _, asn := range []uint32{65010, 65001} {
		t.Run(fmt.Sprintf("AS %d", asn), func(t *testing.T) {
			pref := ""
			if asn == 65010 {
				pref = " pref 100"
			}
			hop := func(ids ...uint32) []string {
				var out []string
				for _, id := range ids {
					out = append(out, fmt.Sprintf("192.0.2.%d%s", id, pref))
				}
				return out
			}
			host, all, best, plain := addr(t), addr(t), addr(t), addr(t)
			s := startSpeaker(t, SpeakerOptions{})
			cfg := conf("rr", 65010, host, peer(all, asn), peer(best, asn), peer(plain, asn))
			cfg.Peers[0].AddPath, cfg.Peers[1].AddPath = true, true
			cfg.Paths = []Path{via(2), via(3)}
			apply(t, s, cfg)
			every := dialRaw(t, all, host, asn, rawOptions{addPath: true})
			one := []*rawPeer{dialRaw(t, best, host, asn, rawOptions{}), dialRaw(t, plain, host, asn, rawOptions{})}
			for _, a := range []netip.Addr{all, best, plain} {
				awaitEstablished(t, s, a)
			}
			if st := s.State(); !peerState(st, all).AddPath || peerState(st, best).AddPath || peerState(st, plain).AddPath {
				t.Errorf("state: %+v", st.Peers)
			}
			for i, step := range [][]uint32{{2, 3}, {3, 2, 1}, {2, 3}, {3}, {9, 3, 4, 1}, {9, 4, 3}, {4, 9}, {2, 4, 9}, {1}, {}, {5, 6}} {
				cfg.Paths = nil
				for _, id := range step {
					cfg.Paths = append(cfg.Paths, via(id))
				}
				apply(t, s, cfg)
				slices.Sort(step)
				want, first := hop(step...), hop(step[:min(1, len(step))]...)
				eventually(t, patience, func() string { return fmt.Sprintf("step %d: %v, want %v", i, hopsOf(every), want) },
					func() bool { return slices.Equal(hopsOf(every), want) })
				for _, p := range one {
					eventually(t, patience, func() string { return fmt.Sprintf("step %d: %v, want %v", i, hopsOf(p), first) },
						func() bool { return slices.Equal(hopsOf(p), first) })
				}
			}
			before := every.count() + one[0].count()
			cfg.Paths = append(cfg.Paths, via(7))
			apply(t, s, cfg)
			apply(t, s, cfg)
			cfg.Paths = slices.Delete(cfg.Paths, 1, 2)
			apply(t, s, cfg)
			eventually(t, patience, func() string { return fmt.Sprint(hopsOf(every)) },
				func() bool { return slices.Equal(hopsOf(every), hop(5, 7)) })
			if got := every.count() + one[0].count() - before; got != 2 {
				t.Errorf("%d messages for one path that comes and one that goes, want 2 to the peer with ADD-PATH alone", got)
			}
			if diff := cmp.Diff([]netip.Prefix{path4(1).Prefix}, s.State().Announced, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("announced (-want +got):\n%s", diff)
			}
		})
	}
}

// What orders paths inside GoBGP is seen by nobody, and LOCAL_PREF is what it
// should be, also where it would put the paths into another order.
func TestIDsHideInside(t *testing.T) {
	host, internal, external := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("rr", 65010, host, peer(internal, 65010), peer(external, 65001))
	cfg.Peers[0].AddPath, cfg.Peers[1].AddPath = true, true
	low, high, none, med := uint32(50), uint32(200), uint32(0), uint32(9)
	one, two, three := via(1), via(2), via(3)
	one.LocalPref, one.Origin, one.MED = &low, 2, &med
	one.LargeCommunities = []LargeCommunity{{65010, 1, 1}}
	one.ExtendedCommunities = []ExtendedCommunity{{0x03, 0x0b, 0, 0, 0, 0, 0, 7}, {0, 2, 0xfd, 0xf2, 0, 0, 0, 5}}
	two.LocalPref, three.LocalPref = &high, &none
	cfg.Paths = []Path{one, two, three}
	apply(t, s, cfg)
	in := dialRaw(t, internal, host, 65010, rawOptions{addPath: true})
	out := dialRaw(t, external, host, 65001, rawOptions{addPath: true})
	plus := " {Med: 9} {Extcomms: [65010:5], [7]} {LargeCommunity: [ 65010:1:1]}"
	for p, want := range map[*rawPeer][]string{
		in:  {"192.0.2.1 pref 50" + plus, "192.0.2.2 pref 200", "192.0.2.3 pref 1"},
		out: {"192.0.2.1" + plus, "192.0.2.2", "192.0.2.3"},
	} {
		eventually(t, patience, func() string { return fmt.Sprint(hopsOf(p)) }, func() bool { return len(p.routes()) == 3 })
		if diff := cmp.Diff(want, hopsOf(p)); diff != "" {
			t.Errorf("paths (-want +got):\n%s", diff)
		}
	}
	in.seen()
	apply(t, s, cfg)
	if got := in.quiet(100 * time.Millisecond); got != nil {
		t.Errorf("the same again sent %q", got)
	}
	cfg.Paths[1].LocalPref = &low
	apply(t, s, cfg)
	in.await(patience, func(all []string) bool { return len(all) == 1 && strings.Contains(all[0], "{LocalPref: 50}") })
}

// The speaker process is told of paths by prefix and ID.
func TestPathsByIDThroughAProcess(t *testing.T) {
	host, router := addr(t), addr(t)
	m := startManager(t, Options{}, nil)
	cfg := conf("rr", 65010, host, peer(router, 65001))
	cfg.Peers[0].AddPath = true
	cfg.Peers[0].Attributes = &Attributes{Communities: []uint32{65010<<16 | 5}}
	cfg.Paths = []Path{via(1), via(2), via(3)}
	announce(m, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{addPath: true})
	await := func(want ...string) {
		t.Helper()
		eventually(t, patience, func() string { return fmt.Sprintf("%v, want %v", hopsOf(p), want) },
			func() bool { return slices.Equal(hopsOf(p), want) })
	}
	const tag = " {Communities: 65010:5}"
	await("192.0.2.1"+tag, "192.0.2.2"+tag, "192.0.2.3"+tag)
	less := cfg
	less.Paths = []Path{via(1), via(3)}
	m.Withdraw(Desired{Speakers: []SpeakerConfig{less}})
	await("192.0.2.1"+tag, "192.0.2.3"+tag)
	less.Paths = []Path{via(3), via(4)}
	announce(m, less)
	await("192.0.2.3"+tag, "192.0.2.4"+tag)
	if got := peerState(&m.State().Speakers[0], router); !got.AddPath || got.Transitions != 1 {
		t.Errorf("state %+v", got)
	}
}

// The lowest ID wins while several goroutines make paths come and go.
func TestLowestIDWinsUnderLoad(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("rr", 65010, host, peer(router, 65001))
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
	var wg sync.WaitGroup
	for worker := range 3 {
		wg.Go(func() {
			for i := range 40 {
				next := cfg
				for id := uint32(1); id < 6; id++ {
					if (uint32(i)*7+uint32(worker)*3+id)%3 != 0 {
						next.Paths = append(next.Paths, via(id))
					}
				}
				if err := s.Apply(t.Context(), next); err != nil {
					t.Errorf("apply: %v", err)
				}
			}
		})
	}
	wg.Wait()
	cfg.Paths = []Path{via(5), via(2), via(4)}
	apply(t, s, cfg)
	eventually(t, patience, func() string { return fmt.Sprint(hopsOf(p)) }, func() bool { return slices.Equal(hopsOf(p), []string{"192.0.2.2"}) })
}
