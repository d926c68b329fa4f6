package speaker

import (
	"fmt"
	"log/slog"
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

// seenFor is how long a path may still be seen after it was withdrawn: the speaker
// processes look once a second.
const seenFor = 2 * time.Second

// unranked is the rank of a VIP without one for the others.
const unranked = 255

// OwnerHistory is what was seen of a VIP that must have one owner.
type OwnerHistory struct {
	// Peers are the sessions that carried it at the last look, in a text.
	Peers string
	// Parting tells that this host was about to go at the last look, and held it: by a
	// handover or a drain. Left is when it had gone that way, zero once it serves
	// nobody any more.
	Parting bool
	Left    time.Time
	// Epoch is that of the last look, Changed when two hosts last announced it on
	// purpose, or another one came to own it.
	Epoch   int64
	Changed time.Time
}

// Loss is a session that ended while it carried a VIP with one owner.
type Loss struct {
	// Peer is the session, as in OwnerHistory.Peers.
	Peer string
	// Until is when its router has forgotten the VIP at the latest. It has as soon as
	// it has another session, when Transitions is more than this.
	Until       time.Time
	Transitions uint64
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
	case s.Refused != "":
		detail = s.Refused
	case s.Until <= p.in.Boot:
		detail = joinNonEmpty(": ", "there is no lease", s.Error)
	case s.VIPs[c.Prefix].Owner != "":
		detail = "owned by " + s.VIPs[c.Prefix].Owner
	}
	return status.NotOwner, detail
}

// want is what others are told about a VIP with one owner. Ready tells that all
// gates are open but that it is owned and bound.
func (p *planner) want(c *config.VIP, v *VIP, h OwnerHistory, ready bool) {
	h, v.Kept = p.lostSince(c.Prefix, p.parting(c, v, h), p.carrying(v))
	put(&p.out.History.Owners, &p.own.owners, c.Prefix, h)
	carried := !v.Kept.IsZero() || p.inRIB(c.Prefix)
	w := owner.Want{
		VIP: c.Prefix, Rank: unranked, ID: p.in.RouterID,
		Ready: ready && p.canAnnounce(c), Leaving: v.Drain != nil || p.in.Overrides.Leaving, Announced: v.Announced, Carried: carried,
	}
	if c.Role != nil {
		w.Rank, w.Failback = c.Role.Rank, c.Role.Failback == failbackImmediate
	}
	p.out.Owners = append(p.out.Owners, w)
}

// lostSince notes which sessions have ended that carried a VIP, when these still do. It
// tells until when a router may have the VIP of a session that was lost, zero if none
// may.
func (p *planner) lostSince(vip netip.Prefix, h OwnerHistory, carriers []string) (_ OwnerHistory, until time.Time) {
	losses := slices.DeleteFunc(slices.Clone(p.in.History.Lost[vip]), func(l Loss) bool {
		return !l.Until.After(p.now) || p.returned(&l)
	})
	for key := range strings.FieldsSeq(h.Peers) {
		if slices.Contains(carriers, key) {
			continue
		}
		if lost := p.lost(key); lost > 0 {
			losses = slices.DeleteFunc(losses, func(l Loss) bool { return l.Peer == key })
			losses = append(losses, Loss{key, p.now.Add(lost), p.sessionOf(key).Transitions})
		}
	}
	p.rememberLost(vip, losses)
	for _, l := range losses {
		p.mayChange(l.Until)
		if l.Until.After(until) {
			until = l.Until
		}
	}
	h.Peers = strings.Join(carriers, " ")
	return h, until
}

// returned tells whether there is another session with the router of one that was lost.
// With that it has dropped the paths of the former one: graceful restart is refused for
// VIPs with one owner. Another router at the same address knows nothing of them.
func (p *planner) returned(l *Loss) bool {
	s := p.sessionOf(l.Peer)
	_, id, _ := carrier(l.Peer)
	return s.State == bgp.Established && s.Transitions > l.Transitions && s.RouterID.IsValid() && s.RouterID.String() == id
}

// sessionOf is what a session is now that carried a VIP, nothing if there is none.
func (p *planner) sessionOf(key string) bgp.PeerState {
	address, _, name := carrier(key)
	at := status.TopLevel
	if slices.ContainsFunc(p.out.Interfaces, func(n Interface) bool { return n.Name == name }) {
		at = name
	}
	s, _ := p.in.BGP.Speaker(at)
	i := slices.IndexFunc(s.Peers, func(b bgp.PeerState) bool { return bare(b.Address).String() == address })
	if i < 0 {
		return bgp.PeerState{}
	}
	return s.Peers[i]
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
		h, until := p.lostSince(vip, h, up)
		if inRIB || !until.IsZero() {
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

// carrying are the sessions that carry a VIP, each as a word that carrier reads.
func (p *planner) carrying(v *VIP) []string {
	var list []string
	for i := range v.Interfaces {
		name := v.Interfaces[i].Interface
		s, _ := p.in.BGP.Speaker(name)
		for _, a := range v.Interfaces[i].Peers {
			var id netip.Addr
			if k := slices.IndexFunc(s.Peers, func(b bgp.PeerState) bool { return sameAddress(b.Address, a) }); k >= 0 {
				id = s.Peers[k].RouterID
			}
			list = append(list, fmt.Sprintf("%s/%s/%s", bare(a), idText(id), strings.ReplaceAll(name, " ", "_")))
		}
	}
	slices.Sort(list)
	return list
}

// carrier is a session in a word: the peer's address, its router id, and the interface.
func carrier(key string) (address, id, name string) {
	address, rest, _ := strings.Cut(key, "/")
	id, name, _ = strings.Cut(rest, "/")
	return address, id, name
}

// idText is empty for a router id that is not known.
func idText(id netip.Addr) string {
	if !id.IsValid() {
		return ""
	}
	return id.String()
}

// another tells whether a router is surely not the one of an id.
func another(router netip.Addr, id string) bool {
	return id != "" && router.IsValid() && router.String() != id
}

// lost is how long a router may still have a path whose session carried it until
// now; 0 if the session is up, so that it was told of the withdraw, or if it has ended
// the session itself and told so, which takes all paths away. Another router at its
// address was told for itself only.
func (p *planner) lost(key string) time.Duration {
	address, id, name := carrier(key)
	hold := p.in.Config.BGP.Timers.HoldTime
	of := func(peers []Peer, at string) time.Duration {
		for i := range peers {
			peer := &peers[i]
			if bare(peer.Address).String() != address {
				continue
			}
			// No withdraw gets through where the path is dead, however long the session lasts.
			if s, ok := p.in.BGP.Speaker(at); ok && slices.ContainsFunc(s.Peers, func(b bgp.PeerState) bool {
				return sameAddress(b.Address, peer.Address) && (b.PeerEnded || b.State == bgp.Established && !another(b.RouterID, id) && peer.Wanted && !peer.dead)
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

// loaded tells whether speakers may have a VIP. What they have goes out with the next
// session: without any, this host gives up what must have one owner, and cannot while
// a speaker has it.
func (p *planner) loaded(c *config.VIP, v *VIP) bool {
	return v.Bound && (!p.leased(c) || p.canAnnounce(c))
}

// binds tells whether a VIP may be in the kernel: one that must have an owner only
// while this host is it, or a speaker still has it, or it serves what is left.
func (p *planner) binds(c *config.VIP, v *VIP) bool {
	return !p.leased(c) || p.in.Owners.Holds(c.Prefix, p.in.Boot) || p.inRIB(c.Prefix) || v.serves()
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
	out.Owner, out.Next, out.Former, out.Epoch, out.Revision = s.Owner, s.Next, s.Former, s.Epoch, s.Revision
	out.Ready = slices.Clone(s.Ready)
	out.Leased = true
	out.Held = in.Owners.Holds(c.Prefix, in.Boot)
	out.Owns, out.Ceased = out.Held && s.Role == owner.Owner, string(s.Ceased)
	if s.Role == owner.Owner && !out.Owns {
		out.Ceased = string(owner.LeaseEnded) // a moment ago
	}
	out.Trouble, out.Refused = in.Owners.Error, in.Owners.Refused
}

// known tells whether another host's path is that of the owner, or of one that was
// it until just now. Without a lease this host does not know who that is.
func (p *planner) known(c *config.VIP, o *status.Other) bool {
	if !p.leased(c) || p.in.Owners == nil || !o.Host.IsValid() {
		return false
	}
	if p.in.Boot >= p.in.Owners.Until {
		return true
	}
	end := p.out.History.Owners[c.Prefix].Changed.Add(seenFor)
	p.mayChange(end)
	return o.Host == p.in.Owners.VIPs[c.Prefix].ID || p.now.Before(end)
}

// ownersAfter keeps what is known of VIPs but of those that may have several owners
// now. Those that are gone are forgotten when no router has them.
func ownersAfter[T any](h map[netip.Prefix]T, next *config.Config) map[netip.Prefix]T {
	out := maps.Clone(h)
	for i := range next.VIPs {
		if !next.VIPs[i].Exclusive {
			delete(out, next.VIPs[i].Prefix)
		}
	}
	return out
}

// owns tells of a VIP that this host came to own or ceased to.
func (c *changes) owns(v *status.VIP, was *status.Role) {
	is := v.Role
	switch {
	case is.Owns && !was.Owns:
		c.add(slog.LevelInfo, status.Event{Kind: kindVIP, Subject: v.Name, Message: "vip owned", To: string(owner.Owner)},
			"vip", v.Name, "prefix", v.Prefix, "epoch", is.Epoch)
	case !is.Owns && was.Owns:
		level := c.worse
		if c := owner.Ceased(is.Ceased); c == owner.HandedOver || c == owner.GivenUp {
			level = slog.LevelInfo // what made it give up is told by itself
		}
		c.add(level, status.Event{Kind: kindVIP, Subject: v.Name, Message: "vip no longer owned", From: string(owner.Owner), Cause: is.Ceased},
			"vip", v.Name, "prefix", v.Prefix, "cause", is.Ceased, "owner", is.Owner)
	}
}

// refused tells that this host takes no part, once for all VIPs, and that it does
// again.
func (c *changes) refused() {
	was, is := c.prev.Refused(), c.next.Refused()
	e := status.Event{Kind: kindDaemon, Subject: "ownership", Cause: is}
	switch {
	case is != "" && is != was:
		e.Message = "ownership refused"
		c.add(slog.LevelWarn, e, "reason", is)
	case is == "" && was != "":
		e.Message = "ownership no longer refused"
		c.add(slog.LevelInfo, e)
	}
}
