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
)

func path6(n int) Path {
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(n)}
	return Path{Prefix: netip.PrefixFrom(netip.AddrFrom16(a), 128)}
}

// Both families run over an IPv4 session, each with its own next hop.
func TestFamiliesOverIPv4(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	six, lost := path6(1), path6(2)
	six.NextHop = netip.MustParseAddr("fd00::1")
	explicit := path4(2)
	explicit.NextHop = netip.MustParseAddr("192.0.2.7")
	cfg.Paths = []Path{path4(1), explicit, six, lost}
	err := s.Apply(context.Background(), cfg)
	want := "speaker en1: path 2001:db8::2/128: needs an explicit IPv6 next hop, because a session runs over IPv4"
	if err == nil || err.Error() != want {
		t.Errorf("apply: %v, want %s", err, want)
	}
	p := dialRaw(t, router, host, 65001, rawOptions{})
	got := p.await(patience, func(all []string) bool { return len(all) == 3 })
	slices.Sort(got)
	if diff := cmp.Diff([]string{
		"[+10.100.0.1/32] via " + host.String() + " [{AsPath: 65010}]",
		"[+10.100.0.2/32] via 192.0.2.7 [{AsPath: 65010}]",
		"[+2001:db8::1/128] via fd00::1 [{AsPath: 65010}]",
	}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State()) }, func() bool { return s.State().Error == want })
}

// LOCAL_PREF is for internal peers, and a prepend never is.
func TestInternalPeer(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65010))
	pref := uint32(200)
	cfg.Paths = []Path{path4(1), {Prefix: path4(2).Prefix, LocalPref: &pref, Prepend: 3}}
	err := s.Apply(context.Background(), cfg)
	if err == nil || !strings.Contains(err.Error(), "path 10.100.0.2/32: not prepended, because peer "+router.String()+" is internal") {
		t.Errorf("apply: %v", err)
	}
	p := dialRaw(t, router, host, 65010, rawOptions{})
	got := p.await(patience, func(all []string) bool { return len(all) == 2 })
	slices.Sort(got)
	if diff := cmp.Diff([]string{
		"[+10.100.0.1/32] via " + host.String() + " [{AsPath: } {LocalPref: 100}]",
		"[+10.100.0.2/32] via " + host.String() + " [{AsPath: } {LocalPref: 200}]",
	}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// LOCAL_PREF 0, which asks internal peers to prefer any other path (RFC 8326
// section 4.1), reaches them as 0 of a path that is alone, and as 1 of one of
// several.
func TestLocalPrefZero(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65010))
	last := uint32(0)
	cfg.Paths = []Path{{Prefix: path4(1).Prefix, LocalPref: &last}, {Prefix: path4(2).Prefix, ID: 1, LocalPref: &last}}
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65010, rawOptions{})
	got := p.await(patience, func(all []string) bool { return len(all) == 2 })
	slices.Sort(got)
	if diff := cmp.Diff([]string{
		"[+10.100.0.1/32] via " + host.String() + " [{AsPath: } {LocalPref: 0}]",
		"[+10.100.0.2/32] via " + host.String() + " [{AsPath: } {LocalPref: 1}]",
	}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// LOCAL_PREF never leaves for an external peer; large communities do.
func TestExternalPeerAttributes(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	pref, med := uint32(200), uint32(0)
	cfg.Paths = []Path{{Prefix: path4(1).Prefix, LocalPref: &pref, MED: &med, LargeCommunities: []LargeCommunity{{65010, 2, 3}, {65010, 1, 1}}}}
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	got := p.await(patience, hasPrefix("[+"))
	want := "[+10.100.0.1/32] via " + host.String() + " [{AsPath: 65010} {Med: 0} {LargeCommunity: [ 65010:1:1, 65010:2:3]}]"
	if diff := cmp.Diff([]string{want}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	apply(t, s, cfg)
	if got := p.quiet(50 * time.Millisecond); got != nil {
		t.Errorf("the same again sent %q", got)
	}
}

// More prepended routes than fit into a few messages all arrive.
func TestManyPrependedPaths(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	s.SetDebug(false)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	for i := range 3000 {
		p := path4(i)
		p.Prepend = 2
		cfg.Paths = append(cfg.Paths, p)
	}
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	p.await(patience, func(all []string) bool { return strings.Count(strings.Join(all, ""), "+10.") == 3000 })
	if e := s.State().Error; e != "" {
		t.Errorf("error: %s", e)
	}
}
