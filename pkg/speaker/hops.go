package speaker

import (
	"net/netip"
	"slices"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
)

// configured tells whether an interface has a configured gateway of a family.
func configured(c *config.Interface, ipv4 bool) bool {
	return slices.ContainsFunc(c.Gateways, func(g netip.Addr) bool { return g.Is4() == ipv4 })
}

// nextHops are the gateways by which traffic from a VIP leaves an interface, as
// the kernel's writer chooses them: per family those that peers told, else those that are configured, else
// those of the main table's default route. A family of which the interface has no
// VIP uses none of main's. Link-local ones have their zone.
func (p *planner) nextHops(c *config.Interface, n *Interface, link netmon.Link) []netip.Addr {
	list := p.gateways(c, n, link)
	list = slices.DeleteFunc(list, func(g netip.Addr) bool { return !configured(c, g.Is4()) && !p.hasVIP(n.Name, g.Is4()) })
	for _, ipv4 := range []bool{true, false} {
		if learned := p.learnedHops(n.Name, ipv4); len(learned) > 0 {
			list = append(slices.DeleteFunc(list, func(g netip.Addr) bool { return g.Is4() == ipv4 }), learned...)
		}
	}
	for i, g := range list {
		list[i] = n.zoned(g)
	}
	return list
}

// hasVIP tells whether an interface has a VIP of a family.
func (p *planner) hasVIP(name string, ipv4 bool) bool {
	return slices.ContainsFunc(p.in.Config.VIPs, func(v config.VIP) bool {
		return v.Prefix.Addr().Is4() == ipv4 && slices.Contains(v.Interfaces, name)
	})
}

// zoned is an address on the interface: a link-local one has its zone.
func (n *Interface) zoned(a netip.Addr) netip.Addr {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return a.WithZone(n.Name)
	}
	return a
}

// towards is the own address from which a gateway is reached; zero if there is
// none.
func (n *Interface) towards(gateway netip.Addr) netip.Addr {
	if gateway.Is6() && gateway.IsLinkLocalUnicast() {
		return linkLocal(n)
	}
	return n.onLink(gateway)
}

// silent tells whether one family is to leave an interface that is a leg for the
// other: all of its next hops here are known to be dead, and on another leg they
// are not. The last resort of a family is never taken away.
func (p *planner) silent(at int, ipv4 bool) bool {
	list := p.out.Interfaces
	if !list[at].Leg || !list[at].deaf(ipv4) {
		return false
	}
	for i := range list {
		if o := &list[i]; o.Leg && global(o.Addresses, ipv4).IsValid() && !o.deaf(ipv4) {
			return true
		}
	}
	return false
}

// deaf tells whether all next hops of a family on an interface are known to be
// dead: its gateways, or without one its peers.
func (n *Interface) deaf(ipv4 bool) bool {
	ofFamily := func(a netip.Addr) bool { return a.Is4() == ipv4 }
	hops := n.gateways
	if !slices.ContainsFunc(hops, ofFamily) {
		hops = nil
		for i := range n.Peers {
			if n.Peers[i].LocalAddress.IsValid() {
				hops = append(hops, n.Peers[i].Address)
			}
		}
	}
	held := func(a netip.Addr) bool { // BFD with it is up again, not yet for the hold-up
		return slices.ContainsFunc(n.Peers, func(peer Peer) bool { return peer.dead && sameAddress(peer.Address, a) })
	}
	return slices.ContainsFunc(hops, ofFamily) &&
		!slices.ContainsFunc(hops, func(a netip.Addr) bool { return ofFamily(a) && !n.fails(a) && !held(a) })
}

// alive leaves out of next hops on an interface those that are known to be dead,
// while another of their family is left.
func alive(n *Interface, hops []netip.Addr) []netip.Addr {
	if !slices.ContainsFunc(hops, n.fails) {
		return hops
	}
	return slices.DeleteFunc(slices.Clone(hops), func(a netip.Addr) bool {
		return n.fails(a) && slices.ContainsFunc(hops, func(o netip.Addr) bool { return o.Is4() == a.Is4() && !n.fails(o) })
	})
}

// dead are the gateways of an interface that are known to be dead, as the kernel
// has them.
func (n *Interface) dead() []netip.Addr {
	var list []netip.Addr
	for _, g := range n.gateways {
		if n.fails(g) {
			list = append(list, bare(g))
		}
	}
	return list
}

// fails tells whether a next hop on an interface is known to be dead.
func (n *Interface) fails(a netip.Addr) bool {
	target := n.zoned(a).String()
	return slices.ContainsFunc(n.Failures, func(f status.Failure) bool {
		return f.Layer != status.LayerPath && f.Target == target
	})
}
