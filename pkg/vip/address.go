package vip

import (
	"context"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// metricMark is the metric of our addresses: a second mark for kernels before
// 5.18, which do not know IFA_PROTO. It has no other effect, because with
// noprefixroute no route is made of it.
const metricMark = 680_068

// address is an address of a device.
type address struct {
	index  int
	prefix netip.Prefix // with the host bits
	flags  uint32
	proto  uint8
	metric uint32
}

// ours tells whether the address carries our mark.
func (a address) ours() bool {
	return a.proto == Protocol || a.proto == 0 && a.metric == metricMark
}

// vip is the prefix of the VIP that the address is. A device has an IPv6 address
// once, whatever its length is; IPv4 with a network is another one than with a host
// mask.
func (a address) vip() netip.Prefix {
	if a.prefix.Addr().Is6() {
		return host(a.prefix.Addr())
	}
	return a.prefix
}

// usable tells whether the kernel accepts it as a source.
func (a address) usable() bool {
	return a.flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 || a.flags&unix.IFA_F_OPTIMISTIC != 0
}

func (c *conn) addresses(ctx context.Context) ([]address, error) {
	return dump(ctx, c, unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), decodeAddress)
}

func decodeAddress(b []byte) (address, bool) {
	if len(b) < unix.SizeofIfAddrmsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return address{}, false
	}
	a := address{index: int(binary.NativeEndian.Uint32(b[4:])), flags: uint32(b[2])}
	var local, peer netip.Addr
	for t, v := range attributes(b[unix.SizeofIfAddrmsg:]) {
		switch t {
		case unix.IFA_LOCAL:
			local = addrOf(v)
		case unix.IFA_ADDRESS:
			peer = addrOf(v)
		case unix.IFA_FLAGS:
			a.flags = uint32of(v)
		case unix.IFA_RT_PRIORITY:
			a.metric = uint32of(v)
		case attrAddressProto:
			a.proto = uint8of(v)
		}
	}
	if !local.IsValid() { // IPv6 has IFA_LOCAL only on point-to-point devices
		local = peer
	}
	a.prefix = netip.PrefixFrom(local, int(b[1]))
	return a, a.prefix.IsValid()
}

func addressBody(index int, p netip.Prefix) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1], b[3] = familyOf(p.Addr()), u8(p.Bits()), unix.RT_SCOPE_UNIVERSE
	binary.NativeEndian.PutUint32(b[4:], u32(index))
	b = appendAttr(b, unix.IFA_LOCAL, p.Addr().AsSlice())
	return appendAttr(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
}

// opAddAddress binds an address, marked, without duplicate address detection.
func opAddAddress(index int, p netip.Prefix) operation {
	b := addressBody(index, p)
	b = appendAttr32(b, unix.IFA_FLAGS, unix.IFA_F_NOPREFIXROUTE|unix.IFA_F_NODAD)
	b = appendAttr32(b, unix.IFA_RT_PRIORITY, metricMark)
	b = appendAttr8(b, attrAddressProto, Protocol)
	return operation{unix.RTM_NEWADDR, unix.NLM_F_CREATE | unix.NLM_F_EXCL, b}
}

func opDeleteAddress(a address) operation {
	return operation{unix.RTM_DELADDR, 0, addressBody(a.index, a.prefix)}
}
