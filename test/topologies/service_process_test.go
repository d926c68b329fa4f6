package topologies

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"vipspeaker/test/topologies/lab"
)

// serviceEnv holds what a copy of the test's process serves instead of testing:
// kinds and addresses, such as "http 10.68.6.1:8080 udp 10.68.6.1:53".
const serviceEnv = "VIPSPEAKER_TEST_SERVICE"

// TestServiceProcess is a service on a VIP, in a process of its own that can be
// killed. It tests nothing.
func TestServiceProcess(t *testing.T) {
	words := strings.Fields(os.Getenv(serviceEnv))
	if len(words) == 0 {
		return
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	for i := 0; i+1 < len(words); i += 2 {
		s := serviceSocket{kind: words[i], address: words[i+1]}
		if err := s.open(ctx); err != nil {
			t.Fatal(err)
		}
		g.Go(s.serve)
	}
	_, _ = fmt.Fprintln(os.Stdout, "ready", os.Getpid())
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// serviceSocket is one socket of the service.
type serviceSocket struct {
	kind, address string

	listener net.Listener
	packets  net.PacketConn
}

func (s *serviceSocket) open(ctx context.Context) (err error) {
	// As a service that starts before its VIP is there.
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(err, cerr)
	}}
	if s.kind == "udp" || s.kind == "dns" {
		s.packets, err = c.ListenPacket(ctx, "udp", s.address)
		return err
	}
	var l net.Listener
	l, err = c.Listen(ctx, "tcp", s.address)
	s.listener = loggingListener{l}
	return err
}

// loggingListener writes a line with its address for each connection.
type loggingListener struct{ net.Listener }

func (l loggingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		_, _ = fmt.Fprintln(os.Stdout, "accepted", conn.LocalAddr(), time.Now().UnixMicro())
	}
	return conn, err
}

func (s *serviceSocket) serve() error {
	switch s.kind {
	case "tcp":
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return err
			}
			go func() {
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			}()
		}
	case "udp":
		_, err := io.Copy(io.Discard, s.packets.(io.Reader)) //nolint:forcetypeassert // the network is udp
		return err
	case "http":
		return (&http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "well")
		})}).Serve(s.listener)
	case "dns":
		return (&dns.Server{PacketConn: s.packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			a := new(dns.Msg).SetReply(q)
			a.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(192, 0, 2, 1),
			}}
			_ = w.WriteMsg(a)
		})}).ActivateAndServe()
	case "grpc":
		g := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(g, grpchealth.NewServer())
		return g.Serve(s.listener)
	}
	return fmt.Errorf("no kind %q", s.kind)
}

// startService starts a service in the node, in a process of its own, and waits
// until it serves.
func startService(t *testing.T, n *lab.Node, name string, serves ...string) *lab.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := n.StartProcess(name, "env", serviceEnv+"="+strings.Join(serves, " "), self, "-test.run=^TestServiceProcess$")
	lab.Eventually(t, 10*time.Second, name+" serves", func() error {
		if !p.Running() {
			t.Fatalf("%s has ended: %s", name, p.Log())
		}
		return lab.That(strings.Contains(p.Log(), fmt.Sprintf("ready %d\n", p.PID)), "%s", p.Log())
	})
	return p
}
