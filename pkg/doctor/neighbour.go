package doctor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// answerWait is how long a neighbour has to answer.
const answerWait = 500 * time.Millisecond

const (
	etherHeader = 14
	arpLength   = 28
)

// lookDuplicate asks on each interface whether a neighbour has a VIP, as a host
// does that is about to take an address (RFC 5227 section 2.1.1, RFC 4862
// section 5.4): nobody learns anything from the question.
func lookDuplicate(e *exam) {
	h, ok := e.network()
	if !ok {
		return
	}
	var vips []netip.Addr
	for _, v := range e.in.VIPs {
		if v.Prefix.IsSingleIP() {
			vips = append(vips, v.Prefix.Addr())
		}
	}
	own := map[string]bool{}
	for _, l := range h.links {
		own[l.Attrs().HardwareAddr.String()] = true
	}
	type result struct {
		found []answer
		err   error
	}
	results := make([]result, len(e.in.Interfaces))
	var all sync.WaitGroup
	for i := range e.in.Interfaces {
		l := h.link(e.in.Interfaces[i].Name)
		if l == nil || len(l.Attrs().HardwareAddr) != 6 || l.Attrs().Flags&net.FlagUp == 0 || l.Attrs().RawFlags&unix.IFF_NOARP != 0 {
			continue
		}
		all.Go(func() { results[i].found, results[i].err = ask(l.Attrs().Index, l.Attrs().HardwareAddr, vips) })
	}
	all.Wait()
	for i, r := range results {
		name := e.in.Interfaces[i].Name
		switch {
		case errors.Is(r.err, unix.EPERM) || errors.Is(r.err, unix.EACCES):
			e.cannot("asking neighbours needs CAP_NET_RAW: run it as root")
		case r.err != nil && !errors.Is(r.err, unix.ENETDOWN):
			e.cannot("ask neighbours on %s: %v", name, r.err)
		}
		for _, a := range r.found {
			if own[a.mac.String()] {
				continue // by another interface on the same network
			}
			e.find(&Finding{
				Subject: a.address.String(),
				Found:   fmt.Sprintf("a host with the link-layer address %s on %s has %s too", a.mac, name, a.address),
				Command: fmt.Sprintf("# find the port of %s in the switch; if that host is not meant to have the address, on it: ip addr del %s/%d dev INTERFACE", a.mac, a.address, a.address.BitLen()),
			})
		}
	}
}

// answer is a neighbour that has an address.
type answer struct {
	address netip.Addr
	mac     net.HardwareAddr
}

// ask sends a question for each address and collects answers for a while.
func ask(index int, mac net.HardwareAddr, list []netip.Addr) ([]answer, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swapped(unix.ETH_P_ALL)))
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is lost
	wait := unix.NsecToTimeval(int64(50 * time.Millisecond))
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swapped(unix.ETH_P_ALL), Ifindex: index}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
	)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		question := neighbourProbe
		if a.Is4() {
			question = arpProbe
		}
		if err := unix.Sendto(fd, question(mac, a), 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6}); err != nil {
			return nil, err
		}
	}
	var found []answer
	b := make([]byte, 2048)
	for deadline := time.Now().Add(answerWait); time.Now().Before(deadline); {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			continue // nothing came
		}
		a, ok := answerOf(b[:n])
		if ok && slices.Contains(list, a.address) && !slices.ContainsFunc(found, func(o answer) bool { return o.address == a.address && bytes.Equal(o.mac, a.mac) }) {
			found = append(found, a)
		}
	}
	return found, nil
}

func swapped(v uint16) uint16 { return v<<8 | v>>8 }

// arpProbe asks for an IPv4 address from the address 0.0.0.0.
func arpProbe(mac net.HardwareAddr, a netip.Addr) []byte {
	b := bytes.Repeat([]byte{0xff}, 6)
	b = append(append(b, mac...), 0x08, 0x06)
	b = append(b, 0, 1, 0x08, 0, 6, 4, 0, 1)
	b = append(append(b, mac...), 0, 0, 0, 0)
	b = append(b, 0, 0, 0, 0, 0, 0)
	target := a.As4()
	return append(b, target[:]...)
}

// neighbourProbe asks for an IPv6 address from the unspecified address.
func neighbourProbe(mac net.HardwareAddr, a netip.Addr) []byte {
	target := a.As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], target[13:])
	m := make([]byte, 8, 24)
	m[0] = 135
	m = append(m, target[:]...)
	pseudo := make([]byte, 16, 40)
	pseudo = append(pseudo, group[:]...)
	pseudo = append(pseudo, 0, 0, 0, 24, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(m[2:], checksum(slices.Concat(pseudo, m), 0))

	b := append([]byte{0x33, 0x33}, group[12:]...)
	b = append(append(b, mac...), 0x86, 0xdd)
	b = append(b, 0x60, 0, 0, 0, 0, 24, unix.IPPROTO_ICMPV6, 255)
	b = append(b, make([]byte, 16)...)
	b = append(b, group[:]...)
	return append(b, m...)
}

// answerOf reads an ARP reply or a neighbour advertisement.
func answerOf(b []byte) (answer, bool) {
	if len(b) < etherHeader+arpLength {
		return answer{}, false
	}
	from, m := slices.Clone(b[6:12]), b[etherHeader:]
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_ARP:
		if binary.BigEndian.Uint16(m[6:]) != 2 {
			return answer{}, false
		}
		return answer{netip.AddrFrom4([4]byte(m[14:18])), slices.Clone(m[8:14])}, true
	case unix.ETH_P_IPV6:
		if len(m) < 40+24 || m[6] != unix.IPPROTO_ICMPV6 || m[40] != 136 {
			return answer{}, false
		}
		return answer{netip.AddrFrom16([16]byte(m[48:64])), from}, true
	}
	return answer{}, false
}
