package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// MessageType is the type of a BGP message (RFC 4271 section 4.1).
type MessageType uint8

// The types of BGP messages.
const (
	Open         MessageType = 1
	Update       MessageType = 2
	Notification MessageType = 3
	Keepalive    MessageType = 4
	RouteRefresh MessageType = 5 // RFC 2918
)

// String returns the name in RFC 4271's spelling.
func (m MessageType) String() string {
	names := map[MessageType]string{Open: "OPEN", Update: "UPDATE", Notification: "NOTIFICATION", Keepalive: "KEEPALIVE", RouteRefresh: "ROUTE-REFRESH"}
	if s := names[m]; s != "" {
		return s
	}
	return fmt.Sprintf("type %d", uint8(m))
}

// Message is a BGP message seen on the wire. It is decoded here and not by the
// library that made it, so that both cannot be wrong in the same way.
type Message struct {
	Time     time.Time // when its last byte was seen
	Dev      string
	Out      bool // sent by the node of the capture
	Src, Dst netip.AddrPort
	Type     MessageType

	// Of an UPDATE, both families in the same fields.
	Withdrawn, Announced []netip.Prefix
	NextHop              netip.Addr
	Origin               uint8
	ASPath               []uint32
	MED, LocalPref       *uint32
	Communities          []uint32
	LargeCommunities     [][3]uint32
	// EndOfRIB marks the end of the initial announcements (RFC 4724 section 2).
	EndOfRIB bool

	// Of a NOTIFICATION; Text is the shutdown communication (RFC 9003).
	Code, Subcode uint8
	Text          string

	// Of an OPEN: the hold time in seconds and the capability codes.
	HoldTime     uint16
	Capabilities []uint8

	// Raw is the whole message.
	Raw []byte
}

// Announces tells whether the message is an UPDATE that announces p.
func (m Message) Announces(p netip.Prefix) bool { return slices.Contains(m.Announced, p) }

// Withdraws tells whether the message is an UPDATE that withdraws p.
func (m Message) Withdraws(p netip.Prefix) bool { return slices.Contains(m.Withdrawn, p) }

// String tells the message on one line, without its time.
func (m Message) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v>%v %v", m.Dev, m.Src.Addr(), m.Dst.Addr(), m.Type)
	for _, p := range m.Withdrawn {
		fmt.Fprintf(&b, " -%v", p)
	}
	for _, p := range m.Announced {
		fmt.Fprintf(&b, " +%v", p)
	}
	if m.NextHop.IsValid() {
		fmt.Fprintf(&b, " via %v path %v", m.NextHop, m.ASPath)
	}
	if m.EndOfRIB {
		b.WriteString(" End-of-RIB")
	}
	if m.Type == Notification {
		fmt.Fprintf(&b, " %d/%d %q", m.Code, m.Subcode, m.Text)
	}
	return b.String()
}

type streamKey struct{ src, dst netip.AddrPort }

// stream puts the segments of one direction of a connection in order.
type stream struct {
	synced  bool
	next    uint32
	pending map[uint32][]byte
	buf     []byte
}

const headerLen = 19

// add takes a segment and returns the messages that are complete now.
func (s *stream) add(flags uint8, seq uint32, payload []byte) [][]byte {
	if flags&SYN != 0 {
		s.synced, s.next = true, seq+1
		return nil
	}
	if len(payload) == 0 {
		return nil
	}
	if !s.synced {
		// The capture began later than the connection: start at a message.
		if !bytes.HasPrefix(payload, bytes.Repeat([]byte{0xff}, 16)) {
			return nil
		}
		s.synced, s.next = true, seq
	}
	if s.pending == nil {
		s.pending = map[uint32][]byte{}
	}
	if len(s.pending) < 1000 {
		s.pending[seq] = bytes.Clone(payload)
	}
	for again := true; again; {
		again = false
		for at, data := range s.pending {
			behind := int32(s.next - at) //nolint:gosec // sequence numbers wrap (RFC 9293 section 3.4)
			if behind < 0 {
				continue
			}
			delete(s.pending, at)
			if int(behind) < len(data) {
				s.buf = append(s.buf, data[behind:]...)
				s.next += uint32(len(data)) - uint32(behind) //nolint:gosec // both are below 64 KiB
			}
			again = true
		}
	}
	return s.messages()
}

func (s *stream) messages() [][]byte {
	var list [][]byte
	for len(s.buf) >= headerLen {
		n := int(binary.BigEndian.Uint16(s.buf[16:]))
		if n < headerLen {
			n = len(s.buf) // not BGP; shown as it is
		}
		if len(s.buf) < n {
			break
		}
		list = append(list, bytes.Clone(s.buf[:n]))
		s.buf = s.buf[n:]
	}
	return list
}

// decodeMessage reads what it can; a broken message keeps its Raw.
func decodeMessage(raw []byte) Message {
	m := Message{Type: MessageType(raw[18]), Raw: raw}
	body := reader{b: raw[headerLen:]}
	switch m.Type {
	case Open:
		m.open(&body)
	case Update:
		m.update(&body)
	case Notification:
		m.Code, m.Subcode = body.u8(), body.u8()
		// Cease/Administrative Shutdown and Reset carry a text (RFC 9003).
		if m.Code == 6 && (m.Subcode == 2 || m.Subcode == 4) {
			m.Text = string(body.take(int(body.u8())))
		}
	case Keepalive, RouteRefresh:
	}
	return m
}

func (m *Message) open(r *reader) {
	r.take(3) // version, AS
	m.HoldTime = r.u16()
	r.take(4) // identifier
	parameters := reader{b: r.take(int(r.u8()))}
	for parameters.more() {
		kind, value := parameters.u8(), reader{b: parameters.take(int(parameters.u8()))}
		for kind == 2 && value.more() { // RFC 5492 section 4
			m.Capabilities = append(m.Capabilities, value.u8())
			value.take(int(value.u8()))
		}
	}
}

func (m *Message) update(r *reader) {
	withdrawn := reader{b: r.take(int(r.u16()))}
	m.Withdrawn = withdrawn.prefixes(4)
	attributes := reader{b: r.take(int(r.u16()))}
	m.EndOfRIB = len(m.Withdrawn) == 0 && !attributes.more() && !r.more()
	for attributes.more() {
		flags, kind := attributes.u8(), attributes.u8()
		n := int(attributes.u8())
		if flags&0x10 != 0 { // extended length
			n = n<<8 | int(attributes.u8())
		}
		m.attribute(kind, &reader{b: attributes.take(n)})
	}
	m.Announced = append(m.Announced, r.prefixes(4)...)
}

// attribute reads one path attribute, AS numbers with four octets (RFC 6793).
func (m *Message) attribute(kind uint8, r *reader) {
	switch kind {
	case 1:
		m.Origin = r.u8()
	case 2:
		for r.more() {
			r.u8()
			for n := r.u8(); n > 0; n-- {
				m.ASPath = append(m.ASPath, r.u32())
			}
		}
	case 3:
		m.NextHop, _ = netip.AddrFromSlice(r.take(4))
	case 4:
		v := r.u32()
		m.MED = &v
	case 5:
		v := r.u32()
		m.LocalPref = &v
	case 8:
		for r.more() {
			m.Communities = append(m.Communities, r.u32())
		}
	case 14: // MP_REACH_NLRI, RFC 4760 section 3
		size := afiSize(r)
		hop := r.take(int(r.u8()))
		m.NextHop, _ = netip.AddrFromSlice(hop[:min(16, len(hop))])
		r.u8()
		m.Announced = r.prefixes(size)
	case 15: // MP_UNREACH_NLRI
		size := afiSize(r)
		m.EndOfRIB = !r.more()
		m.Withdrawn = append(m.Withdrawn, r.prefixes(size)...)
	case 32: // RFC 8092
		for r.more() {
			m.LargeCommunities = append(m.LargeCommunities, [3]uint32{r.u32(), r.u32(), r.u32()})
		}
	}
}

// afiSize returns the length of an address of the family that is read.
func afiSize(r *reader) int {
	afi := r.u16()
	r.u8()
	if afi == 1 {
		return 4
	}
	return 16
}

// reader reads big-endian values and returns zeros behind the end.
type reader struct{ b []byte }

func (r *reader) more() bool { return len(r.b) > 0 }

func (r *reader) take(n int) []byte {
	n = min(n, len(r.b))
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) number(n int) (v uint32) {
	for _, x := range r.take(n) {
		v = v<<8 | uint32(x)
	}
	return v
}

func (r *reader) u8() uint8   { return uint8(r.number(1)) }  //nolint:gosec // one byte was read
func (r *reader) u16() uint16 { return uint16(r.number(2)) } //nolint:gosec // two bytes were read
func (r *reader) u32() uint32 { return r.number(4) }

func (r *reader) prefixes(size int) []netip.Prefix {
	var list []netip.Prefix
	for r.more() {
		bits := int(r.u8())
		address := make([]byte, size)
		copy(address, r.take((bits+7)/8))
		a, _ := netip.AddrFromSlice(address)
		list = append(list, netip.PrefixFrom(a, bits))
	}
	return list
}
