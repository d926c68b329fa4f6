package health

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// benchConns are two sockets each, within the usual limit of open files.
const benchConns = 8000

// BenchmarkListen is one run of a listen check, on a host with 16,000 connected
// sockets.
func BenchmarkListen(b *testing.B) {
	netnstest.Bench(b, func(b *testing.B, _ netnstest.NS) {
		a, conns, _ := accepting(b, "127.0.0.1:0")
		for range benchConns {
			conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(a))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			served := <-conns
			defer func() { _ = served.Close() }()
		}
		c := listen(b, NewSockets(), ListenConfig{a.Addr(), a.Port(), "tcp"})
		before := cpu(syscall.RUSAGE_SELF)
		for b.Loop() {
			if err := c.Check(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64((cpu(syscall.RUSAGE_SELF)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	})
}

// BenchmarkListenDeaths is one short connection to a port whose listener is
// watched by none, or by a check: what the notices of its two sockets cost.
func BenchmarkListenDeaths(b *testing.B) {
	for _, watched := range []string{"nobody", "check"} {
		b.Run(watched, func(b *testing.B) {
			netnstest.Bench(b, func(b *testing.B, _ netnstest.NS) {
				fd := listenerFD(b)
				defer func() { _ = unix.Close(fd) }()
				heard := 0
				if watched == "check" {
					ctx, cancel := context.WithCancel(b.Context())
					c := listen(b, NewSockets(), ListenConfig{netip.MustParseAddr("127.0.0.1"), 80, "tcp"})
					ready, done := make(chan struct{}), make(chan struct{})
					go func() {
						defer close(done)
						c.Watch(ctx, func() {
							if heard++; heard == 1 {
								close(ready)
							}
						})
					}()
					<-ready
					defer func() { cancel(); <-done; b.ReportMetric(float64(heard-1), "heard") }()
				}
				to := &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}}
				start, before, ran := time.Now(), cpu(syscall.RUSAGE_SELF), 0
				for b.Loop() {
					shortConnection(b, fd, to)
					ran++
				}
				b.ReportMetric(float64(ran)/time.Since(start).Seconds(), "conns/s")
				b.ReportMetric(float64((cpu(syscall.RUSAGE_SELF)-before).Nanoseconds())/float64(ran), "cpu-ns/op")
			})
		})
	}
}

func listenerFD(b *testing.B) int {
	b.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 80}); err != nil {
		b.Fatal(err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		b.Fatal(err)
	}
	return fd
}

// shortConnection connects, accepts, and resets, so that no TIME_WAIT uses up the ports.
func shortConnection(b *testing.B, listener int, to unix.Sockaddr) {
	b.Helper()
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err = unix.Connect(client, to); err != nil {
		b.Fatal(err)
	}
	served, _, err := unix.Accept(listener)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		b.Fatal(err)
	}
	_, _ = unix.Close(client), unix.Close(served)
}

// BenchmarkNeighbour is one probe of a gateway, its answer included.
func BenchmarkNeighbour(b *testing.B) {
	for _, a := range []string{"10.68.1.2", "fd68:1::2"} {
		b.Run(a, func(b *testing.B) {
			netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
				gw := ns.New("gw")
				ns.VethTo("en1", gw, "p1")
				ns.IP("addr add 10.68.1.1/24 dev en1")
				ns.IP("addr add fd68:1::1/64 dev en1 nodad")
				gw.IP("addr add 10.68.1.2/24 dev p1")
				gw.IP("addr add fd68:1::2/64 dev p1 nodad")
				c := neighbour(b, a)
				netnstest.Until(b, 5*time.Second, func() error { return timely(b, c) })
				before := cpu(syscall.RUSAGE_SELF)
				for b.Loop() {
					if err := timely(b, c); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64((cpu(syscall.RUSAGE_SELF)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
			})
		})
	}
}

func timely(b *testing.B, c Checker) error {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Second)
	defer cancel()
	return c.Check(ctx)
}
