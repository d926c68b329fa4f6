package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// A peer that is not the wanted one is refused by a NOTIFICATION and told so,
// gets no path, and is shown as never established; the right one is served.
func TestWrongPeerIsRefused(t *testing.T) {
	id := netip.MustParseAddr("10.0.0.7")
	for name, tt := range map[string]struct {
		change   func(*Peer)
		asn      uint32
		id       netip.Addr
		want     string // of the NOTIFICATION
		error    string
		right    uint32
		rightID  netip.Addr
		shownASN uint32
	}{
		"internal instead of external": {
			change: func(p *Peer) { p.ASN, p.External = 0, true }, asn: 65010, want: "notification 2/2",
			error: "sent OPEN Message Error/Bad Peer AS (AS 65010 is this host's own, wanted is an external one)", right: 4200000001, shownASN: 4200000001,
		},
		"wrong AS": {
			change: func(*Peer) {}, asn: 65002, want: "notification 2/2",
			error: "sent OPEN Message Error/Bad Peer AS (as number mismatch expected 65001, received 65002)", right: 65001, shownASN: 65001,
		},
		"wrong router id": {
			change: func(p *Peer) { p.RouterID = id }, asn: 65001, id: netip.MustParseAddr("10.0.0.8"), want: "notification 2/3",
			error: "sent OPEN Message Error/Bad BGP Identifier (router id is 10.0.0.8, wanted is 10.0.0.7)", right: 65001, rightID: id, shownASN: 65001,
		},
		"our own router id, internal": {
			change: func(p *Peer) { p.ASN = 65010 }, asn: 65010, id: netip.MustParseAddr("10.9.8.7"), want: "notification 2/3",
			error: "sent OPEN Message Error/Bad BGP Identifier (10.9.8.7 is this host's own)", right: 65010, shownASN: 65010,
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, router, other := addr(t), addr(t), addr(t)
			s := startSpeaker(t, SpeakerOptions{})
			s.timing.flapMax = 100 * time.Millisecond
			p := peer(router, 65001)
			tt.change(&p)
			cfg := conf("en1", 65010, host, p, peer(other, 65003))
			cfg.RouterID = netip.MustParseAddr("10.9.8.7")
			cfg.Paths = []Path{path4(1)}
			apply(t, s, cfg)
			dialRaw(t, other, host, 65003, rawOptions{})
			awaitEstablished(t, s, other)
			awaitListening(t, s, router)
			// The handshake fails, or its end is the NOTIFICATION.
			wrong, err := tryRaw(t.Context(), t, router, host, tt.asn, rawOptions{id: tt.id})
			if err == nil {
				got := wrong.await(patience, func(all []string) bool { return slices.Contains(all, tt.want) })
				if len(got) > 1 {
					t.Errorf("the wrong peer got %q", got)
				}
			}
			eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State().Peers) }, func() bool {
				st := peerState(s.State(), router)
				return st.LastError == tt.error && st.State != Established && st.Transitions == 0
			})
			right := dialRaw(t, router, host, tt.right, rawOptions{id: tt.rightID})
			right.await(patience, hasPrefix("[+10.100.0.1/32]"))
			awaitEstablished(t, s, router)
			if got := peerState(s.State(), router); got.ASN != tt.shownASN || got.LastError != "" {
				t.Errorf("state %+v", got)
			}
			if got := peerState(s.State(), other); got.Transitions != 1 {
				t.Errorf("the other session flapped: %+v", got)
			}
		})
	}
}

// A reload that asks for another router id ends the session of the one that is up.
func TestRouterIDIsCheckedAtReload(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
	cfg.Peers[0].RouterID = netip.MustParseAddr("10.0.0.7")
	apply(t, s, cfg)
	p.await(patience, hasPrefix("notification 2/3"))
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State().Peers) }, func() bool {
		return strings.HasSuffix(peerState(s.State(), router).LastError, "(router id is "+router.String()+", wanted is 10.0.0.7)")
	})
}

// A session with any external AS is not bound to a TTL by GoBGP, so it is bound
// to its device; one over several hops is bound to nothing but its TTL.
func TestExternalAndMultihopArePinned(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Peer)
		ttl    int
		device string
	}{
		"external":           {func(p *Peer) { p.ASN, p.External = 0, true }, 64, "lo"},
		"external, secured":  {func(p *Peer) { p.ASN, p.External, p.TTLSecurity = 0, true, true }, 255, ""},
		"external, multihop": {func(p *Peer) { p.ASN, p.External, p.MultihopTTL = 0, true, 4 }, 4, ""},
		"multihop":           {func(p *Peer) { p.MultihopTTL = 4 }, 4, ""},
		"internal multihop":  {func(p *Peer) { p.ASN, p.MultihopTTL = 65010, 4 }, 4, ""},
	} {
		for _, passive := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, passive %t", name, passive), func(t *testing.T) {
				host, router := addr(t), addr(t)
				s := startSpeaker(t, SpeakerOptions{})
				p := peer(router, 65001)
				p.Interface, p.Passive = "lo", passive
				tt.change(&p)
				cfg := conf("en1", 65010, host, p)
				apply(t, s, cfg)
				asn := max(p.ASN, 65001)
				control := rawOptions{control: setTTL(255)}
				if passive {
					dialRaw(t, router, host, asn, control)
				} else {
					acceptRaw(t, router, asn, control)
				}
				awaitEstablished(t, s, router)
				ttl, _, device := socketTo(t, host, router)
				want := tt.ttl
				if passive && want == 64 {
					want = 255 // of GoBGP's listener
				}
				if ttl != want || device != tt.device {
					t.Errorf("TTL %d, device %q, want %d and %q", ttl, device, want, tt.device)
				}
			})
		}
	}
}

// A passive peer is not dialled.
func TestPassivePeerIsNotDialled(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	p := peer(router, 65001)
	p.Passive = true
	apply(t, s, conf("en1", 65010, host, p))
	conns := countConnections(t, router)
	<-time.After(3 * time.Second)
	if n := conns(); n != 0 {
		t.Errorf("%d connections to a passive peer", n)
	}
	dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
}
