package vip

import (
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// addrGenNone is IN6_ADDR_GEN_MODE_NONE: no link-local address by itself.
const addrGenNone = 1

// aliasMark is the alias that marks a device as ours.
const aliasMark = "vipspeaker: virtual addresses"

// link is a network device, as far as we need it.
type link struct {
	index             int
	name, alias, kind string
	flags, mtu        uint32
}

func (l link) up() bool { return l.flags&unix.IFF_UP != 0 }

func (c *conn) links(ctx context.Context) ([]link, error) {
	request := make([]byte, unix.SizeofIfInfomsg)
	request = appendAttr32(request, unix.IFLA_EXT_MASK, skipStatistics)
	return dump(ctx, c, unix.RTM_GETLINK, request, decodeLink)
}

func decodeLink(b []byte) (link, bool) {
	// A port of a bridge is reported once more with the family AF_BRIDGE.
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return link{}, false
	}
	l := link{index: i32(b[4:]), flags: binary.NativeEndian.Uint32(b[8:])}
	for t, v := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch t {
		case unix.IFLA_IFNAME:
			l.name = text(v)
		case unix.IFLA_MTU:
			l.mtu = uint32of(v)
		case unix.IFLA_IFALIAS:
			l.alias = text(v)
		case unix.IFLA_LINKINFO:
			for t, v := range attributes(v) {
				if t == unix.IFLA_INFO_KIND {
					l.kind = text(v)
				}
			}
		}
	}
	return l, true
}

// linkBody is an interface message for the device of that name, with changes of
// the given flags.
func linkBody(name string, set, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[8:], set)
	binary.NativeEndian.PutUint32(b[12:], change)
	return appendAttrText(b, unix.IFLA_IFNAME, name)
}

func opCreateLink(name, kind string) operation {
	b := appendNested(linkBody(name, 0, 0), unix.IFLA_LINKINFO, func(b []byte) []byte {
		return appendAttrText(b, unix.IFLA_INFO_KIND, kind)
	})
	return operation{unix.RTM_NEWLINK, unix.NLM_F_CREATE | unix.NLM_F_EXCL, b}
}

// opsConfigureLink marks a device of ours and sets it up: no ARP, no link-local
// address. The address generation mode must be a message of its own before the
// device goes up, else it gets an fe80 address all the same.
func opsConfigureLink(name string) []operation {
	mark := appendAttrText(linkBody(name, 0, 0), unix.IFLA_IFALIAS, aliasMark)
	mode := appendNested(linkBody(name, 0, 0), unix.IFLA_AF_SPEC, func(b []byte) []byte {
		return appendNested(b, unix.AF_INET6, func(b []byte) []byte {
			return appendAttr8(b, unix.IFLA_INET6_ADDR_GEN_MODE, addrGenNone)
		})
	})
	return []operation{
		{unix.RTM_NEWLINK, 0, mark},
		{unix.RTM_NEWLINK, 0, mode},
		{unix.RTM_NEWLINK, 0, linkBody(name, unix.IFF_NOARP, unix.IFF_NOARP)},
		{unix.RTM_NEWLINK, 0, linkBody(name, unix.IFF_UP, unix.IFF_UP)},
	}
}

func opDeleteLink(l link) operation {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], u32(l.index))
	return operation{unix.RTM_DELLINK, 0, b}
}
