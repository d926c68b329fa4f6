package vip

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// keptLegFlags are the flags of a next hop that are configuration; the others
// are the kernel's report of its state.
const keptLegFlags = unix.RTNH_F_ONLINK | unix.RTNH_F_PERVASIVE

// routeKey is what identifies a route within an address family.
type routeKey struct {
	table  uint32
	dst    netip.Prefix
	tos    uint8
	metric uint32
}

// route is a route with everything that its configuration consists of: what we
// have no name for is kept raw, in rest and in the legs.
type route struct {
	routeKey

	from     netip.Prefix // IPv6 source-specific route; invalid for none
	proto    uint8
	scope    uint8
	kind     uint8 // RTN_UNICAST, ...
	prefsrc  netip.Addr
	nexthops uint32 // id of a next-hop object, 0 for none
	legs     []leg
	rest     string
}

// leg is a next hop.
type leg struct {
	index   int
	gateway netip.Addr // zero for none; may be of the other family
	flags   uint8
	weight  uint8 // as in the kernel: weight minus one
	rest    string
}

func (r *route) family() uint8 { return familyOf(r.dst.Addr()) }

// equal tells whether a and b are the same route with the same properties.
func (r *route) equal(o *route) bool {
	if r.routeKey != o.routeKey || r.kind != o.kind || r.proto != o.proto {
		return false
	}
	if r.kind != unix.RTN_UNICAST && r.kind != unix.RTN_LOCAL {
		return true // no next hops that mean anything
	}
	return r.scope == o.scope && r.prefsrc == o.prefsrc && r.nexthops == o.nexthops && r.rest == o.rest &&
		(r.nexthops != 0 || slices.Equal(r.legs, o.legs))
}

// via tells whether a leg of the route is the device.
func (r *route) via(index int) bool {
	return slices.ContainsFunc(r.legs, func(l leg) bool { return l.index == index })
}

// routes dumps the routes of a family; table and proto are 0 for all.
func (c *conn) routes(ctx context.Context, family uint8, table uint32, proto uint8) ([]route, error) {
	request := make([]byte, unix.SizeofRtMsg)
	request[0], request[5] = family, proto
	if table != 0 {
		request = appendAttr32(request, unix.RTA_TABLE, table)
	}
	return dump(ctx, c, unix.RTM_GETROUTE, request, func(b []byte) (route, bool) {
		r, ok := decodeRoute(b)
		return r, ok && r.family() == family && (table == 0 || r.table == table) && (proto == 0 || r.proto == proto)
	})
}

func decodeRoute(b []byte) (route, bool) {
	if len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return route{}, false
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	if flags&unix.RTM_F_CLONED != 0 {
		return route{}, false
	}
	r := route{proto: b[5], scope: b[6], kind: b[7]}
	r.table, r.tos = uint32(b[4]), b[3]
	dst, one, attrs := anyOf(b[0]), leg{flags: uint8(flags & keptLegFlags)}, b[unix.SizeofRtMsg:]
	for t, v := range attributes(attrs) {
		switch t {
		case unix.RTA_TABLE:
			r.table = uint32of(v)
		case unix.RTA_DST:
			dst = addrOf(v)
		case unix.RTA_SRC:
			r.from = netip.PrefixFrom(addrOf(v), int(b[2]))
		case unix.RTA_PRIORITY:
			r.metric = uint32of(v)
		case unix.RTA_PREFSRC:
			r.prefsrc = addrOf(v)
		case unix.RTA_MULTIPATH:
			r.legs = decodeLegs(v)
		case attrNexthopID:
			r.nexthops = uint32of(v)
		default:
			decodeLegAttr(&one, t, v)
		}
	}
	r.dst = netip.PrefixFrom(dst, int(b[1])).Masked()
	r.rest = restOf(attrs)
	if len(r.legs) == 0 && one.index != 0 {
		r.legs = []leg{one}
	}
	if len(r.legs) == 1 {
		r.legs[0].weight = 0 // of no meaning alone
	}
	return r, r.dst.IsValid()
}

// restOf keeps the attributes of a route that are configuration and that route
// has no field for, as they are. Left out are the kernel's own reports (cache
// information, expiry) and an IPv6 preference of medium, which is the default.
func restOf(attrs []byte) string {
	var rest []byte
	for t, v := range attributes(attrs) {
		switch t {
		case unix.RTA_METRICS, unix.RTA_TTL_PROPAGATE:
			rest = appendAttr(rest, t, v)
		case unix.RTA_PREF:
			if uint8of(v) != 0 {
				rest = appendAttr(rest, t, v)
			}
		}
	}
	return string(rest)
}

// decodeLegAttr reads an attribute that belongs to a next hop.
func decodeLegAttr(l *leg, t uint16, v []byte) {
	switch t {
	case unix.RTA_OIF:
		l.index = int(uint32of(v))
	case unix.RTA_GATEWAY:
		l.gateway = addrOf(v)
	case unix.RTA_VIA:
		if len(v) > 2 {
			l.gateway = addrOf(v[2:])
		}
	case unix.RTA_FLOW, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
		l.rest += string(appendAttr(nil, t, v))
	}
}

func decodeLegs(b []byte) []leg {
	var legs []leg
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		l := leg{index: i32(b[4:]), flags: b[2] & keptLegFlags, weight: b[3]}
		for t, v := range attributes(b[unix.SizeofRtNexthop:size]) {
			decodeLegAttr(&l, t, v)
		}
		legs = append(legs, l)
		b = b[min(align(size), len(b)):]
	}
	return legs
}

func (r *route) header(scope uint8) []byte {
	b := make([]byte, unix.SizeofRtMsg, 96)
	b[0], b[1], b[3] = r.family(), u8(r.dst.Bits()), r.tos
	b[5], b[6], b[7] = r.proto, scope, r.kind
	b = appendAttr32(b, unix.RTA_TABLE, r.table)
	if r.dst.Bits() > 0 {
		b = appendAttr(b, unix.RTA_DST, r.dst.Addr().AsSlice())
	}
	if r.metric != 0 {
		b = appendAttr32(b, unix.RTA_PRIORITY, r.metric)
	}
	return b
}

// opReplaceRoute adds the route, or puts it in the place of one with its key.
func opReplaceRoute(r *route) operation {
	b := r.header(r.scope)
	if r.prefsrc.IsValid() {
		b = appendAttr(b, unix.RTA_PREFSRC, r.prefsrc.AsSlice())
	}
	switch {
	case r.nexthops != 0:
		b = appendAttr32(b, attrNexthopID, r.nexthops)
	case len(r.legs) == 1:
		b = appendLegAttrs(b, &r.legs[0], r.family(), true)
		binary.NativeEndian.PutUint32(b[8:], uint32(r.legs[0].flags))
	case len(r.legs) > 1:
		b = appendNested(b, unix.RTA_MULTIPATH, func(b []byte) []byte {
			for i := range r.legs {
				b = appendLeg(b, &r.legs[i], r.family())
			}
			return b
		})
	}
	return operation{unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, append(b, r.rest...)}
}

func appendLeg(b []byte, l *leg, family uint8) []byte {
	start := len(b)
	b = append(b, 0, 0, l.flags, l.weight)
	b = binary.NativeEndian.AppendUint32(b, u32(l.index))
	b = appendLegAttrs(b, l, family, false)
	binary.NativeEndian.PutUint16(b[start:], u16(len(b)-start))
	return b
}

func appendLegAttrs(b []byte, l *leg, family uint8, index bool) []byte {
	if index {
		b = appendAttr32(b, unix.RTA_OIF, u32(l.index))
	}
	switch {
	case !l.gateway.IsValid():
	case familyOf(l.gateway) == family:
		b = appendAttr(b, unix.RTA_GATEWAY, l.gateway.AsSlice())
	default:
		via := binary.NativeEndian.AppendUint16(nil, uint16(familyOf(l.gateway)))
		b = appendAttr(b, unix.RTA_VIA, append(via, l.gateway.AsSlice()...))
	}
	return append(b, l.rest...)
}

// opDeleteRoute removes our route with this key and kind, whatever its next hops.
func opDeleteRoute(r *route) operation {
	return operation{unix.RTM_DELROUTE, 0, r.header(unix.RT_SCOPE_NOWHERE)}
}
