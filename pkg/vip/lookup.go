package vip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Flow is what the kernel looks a route up for: TCP of a socket.
type Flow struct {
	To netip.Addr // with a zone, if it is link-local, that Interface names too
	// From is the source; zero while none is chosen.
	From netip.Addr
	// User owns the socket, Mark is its mark.
	User, Mark uint32
	// Interface is what the socket is bound to; empty for none.
	Interface string
}

// Lookup is the answer of the kernel, and by which rule it came to it.
type Lookup struct {
	// Unreachable is why there is no route, in words; empty if there is one.
	Unreachable string
	// Local tells that the destination is the host's own.
	Local bool
	// Rules are those that matched on the way, the last one led to the table; an
	// earlier one jumped, or led to a table without a route.
	Rules []LookupRule
	Table uint32
	// Route is the route as ip(8) shows it, without its table, and Source the one
	// that the kernel takes for packets that have none.
	Route  string
	Source netip.Addr
	// Own tells that Source is an address of an interface of Hops.
	Own bool
	// MTU is that of the route; 0 for that of the interface.
	MTU uint32
	// Hops are the next hops, one of which takes the packets of a connection.
	Hops []Hop
}

// LookupRule is a policy rule that a look-up met.
type LookupRule struct {
	Priority uint32
	Text     string // as ip(8) shows it
	Ours     bool
	// Jump tells that it led past other rules because of the destination.
	Jump bool
	// Rank is that of the SourceRule that it is of, -1 for none. General tells
	// that it is that of traffic which matches none.
	Rank    int
	General bool
}

// Hop is a next hop.
type Hop struct {
	Interface string
	// Gateway is zero where the destination is on the link.
	Gateway netip.Addr
	// Neighbour is the state of the one that gets the frames, such as reachable,
	// and its link-layer address; empty if the kernel has none.
	Neighbour, LinkAddress string
}

// Reader looks routes up. It changes nothing and needs no privileges.
type Reader struct {
	conn         *conn
	basePriority uint32
}

// NewReader opens the kernel in the network namespace of the calling thread.
func NewReader() (*Reader, error) {
	c, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("vip: %w", err)
	}
	return &Reader{conn: c, basePriority: DefaultBasePriority}, nil
}

// Close gives back the netlink socket.
func (r *Reader) Close() { r.conn.close() }

// Lookup asks the kernel. Not to be called by several goroutines at once.
func (r *Reader) Lookup(ctx context.Context, f Flow) (Lookup, error) {
	s := &snapshot{}
	var err error
	if s.links, err = r.conn.links(ctx); err != nil {
		return Lookup{}, fmt.Errorf("vip: read links: %w", err)
	}
	index := 0
	if name := f.Interface; name != "" {
		l, ok := s.link(name)
		if !ok {
			return Lookup{}, fmt.Errorf("vip: interface %s does not exist", name)
		}
		index = l.index
	}
	f.To, f.From = f.To.WithZone(""), f.From.WithZone("")
	if s.rules, err = r.conn.rules(ctx, familyOf(f.To)); err != nil {
		return Lookup{}, fmt.Errorf("vip: read rules: %w", err)
	}
	var out Lookup
	chosen, err := r.conn.lookup(f, index, 0)
	if errno, refused := errors.AsType[unix.Errno](err); refused {
		out.Unreachable = errno.Error()
		out.Rules = r.walk(s.rules, f, 0)
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("vip: look up %s: %w", f.To, err)
	}
	if word := unreachable(chosen.kind); word != "" {
		out.Unreachable, out.Table = word, chosen.table
		out.Rules = r.walk(s.rules, f, chosen.table)
		return out, nil
	}
	found, err := r.conn.lookup(f, index, unix.RTM_F_FIB_MATCH)
	if _, refused := errors.AsType[unix.Errno](err); refused {
		found, err = chosen, nil // bound to an interface without a route: taken for on-link
	}
	if err != nil {
		return out, fmt.Errorf("vip: look up %s: %w", f.To, err)
	}
	out.Local, out.Table, out.Source = chosen.kind == unix.RTN_LOCAL, chosen.table, chosen.prefsrc
	out.Route, out.MTU = found.text(s), mtuOf(found.rest)
	out.Rules = r.walk(s.rules, f, chosen.table)
	if len(found.legs) == 0 {
		found.legs = chosen.legs
	}
	if out.Hops, err = r.hops(ctx, s, found.legs, f.To); err != nil {
		return out, err
	}
	if s.addresses, err = r.conn.addresses(ctx); err != nil {
		return out, fmt.Errorf("vip: read addresses: %w", err)
	}
	out.Own = slices.ContainsFunc(s.addresses, func(a address) bool { return a.prefix.Addr() == out.Source && found.via(a.index) })
	return out, nil
}

// lookup asks for the route of a flow as a connection would get it, or with
// RTM_F_FIB_MATCH as it stands in its table.
func (c *conn) lookup(f Flow, index int, flags uint32) (route, error) {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[1] = familyOf(f.To), u8(f.To.BitLen())
	if f.To.Is4() { // IPv6 tells the table anyway, and refuses to be asked
		flags |= unix.RTM_F_LOOKUP_TABLE
	}
	binary.NativeEndian.PutUint32(b[8:], flags)
	b = appendAttr(b, unix.RTA_DST, f.To.AsSlice())
	if f.From.IsValid() {
		b[2] = u8(f.From.BitLen())
		b = appendAttr(b, unix.RTA_SRC, f.From.AsSlice())
	}
	if index != 0 {
		b = appendAttr32(b, unix.RTA_OIF, u32(index))
	}
	b = appendAttr32(b, unix.RTA_UID, f.User)
	b = appendAttr32(b, unix.RTA_MARK, f.Mark)
	b = appendAttr8(b, unix.RTA_IP_PROTO, unix.IPPROTO_TCP)
	answer, err := c.ask(unix.RTM_GETROUTE, b)
	if err != nil {
		return route{}, err
	}
	if len(answer) >= unix.SizeofRtMsg { // what is made for this look-up is one, too
		binary.NativeEndian.PutUint32(answer[8:], binary.NativeEndian.Uint32(answer[8:])&^unix.RTM_F_CLONED)
	}
	r, ok := decodeRoute(answer)
	if !ok {
		return route{}, errors.New("the answer is no route")
	}
	return r, nil
}

// unreachable is the word for a route that leads nowhere, empty for another.
func unreachable(kind uint8) string {
	switch kind {
	case unix.RTN_BLACKHOLE:
		return "blackhole"
	case unix.RTN_UNREACHABLE:
		return "unreachable"
	case unix.RTN_PROHIBIT:
		return "prohibited"
	}
	return ""
}

// ask sends a request that has one message as answer.
func (c *conn) ask(kind uint16, request []byte) ([]byte, error) {
	if err := c.renew(); err != nil {
		return nil, err
	}
	c.seq++
	seq := c.seq
	c.out = appendHeader(c.out[:0], kind, unix.NLM_F_REQUEST, seq, request)
	if err := c.send(c.out); err != nil {
		return nil, err
	}
	var answer []byte
	for {
		done, err := c.receive(func(m message) (bool, error) {
			switch {
			case m.seq != seq:
				return false, nil
			case m.kind == unix.NLMSG_ERROR:
				return true, answerError(m)
			}
			answer = slices.Clone(m.data)
			return true, nil
		})
		if done || err != nil {
			return answer, err
		}
	}
}

// text is the route as ip(8) shows it, without its table and next hops of their
// own lines.
func (r *route) text(s *snapshot) string {
	var b strings.Builder
	switch r.kind {
	case unix.RTN_LOCAL:
		b.WriteString("local ")
	case unix.RTN_BROADCAST:
		b.WriteString("broadcast ")
	case unix.RTN_MULTICAST:
		b.WriteString("multicast ")
	}
	switch {
	case r.dst.Bits() == 0:
		b.WriteString("default")
	case r.dst.IsSingleIP():
		b.WriteString(r.dst.Addr().String())
	default:
		b.WriteString(r.dst.String())
	}
	for _, l := range r.legs {
		if len(r.legs) > 1 {
			b.WriteString(" nexthop")
		}
		if l.gateway.IsValid() {
			b.WriteString(" via " + l.gateway.String())
		}
		b.WriteString(" dev " + s.linkName(l.index))
	}
	if r.prefsrc.IsValid() {
		b.WriteString(" src " + r.prefsrc.String())
	}
	if r.metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.metric)
	}
	if mtu := mtuOf(r.rest); mtu != 0 {
		fmt.Fprintf(&b, " mtu %d", mtu)
	}
	return b.String()
}

// mtuOf is the MTU among the metrics of a route, 0 for none.
func mtuOf(rest string) uint32 {
	for t, v := range attributes([]byte(rest)) {
		if t != unix.RTA_METRICS {
			continue
		}
		for m, v := range attributes(v) {
			if m == unix.RTAX_MTU {
				return uint32of(v)
			}
		}
	}
	return 0
}

// hops are the legs with their neighbours.
func (r *Reader) hops(ctx context.Context, s *snapshot, legs []leg, to netip.Addr) ([]Hop, error) {
	var out []Hop
	for _, l := range legs {
		h := Hop{Interface: s.linkName(l.index), Gateway: l.gateway}
		target := to
		if l.gateway.IsValid() {
			target = l.gateway
		}
		state, lladdr, err := r.conn.neighbourState(ctx, l.index, target)
		if err != nil {
			return nil, fmt.Errorf("vip: read neighbours of %s: %w", h.Interface, err)
		}
		h.Neighbour, h.LinkAddress = state, lladdr
		out = append(out, h)
	}
	return out, nil
}

// neighbourState finds the neighbour entry of an address on a device.
func (c *conn) neighbourState(ctx context.Context, index int, address netip.Addr) (state, lladdr string, err error) {
	request := appendAttr32(make([]byte, unix.SizeofNdMsg), unix.NDA_IFINDEX, u32(index))
	type entry struct{ state, lladdr string }
	found, err := dump(ctx, c, unix.RTM_GETNEIGH, request, func(b []byte) (entry, bool) {
		if len(b) < unix.SizeofNdMsg || i32(b[4:]) != index {
			return entry{}, false
		}
		e, match := entry{state: neighbourWord(binary.NativeEndian.Uint16(b[8:]))}, false
		for t, v := range attributes(b[unix.SizeofNdMsg:]) {
			switch t {
			case unix.NDA_DST:
				match = addrOf(v) == address
			case unix.NDA_LLADDR:
				e.lladdr = net.HardwareAddr(slices.Clone(v)).String()
			}
		}
		return e, match
	})
	if err != nil || len(found) == 0 {
		return "", "", err
	}
	return found[0].state, found[0].lladdr, nil
}

// neighbourWord is the state of a neighbour entry as ip(8) calls it.
func neighbourWord(state uint16) string {
	for _, w := range []struct {
		bit  uint16
		word string
	}{
		{unix.NUD_INCOMPLETE, "incomplete"},
		{unix.NUD_REACHABLE, "reachable"},
		{unix.NUD_STALE, "stale"},
		{unix.NUD_DELAY, "delay"},
		{unix.NUD_PROBE, "probe"},
		{unix.NUD_FAILED, "failed"},
		{unix.NUD_NOARP, "noarp"},
		{unix.NUD_PERMANENT, "permanent"},
	} {
		if state&w.bit != 0 {
			return w.word
		}
	}
	return "none"
}
