package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listenRaw returns a listener with room for as many connections as backlog that
// nobody accepts.
func listenRaw(t *testing.T, backlog int) (fd int, at netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err = unix.Listen(fd, backlog); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	four, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		t.Fatalf("address %v", sa)
	}
	return fd, netip.AddrPortFrom(netip.AddrFrom4(four.Addr), uint16(four.Port))
}

// noDescriptors fails the test if descriptors stay open that were not before.
func noDescriptors(t *testing.T) {
	t.Helper()
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	t.Cleanup(func() {
		until(t, func() bool { return count() <= before }, func() string { return fmt.Sprintf("%d descriptors, %d before", count(), before) })
	})
}

func TestConnect(t *testing.T) {
	_, four := listenRaw(t, 100)
	six, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = six.Close() }()
	refused := closed(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name   string
		ctx    context.Context //nolint:containedctx // of the case
		source string
		to     netip.AddrPort
		want   string // in the error; empty for none
	}{
		{"IPv4", t.Context(), "", four, ""},
		{"IPv4 in IPv6", t.Context(), "", netip.AddrPortFrom(netip.AddrFrom16(four.Addr().As16()), four.Port()), ""},
		{"IPv6", t.Context(), "", netip.MustParseAddrPort(six.Addr().String()), ""},
		{"from a source", t.Context(), "127.0.0.9", four, ""},
		{"from an IPv6 source", t.Context(), "::1", netip.MustParseAddrPort(six.Addr().String()), ""},
		{"from no address of this host", t.Context(), "192.0.2.7", four, "source 192.0.2.7 is no address of this host"},
		{"refused", t.Context(), "", refused, "connection refused"},
		{"no such interface", t.Context(), "", netip.MustParseAddrPort("[fe80::1%nosuch0]:80"), "no such network interface"},
		{"not wanted", ended, "", four, "context canceled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noDescriptors(t)
			var source netip.Addr
			if tc.source != "" {
				source = netip.MustParseAddr(tc.source)
			}
			err := touch(tc.ctx, source, tc.to, &pace{})
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// fill takes the room that a listener with a backlog of 0 has, so that it answers
// no more.
func fill(t *testing.T, a netip.AddrPort) {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: patient}).DialContext(t.Context(), "tcp4", a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
}

// A target that does not answer is waited for until time is up or the check is
// not wanted any more, and nothing is left behind.
func TestConnectWaits(t *testing.T) {
	_, a := listenRaw(t, 0)
	fill(t, a)
	noGoroutines(t)
	noDescriptors(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := touch(ctx, netip.Addr{}, a, &pace{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that time is up", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	defer time.AfterFunc(50*time.Millisecond, cancel).Stop()
	if err := touch(ctx, netip.Addr{}, a, &pace{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that it is cancelled", err)
	}
}

// A target that answers late, or refuses late, is heard.
func TestConnectLate(t *testing.T) {
	for _, tc := range []struct {
		name string
		then func(fd int)
		want error
	}{
		{"accepts", func(fd int) {
			if conn, _, err := unix.Accept(fd); err == nil {
				_ = unix.Close(conn)
			}
		}, nil},
		{"refuses", func(fd int) { _ = unix.Shutdown(fd, unix.SHUT_RD) }, unix.ECONNREFUSED},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fd, a := listenRaw(t, 0)
			fill(t, a)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			defer time.AfterFunc(50*time.Millisecond, func() { tc.then(fd) }).Stop()
			if err := touch(ctx, netip.Addr{}, a, &pace{}); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}
