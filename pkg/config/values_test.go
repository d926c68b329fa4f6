package config

import (
	"net/netip"
	"net/url"
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
	one := func(name, address string, asn uint32) Interface {
		return Interface{Name: name, HoldUp: 2 * time.Second, Peers: []Peer{
			{Address: netip.MustParseAddr(address), ASN: asn, Port: 179, Timers: timers, MaxPrefixes: 1000},
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
		}},
		Host:     Host{Sysctls: "set"},
		HTTP:     HTTP{Listen: "127.0.0.1:9179"},
		Control:  Control{Socket: "/run/vipspeaker/control.sock"},
		Shutdown: Shutdown{Mode: "drain", Time: 10 * time.Second, Wait: 2 * time.Second},
		Log:      Log{Level: "info", Format: "text"},
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
			MED:              &med, LocalPref: &localPref, Prepend: 10,
		}},
		{"no attributes", cfg.VIPs[1].Announce, Announce{}},
		{"http", cfg.VIPs[0].Checks[0], Check{
			Name: "web", Kind: "http", Interval: 2 * time.Second, Timeout: 1500 * time.Millisecond, Rise: 3, Fall: 1,
			HTTP: &HTTPCheck{
				URL:    &url.URL{Scheme: "https", Host: "10.68.6.1:8443", Path: "/healthz", RawQuery: "full=1"},
				Method: "HEAD", Headers: []Header{{"Host", "www.example.org"}, {"Authorization", "Bearer hunter2"}},
				ExpectStatus: []StatusRange{{200, 200}, {300, 399}}, ExpectBody: "ok", Insecure: true,
			},
		}},
		{"tcp", cfg.VIPs[0].Checks[1], Check{
			Name: "tcp", Kind: "tcp", Interval: time.Second, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 2,
			TCP: &TCPCheck{Address: netip.MustParseAddrPort("[2001:db8::1]:443")},
		}},
		{"exec", cfg.VIPs[0].Checks[2], Check{
			Name: "exec", Kind: "exec", Interval: 10 * time.Second, Timeout: 5 * time.Second, Rise: 2, Fall: 2,
			Exec: &ExecCheck{Command: []string{"/usr/bin/true", "--flag"}, Env: []Secret{"LANG=C", "EMPTY="}},
		}},
		{"exclude", cfg.Egress.Exclude, []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"),
		}},
		{"no listener", cfg.HTTP, HTTP{}},
		{"shutdown", cfg.Shutdown, Shutdown{"restart", time.Minute, 0}},
	} {
		if diff := cmp.Diff(test.want, test.got, equalAddresses()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}
