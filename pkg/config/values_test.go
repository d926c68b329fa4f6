package config

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestDefaults compares all of what the smallest example means.
func TestDefaults(t *testing.T) {
	got, err := Load("../../examples/minimal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	timers := Timers{HoldTime: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: time.Second}
	damping := Damping{Enabled: true, HalfLife: 15 * time.Second, Suppress: 6000, Reuse: 2000, MaxSuppress: time.Minute}
	probe := GatewayProbe{Enabled: true, Interval: 500 * time.Millisecond, Failures: 3}
	one := func(name, address string, asn uint32) Interface {
		return Interface{Name: name, HoldUp: 2 * time.Second, GatewayProbe: probe, Damping: damping, Peers: []Peer{
			{Address: netip.MustParseAddr(address), ASN: asn, Port: 179, IPv4: true, IPv6: true, Timers: timers, MaxPrefixes: 1000},
		}}
	}
	want := &Config{
		BGP: BGP{
			ASN: 65010, ListenPort: 179, Timers: timers,
			GracefulRestart: GracefulRestart{Enabled: true, RestartTime: 30 * time.Second},
		},
		VirtualInterface: VirtualInterface{Name: "vi0", Kind: "auto"},
		Interfaces:       []Interface{one("en1", "10.68.1.2", 65001), one("en5", "10.68.5.2", 65005)},
		VIPs: []VIP{{
			Name: "10.68.6.1", Prefix: netip.MustParsePrefix("10.68.6.1/32"), Interfaces: []string{"en1", "en5"}, PreferredSource: true,
			ChecksMode: "all", Damping: damping, Drain: Drain{Time: 30 * time.Second, ConnectionsTimeout: 10 * time.Minute}, On: Hooks{Timeout: 10 * time.Second},
		}},
		RuntimeVIPs: RuntimeVIPs{Limit: 64},
		Damping:     damping,
		Egress:      Egress{Install: "source", Metric: 20},
		Host:        Host{Sysctls: "set"},
		HTTP:        HTTP{Listen: "127.0.0.1:9179"},
		Control:     Control{Socket: "/run/vipspeaker/control.sock"},
		Shutdown:    Shutdown{Mode: "drain", Time: 10 * time.Second, Wait: 2 * time.Second},
		Log:         Log{Level: "info", Format: "text"},
	}
	if diff := cmp.Diff(want, got, equalAddresses()); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

// TestValues compares what the file with every key means, section by section.
func TestValues(t *testing.T) {
	cfg, err := parseFile(t, "testdata/good/full.yaml", secrets(t))
	if err != nil {
		t.Fatal(err)
	}
	med, localPref := uint32(0), uint32(4294967295)
	for _, test := range []struct {
		name      string
		got, want any
	}{
		{"inherited timers", cfg.Interfaces[1].Peers[0].Timers, Timers{30 * time.Second, 10 * time.Second, 2 * time.Second}},
		{"hold time alone", cfg.Interfaces[0].Peers[0].Timers, Timers{3 * time.Second, time.Second, 2 * time.Second}},
		{"own timers", cfg.Interfaces[0].Peers[1].Timers, Timers{90 * time.Second, 20 * time.Second, 5 * time.Second}},
		{"internal", cfg.Interfaces[0].Peers[1].ASN, uint32(65010)},
		{"limit", cfg.Interfaces[0].Peers[1].MaxPrefixes, uint32(16)},
		{"gateways", cfg.Interfaces[0].Gateways, []netip.Addr{netip.MustParseAddr("10.68.1.2"), netip.MustParseAddr("fe80::1")}},
		{"one gateway", cfg.Interfaces[1].Gateways, []netip.Addr{netip.MustParseAddr("10.68.5.2")}},
		{"names keep their case", cfg.VIPs[0].Interfaces, []string{"en1.100", "TOR-A"}},
		{"all interfaces", cfg.VIPs[2].Interfaces, []string{"en1.100", "TOR-A"}},
		{"default name", cfg.VIPs[2].Name, "10.68.7.0/24"},
		{"announce", cfg.VIPs[0].Announce, Announce{
			Communities:      []uint32{65010<<16 | 100, 0xFFFFFF01, 0xFFFF0000},
			LargeCommunities: []LargeCommunity{{65010, 1, 4294967295}},
			MED:              &med, LocalPref: &localPref, Prepend: 7,
		}},
		{"no attributes", cfg.VIPs[1].Announce, Announce{}},
		{"import", cfg.Egress.Import, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("198.51.100.0/24")}},
		{"install", []any{cfg.Egress.Install, cfg.Egress.Metric}, []any{"main", uint32(30)}},
		{"weights", []int{cfg.Interfaces[0].Weight, cfg.Interfaces[1].Weight}, []int{3, 0}},
		{"exclude", cfg.Egress.Exclude, []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"),
		}},
		{"no listener", cfg.HTTP, HTTP{}},
		{"shutdown", cfg.Shutdown, Shutdown{Mode: "restart", Time: time.Minute}},
	} {
		if diff := cmp.Diff(test.want, test.got, equalAddresses()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestPathValues compares what the file with every key means for the ways to the
// network.
func TestPathValues(t *testing.T) {
	cfg, err := parseFile(t, "testdata/good/full.yaml", secrets(t))
	if err != nil {
		t.Fatal(err)
	}
	top := Damping{Enabled: true, HalfLife: 10 * time.Second, Suppress: 3000, Reuse: 1500, MaxSuppress: 2 * time.Minute}
	half := top
	half.HalfLife = 30 * time.Second
	first, second := cfg.Interfaces[0], cfg.Interfaces[1]
	for _, test := range []struct {
		name      string
		got, want any
	}{
		{"damping", cfg.Damping, top},
		{"own damping", first.Damping, Damping{false, time.Hour, 1000000, 999999, 24 * time.Hour}},
		{"one key of damping", second.Damping, half},
		{"damping of a VIP", cfg.VIPs[0].Damping, Damping{false, time.Second, 1001, 1, 10 * time.Second}},
		{"inherited damping", cfg.VIPs[1].Damping, top},
		{"gateway probe", first.GatewayProbe, GatewayProbe{Enabled: false, Interval: 100 * time.Millisecond, Failures: 100}},
		{"no gateway probe", second.GatewayProbe, GatewayProbe{Enabled: true, Interval: 500 * time.Millisecond, Failures: 3}},
		{"path probe", first.PathProbe, &PathProbe{
			Target: netip.MustParseAddr("10.68.1.2"), Interval: time.Minute, Timeout: 10 * time.Millisecond, Failures: 1,
		}},
		{"fast path probe", second.PathProbe, &PathProbe{
			Target: netip.MustParseAddr("2001:db8:ffff::1"), Interval: 200 * time.Millisecond, Timeout: 200 * time.Millisecond, Failures: 3,
		}},
		{"bfd", first.Peers[0].BFD, &BFD{
			MinTx: 10 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 5, Required: true, Passive: true, Multihop: true, MinTTL: 250,
			Auth: &BFDAuth{Type: "meticulous_keyed_sha1", KeyID: 255, Key: "hunter2-hunter2-hunt"},
		}},
		{"empty bfd", first.Peers[1].BFD, &BFD{MinTx: 300 * time.Millisecond, MinRx: 300 * time.Millisecond, Multiplier: 3}},
		{"multihop", second.Peers[0].BFD, &BFD{
			MinTx: 300 * time.Millisecond, MinRx: 300 * time.Millisecond, Multiplier: 3, Multihop: true, MinTTL: 254,
			Auth: &BFDAuth{Type: "simple", KeyID: 1, Key: "hunter2"},
		}},
		{"no bfd", second.Peers[1].BFD, (*BFD)(nil)},
	} {
		if diff := cmp.Diff(test.want, test.got, equalAddresses()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestPathProbeTimeout: a slow probe waits for half a second.
func TestPathProbeTimeout(t *testing.T) {
	cfg, err := Parse([]byte("bgp: {asn: 65010}\ninterfaces: [{name: en1, path_probe: {target: 192.0.2.1}, "+
		"peers: [{address: 10.68.1.2, asn: 65001}]}]\n"), "yaml", "file")
	if err != nil {
		t.Fatal(err)
	}
	want := &PathProbe{Target: netip.MustParseAddr("192.0.2.1"), Interval: time.Second, Timeout: 500 * time.Millisecond, Failures: 3}
	if diff := cmp.Diff(want, cfg.Interfaces[0].PathProbe, equalAddresses()); diff != "" {
		t.Errorf("path probe (-want +got):\n%s", diff)
	}
}
