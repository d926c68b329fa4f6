package bfd

import "encoding/binary"

// The mandatory section of a control packet (RFC 5880 section 4.1) is 24 bytes;
// the longest authentication section, SHA1, has 28.
const (
	headerLen    = 24
	maxPacketLen = headerLen + sha1Len
	version      = 1
)

// packet is the mandatory section of a control packet.
type packet struct {
	diag       diagnostic
	state      state
	poll       bool
	final      bool
	auth       bool
	demand     bool
	multipoint bool
	mult       uint8
	my, your   uint32
	// Microseconds, as on the wire.
	minTx, minRx, minEchoRx uint32
}

// Bits of the second byte.
const (
	bitPoll       = 1 << 5
	bitFinal      = 1 << 4
	bitAuth       = 1 << 2
	bitDemand     = 1 << 1
	bitMultipoint = 1
)

// decode reads what a datagram holds and cuts it to the packet's own length. It
// applies the rules of RFC 5880 section 6.8.6 that need no session, in their
// order.
func decode(b []byte) (p packet, raw []byte, why drop) {
	if len(b) < headerLen {
		return p, nil, dropShort
	}
	if b[0]>>5 != version {
		return p, nil, dropVersion
	}
	p.diag = diagnostic(b[0] & 0x1f)
	p.state = state(b[1] >> 6)
	p.poll = b[1]&bitPoll != 0
	p.final = b[1]&bitFinal != 0
	p.auth = b[1]&bitAuth != 0
	p.demand = b[1]&bitDemand != 0
	p.multipoint = b[1]&bitMultipoint != 0
	p.mult = b[2]
	length := int(b[3])
	p.my = binary.BigEndian.Uint32(b[4:])
	p.your = binary.BigEndian.Uint32(b[8:])
	p.minTx = binary.BigEndian.Uint32(b[12:])
	p.minRx = binary.BigEndian.Uint32(b[16:])
	p.minEchoRx = binary.BigEndian.Uint32(b[20:])
	switch {
	case length < headerLen, p.auth && length < headerLen+2, length > len(b):
		return p, nil, dropLength
	case p.mult == 0:
		return p, nil, dropMult
	case p.multipoint:
		return p, nil, dropMultipoint
	case p.my == 0:
		return p, nil, dropMyDiscr
	case p.your == 0 && p.state != stateDown && p.state != stateAdminDown:
		return p, nil, dropYourZero
	}
	return p, b[:length], dropNone
}

// encode writes the mandatory section to b, which has room for it, and says the
// length of the whole packet there: that with an authentication section of
// authLen bytes.
func (p *packet) encode(b []byte, authLen int) {
	b[0] = version<<5 | byte(p.diag)&0x1f
	flags := byte(p.state) << 6
	for _, f := range [...]struct {
		set bool
		bit byte
	}{
		{p.poll, bitPoll},
		{p.final, bitFinal},
		{authLen > 0, bitAuth},
		{p.demand, bitDemand},
		{p.multipoint, bitMultipoint},
	} {
		if f.set {
			flags |= f.bit
		}
	}
	b[1] = flags
	b[2] = p.mult
	b[3] = byte(headerLen + authLen) //nolint:gosec // at most maxPacketLen
	binary.BigEndian.PutUint32(b[4:], p.my)
	binary.BigEndian.PutUint32(b[8:], p.your)
	binary.BigEndian.PutUint32(b[12:], p.minTx)
	binary.BigEndian.PutUint32(b[16:], p.minRx)
	binary.BigEndian.PutUint32(b[20:], p.minEchoRx)
}
