package speaker

import (
	"net/netip"
	"slices"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/vip"
)

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
