package speaker

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
)

// History is what no snapshot holds: how things were at the looks before. Plan
// reads one and makes the next; nobody changes one.
type History struct {
	Interfaces map[string]InterfaceHistory
	VIPs       map[netip.Prefix]VIPHistory
	Roles      map[netip.Prefix]RoleHistory
	Owners     map[netip.Prefix]OwnerHistory
	// Lost are sessions that were lost while they carried a VIP with one owner.
	Lost map[netip.Prefix][]Loss
	BFD  map[Session]BFDHistory
	// Local are the addresses that sessions without an interface are made from, by
	// peer, where the configuration leaves the choice.
	Local map[netip.Addr]netip.Addr
	// Learned are the paths of peers that were legs, or could have been.
	Learned []LearnedPath
}

// InterfaceHistory is what was seen of an interface.
type InterfaceHistory struct {
	// Open tells that all its gates but hold-up and damping were open at the last
	// look, Opened since when they are again; zero if they were never seen closed.
	Open   bool
	Opened time.Time
	// Index is that of its link at the last look, 0 for none; Replaced is when it
	// became another one, while that counts.
	Index    int
	Replaced time.Time
	// Excused tells that its configuration changed, which may close a gate.
	Excused bool
	// Cause is what made it unusable, without anything that grows, and Detail
	// the text that was made for that then.
	Cause, Detail string
	Penalty       Penalty
	// Router is the one that an unnumbered peer was last; zero for none.
	Router netip.Addr
}

// VIPHistory is what was seen of a VIP.
type VIPHistory struct {
	// Open tells that its checks passed at the last look.
	Open    bool
	Penalty Penalty
}

// Session names a BFD session.
type Session struct {
	Interface string
	Peer      netip.Addr
}

// BFDHistory is what was seen of a BFD session.
type BFDHistory struct {
	// Downs is the session's count at the last look.
	Downs uint64
	// FailedAt is since when its failure holds the BGP session back; zero if none
	// does. UpAt is since when the session is up again, while it does.
	FailedAt, UpAt time.Time
}

// owned tells which maps of a History may be written.
type owned struct{ interfaces, vips, roles, owners, lost, bfd, local bool }

// put sets an entry of a map that others may read: if that changes it, then in a
// copy, unless own says that it is one already.
func put[K, V comparable](m *map[K]V, own *bool, key K, value V) {
	if old, ok := (*m)[key]; ok && old == value {
		return
	}
	if !*own {
		if *m = maps.Clone(*m); *m == nil {
			*m = map[K]V{}
		}
		*own = true
	}
	(*m)[key] = value
}

func (p *planner) rememberInterface(name string, h InterfaceHistory) {
	put(&p.out.History.Interfaces, &p.own.interfaces, name, h)
}

func (p *planner) rememberVIP(prefix netip.Prefix, h VIPHistory) {
	put(&p.out.History.VIPs, &p.own.vips, prefix, h)
}

func (p *planner) rememberBFD(s Session, h BFDHistory) {
	put(&p.out.History.BFD, &p.own.bfd, s, h)
}

// rememberLost is put for a value that cannot be compared. Without losses there is no
// entry.
func (p *planner) rememberLost(vip netip.Prefix, losses []Loss) {
	if slices.Equal(p.out.History.Lost[vip], losses) {
		return
	}
	if !p.own.lost {
		if p.out.History.Lost = maps.Clone(p.out.History.Lost); p.out.History.Lost == nil {
			p.out.History.Lost = map[netip.Prefix][]Loss{}
		}
		p.own.lost = true
	}
	if len(losses) == 0 {
		delete(p.out.History.Lost, vip)
		return
	}
	p.out.History.Lost[vip] = losses
}

func (p *planner) rememberLocal(peer, local netip.Addr) {
	put(&p.out.History.Local, &p.own.local, peer, local)
}

// after is the history for another configuration: what is no longer in it is
// forgotten, and what the change itself does to a subject is no flap. Penalties
// stay.
func (h History) after(old, next *setup) History {
	out := History{
		Interfaces: map[string]InterfaceHistory{}, VIPs: map[netip.Prefix]VIPHistory{}, BFD: map[Session]BFDHistory{},
		Local: map[netip.Addr]netip.Addr{}, Roles: map[netip.Prefix]RoleHistory{}, Learned: h.Learned,
		Owners: ownersAfter(h.Owners, next.config), Lost: ownersAfter(h.Lost, next.config),
	}
	for i := range next.config.Interfaces {
		n := &next.config.Interfaces[i]
		if seen, ok := h.Interfaces[n.Name]; ok {
			k := slices.IndexFunc(old.config.Interfaces, func(o config.Interface) bool { return o.Name == n.Name })
			seen.Excused = seen.Excused || k < 0 || !sameButTimes(old.config.Interfaces[k], *n)
			out.Interfaces[n.Name] = seen
		}
		for key, seen := range h.BFD {
			if key.Interface == n.Name && slices.ContainsFunc(n.Peers, func(c config.Peer) bool { return c.BFD != nil && mayBe(&c, key.Peer) }) {
				out.BFD[key] = seen
			}
		}
	}
	for i := range next.config.Peers {
		c := &next.config.Peers[i]
		if local, ok := h.Local[c.Address]; ok && !c.LocalAddress.IsValid() {
			out.Local[c.Address] = local
		}
		key := Session{status.TopLevel, c.Address}
		if seen, ok := h.BFD[key]; ok && c.BFD != nil {
			out.BFD[key] = seen
		}
	}
	before := make(map[netip.Prefix]*config.VIP, len(old.config.VIPs))
	for i := range old.config.VIPs {
		before[old.config.VIPs[i].Prefix] = &old.config.VIPs[i]
	}
	for i := range next.config.VIPs {
		v := &next.config.VIPs[i]
		if role, ok := h.Roles[v.Prefix]; ok && v.Role != nil {
			out.Roles[v.Prefix] = role
		}
		seen, ok := h.VIPs[v.Prefix]
		if !ok {
			continue
		}
		was := before[v.Prefix]
		same := was != nil && was.ChecksMode == v.ChecksMode && slices.Equal(old.checkIDs[v.Prefix], next.checkIDs[v.Prefix])
		seen.Open = seen.Open && same
		out.VIPs[v.Prefix] = seen
	}
	return out
}

// mayBe tells whether a configured peer may have the address: those that are
// found by themselves may have any.
func mayBe(c *config.Peer, a netip.Addr) bool {
	return c.Gateway || c.Unnumbered || sameAddress(c.Address, a)
}

// sameButTimes tells whether two configurations of an interface differ at most
// in how long it is not used.
func sameButTimes(a, b config.Interface) bool {
	a.HoldUp, a.Damping = b.HoldUp, b.Damping
	return reflect.DeepEqual(a, b)
}
