package speaker

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
)

// The values of role.failback.
const (
	failbackImmediate = "immediate"
	failbackIdle      = "idle"
)

// aloneFor is how long no other host must have been seen, until one that came
// back takes that for the truth: a router tells of another host at once, the
// speaker processes look once a second.
const aloneFor = 3 * time.Second

// RoleHistory is what was seen of a VIP with a rank.
type RoleHistory struct {
	// Front tells that it is announced with its rank, Free since when nothing
	// speaks against that while it is not; zero if something does.
	Front bool
	Free  time.Time
}

// behind tells whether a VIP is announced as worse than any rank, for another
// host has taken over meanwhile. A host is in front until it has announced
// nothing for a moment; when it comes back, it stays behind while another one is
// seen that would lose by it. One of a VIP with one owner is while that changes.
func (p *planner) behind(c *config.VIP, v *VIP) bool {
	if p.leased(c) {
		return p.stepsBack(c)
	}
	if c.Role == nil || c.Role.Failback == failbackImmediate {
		return false
	}
	h := p.in.History.Roles[c.Prefix]
	switch {
	case p.in.Overrides.Shutdown: // what it was counts for the next process
	case !v.Announced:
		// After a start over what a former process left, the routers may have its
		// routes still.
		if h.Front = h.Front && p.graceUntil.After(p.now); h.Front {
			p.mayChange(p.graceUntil)
		}
		h.Free = time.Time{}
	case h.Front:
	case p.in.Overrides.Failback[c.Prefix]:
		h.Front = true
	case !free(c.Role, v.Others):
		h.Free = time.Time{}
	case h.Free.IsZero():
		h.Free = p.now
		p.mayChange(p.now.Add(aloneFor))
	case h.Free.Add(aloneFor).After(p.now):
		p.mayChange(h.Free.Add(aloneFor))
	default:
		h.Front = true
	}
	put(&p.out.History.Roles, &p.own.roles, c.Prefix, h)
	return !h.Front
}

// free tells whether nobody loses traffic that does not want to if a host is
// announced with its rank: those that are better do not, and those that are about
// to go have no use for it.
func free(r *config.Role, others []status.Other) bool {
	return !slices.ContainsFunc(others, func(o status.Other) bool {
		better := o.Rank > 0 && o.Rank < r.Rank && !o.Behind
		return !better && (r.Failback != failbackIdle || !o.Leaving)
	})
}

// failbacks are an operator's orders that have not been carried out.
type failbacks struct {
	mu      sync.Mutex
	pending map[netip.Prefix]bool
}

func (f *failbacks) add(prefix netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending == nil {
		f.pending = map[netip.Prefix]bool{}
	}
	f.pending[prefix] = true
}

// list is a copy, nil for none.
func (f *failbacks) list() map[netip.Prefix]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) == 0 {
		return nil
	}
	return maps.Clone(f.pending)
}

// settle forgets the orders that a decision has carried out.
func (f *failbacks) settle(h History) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.pending, func(prefix netip.Prefix, _ bool) bool { return h.Roles[prefix].Front })
}

// Failback orders that a VIP is announced with its rank although another host is
// seen. It has no effect on one that is in front already, and waits for one that
// is withheld. It never blocks.
func (l *Loop) Failback(prefix netip.Prefix) {
	l.failbacks.add(prefix)
	l.Poke()
}

// role tells of a VIP that came in front or fell behind, of one that this host came
// to own or ceased to, and of hosts that must not announce it.
func (c *changes) role(v, old *status.VIP) {
	if v.Role == nil {
		return
	}
	was := old.Role
	if was == nil {
		was = &status.Role{Behind: v.Role.Behind}
	}
	const behind, front = "behind", "in_front"
	switch {
	case v.Role.Behind && !was.Behind:
		c.add(slog.LevelInfo, status.Event{Kind: kindVIP, Subject: v.Name, Message: "vip behind all ranks", To: behind},
			"vip", v.Name, "prefix", v.Prefix, "rank", v.Role.Rank)
	case !v.Role.Behind && was.Behind:
		c.add(slog.LevelInfo, status.Event{Kind: kindVIP, Subject: v.Name, Message: "vip announced with its rank", From: behind, To: front},
			"vip", v.Name, "prefix", v.Prefix, "rank", v.Role.Rank)
	}
	c.owns(v, was)
	before := old.Duplicates()
	for _, o := range v.Duplicates() {
		if !slices.ContainsFunc(before, o.Same) {
			c.add(slog.LevelWarn, status.Event{Kind: kindVIP, Subject: v.Name, Message: "vip claimed by another host", Cause: o.Text() + ": " + o.Duplicate},
				"vip", v.Name, "prefix", v.Prefix, "host", o.Text(), "reason", o.Duplicate)
		}
	}
	for _, o := range before {
		if !slices.ContainsFunc(v.Duplicates(), o.Same) {
			c.add(slog.LevelInfo, status.Event{Kind: kindVIP, Subject: v.Name, Message: "vip no longer claimed by another host", Cause: o.Text()},
				"vip", v.Name, "prefix", v.Prefix, "host", o.Text())
		}
	}
}
