package speaker

import (
	"net/netip"
	"slices"

	"vipspeaker/pkg/bgp"
)

// nextHop returns the next hop of one family's paths on an interface: zero for
// each session's own address, which is right when all its sessions that carry the
// family are of that family; else the interface's own address of the family.
// Without one, IPv4 goes with the IPv6 next hop of the session (RFC 8950), and IPv6
// not at all. The router of an unnumbered session has no address on the networks
// that the interface may have.
func (p *planner) nextHop(at int, ipv4 bool) (netip.Addr, bool) {
	n := &p.out.Interfaces[at]
	var own netip.Addr
	same := true
	some := slices.ContainsFunc(n.Peers, func(peer Peer) bool { return peer.carries(ipv4) })
	for i := range n.Peers {
		peer := &n.Peers[i]
		switch {
		case some && !peer.carries(ipv4):
		case peer.Found == foundRouter && ipv4:
			return netip.Addr{}, true
		case !peer.Address.IsValid() && peer.Found == foundGateway:
		case peer.Address.Is4() != ipv4 || peer.Address.Is4() && !ipv4:
			same = false
		case !own.IsValid() && !peer.LocalAddress.IsLinkLocalUnicast():
			own = peer.LocalAddress
		}
	}
	if same {
		return netip.Addr{}, true
	}
	if !own.IsValid() {
		own = global(n.Addresses, ipv4)
	}
	return own, own.IsValid() || ipv4
}

// carries tells whether the peer is to have the family.
func (p *Peer) carries(ipv4 bool) bool {
	c := p.config
	if c == nil || c.IPv4 == c.IPv6 {
		return true
	}
	return c.IPv4 == ipv4
}

// hopFor is the next hop that decides whether a peer can have a VIP: with several
// paths, one that the peer takes will do.
func hopFor(pl *Placement, peer *bgp.PeerState, prefix netip.Prefix) netip.Addr {
	if peer.AddPath {
		for _, path := range pl.Paths {
			if refuses(peer, path.NextHop, prefix) == "" {
				return path.NextHop
			}
		}
	}
	return pl.NextHop
}

// refuses tells why an established peer cannot have a path; empty if it can.
func refuses(peer *bgp.PeerState, hop netip.Addr, prefix netip.Prefix) string {
	ipv4 := prefix.Addr().Is4()
	switch {
	case ipv4 && !peer.IPv4, !ipv4 && !peer.IPv6:
		return "did not negotiate the address family"
	case ipv4 && (hop.Is6() || !hop.IsValid() && peer.Address.Is6()) && !peer.ExtendedNextHop:
		return "did not negotiate extended next hop"
	}
	return ""
}
