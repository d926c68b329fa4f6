package vip

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
	"vipspeaker/test/stopwatch"
)

// twins are the two address families of one test.
func twins() map[string]struct {
	vip    netip.Prefix
	client string
} {
	return map[string]struct {
		vip    netip.Prefix
		client string
	}{
		"ipv4": {vip4, "10.68.9.9"},
		"ipv6": {vip6, "fd68:9::9"},
	}
}

// Established connections to and from the VIP move from en1 to en5 and back.
func TestFailover(t *testing.T) {
	for family, c := range twins() {
		for name, cut := range map[string]struct{ down, up func(*lab) }{
			"admin down": {
				func(l *lab) { l.IP("link set en1 down") },
				func(l *lab) {
					l.IP("link set en1 up")
					l.IP("-6 addr replace fd68:1::1/64 dev en1 nodad")
					l.IP("route replace default via 10.68.1.2 metric 100")
					l.IP("-6 route replace default via fd68:1::2 metric 100")
				},
			},
			"carrier": {
				func(l *lab) { l.r1.IP("link set wan down") },
				func(l *lab) {
					l.r1.IP("link set wan up")
					l.r1.IP("-6 addr replace fd68:1::2/64 dev wan nodad")
					l.r1.IP("route replace 10.68.6.0/24 via 10.68.1.1")
					l.r1.IP("-6 route replace fd68:6::/64 via fd68:1::1")
				},
			},
		} {
			t.Run(family+" "+name, func(t *testing.T) {
				t.Parallel()
				netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
					t.Helper()
					l := newLab(t, ns)
					m := l.manager(t)
					d := desired(vip4, vip6)
					converge(t, m, d)
					out, in := l.streams(t, c.vip, c.client)
					out.flowing(t, soon)
					in.flowing(t, soon)
					cut.down(l)
					l.clientVia("5")
					converge(t, m, d.usable(false, true))
					t.Logf("en1 lost: longest gap out %s, in %s", out.flowing(t, soon), in.flowing(t, soon))
					cut.up(l)
					converge(t, m, d)
					l.clientVia("1")
					out.flowing(t, soon)
					in.flowing(t, soon)
					l.IP("link set en5 down")
					converge(t, m, d.usable(true, false))
					t.Logf("en5 lost: longest gap out %s, in %s", out.flowing(t, soon), in.flowing(t, soon))
				})
			})
		}
	}
}

// A segment that waits for a neighbour of the dead interface would hold up its
// own retransmission for three seconds.
func TestUnresolvedNeighboursAreDeleted(t *testing.T) {
	for family, c := range twins() {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				t.Helper()
				l := newLab(t, ns)
				m := l.manager(t)
				d := desired(vip4, vip6)
				d.Sysctls = SysctlOff // so that the kernel goes on using the dead leg
				// One leg only, so that the connection surely uses en1.
				converge(t, m, d.usable(true, false))
				out, _ := l.streams(t, c.vip, c.client)
				out.flowing(t, soon)
				l.r1.IP("link set wan down")
				l.clientVia("5")
				netnstest.Until(t, soon, func() error {
					if s := l.IP("neigh show dev en1"); !strings.Contains(s, "INCOMPLETE") {
						return errors.New("nothing waits on en1: " + s)
					}
					return nil
				})
				watch := stopwatch.Start(t)
				converge(t, m, d.usable(false, true))
				out.flowing(t, soon)
				if took := watch.Elapsed(); took > 2*time.Second {
					t.Errorf("traffic moved after %s", took)
				}
			})
		})
	}
}

// The segments of a session whose interface failed leave by another one, though
// main has no route; and never while it has one.
func TestFallbackCarriesLastWords(t *testing.T) {
	pulled := func(l *switchedLab) { l.sw().IP("link set port1 down") } // the router keeps its carrier
	for name, c := range map[string]struct {
		local, peer string
		cut         func(*switchedLab)
	}{
		"ipv4 carrier":    {"10.68.1.1", "10.68.1.2", pulled},
		"ipv6 carrier":    {"fd68:1::1", "fd68:1::2", pulled},
		"ipv4 admin down": {"10.68.1.1", "10.68.1.2", func(l *switchedLab) { l.IP("link set en1 down") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				t.Helper()
				l := newSwitchedLab(t, ns)
				m := l.manager(t)
				d := desired(vip4, vip6)
				d.Interfaces[0].Gateways = []netip.Addr{netip.MustParseAddr("10.68.1.2"), netip.MustParseAddr("fd68:1::2")}
				d.Interfaces[1].Gateways = []netip.Addr{netip.MustParseAddr("10.68.5.2"), netip.MustParseAddr("fd68:5::2")}
				local, peer := netip.MustParseAddr(c.local), netip.MustParseAddr(c.peer)
				d.Fallbacks = []Fallback{{Local: local, Peer: peer}}
				d.Exclude = []netip.Prefix{host(peer)}
				converge(t, m, d)

				heard := make(chan string, 8)
				session := l.session(t, local, peer, heard)
				send := func(text string) {
					t.Helper()
					if _, err := session.Write([]byte(text)); err != nil {
						t.Fatal(err)
					}
				}
				send("open")
				expect(t, heard, "open")
				if got := l.IP("route get %s from %s", peer, local); !strings.Contains(got, "dev en1") {
					t.Fatalf("with a route in main the session goes by %s", got)
				}
				c.cut(l)
				netnstest.Until(t, soon, func() error {
					if s := l.IP("link show en1"); !strings.Contains(s, "state DOWN") && !strings.Contains(s, "state LOWERLAYERDOWN") {
						return errors.New(s)
					}
					return nil
				})
				converge(t, m, d.usable(false, true))
				start := time.Now()
				send("cease")
				expect(t, heard, "cease")
				t.Logf("last words heard after %s", time.Since(start))
			})
		})
	}
}

func expect(t *testing.T, heard <-chan string, want string) {
	t.Helper()
	select {
	case got := <-heard:
		if got != want {
			t.Fatalf("the router heard %q, want %q", got, want)
		}
	case <-time.After(soon):
		t.Fatalf("the router did not hear %q", want)
	}
}

// switchedLab is the lab with a switch between en1 and its router, the routers
// connected behind, and no default route in the host's main table.
type switchedLab struct {
	*lab
	switchNS netnstest.NS
}

func (l *switchedLab) sw() netnstest.NS { return l.switchNS }

func newSwitchedLab(t *testing.T, ns netnstest.NS) *switchedLab {
	t.Helper()
	l := &switchedLab{lab: newLab(t, ns), switchNS: ns.New("sw")}
	l.IP("link del en1")
	l.switchNS.IP("link add br0 type bridge")
	l.switchNS.IP("link set br0 up")
	ns.VethTo("en1", l.switchNS, "port1")
	l.switchNS.VethTo("port2", l.r1, "wan")
	l.switchNS.IP("link set port1 master br0")
	l.switchNS.IP("link set port2 master br0")
	l.IP("addr add 10.68.1.1/24 dev en1")
	l.IP("addr add fd68:1::1/64 dev en1 nodad")
	l.r1.IP("addr add 10.68.1.2/24 dev wan")
	l.r1.IP("addr add fd68:1::2/64 dev wan nodad")
	for _, family := range []string{"-4", "-6"} {
		l.IP("%s route flush default", family)
	}
	for _, n := range []netnstest.NS{l.client, l.r1, l.r5} {
		n.Sysctl("net/ipv4/conf/all/forwarding", "1")
		n.Sysctl("net/ipv6/conf/all/forwarding", "1")
	}
	// en1's network from r5, the way round.
	l.r5.IP("route add 10.68.1.0/24 via 10.69.5.2")
	l.r5.IP("-6 route add fd68:1::/64 via fd69:5::2")
	l.settle(t)
	return l
}

// session is a TCP connection from the interface's address to the router, as a
// BGP session is; what the router reads goes to heard.
func (l *lab) session(t *testing.T, local, peer netip.Addr, heard chan<- string) net.Conn {
	t.Helper()
	var listener net.Listener
	l.r1.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(peer, 179).String())
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		b := make([]byte, 64)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			heard <- string(b[:n])
		}
	}()
	d := net.Dialer{Timeout: soon, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))}
	c, err := d.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
