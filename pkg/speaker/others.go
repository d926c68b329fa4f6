package speaker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
)

// watched are the VIPs of which it matters who else announces them.
func (p *planner) watched() []netip.Prefix {
	var list []netip.Prefix
	for i := range p.in.Config.VIPs {
		if c := &p.in.Config.VIPs[i]; c.Role != nil || c.Exclusive {
			list = append(list, c.Prefix)
		}
	}
	return list
}

// others are the hosts that routers say announce a VIP, each once, in an order of
// their own. A path without a tag that begins in the own AS is left out: it may be
// our own, come back.
func (p *planner) others(c *config.VIP) []status.Other {
	if c.Role == nil && !c.Exclusive || p.in.BGP == nil {
		return nil
	}
	var list []status.Other
	for _, path := range p.seenOf(c.Prefix) {
		o, other := p.readPath(path)
		if !other {
			continue
		}
		at := slices.IndexFunc(list, func(x status.Other) bool { return x.Host == o.Host && x.ASN == o.ASN && x.Rank == o.Rank })
		if at < 0 {
			if !p.known(c, &o) {
				o.Duplicate = duplicate(c, &o)
			}
			list = append(list, o)
			continue
		}
		list[at].Leaving = list[at].Leaving && o.Leaving
		list[at].Behind = list[at].Behind && o.Behind
		if !slices.Contains(list[at].Peers, o.Peers[0]) {
			list[at].Peers = append(list[at].Peers, o.Peers[0])
		}
	}
	for i := range list {
		slices.SortFunc(list[i].Peers, netip.Addr.Compare)
	}
	slices.SortFunc(list, func(a, b status.Other) int {
		if c := a.Host.Compare(b.Host); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.ASN, b.ASN), cmp.Compare(a.Rank, b.Rank))
	})
	return list
}

// seenOf are the paths that peers of any speaker send for a prefix. All of them are
// sorted by prefix once, for there can be as many as VIPs.
func (p *planner) seenOf(prefix netip.Prefix) []bgp.SeenPath {
	if p.seenPaths == nil {
		p.seenPaths = map[netip.Prefix][]bgp.SeenPath{}
		for i := range p.in.BGP.Speakers {
			for _, path := range p.in.BGP.Speakers[i].Seen {
				p.seenPaths[path.Prefix] = append(p.seenPaths[path.Prefix], path)
			}
		}
	}
	return p.seenPaths[prefix]
}

// readPath tells whose a path is; false for our own.
func (p *planner) readPath(path bgp.SeenPath) (status.Other, bool) {
	o := status.Other{ASN: path.OriginAS, Leaving: path.Shutdown, Peers: []netip.Addr{path.Peer}}
	m, tagged := readTag(path.OriginAS, path.LargeCommunities)
	if !tagged {
		return o, path.OriginAS != p.in.Config.BGP.ASN
	}
	o.Host, o.Rank, o.Behind = m.host, m.rank, m.behind
	return o, m.host != p.in.RouterID || path.OriginAS != p.in.Config.BGP.ASN
}

// duplicate is why another host must not announce a VIP, empty if it may.
func duplicate(c *config.VIP, o *status.Other) string {
	switch {
	case c.Exclusive:
		return "nobody else may announce it"
	case o.Rank == 0:
		return "it has no rank"
	case o.Rank == c.Role.Rank:
		return fmt.Sprintf("it has the same rank, %d", o.Rank)
	}
	return ""
}

// reportRole is nil for a VIP that any host may announce.
func reportRole(in *Inputs, v *VIP, c *config.VIP) *status.Role {
	if c.Role == nil && !c.Exclusive {
		return nil
	}
	out := &status.Role{Exclusive: c.Exclusive, Behind: v.Behind, Others: v.Others}
	if c.Role != nil {
		out.Rank, out.Failback = c.Role.Rank, c.Role.Failback
	}
	reportOwner(in, c, out)
	if out.Held && !v.Announced {
		out.KeptUntil = v.Kept
	}
	return out
}
