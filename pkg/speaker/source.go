package speaker

import (
	"net/netip"
	"slices"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// source makes the VIP the preferred source on its interfaces if it may be: a
// source that the network does not route back to cuts the host off. So it must
// be announced now, and go on being so: what is no longer wanted does not count
// as announced. Who wants it always takes that risk, but for the time of a stop, of
// a drain, and while another host owns the VIP: of two that hand it over, only the owner.
func (p *planner) source(c *config.VIP, v *VIP) {
	if !isSource(c) || p.in.Overrides.Shutdown || v.Drain.gone() {
		return
	}
	if reason, _ := p.ownership(c); reason != "" || p.leased(c) && p.ownerState(c).Role != owner.Owner {
		return // also where checks explain more
	}
	if !c.Source.Always && !v.Announced && !p.adopted(c, v) {
		return
	}
	p.sourceRules(c)
	if !c.PreferredSource {
		return
	}
	addr := c.Prefix.Addr()
	for _, name := range c.Interfaces {
		at, ok := p.byName[name]
		if !ok {
			continue
		}
		n := &p.out.Kernel.Interfaces[at]
		if addr.Is4() && !n.Source4.IsValid() {
			n.Source4 = addr
		}
		if addr.Is6() && !n.Source6.IsValid() {
			n.Source6 = addr
		}
	}
}

// isSource tells whether the configuration wants the VIP as source of anything.
func isSource(c *config.VIP) bool {
	return c.Prefix.IsSingleIP() && (c.PreferredSource || len(c.Source.Rules) > 0)
}

// sourceRules are those of a VIP that is a source now. Their ranks are those of
// the configuration, so that the others stay as they are when one comes or goes.
func (p *planner) sourceRules(c *config.VIP) {
	for i := range c.Source.Rules {
		s := &c.Source.Rules[i]
		r := vip.SourceRule{
			Source: c.Prefix.Addr(), Interfaces: c.Interfaces, Rank: s.Rank,
			Destination: s.Destination, Mark: s.Mark, Mask: s.Mask,
		}
		if s.Users != nil {
			r.Users = &vip.Users{First: s.Users.First, Last: s.Users.Last}
		}
		p.out.Kernel.SourceRules = append(p.out.Kernel.SourceRules, r)
	}
}

// adopted tells whether the VIP stays source because it was under a former
// process and its routers keep the routes until our sessions are back. A verdict
// against it ends that.
func (p *planner) adopted(c *config.VIP, v *VIP) bool {
	if !p.graceUntil.After(p.now) || !slices.Contains(p.in.AdoptedSources, c.Prefix.Addr()) {
		return false
	}
	switch v.Reason {
	case status.Shutdown, status.Drained, status.CheckFailed, status.CheckStale, status.Damped:
		return false
	default:
	}
	for _, name := range c.Interfaces {
		if at, ok := p.byName[name]; ok && p.out.Interfaces[at].established {
			return false
		}
	}
	return true
}

// reportSource tells what the VIP is a source of, and where it is one now.
func reportSource(c *config.VIP, sources map[netip.Addr][]string, out *status.VIP) {
	out.PreferredSource, out.SourceAlways, out.Source = c.PreferredSource, c.Source.Always, []string{}
	if isSource(c) {
		out.Source = append(out.Source, sources[c.Prefix.Addr()]...)
	}
	for i := range c.Source.Rules {
		s := &c.Source.Rules[i]
		r := status.SourceRule{Entry: s.Entry, Rank: s.Rank, Destination: s.Destination, Mark: s.Mark, Mask: s.Mask}
		if s.Users != nil {
			r.Users = &status.Users{First: s.Users.First, Last: s.Users.Last}
		}
		out.SourceRules = append(out.SourceRules, r)
	}
}
