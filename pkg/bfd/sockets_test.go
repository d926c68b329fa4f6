package bfd

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// What was forwarded takes no room in the queue of a socket for one hop: a flood
// of it, more than any queue holds, loses not one packet of a neighbour. The
// socket of multihop sessions takes it.
func TestForwardedPacketsAreNotQueued(t *testing.T) {
	const flood, real = 30_000, 10
	for family, addr := range map[string]string{"ipv4": "127.0.0.1", "ipv6": "::1"} {
		for hops, multihop := range map[string]bool{"one hop": false, "multihop": true} {
			t.Run(family+" "+hops, func(t *testing.T) {
				netnstest.Run(t, func(t *testing.T, _ netnstest.NS) {
					to := netip.MustParseAddr(addr)
					net := openSockets(t, to.Is6(), multihop)
					port := singleHopPort
					if multihop {
						port = multihopPort
					}
					strangers, neighbours := 254, 255
					send := dialTTL(t, netip.AddrPortFrom(to, uint16(port)), strangers)
					for range flood {
						send()
					}
					send = dialTTL(t, netip.AddrPortFrom(to, uint16(port)), neighbours)
					for range real {
						send()
					}
					got := map[int]int{}
					netnstest.Until(t, patience, func() error {
						net.receive(func(d *datagram) { got[d.ttl]++ })
						if !net.flooded && (got[neighbours] == real || multihop) {
							return nil
						}
						return fmt.Errorf("received by TTL: %v", got)
					})
					if (got[strangers] > 0) != multihop {
						t.Errorf("received by TTL: %v", got)
					}
				})
			})
		}
	}
}

func openSockets(t *testing.T, v6, multihop bool) *sockets {
	t.Helper()
	n, err := newSockets()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	if err := n.listen(v6, multihop); err != nil {
		t.Fatal(err)
	}
	return n
}

// dialTTL returns a function that sends a packet.
func dialTTL(t *testing.T, to netip.AddrPort, ttl int) (send func()) {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	o := option{unix.IPPROTO_IP, unix.IP_TTL, ttl}
	if to.Addr().Is6() {
		o = option{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl}
	}
	if failed := raw.Control(func(fd uintptr) { err = setOptions(int(fd), []option{o}) }); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	return func() {
		if _, err := c.Write(make([]byte, headerLen)); err != nil {
			t.Fatal(err)
		}
	}
}
