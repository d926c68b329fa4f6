package health

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// socketOn opens a socket and binds it, and listens if it is a stream.
func socketOn(t *testing.T, kind int, address string, port int, set func(fd int) error) int {
	t.Helper()
	a := netip.MustParseAddr(address)
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: port, Addr: a.As16()})
	if a.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if set != nil {
		if err := set(fd); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		t.Fatalf("bind %s: %v", address, err)
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(fd, 8); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

func flag(level, option int) func(int) error {
	return func(fd int) error { return unix.SetsockoptInt(fd, level, option, 1) }
}

func both(fs ...func(int) error) func(int) error {
	return func(fd int) error {
		for _, f := range fs {
			if err := f(fd); err != nil {
				return err
			}
		}
		return nil
	}
}

// Which sockets serve an address.
func TestListenCounts(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		ns.IP("addr add 10.68.6.1/32 dev lo")
		ns.IP("addr add 10.68.6.2/32 dev lo")
		ns.IP("addr add fd68:6::1/128 dev lo nodad")
		device := func(fd int) error { return unix.BindToDevice(fd, "en1") }
		v6only := both(flag(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY))
		connected := func(fd int) {
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 68, 6, 2}}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			name    string
			kind    int
			address string
			port    int
			set     func(int) error
			then    func(int)
			// who is served, of v4 tcp, v6 tcp, v4 udp, v6 udp
			want [4]bool
		}{
			{"tcp address", unix.SOCK_STREAM, "10.68.6.1", 80, nil, nil, [4]bool{true, false, false, false}},
			{"tcp other address", unix.SOCK_STREAM, "10.68.6.2", 80, nil, nil, [4]bool{}},
			{"tcp other port", unix.SOCK_STREAM, "10.68.6.1", 81, nil, nil, [4]bool{}},
			{"tcp 0.0.0.0", unix.SOCK_STREAM, "0.0.0.0", 80, nil, nil, [4]bool{true, false, false, false}},
			{"tcp ::", unix.SOCK_STREAM, "::", 80, nil, nil, [4]bool{true, true, false, false}},
			{"tcp :: v6only", unix.SOCK_STREAM, "::", 80, v6only, nil, [4]bool{false, true, false, false}},
			{"tcp mapped", unix.SOCK_STREAM, "::ffff:10.68.6.1", 80, nil, nil, [4]bool{true, false, false, false}},
			{"tcp v6 address", unix.SOCK_STREAM, "fd68:6::1", 80, nil, nil, [4]bool{false, true, false, false}},
			{"tcp device", unix.SOCK_STREAM, "0.0.0.0", 80, device, nil, [4]bool{}},
			{"tcp shut down", unix.SOCK_STREAM, "0.0.0.0", 80, nil, func(fd int) { _ = unix.Shutdown(fd, unix.SHUT_RD) }, [4]bool{}},
			{"udp address", unix.SOCK_DGRAM, "10.68.6.1", 80, nil, nil, [4]bool{false, false, true, false}},
			{"udp 0.0.0.0", unix.SOCK_DGRAM, "0.0.0.0", 80, nil, nil, [4]bool{false, false, true, false}},
			{"udp ::", unix.SOCK_DGRAM, "::", 80, nil, nil, [4]bool{false, false, true, true}},
			{"udp :: v6only", unix.SOCK_DGRAM, "::", 80, v6only, nil, [4]bool{false, false, false, true}},
			{"udp v6 address", unix.SOCK_DGRAM, "fd68:6::1", 80, nil, nil, [4]bool{false, false, false, true}},
			{"udp device", unix.SOCK_DGRAM, "0.0.0.0", 80, device, nil, [4]bool{}},
			{"udp connected", unix.SOCK_DGRAM, "10.68.6.1", 80, nil, connected, [4]bool{}},
		} {
			fd := socketOn(t, c.kind, c.address, c.port, c.set)
			if c.then != nil {
				c.then(fd)
			}
			var got [4]bool
			s := NewSockets()
			for i, a := range []ListenConfig{
				{netip.MustParseAddr("10.68.6.1"), 80, "tcp"},
				{netip.MustParseAddr("fd68:6::1"), 80, "tcp"},
				{netip.MustParseAddr("::ffff:10.68.6.1"), 80, "udp"},
				{netip.MustParseAddr("fd68:6::1"), 80, "udp"},
			} {
				l := listen(t, s, a)
				err := l.Check(t.Context())
				got[i] = err == nil
				if want := l.(*listenCheck).name + ": nobody listens"; err != nil && err.Error() != want {
					t.Errorf("%s: %q, want %q", c.name, err, want)
				}
			}
			if got != c.want {
				t.Errorf("%s serves %v, want %v", c.name, got, c.want)
			}
			_ = unix.Close(fd)
		}
	})
}

func listen(tb testing.TB, s *Sockets, c ListenConfig) Watcher {
	tb.Helper()
	l, err := s.NewListen(c)
	if err != nil {
		tb.Fatal(err)
	}
	return l.(Watcher)
}

func TestNewListen(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	for _, c := range []ListenConfig{
		{},
		{a, 80, ""},
		{a, 80, "sctp"},
		{a, 0, "tcp"},
		{netip.Addr{}, 80, "tcp"},
		{netip.MustParseAddr("fe80::1%en1"), 80, "tcp"},
	} {
		if _, err := NewSockets().NewListen(c); err == nil {
			t.Errorf("NewListen(%+v) gives no error", c)
		}
	}
}

// watch watches until the test ends, or the returned function is called, and gives
// a signal each time. The first, of the beginning, is taken.
func watch(tb testing.TB, w Watcher) (<-chan time.Time, func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	calls := make(chan time.Time, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Watch(ctx, func() {
			select {
			case calls <- time.Now():
			default:
			}
		})
	}()
	stop := func() { cancel(); <-done }
	tb.Cleanup(stop)
	return calls, stop
}

// hear waits for a signal.
func hear(tb testing.TB, calls <-chan time.Time, what string) time.Time {
	tb.Helper()
	select {
	case at := <-calls:
		return at
	case <-time.After(patient):
		tb.Fatalf("not heard in %s: %s", patient, what)
		return time.Time{}
	}
}

func quiet(t *testing.T, calls <-chan time.Time, what string) {
	t.Helper()
	select {
	case <-calls:
		t.Errorf("heard of %s", what)
	case <-time.After(50 * time.Millisecond):
	}
}

// Every way in which a listener ends is heard of, by those whom it concerns.
func TestListenDeaths(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		noGoroutines(t)
		ns.IP("addr add 10.68.6.1/32 dev lo")
		s := NewSockets()
		a := netip.MustParseAddr("10.68.6.1")
		tcp4 := listen(t, s, ListenConfig{a, 80, "tcp"})
		calls, _ := watch(t, tcp4)
		hear(t, calls, "the beginning")
		others, stopOthers := watch(t, listen(t, s, ListenConfig{a, 53, "udp"}))
		hear(t, others, "the beginning")

		for _, address := range []string{"10.68.6.1", "0.0.0.0", "::"} {
			fd := socketOn(t, unix.SOCK_STREAM, address, 80, flag(unix.SOL_SOCKET, unix.SO_REUSEADDR))
			if err := tcp4.Check(t.Context()); err != nil {
				t.Error(err)
			}
			// A connection that comes and goes is nobody's business.
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", "10.68.6.1:80")
			if err != nil {
				t.Fatal(err)
			}
			served, _, err := unix.Accept(fd)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Close(), unix.Close(served)
			quiet(t, calls, "a connection")
			_ = unix.Close(fd)
			hear(t, calls, "the end of "+address)
			if err := tcp4.Check(t.Context()); err == nil {
				t.Errorf("%s listens after its end", address)
			}
		}
		quiet(t, others, "another port")
		fd := socketOn(t, unix.SOCK_DGRAM, "::", 53, nil)
		_ = unix.Close(fd)
		hear(t, others, "the end of the udp socket")

		// With SO_REUSEPORT one of several is none.
		reuse := flag(unix.SOL_SOCKET, unix.SO_REUSEPORT)
		one, two := socketOn(t, unix.SOCK_STREAM, "0.0.0.0", 80, reuse), socketOn(t, unix.SOCK_STREAM, "0.0.0.0", 80, reuse)
		_ = unix.Close(one)
		hear(t, calls, "the end of the first")
		if err := tcp4.Check(t.Context()); err != nil {
			t.Errorf("the second listener: %v", err)
		}
		_ = unix.Close(two)
		hear(t, calls, "the end of the second")
		if err := tcp4.Check(t.Context()); err == nil {
			t.Error("listens after the end of both")
		}
		stopOthers()
		fd = socketOn(t, unix.SOCK_STREAM, "0.0.0.0", 80, flag(unix.SOL_SOCKET, unix.SO_REUSEADDR))
		_ = unix.Close(fd)
		hear(t, calls, "an end after another watch ended")
	})
}

// unprivileged is a Watcher that watches without any capability.
type unprivileged struct{ Watcher }

func (u unprivileged) Watch(ctx context.Context, again func()) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&h, &none[0]); err != nil {
		return
	}
	u.Watcher.Watch(ctx, again)
}

// A process that is killed is heard of in milliseconds, also by a process without
// privileges; the time is printed.
func TestListenKilled(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		_ = ns
		l := listen(t, NewSockets(), ListenConfig{netip.MustParseAddr("127.0.0.1"), 80, "tcp"})
		calls, _ := watch(t, unprivileged{l})
		hear(t, calls, "the beginning")
		var worst time.Duration
		for range 20 {
			fd := socketOn(t, unix.SOCK_STREAM, "0.0.0.0", 80, flag(unix.SOL_SOCKET, unix.SO_REUSEADDR))
			pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "60"}, &syscall.ProcAttr{Files: []uintptr{uintptr(fd)}})
			if err != nil {
				t.Fatal(err)
			}
			_ = unix.Close(fd)
			// A client that nobody accepted yet. It dies with the listener, and is told
			// of, too.
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", "127.0.0.1:80")
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Check(t.Context()); err != nil {
				t.Error(err)
			}
			start := time.Now()
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for at := hear(t, calls, "the kill"); ; at = hear(t, calls, "the kill") {
				if err := l.Check(t.Context()); err != nil {
					worst = max(worst, at.Sub(start))
					break
				}
			}
			_, _ = syscall.Wait4(pid, nil, 0, nil)
			_ = conn.Close()
		}
		t.Logf("worst from kill to again: %s", worst)
	})
}

// More deaths than the socket holds: everybody looks again.
func TestListenOverflow(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, _ netnstest.NS) {
		noGoroutines(t)
		s := NewSockets()
		a := netip.MustParseAddr("127.0.0.1")
		l := listen(t, s, ListenConfig{a, 80, "tcp"})
		calls, _ := watch(t, l)
		hear(t, calls, "the beginning")
		others, _ := watch(t, listen(t, s, ListenConfig{a, 81, "tcp"}))
		hear(t, others, "the beginning")
		s.mu.Lock() // keeps the reader from reading
		for range 2000 {
			_ = unix.Close(socketOn(t, unix.SOCK_STREAM, "127.0.0.1", 80, flag(unix.SOL_SOCKET, unix.SO_REUSEADDR)))
		}
		netnstest.Until(t, patient, func() error { return dropped(t) })
		s.mu.Unlock()
		hear(t, others, "messages that were lost")
		hear(t, calls, "messages that were lost")
		// And it goes on.
		fd := socketOn(t, unix.SOCK_STREAM, "127.0.0.1", 81, nil)
		hearAll(others)
		_ = unix.Close(fd)
		hear(t, others, "an end after that")
	})
}

// dropped is nil once a socket for diagnoses has lost a message.
func dropped(t *testing.T) error {
	t.Helper()
	b, err := os.ReadFile("/proc/net/netlink")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		// sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		if f := strings.Fields(line); len(f) > 8 && f[1] == strconv.Itoa(unix.NETLINK_SOCK_DIAG) && f[8] != "0" {
			return nil
		}
	}
	return errors.New("no message was lost")
}

// hearAll takes the signals that are there, until none has come for a while.
func hearAll(calls <-chan time.Time) {
	for {
		select {
		case <-calls:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}

// A half-open connection holds its listener for a while, no longer.
func TestListenHalfOpen(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		lan := newLAN(ns)
		lan.gw.Exec("nft", "add table inet t { chain c { type filter hook input priority 0; tcp flags & (syn | ack) == (syn | ack) drop; }; }")
		l := listen(t, NewSockets(), ListenConfig{netip.MustParseAddr("10.68.1.1"), 80, "tcp"})
		calls, _ := watch(t, l)
		hear(t, calls, "the beginning")
		fd := socketOn(t, unix.SOCK_STREAM, "10.68.1.1", 80, nil)
		lan.gw.Do(func() error {
			client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = unix.Close(client) })
			_ = unix.Connect(client, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{10, 68, 1, 1}})
			return nil
		})
		netnstest.Until(t, patient, func() error {
			if !strings.Contains(lan.host.Exec("ss", "-Htn", "state", "syn-recv"), ":80") {
				return errors.New("no half-open connection")
			}
			return nil
		})
		start := time.Now()
		_ = unix.Close(fd)
		t.Logf("heard %s after the end", hear(t, calls, "the end").Sub(start))
		if err := l.Check(t.Context()); err == nil {
			t.Error("listens after the end")
		}
	})
}
