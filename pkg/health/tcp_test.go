package health

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// noGoroutines fails the test if goroutines stay that were not there before.
func noGoroutines(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		until(t, func() bool { return runtime.NumGoroutine() <= before }, func() string {
			stacks := make([]byte, 1<<20)
			return string(stacks[:runtime.Stack(stacks, true)])
		})
	})
}

// patient is how long is waited for what must happen at all, and a timeout that a run
// is not to reach: a machine that is busy may stand still for seconds.
const patient = 10 * time.Second

// until polls a condition.
func until(t *testing.T, ok func() bool, what func() string) {
	t.Helper()
	deadline := time.After(patient)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			if ok() { // the machine may have stood still until now
				return
			}
			t.Fatalf("not within %s: %s", patient, what())
		case <-tick.C:
		}
	}
}

// want runs the check once, as the Manager does, and compares its reason; a reason
// that ends in an ellipsis is a beginning. It returns how long the check took.
func want(t *testing.T, c Checker, timeout time.Duration, reason string) time.Duration {
	t.Helper()
	// With the limit, or the reason would have what is left when the run begins.
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), limitKey{}, timeout), timeout)
	defer cancel()
	start := time.Now()
	err := c.Check(ctx)
	took := time.Since(start)
	got := ""
	if err != nil {
		got = err.Error()
	}
	begin, open := strings.CutSuffix(reason, "…")
	if got != reason && (!open || !strings.HasPrefix(got, begin)) {
		t.Errorf("check = %q, want %q", got, reason)
	}
	if took > timeout+patient {
		t.Errorf("check took %s, with a timeout of %s", took, timeout)
	}
	return took
}

// here is a loopback address that no other process listens on, so that a port of it on
// which nobody listens any more is nobody's.
func here() string {
	pid := os.Getpid() // 22 bits at most
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(64 + pid>>16), byte(pid >> 8), byte(pid)}), 0).String()
}

// server serves each connection with handle until the test ends.
func server(t *testing.T, address string, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// closed is an address on which nobody listens.
func closed(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", here())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// deaf is an address that answers no connection: its queue is full.
func deaf(t *testing.T) netip.AddrPort {
	t.Helper()
	_, a := listenRaw(t, 0)
	fill(t, a)
	return a
}

func tcp(t *testing.T, a netip.AddrPort) Checker {
	t.Helper()
	c, err := NewTCP(TCPConfig{Address: a})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTCP(t *testing.T) {
	noGoroutines(t)
	ends := make(chan error, 1)
	open := server(t, "127.0.0.1:0", func(c net.Conn) {
		_, err := c.Read(make([]byte, 1))
		ends <- err
	})
	want(t, tcp(t, open), patient, "")
	if err := <-ends; err == nil || err.Error() != "EOF" {
		t.Errorf("the server saw the end as %v, want EOF", err)
	}
	// What it says first is nobody's business; the connection is closed all the same.
	left := make(chan struct{})
	babbler := server(t, "127.0.0.1:0", func(c net.Conn) {
		_, err := c.Write([]byte("\x00\xffgarbage\r\n"))
		for err == nil { // until our end is gone, whatever it leaves unread
			_, err = c.Read(make([]byte, 1))
		}
		close(left)
	})
	want(t, tcp(t, babbler), patient, "")
	select {
	case <-left:
	case <-time.After(patient):
		t.Error("the connection to a server that babbles is still open")
	}
	refused := closed(t)
	want(t, tcp(t, refused), patient, "tcp "+refused.String()+": connection refused")
	hang := deaf(t)
	want(t, tcp(t, hang), 200*time.Millisecond, "tcp "+hang.String()+": timeout after 200ms")
	six := server(t, "[::1]:0", func(net.Conn) {})
	want(t, tcp(t, six), patient, "")
}

func TestNewTCP(t *testing.T) {
	for _, a := range []netip.AddrPort{{}, netip.MustParseAddrPort("10.0.0.1:0")} {
		if _, err := NewTCP(TCPConfig{Address: a}); err == nil {
			t.Errorf("NewTCP(%s) gives no error", a)
		}
	}
}
