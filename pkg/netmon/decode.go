package netmon

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Constants of linux/rtnetlink.h and linux/if_addr.h that
// x/sys lacks.
const (
	rtextFilterSkipStats = 1 << 3 // no statistics in link answers: half the bytes
	ifaProto             = 11
)

// decodeLink reads an RTM_NEWLINK body: struct ifinfomsg and attributes. It is
// false for a message that is not about the device itself: a bridge tells about
// its ports with a family of its own.
func decodeLink(b []byte) (Link, bool) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return Link{}, false
	}
	l := Link{Index: linkIndex(b)}
	l.Up, l.Running = linkFlags(b)
	for typ, v := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = text(v)
		case unix.IFLA_IFALIAS:
			l.Alias = text(v)
		case unix.IFLA_MASTER:
			l.MasterIndex = int(u32(v))
		case unix.IFLA_MTU:
			l.MTU = int(u32(v))
		case unix.IFLA_OPERSTATE:
			l.OperState = operState(u8(v))
		case unix.IFLA_LINKINFO:
			for typ, v := range attributes(v) {
				if typ == unix.IFLA_INFO_KIND {
					l.Kind = text(v)
				}
			}
		}
	}
	return l, true
}

// operState is the word for an IF_OPER_* number, as RFC 2863 has it.
func operState(v uint8) string {
	words := [...]string{"unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"}
	if int(v) < len(words) {
		return words[v]
	}
	return words[0]
}

// linkIndex is the device index of a struct ifinfomsg.
func linkIndex(b []byte) int { return int(u32(b[4:8])) }

// linkFlags tells IFF_UP and IFF_RUNNING of a struct ifinfomsg. IFF_LOWER_UP is
// no sign of health: it is seen set on a device that is still dormant.
func linkFlags(b []byte) (up, running bool) {
	f := u32(b[8:12])
	return f&unix.IFF_UP != 0, f&unix.IFF_RUNNING != 0
}

// decodeAddress reads an RTM_NEWADDR body: struct ifaddrmsg and attributes.
func decodeAddress(b []byte) (index int, a Address, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, Address{}, false
	}
	bits, flags := int(b[1]), uint32(b[2])
	index = int(u32(b[4:8]))
	var local, other netip.Addr
	for typ, v := range attributes(b[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_LOCAL:
			local = addr(v)
		case unix.IFA_ADDRESS:
			other = addr(v)
		case unix.IFA_LABEL:
			a.Label = text(v)
		case unix.IFA_FLAGS: // the header has room for the lower eight only
			flags = u32(v)
		case ifaProto:
			a.Protocol = u8(v)
		}
	}
	// IPv4 tells both, IFA_ADDRESS being the far end of a point-to-point link;
	// IPv6 tells IFA_LOCAL only for such a link.
	if !local.IsValid() {
		local = other
	}
	a.Prefix = netip.PrefixFrom(local, bits)
	if other.IsValid() && other != local {
		a.Far = netip.PrefixFrom(other, bits).Masked()
	}
	a.Usable = flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
	a.Secondary = flags&(unix.IFA_F_SECONDARY|unix.IFA_F_DEPRECATED) != 0 // the former is IFA_F_TEMPORARY of IPv6
	a.LinkLocal = local.IsLinkLocalUnicast()
	return index, a, a.Prefix.IsValid()
}

// routeDecoder reads RTM_NEWROUTE bodies. Next hops of many routes share one
// array: a table of 100,000 routes would else be 100,000 objects more.
type routeDecoder struct{ hops []NextHop }

func (d *routeDecoder) decode(b []byte) (Route, bool) {
	if len(b) < unix.SizeofRtMsg {
		return Route{}, false
	}
	flags := u32(b[8:12])
	if flags&unix.RTM_F_CLONED != 0 { // a cache entry, not configuration
		return Route{}, false
	}
	r := Route{Table: uint32(b[4]), Protocol: b[5], Type: b[7]}
	dst, single, multi := zero(b[0]), NextHop{Dead: dead(flags)}, []byte(nil)
	for typ, v := range attributes(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_DST:
			dst = addr(v)
		case unix.RTA_TABLE:
			r.Table = u32(v)
		case unix.RTA_PRIORITY:
			r.Metric = u32(v)
		case unix.RTA_PREFSRC:
			r.Source = addr(v)
		case unix.RTA_MULTIPATH:
			multi = v
		default:
			single.attribute(typ, v)
		}
	}
	r.Prefix = netip.PrefixFrom(dst, int(b[1]))
	if cap(d.hops)-len(d.hops) < 64 {
		d.hops = make([]NextHop, 0, 1024)
	}
	from := len(d.hops)
	if multi != nil {
		d.multipath(multi)
	} else if single.LinkIndex != 0 || single.Gateway.IsValid() {
		d.hops = append(d.hops, single)
	}
	if to := len(d.hops); to > from {
		r.NextHops = d.hops[from:to:to]
	}
	return r, r.Prefix.IsValid()
}

// multipath reads the struct rtnexthop list of an RTA_MULTIPATH.
func (d *routeDecoder) multipath(b []byte) {
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b[0:]))
		if n < unix.SizeofRtNexthop || n > len(b) {
			return
		}
		h := NextHop{LinkIndex: int(u32(b[4:8])), Dead: dead(uint32(b[2]))}
		for typ, v := range attributes(b[unix.SizeofRtNexthop:n]) {
			h.attribute(typ, v)
		}
		d.hops = append(d.hops, h)
		b = b[min(align(n), len(b)):]
	}
}

func (h *NextHop) attribute(typ uint16, v []byte) {
	switch typ {
	case unix.RTA_OIF:
		h.LinkIndex = int(u32(v))
	case unix.RTA_GATEWAY:
		h.Gateway = addr(v)
	case unix.RTA_VIA: // a gateway of the other family (RFC 8950): family, address
		if len(v) > 2 {
			h.Gateway = addr(v[2:])
		}
	}
}

func dead(flags uint32) bool { return flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) != 0 }

// decodeRule reads an RTM_NEWRULE body: struct fib_rule_hdr, which has the
// layout of struct rtmsg, and attributes.
func decodeRule(b []byte) (Rule, bool) {
	if len(b) < unix.SizeofRtMsg {
		return Rule{}, false
	}
	r := Rule{IPv6: b[0] == unix.AF_INET6, Table: uint32(b[4])}
	for typ, v := range attributes(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.FRA_DST:
			r.Dest = netip.PrefixFrom(addr(v), int(b[1]))
		case unix.FRA_SRC:
			r.Source = netip.PrefixFrom(addr(v), int(b[2]))
		case unix.FRA_PRIORITY:
			r.Priority = u32(v)
		case unix.FRA_TABLE:
			r.Table = u32(v)
		case unix.FRA_PROTOCOL:
			r.Protocol = u8(v)
		}
	}
	return r, true
}

// decodeNeighbour reads an RTM_NEWNEIGH body: struct ndmsg and attributes.
func decodeNeighbour(b []byte) (Neighbour, bool) {
	if len(b) < unix.SizeofNdMsg {
		return Neighbour{}, false
	}
	n := Neighbour{LinkIndex: neighbourIndex(b), State: binary.NativeEndian.Uint16(b[8:])}
	for typ, v := range attributes(b[unix.SizeofNdMsg:]) {
		if typ == unix.NDA_DST {
			n.Address = addr(v)
		}
	}
	return n, n.Address.IsValid()
}

// neighbourIndex is the device index of a struct ndmsg.
func neighbourIndex(b []byte) int { return int(u32(b[4:8])) }

func zero(family uint8) netip.Addr {
	if family == unix.AF_INET6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// addr is the address of an attribute, the zero Addr if it has another length.
func addr(v []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(v)
	return a
}

func text(v []byte) string { return unix.ByteSliceToString(v) }

func u32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

func u8(v []byte) uint8 {
	if len(v) < 1 {
		return 0
	}
	return v[0]
}
