package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestPeerValues compares all peers of the file that has every key of theirs.
func TestPeerValues(t *testing.T) {
	cfg, err := parseFile(t, "testdata/good/fabric.yaml", secrets(t))
	if err != nil {
		t.Fatal(err)
	}
	number := func(n uint32) *uint32 { return &n }
	egp := uint8(1)
	inherited := func() Peer {
		return Peer{
			External: true, Port: 1790, Password: "hunter2", TTLSecurity: true, Passive: true, IPv4: true, MaxPrefixes: 1000,
			Timers: Timers{30 * time.Second, 7 * time.Second, 3 * time.Second},
			BFD: &BFD{
				MinTx: 50 * time.Millisecond, MinRx: 300 * time.Millisecond, Multiplier: 3, Multihop: true, MinTTL: 63,
				Auth: &BFDAuth{Type: "keyed_sha1", KeyID: 1, Key: "hunter2-hunter2-hunt"},
			},
			Announce: PeerAnnounce{
				MED: number(4294967295), Prepend: 2, Communities: []uint32{65010<<16 | 1, 0xFFFFFF01}, LargeCommunities: []LargeCommunity{{65010, 1, 2}},
				ExtendedCommunities: []ExtendedCommunity{{0, 2, 0xfd, 0xf2, 0, 0, 0, 100}}, Origin: &egp,
			},
		}
	}
	first := inherited()
	first.Address = netip.MustParseAddr("10.68.1.2")
	second := Peer{
		Address: netip.MustParseAddr("10.68.1.3"), ASN: 65010, Port: 179, IPv4: true, IPv6: true, MaxPrefixes: 1000,
		RouterID: netip.MustParseAddr("10.68.1.3"), Timers: Timers{9 * time.Second, 3 * time.Second, time.Second},
	}
	third := inherited()
	third.Address, third.ASN, third.External = netip.MustParseAddr("10.68.1.4"), 65004, false
	third.Timers.Keepalive = 5 * time.Second
	third.BFD.Multiplier, third.BFD.Multihop, third.BFD.MinTTL, third.BFD.Auth.KeyID = 9, false, 0, 7
	third.Announce.MED, third.Announce.Prepend, third.Announce.Communities, third.Announce.Origin = nil, 3, nil, nil
	third.Announce.ExtendedCommunities = []ExtendedCommunity{{1, 3, 10, 0, 0, 1, 0, 5}, {2, 2, 255, 255, 255, 255, 0, 1}}
	gateway := inherited()
	gateway.Gateway, gateway.BFD.Auth, gateway.BFD.Multihop, gateway.BFD.MinTTL = true, nil, false, 0
	unnumbered := inherited()
	unnumbered.Unnumbered, unnumbered.Password, unnumbered.BFD = true, "", nil
	linkLocal := inherited()
	linkLocal.Address, linkLocal.ASN, linkLocal.External = netip.MustParseAddr("fe80::1"), 65010, false
	linkLocal.Password, linkLocal.BFD.Multihop, linkLocal.BFD.MinTTL, linkLocal.Announce.LocalPref = "", false, 0, number(4294967295)
	linkLocal.Announce.Prepend = 0
	one := inherited()
	one.Address, one.TTLSecurity, one.TTL, one.AddPath = netip.MustParseAddr("192.0.2.1"), false, 64, true
	far := inherited()
	far.Address, far.TTLSecurity, far.TTL, far.AddPath, far.Announce.Prepend = netip.MustParseAddr("192.0.2.2"), false, 64, true, 10
	two := inherited()
	two.Address, two.ASN, two.External = netip.MustParseAddr("2001:db8::1"), 65010, false
	two.LocalAddress, two.TTLSecurity, two.TTL, two.RouterID = netip.MustParseAddr("2001:db8::10"), false, 1, netip.MustParseAddr("192.0.2.1")
	two.IPv4, two.IPv6 = false, true
	two.BFD.MinRx, two.BFD.MinTTL = time.Second, 1
	two.Announce.LocalPref, two.Announce.Prepend = number(1), 0

	got := make([][]Peer, 0, len(cfg.Interfaces)+1)
	for _, one := range cfg.Interfaces {
		got = append(got, one.Peers)
	}
	got = append(got, cfg.Peers)
	want := [][]Peer{{first, second, third, gateway}, {unnumbered}, {linkLocal}, nil, {one, far, two}}
	if diff := cmp.Diff(want, got, equalAddresses()); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
}

// TestFabricValues compares the rest of that file.
func TestFabricValues(t *testing.T) {
	cfg, err := parseFile(t, "testdata/good/fabric.yaml", secrets(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name      string
		got, want any
	}{
		{"graceful restart", cfg.BGP.GracefulRestart, GracefulRestart{true, time.Second, 16777215 * time.Second}},
		{"shutdown", cfg.Shutdown, Shutdown{"drain", time.Minute, 2 * time.Second, 57999 * time.Millisecond}},
		{"announce", cfg.VIPs[0].Announce, Announce{
			Communities: []uint32{
				0xFFFFFF01, 0xFFFFFF02, 0xFFFFFF03, 0xFFFFFF04, 0xFFFF0000, 0xFFFF029A, 0xFFFF0001, 0xFFFF0006, 0xFFFF0007, 0xFFFF0008,
			},
			ExtendedCommunities: []ExtendedCommunity{
				{0x00, 0x02, 0xfd, 0xf2, 0xff, 0xff, 0xff, 0xff},
				{0x02, 0x02, 0x00, 0x01, 0x00, 0x00, 0xff, 0xff},
				{0x01, 0x02, 10, 0, 0, 1, 0, 5},
				{0x00, 0x03},
				{0x02, 0x03, 0xff, 0xff, 0xff, 0xff, 0x00, 0x01},
				{0x01, 0x03, 255, 255, 255, 255, 0xff, 0xff},
				{0x40, 0x04, 0xfd, 0xf2, 0x49, 0x74, 0x24, 0x00}, // 1e6 = 1.9073486328125 × 2^19
				{0x40, 0x04, 0x5b, 0xa0, 0x51, 0xe8, 0xd4, 0xa5}, // 1.25e11, rounded to 24 bits
				{0x03, 0x0b, 0x00, 0x00, 0x00, 0x00, 0x00, 100},
				{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef},
				{0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89},
			},
			Origin: 2,
		}},
		{"degrade", cfg.VIPs[0].Degrade, &Degrade{ExtendedCommunities: []ExtendedCommunity{{0x40, 0x04, 0xfd, 0xf2}}, Origin: new(uint8)}},
		{"origin", cfg.VIPs[1].Announce, Announce{Origin: 1}},
	} {
		if diff := cmp.Diff(test.want, test.got, equalAddresses()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestManyPeers: forty peers are forty short lines, and the same as long ones.
func TestManyPeers(t *testing.T) {
	const shared = `asn: 65001, timers: {hold_time: 30s, keepalive: 7s}, bfd: {min_tx: 50ms}, announce: {communities: ["65010:1"]}`
	var short, long strings.Builder
	fmt.Fprintf(&short, "bgp: {asn: 65010, defaults: {%s}}\n", shared)
	long.WriteString("bgp: {asn: 65010}\n")
	for i := range 40 {
		if i%20 == 0 {
			head := fmt.Sprintf("  - name: en%d\n    peers:\n", i/20)
			if i == 0 {
				head = "interfaces:\n" + head
			}
			short.WriteString(head)
			long.WriteString(head)
		}
		fmt.Fprintf(&short, "      - {address: 10.68.%d.%d}\n", i/20, i+1)
		fmt.Fprintf(&long, "      - {address: 10.68.%d.%d, %s}\n", i/20, i+1, shared)
	}
	got, err := Parse([]byte(short.String()), "yaml", "short")
	if err != nil {
		t.Fatal(err)
	}
	want, err := Parse([]byte(long.String()), "yaml", "long")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, equalAddresses()); diff != "" || len(got.Interfaces[0].Peers)+len(got.Interfaces[1].Peers) != 40 {
		t.Errorf("config (-long +short):\n%s", diff)
	}
	// One mistake in the template is one mistake.
	_, err = Parse([]byte(strings.Replace(short.String(), "asn: 65001", "asn: 0", 1)), "yaml", "file")
	if text := "file:1: bgp.defaults.asn: 0: must be an AS number from 1 to 4294967294"; err == nil || err.Error() != text {
		t.Errorf("error is\n%v\nwant\n%s", err, text)
	}
}
