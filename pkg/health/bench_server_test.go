package health

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// benchServer is set for the process of this binary that is what checks ask,
// execScript for one that runs an exec check with that script.
const (
	benchServer = "VIPSPEAKER_BENCH_SERVER"
	execScript  = "VIPSPEAKER_EXEC_SCRIPT"
)

// TestMain runs the binary as one of these if it is to be.
func TestMain(m *testing.M) {
	if script := os.Getenv(execScript); script != "" {
		c, err := NewExec(ExecConfig{Command: []string{"/bin/sh", "-c", script}})
		if err == nil {
			err = c.Check(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(benchServer) == "" {
		os.Exit(m.Run())
	}
	if err := serveChecks(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// The ports of serveChecks. Nobody listens on refusePort.
const (
	tcpPort    = ":7001"
	httpPort   = ":7002"
	refusePort = ":7003"
	dnsPort    = ":7004" // by UDP and TCP
	stayPort   = ":7005" // TCP, takes connections and keeps them
	grpcPort   = ":7006"
	httpsPort  = ":7007"
	grpcsPort  = ":7008" // gRPC by TLS
)

// serveChecks answers on its ports until stdin ends.
func serveChecks() error {
	listeners := map[string]net.Listener{}
	for _, port := range []string{tcpPort, httpPort, dnsPort, stayPort, grpcPort, httpsPort, grpcsPort} {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", "0.0.0.0"+port)
		if err != nil {
			return err
		}
		listeners[port] = l
	}
	datagrams, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", "0.0.0.0"+dnsPort)
	if err != nil {
		return err
	}
	var kept []net.Conn
	go acceptAll(listeners[tcpPort], func(conn net.Conn) { _ = conn.Close() })
	go acceptAll(listeners[stayPort], func(conn net.Conn) { kept = append(kept, conn) })
	names := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		answer.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1),
		}}
		_ = w.WriteMsg(answer)
	})
	go func() { _ = (&dns.Server{PacketConn: datagrams, Handler: names}).ActivateAndServe() }()
	go func() { _ = (&dns.Server{Listener: listeners[dnsPort], Handler: names}).ActivateAndServe() }()
	certificate := serveHTTP(listeners[httpPort], listeners[httpsPort])
	serveGRPC(listeners[grpcPort])
	serveGRPC(listeners[grpcsPort], grpc.Creds(credentials.NewServerTLSFromCert(certificate)))
	// Those that serve in goroutines have their sockets, so none is missed.
	if _, err = io.WriteString(os.Stdout, "ready\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// serveHTTP serves with and without TLS, and returns the certificate.
func serveHTTP(plain, secure net.Listener) *tls.Certificate {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-time.After(5 * time.Millisecond)
		}
		_, _ = io.WriteString(w, "all is well\n")
	}))
	_ = s.Listener.Close()
	s.Listener = secure
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	go func() { _ = (&http.Server{ReadHeaderTimeout: time.Second, Handler: s.Config.Handler}).Serve(plain) }()
	return &s.TLS.Certificates[0]
}

func serveGRPC(l net.Listener, o ...grpc.ServerOption) {
	s := grpc.NewServer(o...)
	grpc_health_v1.RegisterHealthServer(s, grpchealth.NewServer())
	go func() { _ = s.Serve(l) }()
}

func acceptAll(l net.Listener, do func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		do(conn)
	}
}

// startServer starts serveChecks as a process of its own, so that the time it
// uses is not taken for that of the checks; it ends with tb.
func startServer(tb testing.TB) (pid int) {
	tb.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), "/proc/self/exe")
	cmd.Env = append(os.Environ(), benchServer+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = in.Close()
		if failed := cmd.Wait(); failed != nil {
			tb.Error(failed)
		}
	})
	if _, err = io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		tb.Fatal(err)
	}
	return cmd.Process.Pid
}

// halt stops the server until it gets SIGCONT. Its threads run on until each of them
// has seen the signal.
func halt(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED, nil); err != nil {
		t.Fatal(err)
	}
}
