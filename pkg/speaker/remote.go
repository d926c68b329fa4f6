package speaker

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// remotes decides about the sessions that belong to no interface.
func (p *planner) remotes() {
	holdUp := time.Duration(0)
	for i := range p.in.Config.Interfaces {
		holdUp = max(holdUp, p.in.Config.Interfaces[i].HoldUp)
	}
	for i := range p.in.Config.Peers {
		c := &p.in.Config.Peers[i]
		peer := Peer{Address: c.Address, ASN: c.ASN, config: c}
		peer.LocalAddress, peer.missing = p.local(c)
		p.watchPeer(status.TopLevel, &peer, holdUp, true)
		if c.Passive && peer.missing == "" && !p.listens(&peer) {
			peer.missing = "passive, and the speaker of an interface takes the connections to " + peer.LocalAddress.String() + ": set local_address"
		}
		peer.Detail = joinNonEmpty("; ", peer.missing, peer.held)
		peer.Wanted = peer.Detail == ""
		p.out.Remote = append(p.out.Remote, peer)
	}
}

// local is the address that a session without an interface is made from: the
// configured one, else that of the first usable interface. It stays while its
// interface is usable: another one would end the session.
func (p *planner) local(c *config.Peer) (netip.Addr, string) {
	if c.LocalAddress.IsValid() {
		return p.configuredLocal(c.LocalAddress)
	}
	kept := p.in.History.Local[c.Address]
	var first netip.Addr
	for i := range p.out.Interfaces {
		n := &p.out.Interfaces[i]
		own := global(n.Addresses, c.Address.Is4())
		if !n.Usable || !own.IsValid() {
			continue
		}
		if slices.ContainsFunc(n.Addresses, func(a netip.Prefix) bool { return a.Addr() == kept }) {
			return kept, ""
		}
		if !first.IsValid() {
			first = own
		}
	}
	if !first.IsValid() {
		return first, "no usable interface has an " + family(c.Address.Is4()) + " address"
	}
	p.rememberLocal(c.Address, first)
	return first, ""
}

func family(ipv4 bool) string {
	if ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

// configuredLocal tells why a configured local address cannot be used: it is not
// there, or it is that of an interface that is not usable, or no interface is.
func (p *planner) configuredLocal(local netip.Addr) (netip.Addr, string) {
	if p.isVIP(local) {
		return netip.Addr{}, "local address " + local.String() + " is a VIP, which may go elsewhere"
	}
	found, usable := false, false
	for i := range p.in.Net.Links {
		link := &p.in.Net.Links[i]
		for j := range link.Addresses {
			a := &link.Addresses[j]
			found = found || link.Up && a.Usable && a.Prefix.Addr() == local && a.Protocol != vip.Protocol
		}
	}
	if !found {
		return netip.Addr{}, "local address " + local.String() + " is not on this host"
	}
	for i := range p.out.Interfaces {
		n := &p.out.Interfaces[i]
		usable = usable || n.Usable
		if !n.Usable && slices.ContainsFunc(n.Addresses, func(a netip.Prefix) bool { return a.Addr() == local }) {
			return netip.Addr{}, n.why()
		}
	}
	if !usable {
		return netip.Addr{}, "no interface is usable"
	}
	return local, ""
}

// listens tells whether the speaker of these sessions takes connections to the
// local address of one: those to addresses of interfaces with peers of their own
// are taken by the speakers of these.
func (p *planner) listens(peer *Peer) bool {
	for i := range p.out.Interfaces {
		for j := range p.out.Interfaces[i].Peers {
			if p.out.Interfaces[i].Peers[j].LocalAddress == peer.LocalAddress {
				return false
			}
		}
	}
	return peer.LocalAddress.IsValid() && p.in.Config.BGP.ListenPort != 0
}

// pathsOf are the paths of a VIP: one by each usable interface of its list. The
// ID is one more than the interface's place in the configuration, so adding
// interfaces behind the others changes no path.
func (p *planner) pathsOf(c *config.VIP) []status.Path {
	var list []status.Path
	ipv4 := c.Prefix.Addr().Is4()
	for _, name := range c.Interfaces {
		at, ok := p.byName[name]
		if !ok || !p.out.Interfaces[at].Usable {
			continue
		}
		own := p.out.Interfaces[at].Addresses
		address := global(own, ipv4)
		if !address.IsValid() && ipv4 {
			address = global(own, false) // RFC 8950
		}
		if address.IsValid() {
			list = append(list, status.Path{Interface: name, ID: uint32(at) + 1, NextHop: address}) //nolint:gosec // an index
		}
	}
	slices.SortFunc(list, func(a, b status.Path) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// placeRemote decides about one VIP on the sessions without an interface. Reason
// is that of the gates which are the same everywhere.
func (p *planner) placeRemote(c *config.VIP, bound bool, reason status.Reason, detail string) Placement {
	pl := Placement{Interface: status.TopLevel, Reason: reason, Detail: detail}
	if reason != "" {
		return pl
	}
	pl.Paths = p.pathsOf(c)
	switch {
	case len(pl.Paths) == 0:
		pl.Reason, pl.Detail = status.NoUsableInterface, p.noHop(c)
		return pl
	case !p.in.RouterID.IsValid():
		pl.Reason, pl.Detail = status.NoSession, "no router id: no listed interface has an IPv4 address; set bgp.router_id"
	case !bound:
		pl.Wanted = true
		pl.Reason, pl.Detail = status.NotBound, p.whyUnbound(c.Prefix)
	default:
		pl.Wanted = true
	}
	pl.NextHop = pl.Paths[0].NextHop
	if pl.Wanted && bound {
		p.carry(&pl, p.out.Remote, c.Prefix)
	}
	return pl
}

// noHop tells why there is no next hop for a VIP.
func (p *planner) noHop(c *config.VIP) string {
	var texts []string
	for _, name := range c.Interfaces {
		at, ok := p.byName[name]
		switch {
		case !ok:
			texts = append(texts, "interface "+name+" is not configured")
		case !p.out.Interfaces[at].Usable:
			texts = append(texts, p.out.Interfaces[at].why())
		default:
			texts = append(texts, "interface "+name+": no usable "+family(c.Prefix.Addr().Is4())+" address to be the next hop")
		}
	}
	return joinNonEmpty("; ", "no interface to be the next hop", strings.Join(texts, "; "))
}

// remoteSpeaker is the wanted state of the speaker of the sessions that belong to
// no interface.
func (p *planner) remoteSpeaker() bgp.SpeakerConfig {
	s := p.bareSpeaker(status.TopLevel)
	s.DownReason = "session no longer configured"
	for i := range p.out.Remote {
		peer := &p.out.Remote[i]
		if !peer.Wanted {
			if s.DownReasons == nil {
				s.DownReasons = map[netip.Addr]string{}
			}
			s.DownReasons[peer.Address] = cut(peer.Detail)
			continue
		}
		session := p.session(peer, "")
		session.AddPath = peer.config.AddPath
		if ttl := peer.config.TTL; ttl > 1 && !peer.config.TTLSecurity {
			session.MultihopTTL = ttl
		}
		s.Peers = append(s.Peers, session)
		if p.listens(peer) {
			s.ListenAddresses = append(s.ListenAddresses, peer.LocalAddress)
		}
	}
	if len(s.ListenAddresses) == 0 {
		s.ListenPort = 0 // no address is left to listen on
	}
	slices.SortFunc(s.ListenAddresses, netip.Addr.Compare)
	s.ListenAddresses = slices.Compact(s.ListenAddresses)
	s.Paths = p.remotePaths()
	return s
}

func (p *planner) remotePaths() []bgp.Path {
	var list []bgp.Path
	internal := p.internalRemote()
	for i := range p.out.VIPs {
		v, c := &p.out.VIPs[i], &p.in.Config.VIPs[i]
		if !p.loaded(c, v) {
			continue
		}
		for j := range v.Interfaces {
			if pl := &v.Interfaces[j]; pl.Interface == status.TopLevel && !withheldEverywhere(pl.Reason) {
				for _, h := range pl.Paths {
					list = append(list, v.part(&c.Drain, internal, p.rolePath(c, v, internal, p.path(c, h.ID, h.NextHop, v.Degraded))))
				}
			}
		}
	}
	return list
}
