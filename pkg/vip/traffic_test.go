package vip

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// echo serves TCP in a namespace: what comes in goes back.
func echo(tb testing.TB, ns netnstest.NS, at string) (address string) {
	tb.Helper()
	var l net.Listener
	ns.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", at)
		return err
	})
	serveEcho(tb, l)
	return l.Addr().String()
}

func serveEcho(tb testing.TB, l net.Listener) {
	tb.Helper()
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
}

// sourceTo is the source address that the kernel gives an unbound socket.
func sourceTo(tb testing.TB, network, to string) netip.Addr {
	tb.Helper()
	a, err := trySource(network, to)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func trySource(network, to string) (netip.Addr, error) {
	d := net.Dialer{Timeout: soon}
	c, err := d.Dial(network, to)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = c.Close() }()
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	return ap.Addr().WithZone("").Unmap(), err
}

// stream sends a byte over a connection and waits for it to come back, again
// and again, and knows the longest time that took.
type stream struct {
	conn net.Conn
	mu   sync.Mutex
	last time.Time
	gap  time.Duration
	err  error
	n    int
	end  chan struct{}
}

func newStream(tb testing.TB, c net.Conn) *stream {
	tb.Helper()
	s := &stream{conn: c, last: time.Now(), end: make(chan struct{})}
	go s.run()
	tb.Cleanup(func() { _ = c.Close(); <-s.end })
	return s
}

func (s *stream) run() {
	defer close(s.end)
	b := []byte{'x'}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		_, err := s.conn.Write(b)
		if err == nil {
			_, err = io.ReadFull(s.conn, b)
		}
		s.mu.Lock()
		if err != nil {
			s.err = err
			s.mu.Unlock()
			return
		}
		now := time.Now()
		s.gap, s.last = max(s.gap, now.Sub(s.last)), now
		s.n++
		s.mu.Unlock()
		<-tick.C
	}
}

// flowing waits for some more answers and returns the longest gap since the last
// call.
func (s *stream) flowing(tb testing.TB, within time.Duration) time.Duration {
	tb.Helper()
	start, gap := 0, time.Duration(0)
	netnstest.Until(tb, within, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err != nil {
			tb.Fatalf("stream broke: %v", s.err)
		}
		if start == 0 {
			start = s.n + 1
		}
		if s.n < start+20 {
			return errors.New("no traffic")
		}
		gap, s.gap = s.gap, 0
		return nil
	})
	return gap
}

// streams opens a TCP connection from the host to the client, with no source
// named, and one from the client to the VIP.
func (l *lab) streams(tb testing.TB, vip netip.Prefix, client string) (out, in *stream) {
	tb.Helper()
	d := net.Dialer{Timeout: soon}
	c, err := d.Dial("tcp", echo(tb, l.client, net.JoinHostPort(client, "0")))
	if err != nil {
		tb.Fatal(err)
	}
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != vip.Addr() {
		tb.Fatalf("source of an unbound connection = %s, want %s", got, vip.Addr())
	}
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", net.JoinHostPort(vip.Addr().String(), "0"))
	if err != nil {
		tb.Fatal(err)
	}
	serveEcho(tb, listener)
	var back net.Conn
	l.client.Do(func() (err error) {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(client), 0))
		back, err = d.Dial("tcp", listener.Addr().String())
		return err
	})
	return newStream(tb, c), newStream(tb, back)
}
