//go:build !race

package bgp

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// offered is what an OPEN offered of graceful restart.
type offered struct {
	Restart   []string // families, and whether forwarding was kept
	LongLived []string // families with stale times
	// Notification is the N bit of RFC 8538, which is off: a router would go on
	// sending to a host that it has lost.
	Notification bool
}

func offeredBy(open *bgp.BGPOpen) offered {
	var out offered
	for _, param := range open.OptParams {
		for _, c := range param.(*bgp.OptionParameterCapability).Capability {
			switch v := c.(type) {
			case *bgp.CapGracefulRestart:
				out.Notification = v.Flags&0x4 != 0
				for _, f := range v.Tuples {
					out.Restart = append(out.Restart, fmt.Sprintf("%s %t", bgp.AfiSafiToRouteFamily(f.AFI, f.SAFI), f.Flags&0x80 != 0))
				}
			case *bgp.CapLongLivedGracefulRestart:
				for _, f := range v.Tuples {
					out.LongLived = append(out.LongLived, fmt.Sprintf("%s %d s", bgp.AfiSafiToRouteFamily(f.AFI, f.SAFI), f.RestartTime))
				}
			}
		}
	}
	return out
}

// Each family is offered as wanted; a cold start sends at once and ends with the
// End-of-RIB of each family; the state says what the peer took.
func TestGracefulRestartOfFamilies(t *testing.T) {
	longLived := bgp.NewCapLongLivedGracefulRestart([]*bgp.CapLongLivedGracefulRestartTuple{
		bgp.NewCapLongLivedGracefulRestartTuple(bgp.RF_IPv4_UC, false, 3600),
	})
	v4, v6 := "ipv4-unicast", "ipv6-unicast"
	for name, tt := range map[string]struct {
		gr       GracefulRestart
		families Families
		router   rawOptions
		want     offered
		eors     []bgp.RouteFamily
		state    PeerState
	}{
		"both": {
			gr:     GracefulRestart{Enabled: true, RestartTime: 30 * time.Second, LongLived: 48 * time.Hour},
			router: rawOptions{restart: 120, waits: true, caps: []bgp.ParameterCapabilityInterface{longLived}},
			want:   offered{Restart: []string{v4 + " false", v6 + " false"}, LongLived: []string{v4 + " 172800 s", v6 + " 172800 s"}},
			eors:   []bgp.RouteFamily{bgp.RF_IPv4_UC, bgp.RF_IPv6_UC},
			state:  PeerState{IPv4: true, IPv6: true, GracefulRestart: true, LongLived: true},
		},
		"IPv4 alone, a helper": {
			gr: GracefulRestart{Enabled: true, RestartTime: 30 * time.Second}, families: Families{IPv4: true},
			router: rawOptions{restart: 120},
			want:   offered{Restart: []string{v4 + " false"}}, eors: []bgp.RouteFamily{bgp.RF_IPv4_UC},
			state: PeerState{IPv4: true, GracefulRestart: true},
		},
		"a router without": {
			gr:    GracefulRestart{Enabled: true, RestartTime: 30 * time.Second, LongLived: time.Hour},
			want:  offered{Restart: []string{v4 + " false", v6 + " false"}, LongLived: []string{v4 + " 3600 s", v6 + " 3600 s"}},
			state: PeerState{IPv4: true, IPv6: true},
		},
		"off": {
			router: rawOptions{restart: 120, caps: []bgp.ParameterCapabilityInterface{longLived}},
			state:  PeerState{IPv4: true, IPv6: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, router := addr(t), addr(t)
			s := startSpeaker(t, SpeakerOptions{})
			cfg := conf("en1", 65010, host, peer(router, 65001))
			cfg.GracefulRestart, cfg.Peers[0].Families = tt.gr, tt.families
			cfg.Paths = []Path{path4(1)}
			apply(t, s, cfg)
			p := dialRaw(t, router, host, 65001, tt.router)
			start := time.Now()
			p.await(patience, hasPrefix("[+10.100.0.1/32]"))
			t.Logf("first UPDATE %s after the handshake", time.Since(start))
			if diff := cmp.Diff(tt.want, offeredBy(p.open)); diff != "" {
				t.Errorf("OPEN (-want +got):\n%s", diff)
			}
			eors := func() []bgp.RouteFamily {
				p.mu.Lock()
				defer p.mu.Unlock()
				return slices.Sorted(slices.Values(p.eors))
			}
			eventually(t, patience, func() string { return fmt.Sprintf("End-of-RIB %v, want %v", eors(), tt.eors) },
				func() bool { return slices.Equal(eors(), tt.eors) })
			awaitEstablished(t, s, router)
			got := peerState(s.State(), router)
			got = PeerState{IPv4: got.IPv4, IPv6: got.IPv6, GracefulRestart: got.GracefulRestart, LongLived: got.LongLived}
			if got != tt.state {
				t.Errorf("state %+v, want %+v", got, tt.state)
			}
		})
	}
}

// A process that comes back after a crash says of both families that it kept
// forwarding, for both kinds of graceful restart.
func TestRestartOfBothFamilies(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{Restarting: true})
	cfg := graceful(conf("en1", 65010, host, peer(router, 65001)))
	cfg.GracefulRestart.LongLived = time.Hour
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{restart: 120})
	p.await(patience, hasPrefix("[+10.100.0.1/32]"))
	if diff := cmp.Diff([]string{"ipv4-unicast true", "ipv6-unicast true"}, offeredBy(p.open).Restart); diff != "" {
		t.Errorf("OPEN (-want +got):\n%s", diff)
	}
}

// A peer whose attributes change, or many of whose paths, while it waits for the
// End-of-RIB of others, is sent nothing before, and then all.
func TestChangesWaitForTheEndOfRIB(t *testing.T) {
	host, r1, r2 := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{Restarting: true})
	cfg := graceful(conf("en1", 65010, host, peer(r1, 65001), peer(r2, 65002)))
	cfg.Paths = many(bulkFrom, nil)
	apply(t, s, cfg)
	p := dialRaw(t, r1, host, 65001, rawOptions{restart: 120, waits: true})
	awaitEstablished(t, s, r1)
	med := uint32(5)
	cfg.Peers[0].Attributes = &Attributes{MED: &med}
	cfg.Paths = many(bulkFrom*2, func(_ int, p *Path) { p.Communities = []uint32{GracefulShutdown} })
	apply(t, s, cfg)
	if got := p.quiet(200 * time.Millisecond); got != nil {
		t.Errorf("%d messages before the End-of-RIB", len(got))
	}
	p.endOfRIB()
	p.awaitAnnounced(map[string]int{host.String() + " [{AsPath: 65010} {Med: 5} {Communities: planned-shut}]": bulkFrom * 2})
}
