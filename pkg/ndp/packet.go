package ndp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

// What is needed of RFC 4861 section 4 and RFC 6275 section 7.3. The libraries
// there are refuse a whole advertisement for an option that is none of our
// business, such as a search list with odd characters; section 6.1.2 wants the
// opposite.
const (
	kindSolicitation  = 133
	kindAdvertisement = 134

	solicitationBytes  = 8
	advertisementBytes = 16

	optionSourceAddress = 1
	optionInterval      = 7 // of the sender's advertisements
	optionUnit          = 8 // bytes that an option's length counts in

	hopLimit = 255 // so that it cannot come from off the link
)

const (
	// minHold and maxHold bound how long a router counts without a sign of life.
	// FRR advertises every 10 s with a lifetime of 30 s: three may be lost.
	// Routers that advertise less often than every 30 s are asked in between,
	// which they must answer (section 6.2.6), so that the dead need not stay for
	// the half hour that is usual elsewhere.
	minHold, maxHold = 35 * time.Second, 90 * time.Second
)

// packet is a message that an interface got.
type packet struct {
	socket   uint64 // the number of the socket
	from     netip.Addr
	hopLimit int
	message
	err error // the socket's end, instead of all but its number
}

// message is what counts of a solicitation or an advertisement.
type message struct {
	kind     uint8
	sourced  bool          // it names the sender's link-layer address
	lifetime time.Duration // as a default router
	interval time.Duration // between advertisements, as it says; 0 if it does not
}

// parse reads a message from its ICMPv6 header on and tells whether its form is
// valid. The kernel has checked the sum.
func parse(b []byte) (message, bool) {
	if len(b) < solicitationBytes || b[1] != 0 {
		return message{}, false
	}
	m := message{kind: b[0]}
	options := b[solicitationBytes:]
	switch m.kind {
	case kindSolicitation:
	case kindAdvertisement:
		if len(b) < advertisementBytes {
			return message{}, false
		}
		m.lifetime = time.Duration(binary.BigEndian.Uint16(b[6:])) * time.Second
		options = b[advertisementBytes:]
	default:
		return message{}, false
	}
	for len(options) > 0 {
		if len(options) < optionUnit {
			return message{}, false
		}
		n := int(options[1]) * optionUnit
		if n == 0 || n > len(options) {
			return message{}, false
		}
		switch {
		case options[0] == optionSourceAddress:
			m.sourced = true
		case options[0] == optionInterval && n == optionUnit:
			m.interval = time.Duration(binary.BigEndian.Uint32(options[4:])) * time.Millisecond
		}
		options = options[n:]
	}
	return m, true
}

// valid tells whether a message of that form may be heeded (sections 6.1.1 and
// 6.1.2).
func (p *packet) valid() bool {
	if p.hopLimit != hopLimit {
		return false
	}
	if p.kind == kindAdvertisement {
		return p.from.IsLinkLocalUnicast()
	}
	return !p.from.IsUnspecified() || !p.sourced
}

// hold is how long the sender of an advertisement counts without another one: 3
// times the interval that it says, or its lifetime as a default router, which
// is 3 times the interval by default (section 6.2.1), within bounds. One that
// says neither tells nothing about its interval.
func (m *message) hold() time.Duration {
	h := max(m.lifetime, 3*m.interval)
	if h == 0 {
		return maxHold
	}
	return min(max(h, minHold), maxHold)
}

// advertisement is ours: lifetime 0, so that it makes no default router, and
// everything else unspecified, so that no host changes anything by it.
func advertisement(mac net.HardwareAddr) []byte {
	b := make([]byte, advertisementBytes)
	b[0] = kindAdvertisement
	return appendSource(b, mac)
}

// solicitation asks all routers of a link to advertise themselves.
func solicitation(mac net.HardwareAddr) []byte {
	b := make([]byte, solicitationBytes)
	b[0] = kindSolicitation
	return appendSource(b, mac)
}

// appendSource appends the own link-layer address, if there is one, so that the
// receiver need not ask for it.
func appendSource(b []byte, mac net.HardwareAddr) []byte {
	const most = 32 // MAX_ADDR_LEN of Linux
	if len(mac) == 0 || len(mac) > most {
		return b
	}
	units := (2 + len(mac) + optionUnit - 1) / optionUnit
	option := make([]byte, units*optionUnit)
	option[0], option[1] = optionSourceAddress, byte(units) //nolint:gosec // at most 5
	copy(option[2:], mac)
	return append(b, option...)
}
