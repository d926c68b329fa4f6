package vip

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// ipv6DefaultMetric is the metric of IPv6 routes that name none.
const ipv6DefaultMetric = 1024

// role is what a table does with the legs of the main table that use a device.
type role uint8

const (
	roleUnlisted role = iota // not a listed interface: left to the main table
	roleOther                // listed, but for another table
	roleFailed               // listed, not usable: left out
	roleSilent               // listed, without a router: only its own network
	roleKeep                 // mirrored
)

// view is a table of ours: main seen through some of the listed interfaces.
//
// The return table (source zero) serves look-ups that have a VIP as source
// already, through all usable interfaces. A source table gives look-ups without
// a source its VIP, through the usable interfaces that have this VIP.
type view struct {
	family uint8
	table  uint32
	source netip.Addr
	mtu    uint32 // of the routes to remote networks; 0 for what they have
	ports  []port
	roles  map[int]role
	// own are the addresses of the listed interfaces: a preferred source of
	// these in main is the kernel's own choice, any other is the
	// administrator's and is respected.
	own map[netip.Addr]bool
}

func newView(family uint8, table uint32, source netip.Addr, ports []port, s *snapshot) *view {
	v := &view{family: family, table: table, source: source, ports: ports, roles: map[int]role{}, own: map[netip.Addr]bool{}}
	for i := range ports {
		q := &ports[i]
		switch {
		case !q.usable:
			v.roles[q.index] = roleFailed
		case source.IsValid() && !q.serves(source):
			v.roles[q.index] = roleOther
		case q.silent(family):
			v.roles[q.index] = roleSilent
		default:
			v.roles[q.index] = roleKeep
		}
	}
	for _, a := range s.addresses {
		if v.roles[a.index] != roleUnlisted {
			v.own[a.prefix.Addr()] = true
		}
	}
	return v
}

// mirror projects the main table. A route with no listed leg becomes a throw,
// so that the look-up goes on in main. Main's default is not copied: see
// defaultRoute.
func (v *view) mirror(main []route) []*route {
	seen := map[routeKey]bool{}
	var out []*route
	for i := range main {
		r := &main[i]
		if r.family() != v.family || r.dst.Bits() == 0 || r.from.IsValid() || handledByRule(r.dst) {
			continue
		}
		if made := v.project(r); made != nil && !seen[made.routeKey] { // the first of equal ones is used
			seen[made.routeKey] = true
			out = append(out, made)
		}
	}
	return out
}

// handledByRule tells the IPv6 destinations that a rule sends past our tables:
// a throw would not stop look-ups that are bound to a device.
func handledByRule(dst netip.Prefix) bool {
	a := dst.Addr()
	return a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast())
}

func (v *view) project(r *route) *route {
	out := *r
	out.table, out.proto, out.prefsrc = v.table, Protocol, v.source
	switch r.kind {
	case unix.RTN_UNICAST:
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return out.throw()
	default:
		return nil
	}
	out.legs = nil
	failed := false
	for _, l := range r.legs {
		role := v.roles[l.index]
		if role == roleSilent {
			role = roleKeep
			if l.gateway.IsValid() {
				role = roleFailed
			}
		}
		switch role {
		case roleUnlisted:
			return out.throw()
		case roleKeep:
			out.legs = append(out.legs, l)
		case roleFailed:
			failed = true
		case roleOther, roleSilent:
		}
	}
	switch {
	case v.source.IsValid() && r.prefsrc.IsValid() && !v.own[r.prefsrc]:
		return out.throw()
	case len(out.legs) == 0 && failed:
		return nil // so the destination is reached by the default route
	case len(out.legs) == 0:
		return out.throw()
	case len(out.legs) < len(r.legs):
		out.nexthops = 0
	}
	return &out
}

// throw makes it a route that sends the look-up on to the next rule.
func (r *route) throw() *route {
	r.kind, r.scope, r.prefsrc, r.nexthops, r.legs, r.rest = unix.RTN_THROW, unix.RT_SCOPE_UNIVERSE, netip.Addr{}, 0, nil, ""
	return r
}

// defaultRoute is the multipath default over the view's interfaces, by their
// configured gateways, else by those of main's default through them, else by
// the routers that are peers there; nil if there is none. skipped are configured gateways that are not on-link.
func (v *view) defaultRoute(main []route) (out *route, skipped []gatewayError) {
	r := route{
		routeKey: routeKey{table: v.table, dst: netip.PrefixFrom(anyOf(v.family), 0)},
		proto:    Protocol, kind: unix.RTN_UNICAST, prefsrc: v.source,
	}
	if v.family == unix.AF_INET6 {
		r.metric = ipv6DefaultMetric
	}
	if v.source.IsValid() && v.leavesElsewhere(main) {
		return nil, nil
	}
	for i := range v.ports {
		q := &v.ports[i]
		if v.roles[q.index] != roleKeep {
			continue
		}
		found, foreign := r.addGateways(main, v.family, q.index, q.Gateways)
		for _, g := range foreign {
			skipped = append(skipped, gatewayError{q.Name, g})
		}
		if !found && !r.inheritDefault(main, v.family, q.index, q.Dead) {
			_, _ = r.addGateways(main, v.family, q.index, q.Routers)
		}
	}
	if len(r.legs) == 0 {
		return nil, skipped
	}
	v.weigh(&r)
	if v.family == unix.AF_INET && !slices.ContainsFunc(r.legs, func(l leg) bool { return l.gateway.IsValid() }) {
		r.scope = unix.RT_SCOPE_LINK
	}
	return &r, skipped
}

// leavesElsewhere tells whether main's best default route uses only interfaces
// that are not listed: then programs that name no source go there, with that
// interface's address, and a default route of ours would take them away. A
// configured gateway says that this is wanted.
func (v *view) leavesElsewhere(main []route) bool {
	named := func(g netip.Addr) bool { return familyOf(g) == v.family }
	if slices.ContainsFunc(v.ports, func(q port) bool { return slices.ContainsFunc(q.Gateways, named) }) {
		return false
	}
	var best *route
	for i := range main {
		r := &main[i]
		if r.family() == v.family && r.dst.Bits() == 0 && r.kind == unix.RTN_UNICAST && !r.from.IsValid() && (best == nil || r.metric < best.metric) {
			best = r
		}
	}
	return best != nil && !slices.ContainsFunc(best.legs, func(l leg) bool { return v.roles[l.index] != roleUnlisted })
}

// gatewayError is a configured gateway that no connected route covers.
type gatewayError struct {
	name    string
	gateway netip.Addr
}

// addGateways adds a leg for each gateway of the family and tells whether there
// are any. skipped are those that no connected route covers.
func (r *route) addGateways(main []route, family uint8, index int, gateways []netip.Addr) (found bool, skipped []netip.Addr) {
	for _, g := range gateways {
		if familyOf(g) != family {
			continue
		}
		found = true
		if onLink(main, index, g) {
			r.legs = append(r.legs, leg{index: index, gateway: g})
		} else {
			skipped = append(skipped, g)
		}
	}
	return found, skipped
}

// inheritDefault takes the legs of main's best default route through a device,
// without those to gateways that are dead while another is left, and its metrics
// (MTU, initial window). It tells whether there is one.
func (r *route) inheritDefault(main []route, family uint8, index int, dead []netip.Addr) bool {
	for i := range main {
		m := &main[i]
		if m.family() != family || m.dst.Bits() != 0 || m.kind != unix.RTN_UNICAST || m.from.IsValid() || !m.via(index) {
			continue
		}
		living := func(l leg) bool { return l.index == index && !slices.Contains(dead, l.gateway) }
		some := slices.ContainsFunc(m.legs, living)
		for _, l := range m.legs {
			if l.index == index && (living(l) || !some) {
				r.legs = append(r.legs, l)
			}
		}
		if r.rest == "" {
			r.rest = metricsOf(m.rest)
		}
		return true
	}
	return false
}

// metricsOf is the part of a route's rest that says how to use a path, without
// what says how much it is preferred.
func metricsOf(rest string) string {
	for t, v := range attributes([]byte(rest)) {
		if t == unix.RTA_METRICS {
			return string(appendAttr(nil, t, v))
		}
	}
	return ""
}

// onLink tells whether the kernel would accept the gateway on the device: a
// connected route covers it, or it is an IPv6 link-local address.
func onLink(main []route, index int, g netip.Addr) bool {
	if g.Is6() && g.IsLinkLocalUnicast() {
		return true
	}
	return slices.ContainsFunc(main, func(r route) bool {
		return r.kind == unix.RTN_UNICAST && r.dst.Contains(g) && slices.ContainsFunc(r.legs, func(l leg) bool {
			return l.index == index && !l.gateway.IsValid()
		})
	})
}
