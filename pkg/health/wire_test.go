package health

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opened is a wire to the server.
func opened(t *testing.T, ctx context.Context, kind int, a netip.AddrPort, p *pace) *wire { //nolint:revive // t comes first
	t.Helper()
	w, err := open(ctx, kind, netip.Addr{}, a, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// A target that lets a run wait is waited for by the poller, and from then on
// without a thread, until it answers at once again.
func TestWirePace(t *testing.T) {
	noGoroutines(t)
	noDescriptors(t)
	after := make(chan time.Duration, 1)
	a := server(t, "127.0.0.1:0", func(c net.Conn) {
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		select {
		case <-time.After(<-after):
		case <-t.Context().Done():
		}
		_, _ = io.WriteString(c, "x")
	})
	var p pace
	run := func(wait time.Duration) (inPoller bool) {
		w := opened(t, t.Context(), unix.SOCK_STREAM, a, &p)
		defer func() { _ = w.Close() }()
		if _, err := io.WriteString(w, "?"); err != nil {
			t.Fatal(err)
		}
		after <- wait
		answer, err := io.ReadAll(w)
		if err != nil || string(answer) != "x" {
			t.Fatalf("answer %q, %v", answer, err)
		}
		return w.file != nil
	}
	// A busy machine makes the one or other late, and us too, but not each time.
	until(t, func() bool { return run(20*time.Millisecond) && p.slow.Load() }, func() string { return "no slow answer comes by the poller and is remembered" })
	until(t, func() bool { run(0); return !p.slow.Load() }, func() string { return "no quick answer is remembered" })
	until(t, func() bool { return !run(0) }, func() string { return "each quick answer comes by the poller" })
}

// The end of the context ends each wait, also where the server says a little in
// each moment.
func TestWireEnds(t *testing.T) {
	noGoroutines(t)
	noDescriptors(t)
	silent := server(t, "127.0.0.1:0", func(net.Conn) { <-t.Context().Done() })
	trickle := server(t, "127.0.0.1:0", func(c net.Conn) {
		tick := time.NewTicker(200 * time.Microsecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
		}
	})
	flood := bytes.Repeat([]byte("x"), 64<<20) // more than buffers hold
	for _, tc := range []struct {
		name string
		to   netip.AddrPort
		do   func(w *wire) error
	}{
		{"read", silent, func(w *wire) error { _, err := w.Read(make([]byte, 1)); return err }},
		{"write", silent, func(w *wire) error { _, err := w.Write(flood); return err }},
		{"connect", deaf(t), func(w *wire) error { _, err := w.Write([]byte("x")); return err }},
		{"trickle", trickle, func(w *wire) error { _, err := io.Copy(io.Discard, w); return err }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			do := func(ctx context.Context) error {
				w, err := open(ctx, unix.SOCK_STREAM, netip.Addr{}, tc.to, &pace{})
				if err != nil {
					return err
				}
				defer func() { _ = w.Close() }()
				return tc.do(w)
			}
			timeout, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := do(timeout); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want that time is up", err)
			}
			unwanted, cancel := context.WithCancel(t.Context())
			defer cancel()
			defer time.AfterFunc(50*time.Millisecond, cancel).Stop()
			if err := do(unwanted); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want that it is cancelled", err)
			}
		})
	}
}

// What does not fit into the buffers at once gets there all the same.
func TestWireLong(t *testing.T) {
	noGoroutines(t)
	noDescriptors(t)
	a := server(t, "127.0.0.1:0", func(c net.Conn) {
		_, _ = io.Copy(struct{ io.Writer }{c}, io.LimitReader(c, 16<<20)) // by no pipe of the runtime's
	})
	w := opened(t, t.Context(), unix.SOCK_STREAM, a, &pace{})
	said := make([]byte, 16<<20)
	for i := range said {
		said[i] = byte(i >> 8)
	}
	heard := opened(t, t.Context(), unix.SOCK_STREAM, server(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), &pace{})
	if _, err := heard.Write(said); err != nil {
		t.Error(err)
	}
	for part := range slices.Chunk(said, 32<<10) {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, len(part))
		if _, err := io.ReadFull(w, back); err != nil || !bytes.Equal(back, part) {
			t.Fatalf("something else came back, %v", err)
		}
	}
	if n, err := w.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end %d bytes, %v; want EOF", n, err)
	}
}

// An empty datagram is not the end, and an unreachable port is an error.
func TestWireDatagrams(t *testing.T) {
	noDescriptors(t)
	a := packets(t, "127.0.0.1:0", func(net.Addr, []byte) [][]byte { return [][]byte{{}, []byte("x")} })
	w := opened(t, t.Context(), unix.SOCK_DGRAM, a, &pace{})
	if _, err := w.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	for _, want := range []int{0, 1} {
		if n, err := w.Read(b); n != want || err != nil {
			t.Errorf("%d bytes, %v; want %d", n, err, want)
		}
	}
	gone := opened(t, t.Context(), unix.SOCK_DGRAM, closed(t), &pace{})
	_, _ = gone.Write([]byte("?"))
	if _, err := gone.Read(b); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error %v, want that it is refused", err)
	}
}

// A wire that is closed touches no descriptor that has its number since.
func TestWireClosed(t *testing.T) {
	noDescriptors(t)
	a := server(t, "127.0.0.1:0", func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	w := opened(t, t.Context(), unix.SOCK_STREAM, a, &pace{})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	opened(t, t.Context(), unix.SOCK_STREAM, a, &pace{}) // likely with that number
	if _, err := w.Write([]byte("x")); !errors.Is(err, unix.EBADF) {
		t.Errorf("write: %v, want EBADF", err)
	}
	if _, err := w.Read(make([]byte, 1)); !errors.Is(err, unix.EBADF) {
		t.Errorf("read: %v, want EBADF", err)
	}
	if err := w.Close(); !errors.Is(err, unix.EBADF) {
		t.Errorf("close: %v, want EBADF", err)
	}
}
