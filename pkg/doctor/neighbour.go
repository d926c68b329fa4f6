package doctor

import (
	"bytes"
	"context"
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

// Questions go to all hosts of a network, and there are switches that take a port
// from whoever asks more than 15 a second (inspection of ARP against spoofing). So
// askAtOnce go out together and the others one every askPause, for the first
// askMost VIPs.
const (
	askAtOnce = 5
	askPause  = 100 * time.Millisecond
	askMost   = 64
	// drainMost is how many packets are looked at when the time is over.
	drainMost = 1000
)

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
	if len(vips) > askMost {
		e.cannot("of %d VIPs neighbours are asked for the first %d only", len(vips), askMost)
		vips = vips[:askMost]
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
		all.Go(func() { results[i].found, results[i].err = ask(e.ctx, l.Attrs().Index, l.Attrs().HardwareAddr, vips) })
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

// ask sends a question for each address, not too fast, and collects answers for a
// while.
func ask(ctx context.Context, index int, mac net.HardwareAddr, list []netip.Addr) ([]answer, error) {
	fd, err := neighbourSocket(index)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is lost
	var found []answer
	b := make([]byte, 2048)
	for sent, last := 0, time.Now(); sent < len(list) || time.Since(last) < answerWait; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if sent < len(list) && (sent < askAtOnce || time.Since(last) >= askPause) {
			question := neighbourProbe
			if list[sent].Is4() {
				question = arpProbe
			}
			if err := unix.Sendto(fd, question(mac, list[sent]), 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6}); err != nil {
				return nil, err
			}
			sent, last = sent+1, time.Now()
			continue
		}
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			continue // nothing came
		}
		found = add(found, b[:n], list)
	}
	// What came in time is there, also if this process did not run meanwhile.
	for range drainMost {
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if err != nil {
			break
		}
		found = add(found, b[:n], list)
	}
	return found, nil
}

// add adds what a packet answers about one of the addresses, once.
func add(found []answer, packet []byte, list []netip.Addr) []answer {
	a, ok := answerOf(packet)
	if !ok || !slices.Contains(list, a.address) || slices.ContainsFunc(found, func(o answer) bool { return o.address == a.address && bytes.Equal(o.mac, a.mac) }) {
		return found
	}
	return append(found, a)
}

// answers lets ARP and neighbour advertisements in (bpf(4), offsets as in answerOf).
// With all else a busy link would cost a core for as long as there are questions, and
// fill the socket's buffer before an answer comes.
var answers = []unix.SockFilter{ //nolint:gochecknoglobals // a constant
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_ARP, Jt: 5},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IPV6, Jf: 5},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: etherHeader + 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMPV6, Jf: 3},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: etherHeader + 40},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 136, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	{Code: unix.BPF_RET | unix.BPF_K},
}

// neighbourSocket takes what neighbours on the interface answer, and sends.
func neighbourSocket(index int) (fd int, err error) {
	// Without a protocol nothing comes before there is a filter and an interface.
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	wait := unix.NsecToTimeval(int64(50 * time.Millisecond))
	filter := unix.SockFprog{Len: uint16(len(answers)), Filter: &answers[0]} //nolint:gosec // few
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &filter),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swapped(unix.ETH_P_ALL), Ifindex: index}),
	)
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
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
