package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A probe of a path is an echo request that may not be fragmented.
const (
	echoWait   = 250 * time.Millisecond
	echoTries  = 3
	echoSmall  = 100 // bytes of a packet that passes everywhere
	header4    = 20 + 8
	header6    = 40 + 8
	echoHeader = 8
)

// leastIPv6 is the least MTU of a link with IPv6 (RFC 8200 section 5). With less the
// kernel takes IPv6 off the interface, with its addresses and routes.
const leastIPv6 = 1280

// lookMTU looks whether packets as large as the interface lets them be get to the
// routers on it.
func lookMTU(e *exam) {
	h, ok := e.network()
	if !ok {
		return
	}
	type probe struct {
		peer *Peer
		name string
		own  netip.Addr
		link netlink.Link
		mtu  int
		best int
		err  error
	}
	var probes []*probe
	e.eachPeer(func(peer *Peer, name string, own netip.Addr) {
		if l := h.link(name); l != nil && e.listed(name, peer) && !peer.Address.IsLinkLocalUnicast() {
			probes = append(probes, &probe{peer: peer, name: name, own: own, link: l, mtu: l.Attrs().MTU})
		}
	})
	var all sync.WaitGroup
	for i, p := range probes {
		all.Go(func() { p.best, p.err = pathMTU(e.ctx, p.own, p.peer.Address, p.name, p.mtu, uint16(i)) }) //nolint:gosec // few
	}
	all.Wait()
	done := map[string]bool{}
	for _, p := range probes {
		switch {
		case errors.Is(p.err, unix.EPERM) || errors.Is(p.err, unix.EACCES):
			e.cannot("echo requests need CAP_NET_RAW: run it as root")
		case p.err != nil:
			e.cannot("echo request to %s: %v", p.peer.Address, p.err)
		case p.best == 0:
			e.cannot("%s does not answer echo requests", p.peer.Address)
		case p.best < p.mtu && !done[p.name]:
			done[p.name] = true
			found := fmt.Sprintf("%s has an MTU of %d, but packets to %s and back get through whole up to %d bytes only", p.name, p.mtu, p.peer.Address, p.best)
			if p.best < leastIPv6 && h.own(p.link.Attrs().Index, false).IsValid() {
				e.find(&Finding{
					Subject: p.name, Found: found,
					Command: fmt.Sprintf("# IPv6, which %s has, needs %d bytes: find out what on the way to %s takes less", p.name, leastIPv6, p.peer.Address),
				})
				continue
			}
			set := func(mtu int) string { return fmt.Sprintf("ip link set dev %s mtu %d", p.name, mtu) }
			e.find(&Finding{
				Subject: p.name, Found: found,
				Command: set(p.best), Undo: set(p.mtu),
				fix: func(context.Context) ([]string, error) {
					return []string{fmt.Sprintf("set the MTU of %s to %d", p.name, p.best)}, netlink.LinkSetMTU(p.link, p.best)
				},
			})
		}
	}
}

// listed tells whether the peer is one of the interface.
func (e *exam) listed(name string, peer *Peer) bool {
	for i := range e.in.Interfaces {
		for j := range e.in.Interfaces[i].Peers {
			if &e.in.Interfaces[i].Peers[j] == peer {
				return e.in.Interfaces[i].Name == name
			}
		}
	}
	return false
}

// pathMTU is mtu if a packet of that size is answered, else the size of the largest
// one whose answer comes back whole, 0 if none is.
//
// That an answer comes is too little for a size that is to be set: devices take
// somewhat larger packets than their MTU, to have room for a VLAN tag (veth 4 bytes),
// and who got such a packet answers in fragments.
func pathMTU(ctx context.Context, own, peer netip.Addr, device string, mtu int, id uint16) (int, error) {
	c, err := newEcho(own, peer, device, id)
	if err != nil {
		return 0, err
	}
	defer unix.Close(c.fd) //nolint:errcheck // nothing is lost
	if a, err := c.ask(ctx, echoSmall); err != nil || a == unanswered {
		return 0, err
	}
	if a, err := c.ask(ctx, mtu); err != nil || a != unanswered {
		return mtu, err
	}
	low, high := echoSmall, mtu // low is answered, high is not
	for high-low > 1 {
		size := (low + high) / 2
		a, err := c.ask(ctx, size)
		switch {
		case err != nil:
			return 0, err
		case a == whole:
			low = size
		default:
			high = size
		}
	}
	return low, nil
}

// echo sends echo requests to one router.
type echo struct {
	fd      int
	raw     bool
	peer    netip.Addr
	id, seq uint16
}

// newEcho opens a raw socket, or where that is not allowed one for echo requests
// only (icmp(7), ping_group_range).
func newEcho(own, peer netip.Addr, device string, id uint16) (*echo, error) {
	c := &echo{peer: peer, id: id + 0x5650, raw: true}
	family, proto, level, option, probe, fragments := unix.AF_INET, unix.IPPROTO_ICMP, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, unix.IP_RECVFRAGSIZE
	if peer.Is6() {
		family, proto, level, option, probe, fragments = unix.AF_INET6, unix.IPPROTO_ICMPV6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, unix.IPV6_RECVFRAGSIZE
	}
	var err error
	if c.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto); err != nil {
		c.raw = false
		if c.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto); err != nil {
			return nil, err
		}
	}
	wait := unix.NsecToTimeval(int64(echoWait))
	err = errors.Join(
		unix.SetsockoptInt(c.fd, level, option, probe),
		unix.SetsockoptInt(c.fd, level, fragments, 1),
		unix.BindToDevice(c.fd, device),
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(c.fd, sockaddr(own)),
	)
	if err != nil {
		return nil, errors.Join(err, unix.Close(c.fd))
	}
	return c, nil
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

// echoed is how an echo request was answered.
type echoed int

const (
	unanswered echoed = iota
	whole
	inFragments
)

// ask sends a packet of so many bytes until it is answered.
func (c *echo) ask(ctx context.Context, size int) (echoed, error) {
	for range echoTries {
		if err := ctx.Err(); err != nil {
			return unanswered, err
		}
		c.seq++
		err := unix.Sendto(c.fd, c.request(size), 0, sockaddr(c.peer))
		switch {
		case errors.Is(err, unix.EMSGSIZE):
			return unanswered, nil
		// Raw IPv6 sockets tell so that a device has dropped the packet; it is lost
		// as one that the network drops.
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return unanswered, err
		}
		if a := c.reply(); a != unanswered {
			return a, nil
		}
	}
	return unanswered, nil
}

// request is an echo request (RFC 792, RFC 4443 section 4.1) that makes a packet
// of the size.
func (c *echo) request(size int) []byte {
	b := make([]byte, size-header4+echoHeader)
	b[0] = 8
	if c.peer.Is6() {
		b = make([]byte, size-header6+echoHeader)
		b[0] = 128
	}
	binary.BigEndian.PutUint16(b[4:], c.id)
	binary.BigEndian.PutUint16(b[6:], c.seq)
	if c.peer.Is4() { // the kernel makes that of ICMPv6
		binary.BigEndian.PutUint16(b[2:], checksum(b, 0))
	}
	return b
}

// reply waits for the answer to the last request.
func (c *echo) reply() echoed {
	b, control := make([]byte, 1<<16), make([]byte, unix.CmsgSpace(4))
	for deadline := time.Now().Add(echoWait); time.Now().Before(deadline); {
		// The only control message is the size of fragments, if there were any.
		n, controls, _, from, err := unix.Recvmsg(c.fd, b, control, 0)
		if err != nil {
			return unanswered
		}
		m, kind := b[:n], byte(0)
		if c.peer.Is6() {
			kind = 129
		} else if c.raw && n > 20 {
			m = m[int(m[0]&15)*4:]
		}
		if len(m) >= echoHeader && m[0] == kind && binary.BigEndian.Uint16(m[6:]) == c.seq && senderOf(from) == c.peer &&
			(!c.raw || binary.BigEndian.Uint16(m[4:]) == c.id) {
			if controls > 0 {
				return inFragments
			}
			return whole
		}
	}
	return unanswered
}

func senderOf(s unix.Sockaddr) netip.Addr {
	switch a := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

// checksum is that of the Internet (RFC 1071), over a sum that was begun.
func checksum(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
