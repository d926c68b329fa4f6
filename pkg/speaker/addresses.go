package speaker

import (
	"net/netip"
	"slices"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/vip"
)

// ownAddresses are the usable addresses of a link that are not ours to move:
// neither a VIP nor marked by us. They are sorted, secondary ones last: routers
// know a host by its first address, and temporary ones do not stay.
func ownAddresses(link netmon.Link, isVIP func(netip.Addr) bool) []netip.Prefix {
	var own, secondary []netip.Prefix
	for i := range link.Addresses {
		a := &link.Addresses[i]
		switch {
		case !a.Usable || a.Protocol == vip.Protocol || isVIP(a.Prefix.Addr()):
		case a.Secondary:
			secondary = append(secondary, a.Prefix)
		default:
			own = append(own, a.Prefix)
		}
	}
	slices.SortFunc(own, comparePrefix)
	slices.SortFunc(secondary, comparePrefix)
	return slices.Compact(append(own, secondary...))
}

// farNetworks are the networks at the other end of a point-to-point link, by the
// own address; nil without any.
func farNetworks(link netmon.Link) map[netip.Addr]netip.Prefix {
	var far map[netip.Addr]netip.Prefix
	for i := range link.Addresses {
		if a := &link.Addresses[i]; a.Far.IsValid() {
			if far == nil {
				far = map[netip.Addr]netip.Prefix{}
			}
			far[a.Prefix.Addr()] = a.Far
		}
	}
	return far
}

// holds tells whether target is on the network of one of the interface's addresses.
func (n *Interface) holds(own netip.Prefix, target netip.Addr) bool {
	network := own
	if far, ok := n.far[own.Addr()]; ok {
		network = far
	}
	return network.Contains(target) && own.Addr() != target
}

// onLink returns the address whose network holds target, the most specific
// network first and then the first address; zero if there is none.
func (n *Interface) onLink(target netip.Addr) netip.Addr {
	var best netip.Prefix
	for _, a := range n.Addresses {
		if n.holds(a, target) && (!best.IsValid() || a.Bits() > best.Bits()) {
			best = a
		}
	}
	return best.Addr()
}

// global returns the first address of the family that routers beyond the link
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
