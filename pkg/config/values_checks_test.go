package config

import (
	"net/netip"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestCheckValues compares what the checks of the file with every key mean.
func TestCheckValues(t *testing.T) {
	dir := secrets(t)
	cfg, err := parseFile(t, "testdata/good/full.yaml", dir)
	if err != nil {
		t.Fatal(err)
	}
	// every returns the check with the schedule that it has without a key.
	every := func(name string, count int, c Check) Check {
		c.Name, c.Interval, c.FastInterval, c.Timeout = name, time.Second, time.Second, 500*time.Millisecond
		c.Rise, c.Fall = count, count
		if c.Listen != nil {
			c.Timeout = c.Interval
		}
		return c
	}
	addr, port := netip.MustParseAddr, netip.MustParseAddrPort
	slow := every("exec", 2, Check{Kind: "exec", Exec: &ExecCheck{Command: []string{"/usr/bin/true", "--flag"}, Env: []Secret{"LANG=C", "EMPTY="}}})
	slow.Interval, slow.FastInterval, slow.Timeout = 10*time.Second, 10*time.Second, 5*time.Second
	twice := every("held-twice", 2, Check{Kind: "tcp", TCP: &TCPCheck{Address: port("10.68.6.1:443"), Hold: true}})
	twice.Fall = 3
	resolver := every("resolver", 3, Check{Kind: "listen", Listen: &ListenCheck{Port: 53, Protocol: "udp", Address: addr("127.0.0.53")}})
	resolver.Fall = 2
	want := []Check{
		{
			Name: "web", Kind: "http", Source: addr("10.68.6.1"),
			Interval: 2 * time.Second, FastInterval: 10 * time.Millisecond, Timeout: 1500 * time.Millisecond, Rise: 3, Fall: 1,
			HTTP: &HTTPCheck{
				URL:    &url.URL{Scheme: "https", Host: "10.68.6.1:8443", Path: "/healthz", RawQuery: "full=1"},
				Method: "HEAD", Headers: []Header{{"Host", "www.example.org"}, {"Authorization", "Bearer hunter2"}},
				ExpectStatus: []StatusRange{{200, 200}, {300, 399}}, ExpectBody: "ok", Insecure: true, ServerName: "www.example.org",
			},
		},
		every("tcp", 2, Check{Kind: "tcp", TCP: &TCPCheck{Address: port("[2001:db8::1]:443")}}),
		slow,
		every("held", 1, Check{Kind: "tcp", TCP: &TCPCheck{Address: port("10.68.6.1:443"), Hold: true}}),
		twice,
		every("zone", 2, Check{Kind: "dns", Source: addr("192.0.2.7"), DNS: &DNSCheck{
			Server: port("10.68.6.1:5353"), Query: "_sip._udp.example.org.", Type: "SRV", Transport: "tcp", ExpectRcode: "NOERROR",
			Expect: []string{"10 20 5060 sip.example.org."},
		}}),
		every("dns", 2, Check{Kind: "dns", DNS: &DNSCheck{
			Server: port("[2001:db8::53]:53"), Query: "example.org.", Type: "A", Transport: "udp", ExpectRcode: "NOERROR",
			Expect: []string{"192.0.2.1"},
		}}),
		every("refused", 2, Check{Kind: "dns", DNS: &DNSCheck{
			Server: port("10.68.6.1:53"), Query: ".", Type: "NS", Transport: "udp", ExpectRcode: "REFUSED",
		}}),
		every("api", 2, Check{Kind: "grpc", GRPC: &GRPCCheck{
			Address: port("10.68.6.1:50051"), Service: "example.v1.Api", TLS: true, CAFile: filepath.Join(dir, "ca.pem"), ServerName: "api.example.org",
		}}),
		every("grpc", 2, Check{Kind: "grpc", GRPC: &GRPCCheck{Address: port("[2001:db8::1]:50051"), TLS: true, Insecure: true}}),
		every("api-held", 1, Check{Kind: "grpc", GRPC: &GRPCCheck{Address: port("10.68.6.1:50051"), Hold: true}}),
		every("web-held", 1, Check{Kind: "http", HTTP: &HTTPCheck{
			URL: &url.URL{Scheme: "http", Host: "10.68.6.1:8080", Path: "/healthz"}, Method: "GET", ExpectStatus: []StatusRange{{200, 399}}, Hold: true,
		}}),
		every("icmp", 2, Check{Kind: "icmp", ICMP: &ICMPCheck{Address: addr("192.0.2.1")}}),
		every("listen", 1, Check{Kind: "listen", Listen: &ListenCheck{Port: 80, Protocol: "tcp", Address: addr("10.68.6.1")}}),
		resolver,
	}
	if diff := cmp.Diff(want, cfg.VIPs[0].Checks, equalAddresses()); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
	prefix := []Check{every("listen", 1, Check{Kind: "listen", Listen: &ListenCheck{Port: 80, Protocol: "tcp", Address: addr("10.68.7.1")}})}
	if diff := cmp.Diff(prefix, cfg.VIPs[2].Checks, equalAddresses()); diff != "" {
		t.Errorf("checks of a prefix (-want +got):\n%s", diff)
	}
}

// TestFailureValues compares what happens to a VIP whose checks fail.
func TestFailureValues(t *testing.T) {
	cfg, err := parseFile(t, "testdata/good/full.yaml", secrets(t))
	if err != nil {
		t.Fatal(err)
	}
	med, localPref := uint32(4294967295), uint32(0)
	type failure struct {
		Mode    string
		Degrade *Degrade
	}
	var got []failure
	for _, v := range cfg.VIPs {
		got = append(got, failure{v.ChecksMode, v.Degrade})
	}
	want := []failure{
		{"any", &Degrade{
			MED: &med, LocalPref: &localPref, Prepend: 3,
			Communities: []uint32{65010<<16 | 666}, LargeCommunities: []LargeCommunity{{65010, 1, 0}},
		}},
		{"all", nil},
		{"all", nil},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("on failure (-want +got):\n%s", diff)
	}
}
