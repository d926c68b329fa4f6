package vip

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

// lastWordsCases are the sessions of these tests.
func lastWordsCases() map[string][2]netip.Addr {
	return map[string][2]netip.Addr{
		"ipv4": {netip.MustParseAddr("10.68.1.1"), netip.MustParseAddr("10.68.1.2")},
		"ipv6": {netip.MustParseAddr("fd68:1::1"), netip.MustParseAddr("fd68:1::2")},
	}
}

// silentDesired is the sample with gateways, one session on en1, and en1 usable
// or not.
func silentDesired(local, peer netip.Addr, usable, first bool) Desired {
	d := desired(vip4, vip6).usable(usable, true)
	d.Interfaces[0].Gateways = []netip.Addr{netip.MustParseAddr("10.68.1.2"), netip.MustParseAddr("fd68:1::2")}
	d.Interfaces[1].Gateways = []netip.Addr{netip.MustParseAddr("10.68.5.2"), netip.MustParseAddr("fd68:5::2")}
	d.Fallbacks = []Fallback{{Local: local, Peer: peer, First: first}}
	d.Exclude = []netip.Prefix{host(peer)}
	return d
}

// With the link and main's route as they were, only a Fallback with First leads
// the session's segments elsewhere, and nothing but those.
func TestFirstComesBeforeMain(t *testing.T) {
	for family, c := range lastWordsCases() {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				t.Helper()
				local, peer := c[0], c[1]
				l := newSwitchedLab(t, ns)
				before := l.dump()
				m := l.manager(t)
				by := func(dev, what string) {
					t.Helper()
					if got := l.IP("route get %s", what); !strings.Contains(got, "dev "+dev+" ") {
						t.Errorf("%s goes by %s, want %s", what, strings.TrimSpace(got), dev)
					}
				}
				session := peer.String() + " from " + local.String() + " ipproto tcp dport 179"
				converge(t, m, silentDesired(local, peer, false, false))
				by("en1", session)
				without := l.ours()

				d := silentDesired(local, peer, false, true)
				converge(t, m, d)
				by("en5", session)
				by("en5", peer.String()+" from "+local.String()+" ipproto tcp sport 179")
				by("en1", peer.String()+" from "+local.String()+" ipproto udp dport 3784") // BFD
				by("en1", peer.String())
				by("en1", peer.Next().String()+" from "+local.String()+" ipproto tcp")
				if a := converge(t, m, d); a.Writes != 0 || len(a.Repaired) != 0 {
					t.Errorf("a second pass wrote %d, repaired %v", a.Writes, a.Repaired)
				}
				next := l.manager(t)
				if a := converge(t, next, d); a.Writes != 0 {
					t.Errorf("the next process wrote %d", a.Writes)
				}
				converge(t, next, silentDesired(local, peer, false, false))
				by("en1", session)
				if got := l.ours(); got != without {
					t.Errorf("what First added is still there:\n%s\nwant\n%s", got, without)
				}
				converge(t, next, d)
				if err := next.Restore(t.Context()); err != nil {
					t.Error(err)
				}
				l.same(t, before)
			})
		})
	}
}

// The path of a session dies silently: its last words reach the router by the
// other interface, BFD's packets still try en1, and come in even where strict
// reverse path filtering asks for the way back.
func TestFirstCarriesLastWords(t *testing.T) {
	for family, c := range lastWordsCases() {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				t.Helper()
				local, peer := c[0], c[1]
				l := newSwitchedLab(t, ns)
				m := l.manager(t)
				l.Sysctl("net/ipv4/conf/en1/rp_filter", "1")
				steer := func(usable, first bool) {
					t.Helper()
					d := silentDesired(local, peer, usable, first)
					d.Sysctls = SysctlOff
					converge(t, m, d)
				}
				steer(true, false)
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
				steer(false, false)
				send("still by en1")
				expect(t, heard, "still by en1")

				l.sw().Exec("nft", "add table bridge cut; add chain bridge cut c { type filter hook forward priority 0; policy drop; }")
				steer(false, true)
				send("cease")
				expect(t, heard, "cease")

				l.sw().Exec("nft", "delete table bridge cut") // the path is back, and BFD must be able to see that
				here, there := packets(t, l.NS, local, "en1"), packets(t, l.r1, peer, "wan")
				exchange(t, here, there, netip.AddrPortFrom(peer, 3784))
				exchange(t, there, here, netip.AddrPortFrom(local, 3784))
			})
		})
	}
}

// packets is a UDP socket as BFD uses it: own address, own device.
func packets(t *testing.T, ns netnstest.NS, at netip.Addr, device string) *net.UDPConn {
	t.Helper()
	var out *net.UDPConn
	ns.Do(func() error {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			if failed := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }); failed != nil {
				return failed
			}
			return err
		}}
		c, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(at, 3784).String())
		if err == nil {
			out = c.(*net.UDPConn)
		}
		return err
	})
	t.Cleanup(func() { _ = out.Close() })
	return out
}

// exchange sends until it is received.
func exchange(t *testing.T, from, to *net.UDPConn, at netip.AddrPort) {
	t.Helper()
	buffer := make([]byte, 16)
	netnstest.Until(t, soon, func() error {
		if _, err := from.WriteToUDPAddrPort([]byte("bfd"), at); err != nil {
			return err
		}
		if err := to.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			return err
		}
		_, _, err := to.ReadFromUDPAddrPort(buffer)
		return err
	})
}
