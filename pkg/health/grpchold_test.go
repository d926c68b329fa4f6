package health

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"vipspeaker/test/netnstest"
)

const (
	serving    = grpc_health_v1.HealthCheckResponse_SERVING
	notServing = grpc_health_v1.HealthCheckResponse_NOT_SERVING
)

func holdGRPC(tb testing.TB, c GRPCConfig) Watcher {
	tb.Helper()
	c.Hold = true
	h, err := NewGRPC(c)
	if err != nil {
		tb.Fatal(err)
	}
	return h.(Watcher)
}

// servedGRPC is a server that counts.
type servedGRPC struct {
	*grpc.Server

	health  *grpchealth.Server // unless it is another's
	address netip.AddrPort

	accepted, open atomic.Int32 // connections
	watches, asked atomic.Int32 // streams begun that have said something or ended, and calls
}

// serveHealth serves the library's own health service, or another.
func serveHealth(t *testing.T, address string, other grpc_health_v1.HealthServer, o ...grpc.ServerOption) *servedGRPC {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &servedGRPC{health: grpchealth.NewServer(), address: l.Addr().(*net.TCPAddr).AddrPort()}
	s.Server = grpc.NewServer(append(o,
		grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			s.asked.Add(1)
			return handle(ctx, r)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			c := &countedStream{ServerStream: stream, first: &s.watches}
			defer c.count()
			return handle(srv, c)
		}))...)
	if other == nil {
		other = s.health
	}
	grpc_health_v1.RegisterHealthServer(s, other)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(countedListener{l, s})
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return s
}

// watched waits until so many streams have begun.
func (s *servedGRPC) watched(t *testing.T, n int32) {
	t.Helper()
	until(t, func() bool { return s.watches.Load() >= n }, func() string { return "the stream" })
}

type countedStream struct {
	grpc.ServerStream

	first *atomic.Int32
	once  bool
}

func (c *countedStream) SendMsg(m any) error {
	defer c.count()
	return c.ServerStream.SendMsg(m)
}

func (c *countedStream) count() {
	if !c.once {
		c.once = true
		c.first.Add(1)
	}
}

type countedListener struct {
	net.Listener

	s *servedGRPC
}

func (l countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.s.accepted.Add(1)
	l.s.open.Add(1)
	return &countedConn{Conn: conn, s: l.s}, nil
}

type countedConn struct {
	net.Conn

	s      *servedGRPC
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if !c.closed.Swap(true) {
		c.s.open.Add(-1)
	}
	return c.Conn.Close()
}

// One connection is held, whatever the server says of its health, and what it says
// is heard.
func TestGRPCHold(t *testing.T) {
	noGoroutines(t)
	s := serveHealth(t, here(), nil)
	at := "grpc " + s.address.String() + ": "
	c := holdGRPC(t, GRPCConfig{Address: s.address, Service: "api"})
	unknown := at + `service "api" is not known to the server's health service`
	want(t, c, patient, unknown) // nobody watches: not held
	until(t, func() bool { return s.open.Load() == 0 }, func() string { return "the end of the connection" })
	calls, stop := watch(t, c)
	hear(t, calls, "the beginning")
	for range 3 {
		want(t, c, patient, unknown)
	}
	s.watched(t, 1)
	quiet(t, calls, "what is known")
	s.health.SetServingStatus("api", serving)
	hear(t, calls, "a service that is there")
	for range 5 {
		want(t, c, patient, "")
	}
	s.health.SetServingStatus("api", notServing)
	hear(t, calls, "NOT_SERVING")
	want(t, c, patient, at+`service "api" is NOT_SERVING`)
	if accepted, asked := s.accepted.Load(), s.asked.Load(); accepted != 2 || asked != 10 {
		t.Errorf("%d connections, %d questions; want 2 and 10", accepted, asked)
	}
	stop()
	until(t, func() bool { return s.open.Load() == 0 }, func() string { return "the end of the held connection" })
}

// A server that ends, in order or not, is heard of and fails at once; when it is
// back it passes. What stands on a connection holds up no end in order.
func TestGRPCHoldRestart(t *testing.T) {
	noGoroutines(t)
	s := serveHealth(t, here(), nil)
	c := holdGRPC(t, GRPCConfig{Address: s.address})
	calls, _ := watch(t, c)
	hear(t, calls, "the beginning")
	for _, end := range []func(){s.Stop, nil} {
		want(t, c, patient, "")
		s.watched(t, 1)
		quiet(t, calls, "nothing")
		if end == nil {
			end = s.GracefulStop
		}
		ended := make(chan struct{})
		start := time.Now()
		go func() { defer close(ended); end() }()
		t.Logf("heard %s after the end", hear(t, calls, "the end").Sub(start))
		until(t, func() bool {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		}, func() string { return "the end of the server" })
		want(t, c, patient, "grpc "+s.address.String()+": connection refused")
		want(t, c, patient, "grpc "+s.address.String()+": connection refused")
		s = serveHealth(t, s.address.String(), nil)
	}
	want(t, c, patient, "")
}

// keepsHealthy counts the runs that fail.
type keepsHealthy struct {
	Watcher
	failed atomic.Pointer[string]
}

func (k *keepsHealthy) Check(ctx context.Context) error {
	err := k.Watcher.Check(ctx)
	if err != nil && ctx.Err() == nil {
		text := err.Error()
		k.failed.Store(&text)
	}
	return err
}

// stays runs the check until the server has met it often, and wants no run to fail and
// no connection but the last to be left.
func (k *keepsHealthy) stays(t *testing.T, web Spec, met, open *atomic.Int32) {
	t.Helper()
	const often = 6
	m, _ := runManager(t, web)
	until(t, func() bool { return met.Load() >= often }, func() string { return fmt.Sprintf("%d connections, %d", often, met.Load()) })
	if failed := k.failed.Load(); failed != nil {
		t.Errorf("a run failed: %s", *failed)
	}
	if r := m.Results()["web"]; r.Verdict != Healthy {
		t.Errorf("result = %+v, want healthy", r)
	}
	until(t, func() bool { return open.Load() <= 1 }, func() string { return "the end of those before" })
}

// A server that gives connections an end in order, after an age or when they are
// idle, is healthy in all runs, and no connection is left behind.
func TestGRPCHoldRotation(t *testing.T) {
	noGoroutines(t)
	s := serveHealth(t, here(), nil, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 100 * time.Millisecond}))
	k := &keepsHealthy{Watcher: holdGRPC(t, GRPCConfig{Address: s.address})}
	web := spec("web", k)
	web.Interval, web.Timeout, web.Rise, web.Fall = 20*time.Millisecond, patient, 1, 1
	k.stays(t, web, &s.accepted, &s.open)
}

// What is heard changes the verdict without the schedule, and the end of the
// manager leaves nothing.
func TestGRPCHoldVerdict(t *testing.T) {
	noGoroutines(t)
	s := serveHealth(t, here(), nil)
	web := spec("web", holdGRPC(t, GRPCConfig{Address: s.address}))
	web.Interval, web.Timeout, web.Rise, web.Fall = time.Hour, patient, 1, 1
	m := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	m.Set([]Spec{web})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	becomes := func(v Verdict, reason string) {
		t.Helper()
		if reason != "" {
			reason = "grpc " + s.address.String() + ": " + reason
		}
		until(t, func() bool {
			r := m.Results()["web"]
			return r.Verdict == v && r.Reason == reason
		}, func() string { return "result " + m.Results()["web"].Reason })
	}
	becomes(Healthy, "")
	s.watched(t, 1)
	s.health.SetServingStatus("", notServing)
	becomes(Unhealthy, "server is NOT_SERVING")
	s.health.SetServingStatus("", serving)
	becomes(Healthy, "")
	s.Stop()
	becomes(Unhealthy, "connection refused")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A server without Watch is asked on the one connection, whose end is heard of.
func TestGRPCHoldNoWatch(t *testing.T) {
	noGoroutines(t)
	s := serveHealth(t, here(), healthServer{})
	c := holdGRPC(t, GRPCConfig{Address: s.address})
	calls, _ := watch(t, c)
	hear(t, calls, "the beginning")
	want(t, c, patient, "")
	s.watched(t, 1)
	for range 5 {
		want(t, c, patient, "")
	}
	quiet(t, calls, "nothing")
	if accepted, watches := s.accepted.Load(), s.watches.Load(); accepted != 1 || watches != 1 {
		t.Errorf("%d connections, %d streams; want one each", accepted, watches)
	}
	s.Stop()
	hear(t, calls, "the end")
	want(t, c, patient, "grpc "+s.address.String()+": connection refused")
}

// loudServer says something without end, or ends its streams at once.
type loudServer struct {
	healthServer

	talks bool
}

func (s loudServer) Watch(_ *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	for s.talks {
		if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: serving}); err != nil {
			return err
		}
	}
	return nil
}

// What a server says without end is no storm of runs, nor are streams that end.
func TestGRPCHoldStorm(t *testing.T) {
	for name, talks := range map[string]bool{"talks": true, "ends": false} {
		t.Run(name, func(t *testing.T) {
			noGoroutines(t)
			s := serveHealth(t, here(), loudServer{talks: talks})
			k := &keepsHealthy{Watcher: holdGRPC(t, GRPCConfig{Address: s.address})}
			web := spec("web", k)
			web.Interval, web.Timeout, web.Rise, web.Fall = time.Hour, patient, 1, 1
			start := time.Now()
			m, _ := runManager(t, web)
			until(t, func() bool { return s.asked.Load() >= 2 }, func() string { return "the runs" })
			<-time.After(300 * time.Millisecond)
			asked, watches := s.asked.Load(), s.watches.Load()
			took := time.Since(start)
			if more := int32(took / holdEvery); asked > holdBurst+4+more || watches > holdBurst+2+more {
				t.Errorf("%d runs, %d streams in %s", asked, watches, took)
			}
			s.Stop()
			until(t, func() bool { return m.Results()["web"].Verdict == Unhealthy }, func() string { return "the end" })
		})
	}
}

// A server that hangs is seen by the next run, again with each that follows, and
// passes when it goes on.
func TestGRPCHoldHangs(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		noGoroutines(t)
		ns.IP("link set lo up")
		pid := startServer(t)
		for _, config := range []GRPCConfig{
			{Address: netip.MustParseAddrPort("127.0.0.1" + grpcPort)},
			{Address: netip.MustParseAddrPort("127.0.0.1" + grpcsPort), TLS: true, Insecure: true},
		} {
			c := holdGRPC(t, config)
			calls, stop := watch(t, c)
			hear(t, calls, "the beginning")
			want(t, c, patient, "")
			quiet(t, calls, "nothing")
			halt(t, pid)
			for range 3 {
				want(t, c, 100*time.Millisecond, "grpc "+config.Address.String()+": timeout after …")
			}
			quiet(t, calls, "what a run has seen")
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			want(t, c, patient, "")
			quiet(t, calls, "nothing")
			stop()
		}
	})
}

// A server that takes no call on a new connection has no answer.
func TestGRPCTurnedAway(t *testing.T) {
	noGoroutines(t)
	a := server(t, "127.0.0.1:0", func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(c, c)
		_ = f.WriteSettings()
		_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
		_, _ = io.Copy(io.Discard, c)
	})
	for _, hold := range []bool{false, true} {
		want(t, grpcChecker(t, GRPCConfig{Address: a, Hold: hold}), patient, "grpc "+a.String()+": server takes no calls on the connection")
	}
}

// A run that meets the end of its connection before anybody else asks on another.
func TestGRPCHoldRunMeetsEnd(t *testing.T) {
	noGoroutines(t)
	s := serveHealth(t, here(), nil)
	h := holdGRPC(t, GRPCConfig{Address: s.address}).(*heldGRPC)
	h.watching = true // by nobody
	want(t, h, patient, "")
	for name, end := range map[string]func(*servedGRPC){"killed": func(s *servedGRPC) { s.Stop() }, "in order": func(s *servedGRPC) { s.GracefulStop() }} {
		before, _ := h.held()
		end(s)
		s = serveHealth(t, s.address.String(), nil)
		want(t, h, patient, "")
		if now, ok := h.held(); !ok || now == before {
			t.Errorf("%s: the old connection is held", name)
		}
	}
	line, _ := h.held()
	h.drop(line)
}
