package speaker

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/status"
)

// Owners tells which exclusive VIPs this host owns. *owner.Manager is one. Set
// never blocks.
type Owners interface {
	Set(wants []owner.Want)
	State() *owner.State
}

// lostBFD is how long a router may keep a path after BFD has told this host that
// it is cut off: its own BFD sees the same at the same time.
const lostBFD = time.Second

// unranked is the rank of a VIP without one for the others.
const unranked = 255

// OwnerHistory is what was seen of a VIP that must have one owner.
type OwnerHistory struct {
	// Peers are the sessions that carried it at the last look, in a text.
	Peers string
	// Lost is until when a router may still have it whose session ended while it
	// carried the VIP.
	Lost time.Time
}

// leased tells whether the VIP is one that this host must own to announce it.
func (p *planner) leased(c *config.VIP) bool { return c.Exclusive && p.in.Config.Ownership != nil }

// ownership tells why this host must not announce a VIP that it does not own;
// empty if it may.
func (p *planner) ownership(c *config.VIP) (status.Reason, string) {
	if !p.leased(c) {
		return "", ""
	}
	s := p.in.Owners
	if s.Holds(c.Prefix, p.in.Boot) {
		p.mayChange(p.now.Add(s.Until - p.in.Boot))
		return "", ""
	}
	detail := "nobody owns it"
	switch {
	case s == nil:
		detail = "etcd has not been asked yet"
	case s.Until <= p.in.Boot:
		detail = joinNonEmpty(": ", "there is no lease", s.Error)
	case s.VIPs[c.Prefix].Owner != "":
		detail = "owned by " + s.VIPs[c.Prefix].Owner
	}
	return status.NotOwner, detail
}

// makesWay tells whether another host announces the VIP already that it is handed
// over to: routers must prefer that before this host withdraws, or those that
// know no other path would have none for a moment.
func (p *planner) makesWay(c *config.VIP) bool {
	if !p.leased(c) || p.in.Owners == nil {
		return false
	}
	s := p.in.Owners.VIPs[c.Prefix]
	return s.Role == owner.Owner && s.Joined
}

// want is what others are told about a VIP with one owner. Ready tells that all
// gates are open but that it is owned and bound.
func (p *planner) want(c *config.VIP, v *VIP, ready bool) {
	h := p.in.History.Owners[c.Prefix]
	h = p.lostSince(h, p.carrying(v))
	put(&p.out.History.Owners, &p.own.owners, c.Prefix, h)
	carried := h.Lost.After(p.now) || p.inRIB(c.Prefix)
	w := owner.Want{
		VIP: c.Prefix, Rank: unranked, ID: p.in.RouterID,
		Ready: ready && p.canAnnounce(c), Announced: v.Announced, Carried: carried,
	}
	if c.Role != nil {
		w.Rank, w.Failback = c.Role.Rank, c.Role.Failback == failbackImmediate
	}
	p.out.Owners = append(p.out.Owners, w)
}

// lostSince notes which sessions have ended that carried a VIP, when these still do.
func (p *planner) lostSince(h OwnerHistory, carriers []string) OwnerHistory {
	for key := range strings.FieldsSeq(h.Peers) {
		if !slices.Contains(carriers, key) {
			if lost := p.lost(key); lost > 0 && h.Lost.Before(p.now.Add(lost)) {
				h.Lost = p.now.Add(lost)
			}
		}
	}
	h.Peers = strings.Join(carriers, " ")
	p.mayChange(h.Lost)
	return h
}

// removed goes on telling the others of VIPs with one owner that are no longer
// configured while a router may still have them from this host, and forgets them
// then.
func (p *planner) removed() {
	if p.in.Config.Ownership == nil {
		return
	}
	gone := map[netip.Prefix]OwnerHistory{}
	for vip, h := range p.in.History.Owners {
		if !p.configured[vip] {
			gone[vip] = h
		}
	}
	for _, vip := range slices.SortedFunc(maps.Keys(gone), comparePrefix) {
		// Which of the sessions that had it still do is not known: each counts that is up.
		h, inRIB := gone[vip], p.inRIB(vip)
		var up []string
		for key := range strings.FieldsSeq(h.Peers) {
			if inRIB && p.lost(key) == 0 {
				up = append(up, key)
			}
		}
		h = p.lostSince(h, up)
		if inRIB || h.Lost.After(p.now) {
			put(&p.out.History.Owners, &p.own.owners, vip, h)
			p.out.Owners = append(p.out.Owners, owner.Want{VIP: vip, Rank: unranked, ID: p.in.RouterID, Carried: true})
			continue
		}
		if !p.own.owners {
			p.out.History.Owners, p.own.owners = maps.Clone(p.out.History.Owners), true
		}
		delete(p.out.History.Owners, vip)
	}
}

// carrying are the sessions that carry a VIP, each as a word.
func (p *planner) carrying(v *VIP) []string {
	var list []string
	for i := range v.Interfaces {
		for _, a := range v.Interfaces[i].Peers {
			list = append(list, fmt.Sprintf("%s@%s", a, strings.ReplaceAll(v.Interfaces[i].Interface, " ", "_")))
		}
	}
	slices.Sort(list)
	return list
}

// lost is how long a router may still have a path whose session carried it until
// now; 0 if the session is up, so that it was told of the withdraw.
func (p *planner) lost(key string) time.Duration {
	address, name, _ := strings.Cut(key, "@")
	hold := p.in.Config.BGP.Timers.HoldTime
	of := func(peers []Peer, at string) time.Duration {
		for i := range peers {
			peer := &peers[i]
			if peer.Address.String() != address {
				continue
			}
			if s, ok := p.in.BGP.Speaker(at); ok && slices.ContainsFunc(s.Peers, func(b bgp.PeerState) bool {
				return sameAddress(b.Address, peer.Address) && b.State == bgp.Established
			}) {
				return 0
			}
			if peer.config.BFD != nil && peer.dead {
				return lostBFD
			}
			return peer.config.Timers.HoldTime
		}
		return hold
	}
	for i := range p.out.Interfaces {
		if p.out.Interfaces[i].Name == name {
			return of(p.out.Interfaces[i].Peers, name)
		}
	}
	return of(p.out.Remote, status.TopLevel)
}

// canAnnounce tells whether a session is established on which the VIP could go.
func (p *planner) canAnnounce(c *config.VIP) bool {
	up := func(name string) bool {
		s, _ := p.in.BGP.Speaker(name)
		return slices.ContainsFunc(s.Peers, func(b bgp.PeerState) bool { return b.State == bgp.Established })
	}
	for _, name := range c.Interfaces {
		if at, ok := p.byName[name]; ok && p.out.Interfaces[at].Usable && up(name) {
			return true
		}
	}
	return len(p.out.Remote) > 0 && len(p.pathsOf(c)) > 0 && up(status.TopLevel)
}

// binds tells whether a VIP may be in the kernel: one that must have an owner only
// while this host is it, or a speaker still has it.
func (p *planner) binds(c *config.VIP) bool {
	if !p.leased(c) || p.in.Owners.Holds(c.Prefix, p.in.Boot) {
		return true
	}
	if s := p.in.Owners; s != nil && p.in.Boot < s.Until && s.VIPs[c.Prefix].Role == owner.Former {
		return true // what is under way to this host is still served
	}
	return p.inRIB(c.Prefix)
}

// inRIB tells whether a speaker has a VIP.
func (p *planner) inRIB(vip netip.Prefix) bool {
	for _, rib := range p.carried {
		if rib[vip] {
			return true
		}
	}
	return false
}

// fence ends the paths of VIPs with one owner when that may be another.
func (p *planner) fence() time.Duration {
	if p.in.Owners == nil {
		return 0
	}
	return max(p.in.Owners.Until, 1) // 0 is no fence at all, and nobody would guard it
}

// owns tells the keeper of the leases what is wanted.
func (l *Loop) owns(d *Desired) {
	if l.opt.Owners != nil {
		l.opt.Owners.Set(d.Owners)
	}
}

// giveUp tells that no router has a VIP any more, once the speakers say so.
func (l *Loop) giveUp() {
	if l.opt.Owners == nil {
		return
	}
	if in, ok := l.inputs(); ok {
		l.plan(&in)
	}
}

// reportOwner completes the role of a VIP that must have one owner.
func reportOwner(in *Inputs, c *config.VIP, out *status.Role) {
	if in.Config.Ownership == nil || !c.Exclusive || in.Owners == nil {
		return
	}
	s := in.Owners.VIPs[c.Prefix]
	out.Owner, out.Next, out.Epoch = s.Owner, s.Next, s.Epoch
	out.Ready = slices.Clone(s.Ready)
	out.Leased = true
	out.Held = in.Owners.Holds(c.Prefix, in.Boot)
	out.Trouble = in.Owners.Error
}

// known tells whether another host's path is that of the owner, or of the two
// that hand it over.
func (p *planner) known(c *config.VIP, o *status.Other) bool {
	if !p.leased(c) || p.in.Owners == nil {
		return false
	}
	s := p.in.Owners.VIPs[c.Prefix]
	return o.Host.IsValid() && (o.Host == s.ID || s.Next != "")
}

// ownersAfter keeps what is known of VIPs but of those that may have several owners
// now. Those that are gone are forgotten when no router has them.
func ownersAfter(h map[netip.Prefix]OwnerHistory, next *config.Config) map[netip.Prefix]OwnerHistory {
	out := maps.Clone(h)
	for i := range next.VIPs {
		if !next.VIPs[i].Exclusive {
			delete(out, next.VIPs[i].Prefix)
		}
	}
	return out
}
