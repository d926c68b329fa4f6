package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// healthServer answers by the name of the service, and tells who asked.
type healthServer struct {
	grpc_health_v1.UnimplementedHealthServer

	from chan string
	end  chan struct{}
}

func (h healthServer) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	answer := func(s grpc_health_v1.HealthCheckResponse_ServingStatus) (*grpc_health_v1.HealthCheckResponse, error) {
		return &grpc_health_v1.HealthCheckResponse{Status: s}, nil
	}
	switch r.GetService() {
	case "":
		return answer(grpc_health_v1.HealthCheckResponse_SERVING)
	case "who":
		md, _ := metadata.FromIncomingContext(ctx)
		p, _ := peer.FromContext(ctx)
		h.from <- p.Addr.(*net.TCPAddr).IP.String() + " for " + strings.Join(md[":authority"], ",") + " by " + strings.Join(md["user-agent"], ",")
		return answer(grpc_health_v1.HealthCheckResponse_SERVING)
	case "down":
		return answer(grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	case "unknown":
		return answer(grpc_health_v1.HealthCheckResponse_UNKNOWN)
	case "unknown service":
		return answer(grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN)
	case "new status":
		return answer(77)
	case "absent":
		return nil, status.Error(codes.NotFound, "unknown service")
	case "unimplemented":
		return nil, status.Error(codes.Unimplemented, "unknown service grpc.health.v1.Health")
	case "forbidden":
		return nil, status.Error(codes.PermissionDenied, "not you\nnor anybody")
	case "late":
		return nil, status.Error(codes.DeadlineExceeded, "late")
	case "big":
		return nil, status.Error(codes.Internal, strings.Repeat("x", 4000))
	case "hang":
		select {
		case <-ctx.Done():
		case <-h.end:
		}
	case "slow":
		select {
		case <-time.After(3 * time.Second):
		case <-h.end:
		}
		return answer(grpc_health_v1.HealthCheckResponse_SERVING)
	}
	return nil, errors.New("x")
}

func grpcServer(t *testing.T, address string, h grpc_health_v1.HealthServer, o ...grpc.ServerOption) netip.AddrPort {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(o...)
	if h != nil {
		grpc_health_v1.RegisterHealthServer(s, h)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func grpcChecker(t *testing.T, c GRPCConfig) Checker {
	t.Helper()
	checker, err := NewGRPC(c)
	if err != nil {
		t.Fatal(err)
	}
	if w, ok := checker.(Watcher); ok {
		calls, _ := watch(t, w)
		hear(t, calls, "the beginning")
	}
	return checker
}

// heldAndNot runs a test for checks of both kinds.
func heldAndNot(t *testing.T, fn func(t *testing.T, hold bool)) {
	t.Helper()
	for _, hold := range []bool{false, true} {
		t.Run(fmt.Sprintf("hold %t", hold), func(t *testing.T) { fn(t, hold) })
	}
}

func TestGRPC(t *testing.T) { heldAndNot(t, testGRPC) }

func testGRPC(t *testing.T, hold bool) {
	t.Helper()
	noGoroutines(t)
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // must not be used
	t.Setenv("https_proxy", "http://127.0.0.1:1")
	h := healthServer{from: make(chan string, 1), end: make(chan struct{})}
	a := grpcServer(t, "127.0.0.1:0", h)
	defer close(h.end)
	for _, tc := range []struct{ service, want string }{
		{"", ""},
		{"down", `service "down" is NOT_SERVING`},
		{"unknown", `service "unknown" is UNKNOWN`},
		{"unknown service", `service "unknown service" is not known to the server's health service`},
		{"new status", `service "new status" is 77`},
		{"absent", `service "absent" is not known to the server's health service`},
		{"unimplemented", "server without grpc.health.v1"},
		{"forbidden", "PermissionDenied: not you"},
		{"big", "Internal: " + strings.Repeat("x", lineBytes)},
		{"late", "timeout after …"},
		{"hang", "timeout after …"},
		{"slow", "timeout after …"},
	} {
		t.Run(tc.service, func(t *testing.T) {
			timeout := patient
			if tc.want == "timeout after …" {
				timeout = 300 * time.Millisecond
			}
			if tc.want != "" {
				tc.want = "grpc " + a.String() + ": " + tc.want
			}
			want(t, grpcChecker(t, GRPCConfig{Address: a, Service: tc.service, Hold: hold}), timeout, tc.want)
		})
	}
	for _, tc := range []struct {
		source, name string
		address      netip.AddrPort
		want         string
	}{
		{"", "", a, "127.0.0.1 for " + a.String()},
		{"127.0.0.7", "api.test", a, "127.0.0.7 for api.test"},
		{"::1", "", grpcServer(t, "[::1]:0", h), "::1 for [::1]:"},
	} {
		c := GRPCConfig{Address: tc.address, Service: "who", ServerName: tc.name, Hold: hold}
		if tc.source != "" {
			c.Source = netip.MustParseAddr(tc.source)
		}
		want(t, grpcChecker(t, c), patient, "")
		if got := <-h.from; !strings.HasPrefix(got, tc.want) || !strings.Contains(got, " by vipspeaker grpc-go/") {
			t.Errorf("the server was asked from %q, want %q… by vipspeaker", got, tc.want)
		}
	}
}

func TestGRPCConnection(t *testing.T) { heldAndNot(t, testGRPCConnection) }

func testGRPCConnection(t *testing.T, hold bool) {
	t.Helper()
	noGoroutines(t)
	within := func(reason string) time.Duration {
		if reason == "timeout after …" {
			return 200 * time.Millisecond
		}
		return patient
	}
	check := func(a netip.AddrPort, reason string) {
		t.Helper()
		want(t, grpcChecker(t, GRPCConfig{Address: a, Hold: hold}), within(reason), "grpc "+a.String()+": "+reason)
	}
	check(closed(t), "connection refused")
	check(deaf(t), "timeout after …")
	check(grpcServer(t, "127.0.0.1:0", nil), "server without grpc.health.v1")
	check(grpcServer(t, "127.0.0.1:0", grpc_health_v1.UnimplementedHealthServer{}), "server without grpc.health.v1")
	// Takes the connection, and says nothing or something else.
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	check(server(t, "127.0.0.1:0", silent), "timeout after …")
	check(server(t, "127.0.0.1:0", func(c net.Conn) {
		_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.9p1 Debian-3\r\n")
		silent(c)
	}), "no gRPC server: …")
	check(server(t, "127.0.0.1:0", func(net.Conn) {}), "server ended the connection without an answer")
	// Reads what the client says first, since a close with data unread is a reset.
	check(server(t, "127.0.0.1:0", func(c net.Conn) {
		_, _ = bufio.NewReader(c).ReadString('M')
	}), "server ended the connection without an answer")
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	check(netip.MustParseAddrPort(web.Listener.Addr().String()), "no gRPC server: …")
	// HTTP/2 that is not gRPC.
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		reason  string
	}{
		"404":        {http.NotFound, "no gRPC server: unexpected HTTP status code received from server: 404 (Not Found)…"},
		"page":       {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "no gRPC server: …"},
		"no trailer": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "application/grpc") }, "Unknown"},
		"garbage message": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer:Grpc-Status", "0")
			_, _ = w.Write([]byte{0, 0, 0, 0, 2, 0xff, 0xff})
		}, "Internal: …"},
		"huge message": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = w.Write([]byte{0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff})
		}, "ResourceExhausted: …"},
		"half a message": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8})
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "timeout after …"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(tc.handler)
			s.Config.Protocols = protocols
			s.Start()
			defer s.Close()
			a := netip.MustParseAddrPort(s.Listener.Addr().String())
			want(t, grpcChecker(t, GRPCConfig{Address: a, Hold: hold}), within(tc.reason), "grpc "+a.String()+": "+tc.reason)
		})
	}
}

func TestGRPCTLS(t *testing.T) { heldAndNot(t, testGRPCTLS) }

func testGRPCTLS(t *testing.T, hold bool) {
	t.Helper()
	noGoroutines(t)
	web := httptest.NewTLSServer(nil) // for its certificate, of example.com and 127.0.0.1
	certificate := web.TLS.Certificates[0]
	web.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	h := healthServer{from: make(chan string, 1)}
	a := grpcServer(t, "127.0.0.1:0", h, grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	old := server(t, "127.0.0.1:0", func(c net.Conn) { // speaks TLS, but not HTTP/2
		_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}).HandshakeContext(t.Context())
	})
	plain := grpcServer(t, "127.0.0.1:0", h)
	for _, tc := range []struct {
		name   string
		config GRPCConfig
		want   string
	}{
		{"good CA", GRPCConfig{Address: a, CAFile: ca}, ""},
		{"good CA and name", GRPCConfig{Address: a, CAFile: ca, ServerName: "example.com"}, ""},
		{"wrong CA", GRPCConfig{Address: a}, "tls: failed to verify certificate: x509: …"},
		{"wrong name", GRPCConfig{Address: a, CAFile: ca, ServerName: "other.test"}, "tls: failed to verify certificate: x509: certificate is valid for example.com, …"},
		{"insecure", GRPCConfig{Address: a, Insecure: true, ServerName: "other.test"}, ""},
		{"not serving", GRPCConfig{Address: a, CAFile: ca, Service: "down"}, `service "down" is NOT_SERVING`},
		{"no HTTP/2", GRPCConfig{Address: old, CAFile: ca}, "tls: server offers no HTTP/2"},
		{"no TLS", GRPCConfig{Address: plain, CAFile: ca}, "tls: first record does not look like a TLS handshake"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.config.TLS, tc.config.Hold = true, hold
			if tc.want != "" {
				tc.want = "grpc " + tc.config.Address.String() + ": " + tc.want
			}
			want(t, grpcChecker(t, tc.config), patient, tc.want)
		})
	}
	want(t, grpcChecker(t, GRPCConfig{Address: a, TLS: true, CAFile: ca, Service: "who", ServerName: "example.com", Hold: hold}), patient, "")
	if got := <-h.from; !strings.HasPrefix(got, "127.0.0.1 for example.com by") {
		t.Errorf("the server was asked %q, want for example.com", got)
	}
	want(t, grpcChecker(t, GRPCConfig{Address: a, Hold: hold}), patient, "grpc "+a.String()+": server ended the connection without an answer") // no TLS
}

func TestNewGRPC(t *testing.T) {
	a := netip.MustParseAddrPort("192.0.2.1:50051")
	for _, tc := range []struct {
		config GRPCConfig
		want   string
	}{
		{GRPCConfig{}, "grpc check: no address and port"},
		{GRPCConfig{Address: netip.MustParseAddrPort("192.0.2.1:0")}, "grpc check: no address and port"},
		{GRPCConfig{Address: a, Source: netip.MustParseAddr("::1")}, "grpc check: source ::1 and target 192.0.2.1 are of two families"},
		{GRPCConfig{Address: a, TLS: true, CAFile: "/nonexistent/ca"}, "grpc check: read roots: open /nonexistent/ca: no such file or directory"},
	} {
		if _, err := NewGRPC(tc.config); err == nil || err.Error() != tc.want {
			t.Errorf("NewGRPC(%+v) = %v, want %s", tc.config, err, tc.want)
		}
	}
}
