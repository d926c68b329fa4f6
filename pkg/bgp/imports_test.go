package bgp

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

func netips(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// advertise sends IPv4 prefixes with the given attributes besides.
func advertise(t *testing.T, p *rawPeer, hop netip.Addr, path []uint32, prefixes []netip.Prefix, more ...bgp.PathAttributeInterface) {
	t.Helper()
	attrs := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(1), bgp.NewPathAttributeNextHop(hop.String()),
		bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, path)}),
	}
	if err := p.write(bgp.NewBGPUpdateMessage(nil, append(attrs, more...), nlri(prefixes))); err != nil {
		t.Fatal(err)
	}
}

func nlri(prefixes []netip.Prefix) []*bgp.IPAddrPrefix {
	var out []*bgp.IPAddrPrefix
	for _, x := range prefixes {
		out = append(out, bgp.NewIPAddrPrefix(uint8(x.Bits()), x.Addr().String()))
	}
	return out
}

// advertise6 sends an IPv6 prefix by a global and a link-local next hop.
func advertise6(t *testing.T, p *rawPeer, asn uint32, prefix netip.Prefix, hops ...string) {
	t.Helper()
	reach := bgp.NewPathAttributeMpReachNLRI(hops[0], []bgp.AddrPrefixInterface{bgp.NewIPv6AddrPrefix(uint8(prefix.Bits()), prefix.Addr().String())})
	if len(hops) > 1 {
		reach.LinkLocalNexthop = netip.MustParseAddr(hops[1]).AsSlice()
	}
	attrs := []bgp.PathAttributeInterface{
		reach, bgp.NewPathAttributeOrigin(0),
		bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{asn})}),
	}
	if err := p.write(bgp.NewBGPUpdateMessage(nil, attrs, nil)); err != nil {
		t.Fatal(err)
	}
}

func awaitReceived(t *testing.T, m *Manager, name string, want []ReceivedPath) {
	t.Helper()
	equal := cmp.Comparer(func(a, b ReceivedPath) bool { return a == b })
	eventually(t, patience, func() string { return cmp.Diff(want, speakerState(m, name).Received, equal) },
		func() bool { return slices.Equal(want, speakerState(m, name).Received) })
}

// Exactly the listed prefixes are taken, with what decides between them, and sent
// on to nobody. They go with the withdraw and with the session, and another list
// counts for what was sent before.
func TestImport(t *testing.T) {
	host, r1, r2 := addr(t), addr(t), addr(t)
	m := startManager(t, Options{}, nil)
	cfg := conf("en1", 65010, host, peer(r1, 65001), peer(r2, 65002))
	cfg.Import = netips("0.0.0.0/0", "10.0.0.0/8", "::/0")
	announce(m, cfg)
	p1 := dialRaw(t, r1, host, 65001, rawOptions{})
	p2 := dialRaw(t, r2, host, 65002, rawOptions{})
	awaitUp(t, m, "en1", 2)
	advertise(t, p1, r1, []uint32{65001, 65009}, netips("0.0.0.0/0"), bgp.NewPathAttributeMultiExitDisc(7),
		bgp.NewPathAttributeExtendedCommunities([]bgp.ExtendedCommunityInterface{bgp.NewLinkBandwidthExtended(65001, 125e6)}))
	advertise(t, p1, r1, []uint32{65001}, netips("10.0.0.0/9", "10.68.0.0/16", "192.0.2.0/24", "0.0.0.0/1"))
	advertise(t, p2, r2, []uint32{65002}, netips("0.0.0.0/0", "10.0.0.0/8"))
	advertise6(t, p2, 65002, netip.MustParsePrefix("::/0"), "2001:db8::1", "fe80::1")
	any4 := netip.MustParsePrefix("0.0.0.0/0")
	first := ReceivedPath{Prefix: any4, NextHop: r1, Peer: r1, MED: 7, LocalPref: 100, ASPathLength: 2, Origin: 1, Bandwidth: 125e6}
	second := ReceivedPath{Prefix: any4, NextHop: r2, Peer: r2, LocalPref: 100, ASPathLength: 1, Origin: 1}
	eight := second
	eight.Prefix = netip.MustParsePrefix("10.0.0.0/8")
	six := ReceivedPath{
		Prefix: netip.MustParsePrefix("::/0"), NextHop: netip.MustParseAddr("2001:db8::1"),
		Peer: r2, LocalPref: 100, ASPathLength: 1,
	}
	both := []ReceivedPath{first, second}
	slices.SortFunc(both, compareReceived)
	awaitReceived(t, m, "en1", append(slices.Clone(both), eight, six))

	if err := p2.write(bgp.NewBGPUpdateMessage(nlri(netips("10.0.0.0/8")), nil, nil)); err != nil {
		t.Fatal(err)
	}
	awaitReceived(t, m, "en1", append(slices.Clone(both), six))

	cfg.Import = netips("10.0.0.0/9", "::/0")
	announce(m, cfg)
	nine := ReceivedPath{Prefix: cfg.Import[0], NextHop: r1, Peer: r1, LocalPref: 100, ASPathLength: 1, Origin: 1}
	awaitReceived(t, m, "en1", []ReceivedPath{nine, six})
	cfg.Import = nil
	announce(m, cfg)
	awaitReceived(t, m, "en1", nil)
	cfg.Import = netips("0.0.0.0/0")
	announce(m, cfg)
	awaitReceived(t, m, "en1", both)

	_ = p1.conn.Close()
	awaitReceived(t, m, "en1", []ReceivedPath{second})
	if up := upSessions(m, "en1"); up != 1 {
		t.Errorf("%d sessions are up, the path went before or after its session", up)
	}
	for name, p := range map[string]*rawPeer{"first": p1, "second": p2} {
		if got := p.quiet(100 * time.Millisecond); strings.Contains(fmt.Sprint(got), "+") {
			t.Errorf("the %s router got %q", name, got)
		}
	}
	if got := speakerState(m, "en1"); got.Error != "" || got.Announced != nil {
		t.Errorf("speaker has error %q, announces %v", got.Error, got.Announced)
	}
}

// A speaker that a stranger has taken over may tell no more than a peer could.
func TestReceivedIsBelievedAsFarAsAsked(t *testing.T) {
	r1, r2 := netip.MustParseAddr("10.68.1.2"), netip.MustParseAddr("10.68.5.2")
	cfg := conf("en1", 65010, netip.MustParseAddr("10.68.1.1"), peer(r1, 65001), peer(r2, 65002))
	cfg.Import = netips("0.0.0.0/0", "::/0")
	any4, any6 := cfg.Import[0], cfg.Import[1]
	hop6 := netip.MustParseAddr("fe80::1")
	good := []ReceivedPath{
		{Prefix: any4, NextHop: r1, Peer: r1}, {Prefix: any4, NextHop: hop6, Peer: r2}, {Prefix: any6, NextHop: hop6, Peer: r1},
	}
	bad := []ReceivedPath{
		{Prefix: any4, NextHop: r2, Peer: r1}, // a second one of the same peer
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), NextHop: r1, Peer: r1},
		{Prefix: any4, NextHop: r1, Peer: netip.MustParseAddr("10.68.9.9")},
		{Prefix: any6, NextHop: r2, Peer: r2}, // IPv6 by IPv4
		{Prefix: any6, NextHop: netip.MustParseAddr("fe80::1%en5"), Peer: r2},
		{Prefix: any6, NextHop: netip.MustParseAddr("ff02::1"), Peer: r2},
		{Prefix: any6, Peer: r2},
		{},
	}
	got := admissible(append(slices.Clone(good), bad...), &cfg)
	if !slices.Equal(got, good) {
		t.Errorf("believed %+v, want %+v", got, good)
	}
	odd := good[0]
	odd.Bandwidth = float32(math.Inf(1))
	if got := admissible([]ReceivedPath{odd}, &cfg); len(got) != 1 || got[0].Bandwidth != 0 {
		t.Errorf("believed %+v, want no bandwidth", got)
	}
	many := make([]ReceivedPath, 0, 100_000)
	for i := range cap(many) {
		one := good[0]
		one.MED = uint32(i)
		many = append(many, one)
	}
	if got := admissible(many, &cfg); len(got) != 1 {
		t.Errorf("believed %d paths of one peer", len(got))
	}
}

func TestImportIsChecked(t *testing.T) {
	cfg := conf("en1", 65010, netip.MustParseAddr("10.68.1.1"))
	cfg.Import = append(netips("10.1.0.0/16", "0.0.0.0/0", "10.1.0.0/16", "10.1.0.1/16"), netip.Prefix{})
	got, err := clean(cfg)
	if want := netips("0.0.0.0/0", "10.1.0.0/16"); !slices.Equal(got.Import, want) {
		t.Errorf("imports are %v, want %v", got.Import, want)
	}
	if err == nil || !strings.Contains(err.Error(), "import 10.1.0.1/16: not a prefix without host bits") || !strings.Contains(err.Error(), "import: no prefix") {
		t.Errorf("error is %v", err)
	}
}
