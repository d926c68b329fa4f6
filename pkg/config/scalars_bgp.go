package config

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// asn is an autonomous system number that may be used on the Internet.
type asn uint32

// peerASN is the number of a peer. With internal it is the own one, with external
// any other, and number is zero.
type peerASN struct {
	number             uint32
	internal, external bool
}

// peerAddress is the unicast address of a router, or the word gateway.
type peerAddress struct {
	netip.Addr
	gateway bool
}

// community is an RFC 1997 value.
type community uint32

func asNumber(n *node, d *uint32) string {
	var value uint32
	if problem := number(n, &value, "1..4294967294"); problem != "" {
		return strings.Replace(problem, "a number", "an AS number", 1)
	}
	switch value {
	case 23456:
		return "is AS_TRANS (RFC 6793), which no network has; write the network's own AS number"
	case 65535:
		return "is reserved (RFC 7300); private AS numbers are 64512 to 65534 and 4200000000 to 4294967294"
	}
	*d = value
	return ""
}

func peerNumber(n *node, d *peerASN) string {
	switch {
	case n.text == "internal":
		d.internal = true
		return ""
	case n.text == "external":
		d.external = true
		return ""
	case n.kind == kindText:
		return "must be an AS number from 1 to 4294967294 without quotes, internal or external"
	}
	return asNumber(n, &d.number)
}

func routerAddress(n *node, d *peerAddress) string {
	if n.text == "gateway" {
		d.gateway = true
		return ""
	}
	if closest(n.text, []string{"gateway"}) != "" {
		return "must be an IP address such as 192.0.2.1 or 2001:db8::1, or gateway"
	}
	return address(n, &d.Addr)
}

// namedCommunity has a name in IANA's registry of well-known communities.
type namedCommunity struct {
	name  string
	value community
}

// wellKnown returns the communities that have a name: RFC 1997, RFC 3765, RFC
// 8326, RFC 7999, RFC 7611 and RFC 9494.
func wellKnown() []namedCommunity {
	return []namedCommunity{
		{"no_export", 0xFFFFFF01},
		{"no_advertise", 0xFFFFFF02},
		{"no_export_subconfed", 0xFFFFFF03},
		{"nopeer", 0xFFFFFF04},
		{"graceful_shutdown", 0xFFFF0000},
		{"blackhole", 0xFFFF029A},
		{"accept_own", 0xFFFF0001},
		{"llgr_stale", 0xFFFF0006},
		{"no_llgr", 0xFFFF0007},
	}
}

// oneCommunity also takes names with dashes, as routers write them.
func oneCommunity(n *node, d *community) string {
	name := strings.ReplaceAll(n.text, "-", "_")
	if name == "no_peer" {
		name = "nopeer"
	}
	known := wellKnown()
	if i := slices.IndexFunc(known, func(k namedCommunity) bool { return k.name == name }); i >= 0 {
		*d = known[i].value
		return ""
	}
	if parts, ok := numbers(n.text, 2, 16); ok && n.kind == kindText {
		*d = community(parts[0]<<16 | parts[1])
		return ""
	}
	names := make([]string, 0, len(known))
	for _, k := range known {
		names = append(names, k.name)
	}
	problem := `must be "65010:100" with numbers from 0 to 65535, or one of ` + strings.Join(names, ", ")
	if guess := closest(n.text, names); guess != "" {
		problem += fmt.Sprintf("; did you mean %q?", guess)
	}
	return problem
}

func largeCommunity(n *node, d *LargeCommunity) string {
	parts, ok := numbers(n.text, 3, 32)
	if !ok || n.kind != kindText {
		return `must be "65010:1:2" with three numbers from 0 to 4294967295`
	}
	if parts[0] == math.MaxUint32 {
		return "is of AS 4294967295, which is reserved (RFC 8092 section 5); write the own AS number first"
	}
	*d = LargeCommunity{Global: parts[0], Local1: parts[1], Local2: parts[2]}
	return ""
}

// numbers splits text at colons into count numbers of so many bits.
func numbers(text string, count, bits int) ([]uint32, bool) {
	words := strings.Split(text, ":")
	parts := make([]uint32, 0, count)
	for _, w := range words {
		value, err := strconv.ParseUint(w, 10, bits)
		if err != nil {
			return nil, false
		}
		parts = append(parts, uint32(value)) //nolint:gosec // bits is at most 32
	}
	return parts, len(parts) == count
}

// Types and subtypes of extended communities (RFC 4360 sections 3 to 5, RFC
// 5668, RFC 9012 section 4.3, draft-ietf-idr-link-bandwidth).
const (
	twoOctetAS    = 0x00
	ipv4Address   = 0x01
	fourOctetAS   = 0x02
	opaque        = 0x03
	nonTransitive = 0x40

	routeTarget   = 0x02
	routeOrigin   = 0x03
	linkBandwidth = 0x04
	color         = 0x0b
)

// extendedCommunity decodes KIND:VALUE, or 0x and all eight bytes.
func extendedCommunity(n *node, d *ExtendedCommunity) string {
	kind, rest, _ := strings.Cut(n.text, ":")
	value, problem := ExtendedCommunity{}, ""
	switch {
	case n.kind == kindNumber && strings.HasPrefix(n.text, "0x"):
		problem = "must be in quotes"
	case n.kind != kindText:
		problem = `must be text such as "rt:65010:100"`
	case kind == "rt":
		value, problem = specific(kind, rest, routeTarget)
	case kind == "soo":
		value, problem = specific(kind, rest, routeOrigin)
	case kind == "bandwidth":
		value, problem = bandwidth(rest)
	case kind == "color":
		number, err := strconv.ParseUint(rest, 10, 32)
		if err != nil {
			problem = `must be "color:100" with a number from 0 to 4294967295`
		}
		value = ExtendedCommunity{opaque, color}
		binary.BigEndian.PutUint32(value[4:], uint32(number))
	case strings.HasPrefix(n.text, "0x"):
		if len(n.text) != 18 {
			return `must have 16 hexadecimal digits after 0x, which are all eight bytes`
		}
		if _, err := hex.Decode(value[:], []byte(n.text[2:])); err != nil {
			problem = `must have 16 hexadecimal digits after 0x, which are all eight bytes`
		}
	default:
		problem = `must be one of "rt:65010:100", "soo:65010:100", "bandwidth:65010:1000000", "color:100" and "0x0002fdf200000064"`
	}
	if problem == "" {
		*d = value
	}
	return problem
}

// specific decodes the forms that are about an AS or an IPv4 address.
func specific(kind, text string, subtype byte) (value ExtendedCommunity, problem string) {
	admin, local, _ := strings.Cut(text, ":")
	address, notAddress := netip.ParseAddr(admin)
	as, notAS := strconv.ParseUint(admin, 10, 32)
	number, notNumber := strconv.ParseUint(local, 10, 32)
	short := notAS == nil && as <= math.MaxUint16
	switch {
	case notNumber != nil, notAS != nil && (notAddress != nil || !address.Is4()):
		return value, fmt.Sprintf(`must be "%[1]s:65010:100", or with an IPv4 address as in "%[1]s:10.0.0.1:5"`, kind)
	case !short && number > math.MaxUint16:
		return value, "must end in a number from 0 to 65535; only behind an AS number below 65536 there is room for more"
	case short:
		value = ExtendedCommunity{twoOctetAS, subtype}
		binary.BigEndian.PutUint16(value[2:], uint16(as)) //nolint:gosec // short says so
		binary.BigEndian.PutUint32(value[4:], uint32(number))
		return value, ""
	case notAS == nil:
		value = ExtendedCommunity{fourOctetAS, subtype}
		binary.BigEndian.PutUint32(value[2:], uint32(as))
	default:
		value = ExtendedCommunity{ipv4Address, subtype}
		copy(value[2:], address.AsSlice())
	}
	binary.BigEndian.PutUint16(value[6:], uint16(number)) //nolint:gosec // checked above
	return value, ""
}

// bandwidth decodes AS:BYTES, bytes per second.
func bandwidth(text string) (value ExtendedCommunity, problem string) {
	admin, rate, _ := strings.Cut(text, ":")
	as, err1 := strconv.ParseUint(admin, 10, 32)
	number, err2 := strconv.ParseUint(rate, 10, 64)
	switch {
	case err1 != nil || err2 != nil:
		return value, `must be "bandwidth:65010:1000000", with the AS number and a whole number of bytes per second`
	case as > math.MaxUint16:
		return value, "has room for two bytes of AS number; write 23456 (AS_TRANS) for one above 65535"
	}
	value = ExtendedCommunity{nonTransitive | twoOctetAS, linkBandwidth}
	binary.BigEndian.PutUint16(value[2:], uint16(as))
	binary.BigEndian.PutUint32(value[4:], math.Float32bits(float32(number)))
	return value, ""
}
