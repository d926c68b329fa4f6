package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is one IP packet seen at an interface of a node.
type Packet struct {
	Time time.Time // by the kernel
	Dev  string
	// Out tells that the node sent it.
	Out      bool
	Src, Dst netip.Addr
	Proto    uint8 // IP protocol number
	TTL      uint8
	// SrcPort and DstPort are those of TCP and UDP.
	SrcPort, DstPort uint16
	// Flags are those of TCP; ICMP is the type of an ICMP or ICMPv6 message.
	Flags, ICMP uint8
	Len         int // of the whole packet
}

// TCP flags of Packet.Flags (RFC 9293 section 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// String tells the packet on one line.
func (p Packet) String() string {
	arrow := "<"
	if p.Out {
		arrow = ">"
	}
	return fmt.Sprintf("%s %s%s %v:%d > %v:%d proto %d ttl %d flags %#x icmp %d len %d",
		p.Time.Format("05.000000"), p.Dev, arrow, p.Src, p.SrcPort, p.Dst, p.DstPort, p.Proto, p.TTL, p.Flags, p.ICMP, p.Len)
}

// maxPackets bounds what a capture remembers.
const maxPackets = 1_000_000

// Capture records all IP packets at all interfaces of a node, and the BGP
// messages in them.
type Capture struct {
	node *Node
	fd   int
	quit atomic.Bool
	done chan struct{}

	mu       sync.Mutex
	packets  []Packet
	messages []Message
	streams  map[streamKey]*stream
	lost     uint32
	err      error
}

// Capture starts to record. It ends with the test or with Stop.
func (n *Node) Capture() *Capture {
	n.lab.t.Helper()
	c := &Capture{node: n, done: make(chan struct{}), streams: map[streamKey]*stream{}}
	if err := n.Do(c.open); err != nil {
		n.lab.t.Fatalf("node %s: capture: %v", n.Name, err)
	}
	n.lab.t.Cleanup(c.Stop)
	go c.run()
	return c
}

// open makes a packet(7) socket for all protocols and interfaces, which gives
// packets without their link-layer header.
func (c *Capture) open() (err error) {
	all := uint16(unix.ETH_P_ALL)
	all = all<<8 | all>>8
	if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all)); err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		// So that run looks at quit.
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
	)
}

func (c *Capture) run() {
	defer close(c.done)
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	for !c.quit.Load() {
		n, on, _, from, err := unix.Recvmsg(c.fd, buf, oob, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			continue
		case err != nil && !errors.Is(err, unix.ENETDOWN):
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok {
			c.record(buf[:n], link, timestamp(oob[:on]))
		}
	}
}

func (c *Capture) record(data []byte, link *unix.SockaddrLinklayer, at time.Time) {
	p, payload, seq, ok := decodeIP(data)
	if !ok {
		return
	}
	p.Time, p.Dev, p.Out = at, c.node.linkName(link.Ifindex), link.Pkttype == unix.PACKET_OUTGOING
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.packets) < maxPackets {
		c.packets = append(c.packets, p)
	} else {
		c.lost++
	}
	if p.Proto == unix.IPPROTO_TCP && (p.SrcPort == 179 || p.DstPort == 179) {
		key := streamKey{netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort)}
		if p.Flags&SYN != 0 || c.streams[key] == nil {
			c.streams[key] = &stream{}
		}
		for _, raw := range c.streams[key].add(p.Flags, seq, payload) {
			m := decodeMessage(raw)
			m.Time, m.Dev, m.Out, m.Src, m.Dst = at, p.Dev, p.Out, key.src, key.dst
			c.messages = append(c.messages, m)
		}
	}
}

// timestamp reads the kernel's time of arrival (socket(7), SO_TIMESTAMPNS).
func timestamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))) //nolint:gosec // the kernel's own numbers
		}
	}
	return time.Now()
}

// Stop ends the recording. The test fails when packets were lost.
func (c *Capture) Stop() {
	if c.quit.Swap(true) {
		<-c.done
		return
	}
	<-c.done
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	_ = unix.Close(c.fd)
	if err = errors.Join(err, c.err); err != nil {
		c.node.lab.t.Errorf("node %s: capture: %v", c.node.Name, err)
	} else if stats.Drops > 0 || c.lost > 0 {
		c.node.lab.t.Errorf("node %s: capture has lost %d packets", c.node.Name, stats.Drops+c.lost)
	}
}

// Packets returns the packets so far that ok accepts.
func (c *Capture) Packets(ok func(Packet) bool) []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Packet
	for _, p := range c.packets {
		if ok(p) {
			list = append(list, p)
		}
	}
	return list
}

// Messages returns the BGP messages so far.
func (c *Capture) Messages() []Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.messages)
}

// WaitMessage returns the first BGP message that ok accepts. The test fails
// when there is none within d.
func (c *Capture) WaitMessage(d time.Duration, what string, ok func(Message) bool) Message {
	c.node.lab.t.Helper()
	var found Message
	Eventually(c.node.lab.t, d, fmt.Sprintf("node %s: on the wire: %s", c.node.Name, what), func() error {
		messages := c.Messages()
		if i := slices.IndexFunc(messages, ok); i >= 0 {
			found = messages[i]
			return nil
		}
		return fmt.Errorf("not among %d messages", len(messages))
	})
	return found
}

// decodeIP reads the headers of an IPv4 or IPv6 packet. payload and seq are
// those of TCP.
func decodeIP(b []byte) (p Packet, payload []byte, seq uint32, ok bool) {
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		size, header := int(binary.BigEndian.Uint16(b[2:])), int(b[0]&15)*4
		if size > len(b) || header < 20 || header > size {
			return p, nil, 0, false
		}
		p.Proto, p.TTL, p.Len = b[9], b[8], size
		p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		rest = b[header:size]
	case len(b) >= 40 && b[0]>>4 == 6:
		size := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if size > len(b) {
			return p, nil, 0, false
		}
		p.Proto, p.TTL, p.Len = b[6], b[7], size
		p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		rest = b[40:size]
	default:
		return p, nil, 0, false
	}
	switch p.Proto {
	case unix.IPPROTO_TCP:
		if len(rest) < 20 || int(rest[12]>>4)*4 > len(rest) {
			return p, nil, 0, true
		}
		p.SrcPort, p.DstPort, p.Flags = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:]), rest[13]
		return p, rest[int(rest[12]>>4)*4:], binary.BigEndian.Uint32(rest[4:]), true
	case unix.IPPROTO_UDP:
		if len(rest) >= 8 {
			p.SrcPort, p.DstPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if len(rest) > 0 {
			p.ICMP = rest[0]
		}
	}
	return p, nil, 0, true
}
