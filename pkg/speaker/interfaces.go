package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// interfaces decides which interfaces are usable, and by which own address
// their peers are reached.
func (p *planner) interfaces() {
	p.out.Interfaces = make([]Interface, len(p.in.Config.Interfaces))
	for i := range p.in.Config.Interfaces {
		c := &p.in.Config.Interfaces[i]
		p.byName[c.Name] = i
		p.out.Interfaces[i] = p.look(c)
	}
	p.legs()
}

// look judges one interface.
func (p *planner) look(c *config.Interface) Interface {
	n := Interface{Name: c.Name, fresh: true}
	link, ok := p.in.Net.Link(c.Name)
	n.Index = link.Index
	n.Addresses = ownAddresses(link, p.isVIP)
	n.Peers = make([]Peer, len(c.Peers))
	for i := range c.Peers {
		n.Peers[i] = Peer{
			Address: c.Peers[i].Address, ASN: c.Peers[i].ASN,
			LocalAddress: onLink(n.Addresses, c.Peers[i].Address),
		}
	}
	n.Reason, n.Detail = p.judge(c, &n, link, ok)
	n.Usable = n.Reason == ""
	for i := range n.Peers {
		peer := &n.Peers[i]
		peer.Wanted = n.Usable && peer.LocalAddress.IsValid()
		switch {
		case !n.Usable:
			peer.Detail = "interface " + n.Name + ": " + n.Detail
		case !peer.Wanted:
			peer.Detail = "no usable address on-link with " + peer.Address.String()
		}
	}
	if s, ok := p.in.BGP.Speaker(c.Name); ok {
		for i := range s.Peers {
			n.established = n.established || s.Peers[i].State == bgp.Established
			n.fresh = n.fresh && s.Peers[i].Transitions == 0
		}
	}
	return n
}

// judge gives the reason why an interface is not usable, empty if it is.
func (p *planner) judge(c *config.Interface, n *Interface, link netmon.Link, exists bool) (status.Reason, string) {
	switch {
	case !exists:
		return status.InterfaceAbsent, "no such link"
	case !link.Up:
		return status.InterfaceDown, "administratively down"
	case !link.Running:
		return status.InterfaceCarrier, "no carrier"
	}
	reachable := false
	for i := range n.Peers {
		reachable = reachable || n.Peers[i].LocalAddress.IsValid()
	}
	for _, g := range c.Gateways {
		reachable = reachable || onLink(n.Addresses, g).IsValid()
	}
	if !reachable {
		return status.InterfaceAddress, "no usable address on-link with " + targets(c)
	}
	// A link that was healthy at the start of the process has no such time: it
	// did not just come back.
	if until := link.HealthySince.Add(c.HoldUp); !link.HealthySince.IsZero() && until.After(p.now) {
		p.mayChange(until)
		return status.InterfaceHoldUp, fmt.Sprintf("healthy again, held for %s", c.HoldUp)
	}
	return "", ""
}

// targets names the addresses that an interface must reach one of.
func targets(c *config.Interface) string {
	var names []string
	for i := range c.Peers {
		names = append(names, c.Peers[i].Address.String())
	}
	for _, g := range c.Gateways {
		if !slices.Contains(names, g.String()) {
			names = append(names, g.String())
		}
	}
	return strings.Join(names, " or ")
}

// legs decides by which interfaces outgoing traffic may leave. Where a session
// is established the path is known to work, so an interface whose routers are
// silent gives way to one whose routers answer. The last resort is never taken
// away: first interfaces that only wait for their hold-up, then the former
// legs, then all.
func (p *planner) legs() {
	list := p.out.Interfaces
	mark := func(want func(*Interface) bool) bool {
		found := false
		for i := range list {
			list[i].Leg = want(&list[i])
			found = found || list[i].Leg
		}
		return found
	}
	answering := func(n *Interface) bool { return n.Usable && n.established }
	// Sessions that a former process had are not yet back right after a start.
	starting := p.graceUntil.After(p.now)
	if mark(answering) {
		mark(func(n *Interface) bool { return answering(n) || n.Usable && n.fresh && starting })
		return
	}
	_ = mark(func(n *Interface) bool { return n.Usable }) ||
		mark(func(n *Interface) bool { return n.Reason == status.InterfaceHoldUp }) ||
		mark(func(n *Interface) bool { return slices.Contains(p.in.Legs, n.Name) }) ||
		mark(func(*Interface) bool { return true })
}

// ownAddresses are the usable addresses of a link that are not ours to move:
// neither a VIP nor marked by us. They are sorted.
func ownAddresses(link netmon.Link, isVIP func(netip.Addr) bool) []netip.Prefix {
	var own []netip.Prefix
	for i := range link.Addresses {
		a := &link.Addresses[i]
		if a.Usable && a.Protocol != vip.Protocol && !isVIP(a.Prefix.Addr()) {
			own = append(own, a.Prefix)
		}
	}
	slices.SortFunc(own, comparePrefix)
	return slices.Compact(own)
}

// onLink returns the address whose network holds target, the most specific
// network first and then the lowest address; zero if there is none.
func onLink(addresses []netip.Prefix, target netip.Addr) netip.Addr {
	var best netip.Prefix
	for _, a := range addresses {
		if a.Contains(target) && a.Addr() != target && (!best.IsValid() || a.Bits() > best.Bits()) {
			best = a
		}
	}
	return best.Addr()
}

// global returns the lowest address of the family that routers beyond the link
// can use; zero if there is none.
func global(addresses []netip.Prefix, ipv4 bool) netip.Addr {
	for _, a := range addresses {
		if a.Addr().Is4() == ipv4 && !a.Addr().IsLinkLocalUnicast() {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// RouterID returns the configured BGP identifier, else the lowest IPv4 address
// of the listed interfaces; zero if they have none. The caller keeps the first
// valid answer: an identifier that changed would end all sessions.
func RouterID(c *config.Config, net *netmon.State) netip.Addr {
	lowest := c.BGP.RouterID
	if lowest.IsValid() {
		return lowest
	}
	isVIP := func(a netip.Addr) bool {
		return slices.ContainsFunc(c.VIPs, func(v config.VIP) bool { return v.Prefix.Contains(a) })
	}
	for i := range c.Interfaces {
		link, _ := net.Link(c.Interfaces[i].Name)
		for _, a := range ownAddresses(link, isVIP) {
			if a.Addr().Is4() && a.Addr().IsGlobalUnicast() && (!lowest.IsValid() || a.Addr().Less(lowest)) {
				lowest = a.Addr()
			}
		}
	}
	return lowest
}

// comparePrefix orders by address, then by length.
func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
