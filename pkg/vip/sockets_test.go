package vip

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/netnstest"
	"vipspeaker/test/stopwatch"
)

// conversation is a connection between a client and a server on the host.
type conversation struct {
	name           string
	client, server net.Conn
}

// converse opens a connection from the client to a listener on the host.
func converse(tb testing.TB, l *lab, name, network, listen string, to netip.Addr) conversation {
	tb.Helper()
	lc := &net.ListenConfig{}
	if strings.HasPrefix(name, "multipath") {
		lc.SetMultipathTCP(true)
	} else {
		lc.SetMultipathTCP(false)
	}
	listener, err := lc.Listen(tb.Context(), network, listen)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = listener.Close() })
	c := conversation{name: name}
	l.client.Do(func() (err error) {
		at := netip.AddrPortFrom(to, uint16(listener.Addr().(*net.TCPAddr).Port))
		c.client, err = clientDialer(to).Dial("tcp", at.String())
		return err
	})
	tb.Cleanup(func() { _ = c.client.Close() })
	if c.server, err = listener.Accept(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.server.Close() })
	return c
}

// clientDialer dials from the client's own address of a family.
func clientDialer(to netip.Addr) *net.Dialer {
	from := netip.MustParseAddr("10.68.9.9")
	if to.Is6() {
		from = netip.MustParseAddr("fd68:9::9")
	}
	return &net.Dialer{Timeout: soon, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
}

// ends waits for the end of both sides and tells how they learn of it.
func (c conversation) ends() [2]error {
	var out [2]error
	for i, end := range []net.Conn{c.client, c.server} {
		_ = end.SetReadDeadline(time.Now().Add(soon))
		_, out[i] = io.ReadFull(end, make([]byte, 1))
	}
	return out
}

// talks tells whether a byte goes through.
func (c conversation) talks() error {
	if _, err := c.client.Write([]byte{'x'}); err != nil {
		return err
	}
	_ = c.server.SetReadDeadline(time.Now().Add(soon))
	_, err := io.ReadFull(c.server, make([]byte, 1))
	return err
}

// TestDrainedConnections: connections of drained VIPs are counted, by families
// and also where a socket of IPv6 has an IPv4 address, and reset when they are
// due: both ends learn it at once. Listeners, other VIPs, other addresses and what
// both of its ends are on this host for are left alone.
func TestDrainedConnections(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		m := l.manager(t)
		other := netip.MustParsePrefix("10.68.6.2/32")
		whole := netip.MustParsePrefix("10.68.6.128/28")
		d := desired(vip4, vip6, other, whole)
		converge(t, m, d)

		drained := []conversation{
			converse(t, l, "4", "tcp4", vip4.Addr().String()+":0", vip4.Addr()),
			converse(t, l, "mapped", "tcp", "[::]:0", vip4.Addr()),
			converse(t, l, "6", "tcp6", "["+vip6.Addr().String()+"]:0", vip6.Addr()),
			converse(t, l, "any 6", "tcp6", "[::]:0", vip6.Addr()),
			converse(t, l, "multipath", "tcp", "[::]:0", vip4.Addr()),
			converse(t, l, "prefix", "tcp4", "0.0.0.0:0", netip.MustParseAddr("10.68.6.130")),
		}
		kept := []conversation{
			converse(t, l, "other vip", "tcp", "[::]:0", other.Addr()),
			converse(t, l, "own address", "tcp", "[::]:0", netip.MustParseAddr("10.68.1.1")),
		}
		local := echo(t, ns, vip4.Addr().String()+":0")
		within, err := net.Dial("tcp", local)
		if err != nil {
			t.Fatal(err)
		}
		inside := newStream(t, within)

		d.Drained = []Drained{{Prefix: vip4}, {Prefix: vip6}, {Prefix: whole}}
		a, err := m.Steer(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[netip.Prefix]int{vip4: 3, vip6: 2, whole: 1}, a.Connections, prefixes()); diff != "" {
			t.Errorf("connections:\n%s", diff)
		}
		if _, err = m.Unbind(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		for _, c := range slices.Concat(drained, kept) {
			if err = c.talks(); err != nil {
				t.Errorf("%s: counted, and then %v", c.name, err)
			}
		}

		for i := range d.Drained {
			d.Drained[i].Close = true
		}
		watch := stopwatch.Start(t)
		if a, err = m.Unbind(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		for _, c := range drained {
			if ends := c.ends(); !errors.Is(ends[0], syscall.ECONNRESET) || ends[1] == nil || errors.Is(ends[1], errTimeout(ends[1])) {
				t.Errorf("%s: the client sees %v, the server %v; want a reset", c.name, ends[0], ends[1])
			}
		}
		if took := watch.Elapsed(); took > time.Second {
			t.Errorf("the ends learned it after %s", took)
		}
		if diff := cmp.Diff(map[netip.Prefix]int{vip4: 0, vip6: 0, whole: 0}, a.Connections, prefixes()); diff != "" {
			t.Errorf("connections left:\n%s", diff)
		}
		for _, c := range kept {
			if err = c.talks(); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		inside.flowing(t, soon)
		if c, failed := net.Dial("tcp", local); failed != nil {
			t.Errorf("a listener on the VIP was closed: %v", failed)
		} else {
			_ = c.Close()
		}

		d.Drained = nil
		if a, err = m.Steer(t.Context(), d); err != nil || a.Connections != nil {
			t.Errorf("nothing is drained: %v, %v", a.Connections, err)
		}
	})
}

// errTimeout is err if it is a timeout, else an error that nothing is.
func errTimeout(err error) error {
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return err
	}
	return errors.New("no timeout")
}

func prefixes() cmp.Option { return cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }) }

// TestDrainedConnectionsByThousands: many connections are counted and reset in one
// call each.
func TestDrainedConnectionsByThousands(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		const n = 1000
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4)
		converge(t, m, d)
		at := echo(t, ns, vip4.Addr().String()+":0")
		clients := make([]net.Conn, n)
		l.client.Do(func() error {
			for i := range clients {
				c, err := clientDialer(vip4.Addr()).Dial("tcp", at)
				if err != nil {
					return fmt.Errorf("connection %d: %w", i, err)
				}
				clients[i] = c
			}
			return nil
		})
		// A client is connected before the server is, which counts then only. What has come
		// back was taken by it.
		for i, c := range clients {
			_ = c.SetDeadline(time.Now().Add(soon))
			if _, err := c.Write([]byte{'x'}); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		d.Drained = []Drained{{Prefix: vip4, Close: true}}
		began := time.Now()
		a, err := m.Steer(t.Context(), d)
		counted := time.Since(began)
		if err != nil || a.Connections[vip4] != n {
			t.Fatalf("%d connections, %v", a.Connections[vip4], err)
		}
		began = time.Now()
		a, err = m.Unbind(t.Context(), d)
		t.Logf("counted with a Steer in %s, reset with an Unbind in %s", counted, time.Since(began))
		if err != nil || a.Connections[vip4] != 0 {
			t.Fatalf("%d connections left, %v", a.Connections[vip4], err)
		}
		for i, c := range clients {
			_ = c.SetReadDeadline(time.Now().Add(soon))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("connection %d: %v", i, err)
			}
			_ = c.Close()
		}
	})
}
