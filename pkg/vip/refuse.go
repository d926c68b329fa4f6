package vip

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// obstacle is what a VIP would take away from the host.
type obstacle struct {
	prefix  netip.Prefix
	network bool   // of hosts that are reached directly: concerns whole prefixes
	lan     bool   // a network in which the host has an address: no part of it can be had
	what    string // "an address of en1"
}

// obstacles are the addresses of the host, its next hops and its networks. They
// keep a VIP from being bound; what is bound already stays, so that a change
// elsewhere never costs a VIP. ok is false if they are not known.
func (p *pass) obstacles(todo placement) (out []obstacle, ok bool) {
	missing := len(todo.missing) > 0 || slices.ContainsFunc(p.d.VIPs, func(v netip.Prefix) bool {
		return !v.IsSingleIP() && !p.hasLocal(v)
	})
	if !missing {
		return nil, true
	}
	if err := p.m.conn.readMain(p.ctx, p.s); err != nil {
		p.fail(err)
		return nil, false
	}
	p.m.state.splitMain(p.s)
	current, former := p.devices()
	forVIPs := slices.Concat(current, former)
	for _, a := range p.s.addresses {
		if a.ours() || slices.ContainsFunc(forVIPs, func(l link) bool { return l.index == a.index }) {
			continue
		}
		if name := p.s.linkName(a.index); name != loopback { // where VIPs often were before
			out = append(out, obstacle{prefix: host(a.prefix.Addr()), what: "an address of " + name})
		}
	}
	for i := range p.ports {
		q := &p.ports[i]
		for _, g := range q.Gateways {
			out = append(out, obstacle{prefix: host(g), what: "the gateway of " + q.Name})
		}
		for _, g := range q.Routers {
			out = append(out, obstacle{prefix: host(g), what: "a BGP peer on " + q.Name})
		}
	}
	return append(out, p.reached()...), true
}

// reached are the next hops of the main table, and the networks that it reaches
// without one. A network of a device of ours is only for VIPs.
func (p *pass) reached() []obstacle {
	var out []obstacle
	seen := map[netip.Addr]bool{}
	for i := range p.s.main {
		r := &p.s.main[i]
		if r.kind != unix.RTN_UNICAST {
			continue
		}
		for _, l := range r.legs {
			switch {
			case l.gateway.IsValid() && !seen[l.gateway]:
				seen[l.gateway] = true
				out = append(out, obstacle{prefix: host(l.gateway), what: "a next hop of " + r.String()})
			case l.gateway.IsValid(), r.dst.Bits() == 0, p.onlyForVIPs(l.index):
			default:
				lan := slices.ContainsFunc(p.s.addresses, func(a address) bool { return a.index == l.index && a.prefix.Masked() == r.dst })
				out = append(out, obstacle{prefix: r.dst, network: true, lan: lan, what: "the network of " + p.s.linkName(l.index)})
			}
		}
	}
	return out
}

func (p *pass) onlyForVIPs(index int) bool {
	return slices.ContainsFunc(p.s.links, func(l link) bool {
		return l.index == index && (l.name == loopback || l.name == p.deviceName() || p.ourDevice(l))
	})
}

// refused tells whether the VIP must not be bound, and keeps the reason.
func (p *pass) refused(v netip.Prefix, obstacles []obstacle) bool {
	if p.m.placed.addresses[v] {
		return false // it was fine before somebody took it away
	}
	for _, o := range obstacles {
		switch {
		case !v.Overlaps(o.prefix) || o.network && v.IsSingleIP():
			continue
		case o.network && !o.lan && o.prefix.Bits() < v.Bits():
			continue // a wide route, as into a tunnel, which a part of it does not cut off
		case o.network:
			p.fail(fmt.Errorf("vip %s is not bound: it overlaps %s, %s", v, o.prefix, o.what))
		case v.IsSingleIP():
			p.fail(fmt.Errorf("vip %s is not bound: it is %s", v.Addr(), o.what))
		default:
			p.fail(fmt.Errorf("vip %s is not bound: it holds %s, %s", v, o.prefix.Addr(), o.what))
		}
		return true
	}
	return false
}
