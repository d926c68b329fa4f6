package vip

import (
	"bytes"
	"encoding/binary"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Attribute types that golang.org/x/sys/unix does not name.
const (
	attrAddressProto = 11     // IFA_PROTO, Linux 5.18
	attrNexthopID    = 30     // RTA_NH_ID
	skipStatistics   = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	typeMask         = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	attrHeader       = 4
	errorTextMaximum = 200
)

func align(n int) int { return (n + 3) &^ 3 }

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// The kernel's fields are of fixed width; what is put into them is far below it
// (lengths of messages, indexes of devices) or is a bit pattern.

func u8(n int) uint8   { return uint8(n) }                //nolint:gosec // prefix lengths, flags
func u16(n int) uint16 { return uint16(n) }               //nolint:gosec // attribute lengths
func u32(n int) uint32 { return uint32(n) }               //nolint:gosec // message lengths, indexes
func i32(b []byte) int { return int(int32(uint32of(b))) } //nolint:gosec // bit pattern of a C int
func uint8of(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func uint32of(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// text is a C string.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b[:min(len(b), errorTextMaximum)])
}

// attributes walks the attributes of a message; it stops at a malformed one.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= attrHeader {
			size := int(binary.NativeEndian.Uint16(b))
			if size < attrHeader || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&typeMask, b[attrHeader:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

func appendAttr(b []byte, t uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, u16(attrHeader+len(v)))
	b = binary.NativeEndian.AppendUint16(b, t)
	return pad(append(b, v...))
}

func appendAttr8(b []byte, t uint16, v uint8) []byte { return appendAttr(b, t, []byte{v}) }

func appendAttr32(b []byte, t uint16, v uint32) []byte {
	b = binary.NativeEndian.AppendUint16(b, attrHeader+4)
	b = binary.NativeEndian.AppendUint16(b, t)
	return binary.NativeEndian.AppendUint32(b, v)
}

func appendAttrText(b []byte, t uint16, v string) []byte {
	return appendAttr(b, t, append([]byte(v), 0))
}

// appendNested appends an attribute whose value fill appends.
func appendNested(b []byte, t uint16, fill func([]byte) []byte) []byte {
	start := len(b)
	b = binary.NativeEndian.AppendUint16(b, 0)
	b = binary.NativeEndian.AppendUint16(b, t)
	b = fill(b)
	binary.NativeEndian.PutUint16(b[start:], u16(len(b)-start))
	return b
}

// addrOf is the address in an attribute, zero if it has no address's length.
func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// anyOf is 0.0.0.0 or ::.
func anyOf(family uint8) netip.Addr {
	if family == unix.AF_INET {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
