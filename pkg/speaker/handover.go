package speaker

import (
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/status"
)

// handoverBound is how long the withdraw of a drained VIP waits for another host to
// take it over, besides the time for which both announce it.
const handoverBound = 5 * time.Second

// originIncomplete is the worst value of ORIGIN (RFC 4271 section 5.1.1).
const originIncomplete = 2

// A VIP with one owner is handed over in four states of the network, so that no
// router is told of a way that the one who tells it does not go yet, and none loses
// the path that it has before it knows another:
//
//  1. The next owner announces it behind all ranks.
//  2. The owner falls behind as well. Routers that are nearer to the next one move
//     there. They tell it to their neighbours, but those still prefer the owner.
//  3. The next owner is announced as usual. All routers move; the way that the
//     nearest ones tell of is the one that they go.
//  4. The former owner withdraws.
//
// Where a router is as far from both, ORIGIN keeps it with the owner until 3.

// stepsBack tells whether a VIP is announced behind all ranks because it is being
// handed over, by the one or to the other.
func (p *planner) stepsBack(c *config.VIP) bool {
	switch s := p.ownerState(c); s.Role {
	case owner.Owner:
		return s.Joined
	case owner.Next, owner.Former:
		return true
	case owner.None:
	}
	return false
}

// ownerState is what is known of the owner of a VIP, nothing if nobody was asked.
func (p *planner) ownerState(c *config.VIP) owner.VIPState {
	if p.in.Owners == nil {
		return owner.VIPState{}
	}
	return p.in.Owners.VIPs[c.Prefix]
}

// leasedPath gives the path of a VIP with one owner its place in a handover, and the
// role for the rest. The rank says who owns it, and not how it is announced: whoever
// has it must be better than one that falls behind.
func (p *planner) leasedPath(c *config.VIP, behind bool, path bgp.Path) (*config.Role, bgp.Path) {
	if p.ownerState(c).Role == owner.Next {
		path.Origin = originIncomplete
	}
	if c.Role == nil {
		if !behind {
			return nil, path
		}
		return &config.Role{Tag: true}, path
	}
	r := *c.Role
	r.Rank = 1
	return &r, path
}

// held notes who holds a VIP with one owner, and whether this host has just ceased to
// in a handover or a drain. With the lease ends everything: then what is left is no
// longer served, for unbinding is the last step of the fence.
func (p *planner) held(c *config.VIP) OwnerHistory {
	if !p.leased(c) {
		return OwnerHistory{}
	}
	h, s := p.in.History.Owners[c.Prefix], p.ownerState(c)
	switch valid := p.in.Owners != nil && p.in.Boot < p.in.Owners.Until; {
	case !valid:
		h.Parting = false
	case s.Role != owner.None:
		h.Left = time.Time{}
	case h.Parting:
		h.Parting, h.Left = false, p.now
	}
	if s.Next != "" || s.Former != "" || s.Epoch != h.Epoch {
		h.Epoch, h.Changed = s.Epoch, p.now
	}
	put(&p.out.History.Owners, &p.own.owners, c.Prefix, h)
	return h
}

// parting notes whether this host is about to go, and forgets a VIP of which it
// serves nobody any more.
func (p *planner) parting(c *config.VIP, v *VIP, h OwnerHistory) OwnerHistory {
	if p.in.Owners.Holds(c.Prefix, p.in.Boot) {
		h.Parting = p.ownerState(c).Role == owner.Former || v.Drain.gone()
	}
	if !h.Left.IsZero() && !v.serves() {
		h.Left = time.Time{}
	}
	return h
}

// parted tells how far a VIP is that this host handed over at a time, nil if it did
// not. Of one that is drained as well the drain tells that.
func (p *planner) parted(c *config.VIP, left time.Time, drain *Drain) *Drain {
	if left.IsZero() {
		return nil
	}
	if drain != nil {
		return drain
	}
	d := &Drain{Drain: orders.Drain{Prefix: c.Prefix, Since: left, Withdraw: left}}
	d.Connections, d.Counted = p.in.Connections[c.Prefix]
	p.wane(c, d, true)
	return d
}

// serves tells whether this host may have connections of the VIP although it does not
// own it any more.
func (v *VIP) serves() bool { return v.Parted != nil && v.Parted.Phase != status.DrainDone }

// announcedUntil is when a drained VIP is withdrawn at the latest: one that another
// host is about to take over not before that host has it. What is withdrawn stays so.
func (p *planner) announcedUntil(c *config.VIP, h OwnerHistory, withdraw time.Time) time.Time {
	if !p.leased(c) || !p.in.Owners.Holds(c.Prefix, p.in.Boot) {
		return withdraw
	}
	s := p.ownerState(c)
	if s.Role == owner.Former || s.Role == owner.Owner && !h.Parting && (s.Next != "" || len(s.Ready) > 0) {
		return withdraw.Add(p.in.Config.Ownership.Handover + handoverBound)
	}
	return withdraw
}
