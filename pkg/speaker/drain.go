package speaker

import (
	"cmp"
	"log/slog"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

const (
	// countEvery is how often the connections of a VIP are counted that is being
	// drained: nothing wakes the loop when one ends.
	countEvery = time.Second
	// closeEvery is the same once they are to be reset, and closeBound how long
	// they may resist that.
	closeEvery = 250 * time.Millisecond
	closeBound = 5 * time.Second
	// clockSlack is how much the clock may be behind that at the order. One that is
	// more behind was set back, or is not set after a reboot: then a VIP may have been
	// withdrawn already, and must not be announced again.
	clockSlack = time.Minute
)

// Drain is how far a VIP is on its way out of use.
type Drain struct {
	orders.Drain

	Phase status.DrainPhase
	// Deadline is when connections that are left are reset, zero for never.
	Deadline time.Time
	// Connections is how many there are, if Counted.
	Connections int
	Counted     bool
}

// drain tells how far a VIP is on its way out of use, nil if it is not on it.
// That follows from the times of the order alone, and from what the kernel has: so
// it is the same after a restart. Only one with an owner has a history: it is
// withdrawn when another host has taken it over.
func (p *planner) drain(c *config.VIP, h OwnerHistory) *Drain {
	o, ok := p.drains.DrainOf(c.Prefix)
	if !ok {
		return nil
	}
	p.mayChange(o.Until)
	d := &Drain{Drain: o, Phase: status.DrainWaiting}
	d.Connections, d.Counted = p.in.Connections[c.Prefix]
	if o.Withdraw.IsZero() { // nobody knows what was ordered
		return d
	}
	if !h.Left.IsZero() {
		d.Withdraw = h.Left
	}
	if end := p.announcedUntil(c, h, d.Withdraw); p.now.Before(end) && !p.now.Before(o.Since.Add(-clockSlack)) {
		d.Phase, d.Deadline = status.DrainLeaving, d.Withdraw.Add(c.Drain.ConnectionsTimeout)
		p.mayChange(end)
		p.mayChange(p.now.Add(countEvery))
		return d
	}
	p.wane(c, d, c.Drain.Unbind || p.leased(c))
	return d
}

// wane tells how far a VIP is that has been withdrawn: its connections may end by
// themselves for some time, and are reset then.
func (p *planner) wane(c *config.VIP, d *Drain, unbind bool) {
	d.Deadline = d.Withdraw.Add(c.Drain.ConnectionsTimeout)
	// Routers need some time to send new connections elsewhere.
	moved := d.Withdraw.Add(p.in.Config.Shutdown.Wait)
	switch {
	case unbind && d.Counted && !p.bound[c.Prefix]: // read, not just unknown
		d.Phase = status.DrainDone
	case p.now.Before(moved), p.now.Before(d.Deadline) && (!d.Counted || d.Connections > 0):
		d.Phase = status.DrainWaiting
		p.mayChange(moved)
		p.mayChange(d.Deadline)
		p.mayChange(p.now.Add(countEvery))
	case d.Counted && d.Connections == 0, !p.now.Before(d.Deadline.Add(closeBound)):
		d.Phase = status.DrainDone
	default:
		d.Phase = status.DrainClosing
		p.mayChange(p.now.Add(closeEvery))
	}
}

// leaving tells whether a VIP is announced as about to go.
func (v *VIP) leaving() bool { return v.Drain != nil && v.Drain.Phase == status.DrainLeaving }

// gone tells whether an order keeps a VIP from being announced.
func (d *Drain) gone() bool { return d != nil && d.Phase != status.DrainLeaving }

// text says who took a VIP out of use.
func (d *Drain) text() string {
	if d.Reason == "" {
		return "by an operator's order"
	}
	return d.Reason
}

// drained are the VIPs whose connections are counted, and for which that is over.
func (p *planner) drained() (list []vip.Drained) {
	for i := range p.out.VIPs {
		v := &p.out.VIPs[i]
		if d := cmp.Or(v.Drain, v.Parted); d != nil {
			list = append(list, vip.Drained{Prefix: v.Prefix, Close: d.gone() && !d.Deadline.IsZero() && !p.now.Before(d.Deadline)})
		}
	}
	return list
}

// unbinds tells whether a VIP is not to be bound, because it is drained. What a
// router may still have is never unbound.
func (p *planner) unbinds(c *config.VIP, v *VIP) bool {
	if !c.Drain.Unbind || v.Drain == nil || v.Drain.Phase != status.DrainDone {
		return false
	}
	for _, rib := range p.carried {
		if rib[v.Prefix] {
			return false
		}
	}
	return true
}

// part makes the path of a VIP that leaves one that is about to go (RFC 8326).
// LOCAL_PREF is for internal peers, which need not know the community, and take a
// prepend for a loop.
func (v *VIP) part(c *config.Drain, internal bool, out bgp.Path) bgp.Path {
	if !v.leaving() {
		return out
	}
	out.LocalPref = &c.LocalPref
	if c.MED != nil {
		out.MED = c.MED
	}
	if !internal {
		out.Prepend = min(out.Prepend+c.Prepend, maxPrepend)
	}
	out.Communities = union(union(out.Communities, c.Communities), []uint32{gracefulShutdown})
	return out
}

// drains tells how far a VIP is on its way out of use.
func (c *changes) drains(v, old *status.VIP) {
	e := status.Event{Kind: kindVIP, Subject: v.Name, Message: "vip drain"}
	attrs := []any{"vip", v.Name, "prefix", v.Prefix}
	if old.Drain != nil {
		e.From = string(old.Drain.Phase)
	}
	if v.Drain == nil {
		if old.Drain != nil {
			e.Message = "vip drain over"
			c.add(slog.LevelInfo, e, attrs...)
		}
		return
	}
	if e.To, e.Cause = string(v.Drain.Phase), v.Drain.Reason; e.From == e.To {
		return
	}
	attrs = append(attrs, "phase", e.To, "reason", e.Cause)
	if n := v.Drain.Connections; n != nil {
		attrs = append(attrs, "connections", *n)
	}
	c.add(slog.LevelInfo, e, attrs...)
}

// reportDrain is the drain of a VIP for the picture.
func reportDrain(d *Drain) *status.Drain {
	if d == nil {
		return nil
	}
	out := &status.Drain{
		Phase: d.Phase, Reason: d.Reason, Since: d.Since, Withdraw: d.Withdraw, Until: d.Until, Deadline: d.Deadline,
	}
	if d.Counted {
		out.Connections = &d.Connections
	}
	return out
}

// reportParted is what is left of a VIP that was handed over, and not drained.
func reportParted(v *VIP) *status.Drain {
	if v.Drain != nil {
		return nil
	}
	return reportDrain(v.Parted)
}

// orders are the operator's orders, none if there is nobody to ask.
func (l *Loop) orders() *orders.Orders {
	if l.opt.Orders == nil {
		return nil
	}
	return l.opt.Orders()
}
