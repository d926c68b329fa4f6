package main

import (
	"context"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/speaker"
	"vipspeaker/test/netnstest"
)

// TestCheckersFollowTheConfiguration: every field of the configuration reaches
// the checker.
func TestCheckersFollowTheConfiguration(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("X-Token") != "secret" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write([]byte("short and stout"))
	}))
	defer srv.Close()
	target, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo) // of refused handshakes
	secure.StartTLS()
	defer secure.Close()
	secureURL, err := url.Parse(secure.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err = os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	good := config.HTTPCheck{
		URL: target, Method: http.MethodPost, Headers: []config.Header{{Name: "x-token", Value: "secret"}},
		ExpectStatus: []config.StatusRange{{Min: 418, Max: 418}}, ExpectBody: "stout",
	}
	noToken, otherBody, otherStatus := good, good, good
	noToken.Headers, otherBody.ExpectBody, otherStatus.ExpectStatus = nil, "tall", []config.StatusRange{{Min: 200, Max: 399}}
	anyStatus := []config.StatusRange{{Min: 100, Max: 599}}
	tests := map[string]struct {
		check config.Check
		want  string // in the error; empty for a pass
	}{
		"http":        {config.Check{HTTP: &good}, ""},
		"http header": {config.Check{HTTP: &noToken}, "403"},
		"http body":   {config.Check{HTTP: &otherBody}, "tall"},
		"http status": {config.Check{HTTP: &otherStatus}, "418"},
		"https":       {config.Check{HTTP: &config.HTTPCheck{URL: secureURL, ExpectStatus: anyStatus}}, "certificate"},
		"https, any":  {config.Check{HTTP: &config.HTTPCheck{URL: secureURL, ExpectStatus: anyStatus, Insecure: true}}, ""},
		"https, root": {config.Check{HTTP: &config.HTTPCheck{URL: secureURL, ExpectStatus: anyStatus, CAFile: roots}}, ""},
		// What net/http/httptest certifies.
		"https, name":    {config.Check{HTTP: &config.HTTPCheck{URL: secureURL, ExpectStatus: anyStatus, CAFile: roots, ServerName: "example.com"}}, ""},
		"https, no name": {config.Check{HTTP: &config.HTTPCheck{URL: secureURL, ExpectStatus: anyStatus, CAFile: roots, ServerName: "web.test"}}, "not web.test"},
		"tcp":            {config.Check{TCP: &config.TCPCheck{Address: netip.MustParseAddrPort(target.Host)}}, ""},
		"tcp, closed":    {config.Check{TCP: &config.TCPCheck{Address: netip.MustParseAddrPort("127.0.0.1:1")}}, "refused"},
		"exec":           {config.Check{Exec: &config.ExecCheck{Command: []string{"/bin/sh", "-c", `test "$A" = b`}, Env: []config.Secret{"A=b"}}}, ""},
		"exec, no name":  {config.Check{Exec: &config.ExecCheck{Command: []string{"/bin/false"}}}, "1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			checker, err := newCheckers().check(tt.check)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			err = checker.Check(ctx)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := newCheckers().check(config.Check{Kind: "x"}); err == nil {
		t.Error("no error for a check of no kind")
	}
}

// asked runs a check once and returns what was wrong.
func asked(t *testing.T, checker health.Checker, err error) error {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	return checker.Check(ctx)
}

// TestServersAreAskedAsConfigured: DNS, gRPC and listen checks, and the source
// of any, in a network of their own.
func TestServersAreAskedAsConfigured(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.IP("link set lo up")
		names := &dns.Server{Addr: "127.0.0.1:5300", Net: "udp", Handler: dns.HandlerFunc(answer)}
		up := make(chan struct{})
		names.NotifyStartedFunc = func() { close(up) }
		go func() { _ = names.ListenAndServe() }()
		<-up
		defer func() { _ = names.Shutdown() }()
		listener, err := net.Listen("tcp", "127.0.0.1:5301")
		if err != nil {
			t.Fatal(err)
		}
		services := grpchealth.NewServer()
		services.SetServingStatus("good", healthpb.HealthCheckResponse_SERVING)
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, services)
		go func() { _ = server.Serve(listener) }()
		defer server.Stop()

		at := netip.MustParseAddrPort("127.0.0.1:5301")
		one := netip.MustParseAddr("127.0.0.1")
		query := config.DNSCheck{Server: netip.MustParseAddrPort("127.0.0.1:5300"), Query: "www.example.", Type: "A", Transport: "udp", ExpectRcode: "NOERROR"}
		from, other, missing, byTCP := query, query, query, query
		from.Expect, other.Expect, missing.ExpectRcode, byTCP.Transport = []string{"127.0.0.9"}, []string{"192.0.2.9"}, "NXDOMAIN", "tcp"
		for name, tt := range map[string]struct {
			check config.Check
			pass  bool
		}{
			"dns":                  {config.Check{DNS: &query}, true},
			"dns, from a source":   {config.Check{DNS: &from, Source: netip.MustParseAddr("127.0.0.9")}, true},
			"dns, other source":    {config.Check{DNS: &from}, false},
			"dns, other answer":    {config.Check{DNS: &other}, false},
			"dns, other code":      {config.Check{DNS: &missing}, false},
			"dns, no tcp":          {config.Check{DNS: &byTCP}, false},
			"grpc":                 {config.Check{GRPC: &config.GRPCCheck{Address: at}}, true},
			"grpc, good service":   {config.Check{GRPC: &config.GRPCCheck{Address: at, Service: "good"}}, true},
			"grpc, other service":  {config.Check{GRPC: &config.GRPCCheck{Address: at, Service: "bad"}}, false},
			"grpc, TLS":            {config.Check{GRPC: &config.GRPCCheck{Address: at, TLS: true, Insecure: true}}, false},
			"grpc, held":           {config.Check{GRPC: &config.GRPCCheck{Address: at, Hold: true}}, true},
			"listen":               {config.Check{Listen: &config.ListenCheck{Port: 5301, Protocol: "tcp", Address: one}}, true},
			"listen, udp":          {config.Check{Listen: &config.ListenCheck{Port: 5300, Protocol: "udp", Address: one}}, true},
			"listen, other port":   {config.Check{Listen: &config.ListenCheck{Port: 5302, Protocol: "tcp", Address: one}}, false},
			"listen, other kind":   {config.Check{Listen: &config.ListenCheck{Port: 5301, Protocol: "udp", Address: one}}, false},
			"icmp":                 {config.Check{ICMP: &config.ICMPCheck{Address: one}}, true},
			"icmp, from a source":  {config.Check{ICMP: &config.ICMPCheck{Address: one}, Source: netip.MustParseAddr("127.0.0.9")}, true},
			"icmp, not our source": {config.Check{ICMP: &config.ICMPCheck{Address: one}, Source: netip.MustParseAddr("192.0.2.1")}, false},
			"http, held":           {config.Check{HTTP: &config.HTTPCheck{URL: &url.URL{Scheme: "http", Host: "127.0.0.1:5301"}, Method: "GET", Hold: true}}, false},
			"tcp, held":            {config.Check{TCP: &config.TCPCheck{Address: at, Hold: true}}, true},
			"tcp, not our source":  {config.Check{TCP: &config.TCPCheck{Address: at}, Source: netip.MustParseAddr("192.0.2.1")}, false},
		} {
			checker, err := newCheckers().check(tt.check)
			if err = asked(t, checker, err); (err == nil) != tt.pass {
				t.Errorf("%s: %v, want a pass: %t", name, err, tt.pass)
			}
			if _, watches := checker.(health.Watcher); watches != (tt.check.Listen != nil || strings.HasSuffix(name, ", held")) {
				t.Errorf("%s: hears of changes between runs: %t", name, watches)
			}
		}
	})
}

// answer tells who asks: the address of a name is that of the client.
func answer(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(r)
	client := w.RemoteAddr().(*net.UDPAddr).IP
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: client}}
	_ = w.WriteMsg(m)
}

// TestProbesAskWhatTheyAreFor: a neighbour on the link, and an address beyond it
// from the interface's own address.
func TestProbesAskWhatTheyAreFor(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router := ns.New("router")
		ns.VethTo("en1", router, "sw1")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		ns.IP("addr add 10.68.1.3/24 dev en1")
		router.IP("addr add 10.68.1.2/24 dev sw1")
		here, far := netip.MustParseAddr("10.68.1.1"), netip.MustParseAddr("10.68.1.2")
		probe := speaker.Probe{Interface: "en1", Layer: "attachment", Target: far, Source: here}
		silent, path, elsewhere := probe, probe, probe
		silent.Target = netip.MustParseAddr("10.68.1.77")
		path.Layer, elsewhere.Layer, elsewhere.Interface = "path", "path", "lo"
		run := func(b speaker.Probe) error {
			checker, err := newCheckers().probe(b)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
			defer cancel()
			return checker.Check(ctx)
		}
		netnstest.Until(t, soon, func() error { return run(probe) })
		netnstest.Until(t, soon, func() error { return run(path) })
		for _, b := range []speaker.Probe{silent, elsewhere} {
			if run(b) == nil {
				t.Errorf("%+v is answered", b)
			}
		}
	})
}

// TestICMPNeedsLeave: a configuration that needs echo requests is refused where
// they are not permitted, by the name of the key; any other is not.
func TestICMPNeedsLeave(t *testing.T) {
	refused := errors.New("not permitted")
	probing := &config.Config{Interfaces: []config.Interface{{}, {PathProbe: &config.PathProbe{}}}}
	checking := &config.Config{VIPs: []config.VIP{{}, {Checks: []config.Check{{}, {ICMP: &config.ICMPCheck{}}}}}}
	for _, tt := range []struct {
		cfg  *config.Config
		err  error
		want string
	}{
		{&config.Config{}, refused, ""},
		{probing, nil, ""},
		{probing, refused, "interfaces[1].path_probe: not permitted"},
		{checking, nil, ""},
		{checking, refused, "vips[1].checks[1].icmp: not permitted"},
	} {
		got := ""
		if err := requireICMP(tt.cfg, func() error { return tt.err }); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// TestRoutersNeedLeave: an unnumbered peer where the process may not look for
// routers is refused by its name; without one nobody asks.
func TestRoutersNeedLeave(t *testing.T) {
	refused := func() error { return errors.New("not permitted") }
	cfg := &config.Config{Interfaces: []config.Interface{{Peers: []config.Peer{{}}}}}
	if err := requireNDP(cfg, refused); err != nil {
		t.Errorf("without an unnumbered peer: %v", err)
	}
	cfg.Interfaces = append(cfg.Interfaces, config.Interface{Peers: []config.Peer{{}, {Unnumbered: true}}})
	const want = "interfaces[1].peers[1].unnumbered: not permitted"
	if err := requireNDP(cfg, refused); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err := requireNDP(cfg, func() error { return nil }); err != nil {
		t.Errorf("permitted: %v", err)
	}
}
