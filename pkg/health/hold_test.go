package health

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

func hold(tb testing.TB, c TCPConfig) Watcher {
	tb.Helper()
	c.Hold = true
	h, err := NewTCP(c)
	if err != nil {
		tb.Fatal(err)
	}
	return h.(Watcher)
}

// accepting gives the connections that a server takes, and the server's end.
func accepting(tb testing.TB, address string) (netip.AddrPort, <-chan net.Conn, func()) {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	conns := make(chan net.Conn, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns <- conn
		}
	}()
	end := func() { _ = l.Close(); <-done }
	tb.Cleanup(end)
	return l.Addr().(*net.TCPAddr).AddrPort(), conns, end
}

func taken(tb testing.TB, conns <-chan net.Conn) *net.TCPConn {
	tb.Helper()
	select {
	case c := <-conns:
		tb.Cleanup(func() { _ = c.Close() })
		return c.(*net.TCPConn)
	case <-time.After(patient):
		tb.Fatalf("no connection in %s", patient)
		return nil
	}
}

// One connection is held; each of its ends is heard of, and followed by another as
// long as there is a server.
func TestHold(t *testing.T) {
	noGoroutines(t)
	a, conns, end := accepting(t, here())
	c := hold(t, TCPConfig{Address: a, Source: netip.MustParseAddr("127.0.0.2")})
	want(t, c, patient, "") // nobody watches: not held
	if _, err := taken(t, conns).Read(make([]byte, 1)); err == nil || err.Error() != "EOF" {
		t.Errorf("a connection that nobody watches ended with %v, want EOF", err)
	}
	calls, stop := watch(t, c)
	hear(t, calls, "the beginning")
	for range 5 {
		want(t, c, patient, "")
	}
	conn := taken(t, conns)
	if from := conn.RemoteAddr().(*net.TCPAddr).IP.String(); from != "127.0.0.2" {
		t.Errorf("connected from %s", from)
	}
	if len(conns) != 0 {
		t.Errorf("%d more connections", len(conns))
	}
	_, _ = conn.Write([]byte("hello\n"))
	quiet(t, calls, "what the server says")

	// In order, then by reset: another is made.
	_ = conn.Close()
	hear(t, calls, "the end")
	want(t, c, patient, "")
	conn = taken(t, conns)
	_ = conn.SetLinger(0)
	_ = conn.Close()
	hear(t, calls, "the reset")
	want(t, c, patient, "")
	conn = taken(t, conns)
	quiet(t, calls, "nothing")

	// With the watch the connection ends.
	stop()
	if _, err := conn.Read(make([]byte, 1)); err == nil || err.Error() != "EOF" {
		t.Errorf("the held connection ended with %v, want EOF", err)
	}

	// A server that is gone.
	calls, _ = watch(t, c)
	hear(t, calls, "the beginning")
	want(t, c, patient, "")
	conn = taken(t, conns)
	end()
	quiet(t, calls, "a listener's end")
	start := time.Now()
	_ = conn.Close()
	t.Logf("heard %s after the end", hear(t, calls, "the end of the server").Sub(start))
	want(t, c, patient, "tcp "+a.String()+": connection refused")
	want(t, c, patient, "tcp "+a.String()+": connection refused")
}

func TestHoldHangs(t *testing.T) {
	noGoroutines(t)
	a := deaf(t)
	c := hold(t, TCPConfig{Address: a})
	calls, _ := watch(t, c)
	hear(t, calls, "the beginning")
	want(t, c, 100*time.Millisecond, "tcp "+a.String()+": timeout after 100ms")
}

// A server that closes each connection at once is not stormed.
func TestHoldPace(t *testing.T) {
	var p holdPace
	now := time.Now()
	var got []time.Duration
	for _, after := range []time.Duration{0, 0, 0, 0, time.Second, time.Hour, 0} {
		now = now.Add(after)
		wait := p.next(now)
		got = append(got, wait)
		now = now.Add(wait)
	}
	want := []time.Duration{0, 0, 0, time.Second, 0, 0, 0}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("waits %v, want %v", got, want)
		}
	}

	noGoroutines(t)
	var met atomic.Int32
	a := server(t, "127.0.0.1:0", func(net.Conn) { met.Add(1) })
	c := hold(t, TCPConfig{Address: a})
	start := time.Now()
	calls, _ := watch(t, c)
	for met.Load() < holdBurst+2 {
		hear(t, calls, "the end of a connection")
		if err := c.Check(t.Context()); err != nil {
			t.Error(err)
		}
		n := met.Load() // before the time
		if most := holdBurst + 1 + int32(time.Since(start)/holdEvery); n > most {
			t.Fatalf("%d connections in %s, want %d at most", n, time.Since(start), most)
		}
	}
}

// A server that talks without end costs little, and its end is seen.
func TestHoldGarbage(t *testing.T) {
	noGoroutines(t)
	a, conns, _ := accepting(t, "127.0.0.1:0")
	c := hold(t, TCPConfig{Address: a})
	calls, _ := watch(t, c)
	hear(t, calls, "the beginning")
	want(t, c, patient, "")
	conn := taken(t, conns)
	_ = conn.SetWriteBuffer(16 << 10)
	start := time.Now()
	_ = conn.SetWriteDeadline(start.Add(500 * time.Millisecond))
	total, garbage := 0, make([]byte, 8<<10)
	for {
		n, err := conn.Write(garbage)
		total += n
		if err != nil {
			break
		}
	}
	if took := time.Since(start); total > 2<<20*int(took.Milliseconds())/500 {
		t.Errorf("read %d bytes in %s", total, took)
	}
	_ = conn.Close()
	hear(t, calls, "the end")
	want(t, c, patient, "")
}

// A host that is gone is noticed by keepalive.
func TestHoldHostGone(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		noGoroutines(t)
		l := newLAN(ns)
		var a netip.AddrPort
		var conns <-chan net.Conn
		l.gw.Do(func() error {
			a, conns, _ = accepting(t, "10.68.1.2:80")
			return nil
		})
		var s *servedGRPC
		l.gw.Do(func() error {
			s = serveHealth(t, "10.68.1.2:81", nil)
			return nil
		})
		var told *toldHTTP
		l.gw.Do(func() error {
			told = tellHTTP(t, "10.68.1.2:82", nil, saying(wellAnswer))
			return nil
		})
		held := []Watcher{hold(t, TCPConfig{Address: a}), holdGRPC(t, GRPCConfig{Address: s.address}), holdHTTP(t, told.url, nil)}
		var heard []<-chan time.Time
		for _, c := range held {
			calls, _ := watch(t, c)
			hear(t, calls, "the beginning")
			want(t, c, patient, "")
			heard = append(heard, calls)
		}
		taken(t, conns)
		s.watched(t, 1)
		l.cut()
		start := time.Now()
		for i, c := range held {
			t.Logf("heard %s after the cut", hear(t, heard[i], "the silence").Sub(start))
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := c.Check(ctx); err == nil {
				t.Error("passes without a way to the host")
			}
		}
	})
}
