package speaker

import (
	"encoding/binary"
	"math"
	"net/netip"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
)

// What follows from a rank where the configuration does not say otherwise. A
// prepend decides between hosts of any AS numbers, once it is longer than the
// way through the fabric from one host's router to the other's: leaf and spine
// add two numbers, so a step of four leaves the better rank two ahead. MED
// decides between hosts of one AS behind one neighbouring AS, local preference
// in an internal network.
const (
	rankPrepend   = 4
	maxPrepend    = 10
	rankLocalPref = 300
	// behindMED is added for a host that is behind all ranks, behindLocalPref is
	// what it has.
	behindMED       = 1000
	behindLocalPref = 1
)

// The tag is a large community: the own AS number, this number plus the rank (0
// for none), and the router id. A host that is behind adds another thousand.
const (
	tagBase   = 6800000
	tagBehind = 1000
	maxRank   = 254
)

// rolePath gives a path what follows from the VIP's rank. An internal peer would
// take the own AS number for a loop. What is about to go is worse than any rank, so
// that it can be told from others by routers that do not know GRACEFUL_SHUTDOWN.
func (p *planner) rolePath(c *config.VIP, v *VIP, internal bool, path bgp.Path) bgp.Path {
	r := c.Role
	behind := v.Behind || r != nil && (v.leaving() || p.in.Overrides.Leaving)
	if path.Fenced = p.leased(c); path.Fenced {
		r, path = p.leasedPath(c, behind, path)
	}
	if r == nil {
		if c.Exclusive {
			path.LargeCommunities = union(path.LargeCommunities, []bgp.LargeCommunity{p.tag(0, false)})
		}
		return path
	}
	path.Prepend += rolePrepend(r, behind, maxPrepend-path.Prepend)
	if internal {
		path.Prepend = 0
	}
	path.MED = roleMED(r, path.MED, behind)
	if !p.in.Overrides.Leaving {
		path.LocalPref = roleLocalPref(r, path.LocalPref, behind)
	}
	path.Communities = union(path.Communities, r.Communities)
	path.LargeCommunities = union(path.LargeCommunities, largeCommunities(r.LargeCommunities))
	path.ExtendedCommunities = union(path.ExtendedCommunities, extendedCommunities(r.ExtendedCommunities))
	if r.Tag {
		rank := 0
		if c.Role != nil {
			rank = c.Role.Rank
		}
		path.LargeCommunities = union(path.LargeCommunities, []bgp.LargeCommunity{p.tag(rank, v.Behind)})
	}
	return path
}

// rolePrepend is how often the own AS number is added, at most as often as there
// is room for.
func rolePrepend(r *config.Role, behind bool, room int) int {
	switch {
	case behind:
		return max(room, 0)
	case r.Prepend != nil:
		return max(min(*r.Prepend, room), 0)
	}
	return max(min((r.Rank-1)*rankPrepend, room), 0)
}

func roleMED(r *config.Role, base *uint32, behind bool) *uint32 {
	med := uint64(max(r.Rank, 1)) - 1
	if base != nil {
		med += uint64(*base)
	}
	if r.MED != nil {
		med = uint64(*r.MED)
	}
	if behind {
		med += behindMED
	}
	out := uint32(min(med, math.MaxUint32))
	return &out
}

func roleLocalPref(r *config.Role, base *uint32, behind bool) *uint32 {
	pref := uint32(rankLocalPref)
	if base != nil {
		pref = *base
	}
	pref = max(pref, uint32(r.Rank)+behindLocalPref) - uint32(r.Rank) + 1 //nolint:gosec // 1 to 254
	if r.LocalPref != nil {
		pref = *r.LocalPref
	}
	if behind {
		pref = behindLocalPref
	}
	return &pref
}

// tag tells rank and host.
func (p *planner) tag(rank int, behind bool) bgp.LargeCommunity {
	t := bgp.LargeCommunity{Global: p.in.Config.BGP.ASN, Local1: tagBase + uint32(rank)} //nolint:gosec // 1 to 254
	if behind {
		t.Local1 += tagBehind
	}
	if p.in.RouterID.Is4() {
		id := p.in.RouterID.As4()
		t.Local2 = binary.BigEndian.Uint32(id[:])
	}
	return t
}

// mark is what a tag says.
type mark struct {
	rank   int
	behind bool
	host   netip.Addr // its router id
}

// readTag finds a tag among the large communities of a path that begins in an AS.
func readTag(origin uint32, list []bgp.LargeCommunity) (mark, bool) {
	for _, c := range list {
		n := int64(c.Local1) - tagBase
		m := mark{behind: n >= tagBehind}
		if m.behind {
			n -= tagBehind
		}
		if c.Global != origin || n < 0 || n > maxRank {
			continue
		}
		var id [4]byte
		binary.BigEndian.PutUint32(id[:], c.Local2)
		m.rank, m.host = int(n), netip.AddrFrom4(id)
		return m, true
	}
	return mark{}, false
}

// internalAt tells whether an interface, by its place in the configuration, has
// an internal peer.
func (p *planner) internalAt(at int) bool {
	for i := range p.in.Config.Interfaces[at].Peers {
		if p.internal(&p.in.Config.Interfaces[at].Peers[i]) {
			return true
		}
	}
	return false
}

// internalRemote is internalAt for the sessions without an interface.
func (p *planner) internalRemote() bool {
	for i := range p.in.Config.Peers {
		if p.internal(&p.in.Config.Peers[i]) {
			return true
		}
	}
	return false
}

func (p *planner) internal(c *config.Peer) bool { return !c.External && c.ASN == p.in.Config.BGP.ASN }
