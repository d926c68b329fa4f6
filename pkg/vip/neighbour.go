package vip

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// neighbour is an entry of a neighbour table that is not resolved.
type neighbour struct {
	family  uint8
	index   int
	address netip.Addr
}

// unresolved dumps the neighbour entries of a device for which the kernel is
// still asking.
func (c *conn) unresolved(ctx context.Context, index int) ([]neighbour, error) {
	request := appendAttr32(make([]byte, unix.SizeofNdMsg), unix.NDA_IFINDEX, u32(index))
	return dump(ctx, c, unix.RTM_GETNEIGH, request, func(b []byte) (neighbour, bool) {
		if len(b) < unix.SizeofNdMsg {
			return neighbour{}, false
		}
		n := neighbour{family: b[0], index: i32(b[4:])}
		for t, v := range attributes(b[unix.SizeofNdMsg:]) {
			if t == unix.NDA_DST {
				n.address = addrOf(v)
			}
		}
		state := binary.NativeEndian.Uint16(b[8:])
		return n, n.index == index && n.address.IsValid() && state&unix.NUD_INCOMPLETE != 0
	})
}

func opDeleteNeighbour(n neighbour) operation {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = n.family
	binary.NativeEndian.PutUint32(b[4:], u32(n.index))
	return operation{unix.RTM_DELNEIGH, 0, appendAttr(b, unix.NDA_DST, n.address.AsSlice())}
}

// leaving are the interfaces that are not usable, or whose routers are silent
// in a family,
// and that our tables still use: those from which traffic is about to move.
func (p *pass) leaving() []int {
	var out []int
	for _, q := range p.ports {
		if slices.ContainsFunc(p.s.own, func(r route) bool {
			silent := q.silent(r.family())
			return r.tabled() && (!q.usable || silent) && slices.ContainsFunc(r.legs, func(l leg) bool {
				return l.index == q.index && (!q.usable || l.gateway.IsValid())
			})
		}) {
			out = append(out, q.index)
		}
	}
	return out
}

// scratch is an address of the discard prefix (RFC 6666), nobody's.
const scratch = "100::68/128"

// refreshSockets6 makes every IPv6 socket look up its route again. IPv4 sockets
// do so when a carrier is lost; an IPv6 session from the failed interface's own
// address would go on sending into it, though main's route is dead and a
// fallback rule is there. The kernel gives up all cached IPv6 routes when an
// address goes; so one comes and goes.
func (p *pass) refreshSockets6() {
	if !slices.ContainsFunc(p.d.Fallbacks, func(f Fallback) bool { return f.Local.Is6() }) {
		return
	}
	l, ok := p.s.link(p.deviceName())
	if !ok {
		return
	}
	a := address{index: l.index, prefix: netip.MustParsePrefix(scratch)}
	what := func() string { return "refresh the routes of IPv6 sockets" }
	p.apply([]change{
		{operation: opAddAddress(a.index, a.prefix), what: what, tolerate: []unix.Errno{unix.EEXIST, unix.EACCES}},
		{operation: opDeleteAddress(a), what: what, tolerate: []unix.Errno{unix.EADDRNOTAVAIL}},
	})
}

// flushNeighbours deletes the unresolved neighbours of interfaces that traffic
// has just left. A TCP segment that waits there counts as "still in the
// host's queue", and the kernel does not send it again by the new route until the
// entry gives up after three seconds. Done after the routes are moved, or the
// next segment would make a new entry; done once, so that a later attempt to
// reach the neighbour is not disturbed.
func (p *pass) flushNeighbours(leaving []int) {
	for _, index := range leaving {
		p.m.flush[index] = true
	}
	for index := range p.m.flush {
		if !slices.ContainsFunc(p.s.links, func(l link) bool { return l.index == index }) {
			delete(p.m.flush, index)
			continue
		}
		found, err := p.m.conn.unresolved(p.ctx, index)
		if err != nil {
			p.fail(fmt.Errorf("read neighbours of %s: %w", p.s.linkName(index), err))
			continue // again with the next call
		}
		changes := make([]change, len(found))
		for i, n := range found {
			changes[i] = change{
				operation: opDeleteNeighbour(n),
				what: func() string {
					return "remove unresolved neighbour " + n.address.String() + " of " + p.s.linkName(n.index)
				},
				tolerate: []unix.Errno{unix.ENOENT, unix.ENODEV},
			}
		}
		if p.apply(changes) == len(changes) {
			delete(p.m.flush, index)
		}
	}
}
