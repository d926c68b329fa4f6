package speaker

import (
	"net/netip"
	"slices"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/ndp"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"

	"golang.org/x/sys/unix"
)

// How the address of a peer is found (Peer.Found); empty for a configured one.
const (
	foundGateway = "gateway"
	foundRouter  = "unnumbered"
)

// expand gives the sessions of an interface: one for each peer with an address,
// one for each default gateway for a peer that takes those, one with the router
// on the link for an unnumbered one. A peer for which there is nobody stays, with
// no address and the reason.
func (p *planner) expand(c *config.Interface, n *Interface, link netmon.Link) []Peer {
	list := make([]Peer, 0, len(c.Peers))
	for i := range c.Peers {
		peer := &c.Peers[i]
		switch {
		case peer.Gateway:
			list = append(list, p.gatewayPeers(c, peer, n, link)...)
		case peer.Unnumbered:
			address, why := p.router(c)
			n.router = address
			list = append(list, n.peer(peer, foundRouter, address, why))
		default:
			list = append(list, n.peer(peer, "", peer.Address, ""))
		}
	}
	for i := range list {
		p.keepLocal(n, &list[i])
	}
	return list
}

// keepLocal lets an established session keep its own address while the interface
// has it and reaches the peer by it: another one that comes to be preferred, such
// as one that was just added, would end the session, and the router need not
// know it.
func (p *planner) keepLocal(n *Interface, peer *Peer) {
	if !peer.LocalAddress.IsValid() {
		return
	}
	s, _ := p.in.BGP.Speaker(n.Name)
	for i := range s.Peers {
		q := &s.Peers[i]
		if q.State == bgp.Established && sameAddress(q.Address, peer.Address) && slices.ContainsFunc(n.Addresses, func(a netip.Prefix) bool {
			return a.Addr() == bare(q.LocalAddress) && n.holds(a, bare(peer.Address))
		}) {
			peer.LocalAddress = n.zoned(bare(q.LocalAddress))
		}
	}
}

// peer is one session of the interface. Why tells why it has no address.
func (n *Interface) peer(c *config.Peer, found string, address netip.Addr, why string) Peer {
	peer := Peer{Address: address, Found: found, ASN: c.ASN, missing: why, config: c}
	switch {
	case why != "":
	case address.Is6() && address.IsLinkLocalUnicast():
		peer.Address = address.WithZone(n.Name)
		if peer.LocalAddress = linkLocal(n); !peer.LocalAddress.IsValid() {
			peer.missing = noLinkLocal
		}
	default:
		if peer.LocalAddress = n.onLink(address); !peer.LocalAddress.IsValid() {
			peer.missing = "no usable address on-link with " + address.String()
		}
	}
	return peer
}

const noLinkLocal = "no usable IPv6 link-local address"

// linkLocal is the interface's first IPv6 link-local address, with its zone;
// zero if there is none.
func linkLocal(n *Interface) netip.Addr {
	for _, a := range n.Addresses {
		if a.Addr().Is6() && a.Addr().IsLinkLocalUnicast() {
			return a.Addr().WithZone(n.Name)
		}
	}
	return netip.Addr{}
}

// bare is an address without its zone.
func bare(a netip.Addr) netip.Addr { return a.WithZone("") }

// sameAddress tells whether two addresses of one speaker are the same. All that
// are link-local there are of one link.
func sameAddress(a, b netip.Addr) bool { return bare(a) == bare(b) }

// gatewayPeers are the sessions with the default gateways of an interface. A
// gateway that is a peer of its own is left to that.
func (p *planner) gatewayPeers(c *config.Interface, peer *config.Peer, n *Interface, link netmon.Link) []Peer {
	var list []Peer
	own := 0
	for _, g := range p.gateways(c, n, link) {
		switch {
		case ownPeer(c, g):
			own++
		case speaks(peer, g.Is4()):
			list = append(list, n.peer(peer, foundGateway, g, ""))
		}
	}
	if len(list) > 0 {
		return list
	}
	why := "no default gateway on " + c.Name
	if own > 0 {
		why = "the default gateway on " + c.Name + " is a peer of its own"
	}
	return []Peer{n.peer(peer, foundGateway, netip.Addr{}, why)}
}

// ownPeer tells whether the configuration names an address as a peer of the
// interface.
func ownPeer(c *config.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(c.Peers, func(o config.Peer) bool { return o.Address.IsValid() && sameAddress(o.Address, a) })
}

// speaks tells whether a family is to be negotiated with a peer.
func speaks(c *config.Peer, ipv4 bool) bool {
	return c.IPv4 == c.IPv6 || c.IPv4 == ipv4
}

// gateways are the default gateways of an interface, sorted: per family those
// that are configured, else those of the main table's best default route through
// the link.
func (p *planner) gateways(c *config.Interface, n *Interface, link netmon.Link) []netip.Addr {
	list := slices.Clone(c.Gateways)
	for _, ipv4 := range []bool{true, false} {
		if slices.ContainsFunc(c.Gateways, func(g netip.Addr) bool { return g.Is4() == ipv4 }) || link.Index == 0 {
			continue
		}
		list = append(list, p.mainGateways(ipv4, n, link)...)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// mainGateways are those of the main table's best default routes of a family
// through a link, as far as they are on it.
func (p *planner) mainGateways(ipv4 bool, n *Interface, link netmon.Link) []netip.Addr {
	var list []netip.Addr
	var best uint32
	for i := range p.in.Net.Routes {
		r := &p.in.Net.Routes[i]
		if r.Table != unix.RT_TABLE_MAIN || r.Type != unix.RTN_UNICAST || r.Prefix.Bits() != 0 || r.Prefix.Addr().Is4() != ipv4 || r.Protocol == vip.Protocol {
			continue
		}
		for _, h := range r.NextHops {
			on := h.Gateway.Is6() && h.Gateway.IsLinkLocalUnicast() || n.onLink(h.Gateway).IsValid()
			if h.LinkIndex != link.Index || !on || p.isVIP(h.Gateway) {
				continue
			}
			if len(list) > 0 && r.Metric > best {
				continue
			}
			if r.Metric < best {
				list = nil
			}
			list, best = append(list, h.Gateway), r.Metric
		}
	}
	return list
}

// router is the router that an unnumbered peer of an interface is, zero and why
// not if there is none. One that was chosen stays while it lives, so that two
// routers on a link do not take turns. Only while there is no session with it, it
// gives way to one that was heard since: if it does not answer its probe, or if
// that one advertises itself and it does not. A router that is a peer of its own is
// left to that.
func (p *planner) router(c *config.Interface) (netip.Addr, string) {
	name := c.Name
	link, _ := p.in.NDP.Interface(name)
	routers := slices.DeleteFunc(slices.Clone(link.Routers), func(r ndp.Router) bool { return ownPeer(c, r.Address) })
	switch {
	case len(link.Routers) == 0:
		return netip.Addr{}, joinNonEmpty(": ", "no router heard on "+name+" yet", link.Error)
	case len(routers) == 0:
		return netip.Addr{}, "the router on " + name + " is a peer of its own"
	}
	kept := p.in.History.Interfaces[name].Router
	at := max(0, slices.IndexFunc(routers, func(r ndp.Router) bool { return r.Address == kept }))
	for range routers {
		old := &routers[at]
		if p.hasSession(name, old.Address) {
			break
		}
		dead := p.unanswered(name, old.Address)
		next := slices.IndexFunc(routers, func(r ndp.Router) bool {
			return r.Heard.After(old.Heard) && (dead || r.ByAdvertisement && !old.ByAdvertisement)
		})
		if next < 0 {
			break
		}
		at = next
	}
	return routers[at].Address, ""
}

// unanswered tells whether the probe of a router on a link found it dead.
func (p *planner) unanswered(name string, router netip.Addr) bool {
	r, ok := p.in.Health[probeID(status.LayerAttachment, name, router)]
	return ok && r.Verdict == health.Unhealthy && p.now.Before(r.Expires)
}

// hasSession tells whether the session with a peer of an interface is
// established.
func (p *planner) hasSession(name string, peer netip.Addr) bool {
	s, _ := p.in.BGP.Speaker(name)
	return slices.ContainsFunc(s.Peers, func(q bgp.PeerState) bool {
		return q.State == bgp.Established && sameAddress(q.Address, peer)
	})
}
