package vip

import (
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// mainPriority is that of the rule for the main table.
const mainPriority = 32766

// finish tells what the kernel holds after the call, and logs what turned.
func (p *pass) finish() {
	p.a.DeviceName = p.deviceName()
	if l, ok := p.s.link(p.a.DeviceName); ok {
		p.a.DeviceKind = l.kind
		if l.name == loopback {
			p.a.DeviceKind = loopback
		}
	}
	p.a.Bound = p.boundVIPs()
	for _, v := range p.a.Bound {
		p.m.placed.addresses[v] = true
	}
	p.a.Sources, p.a.Main = p.m.logged, p.m.inMain
	p.a.Connections = p.m.connections
	if p.tablesRead {
		p.a.Sources = p.sourcesInEffect()
		p.m.inMain = p.inMain()
		p.a.Main = p.m.inMain
	}
	for _, text := range p.m.problems {
		if !slices.Contains(p.a.Problems, text) {
			p.a.Problems = append(p.a.Problems, text)
		}
	}
	p.logTurns()
}

func (p *pass) logTurns() {
	for _, object := range slices.Sorted(maps.Keys(p.a.Repaired)) {
		p.m.log.Warn("drift repaired", "object", object, "count", p.a.Repaired[object])
	}
	for _, s := range p.a.Sources {
		if !slices.Contains(p.m.logged, s) {
			p.m.log.Info("preferred source on", "interface", s.Interface, "vip", s.Address)
		}
	}
	for _, s := range p.m.logged {
		if !slices.Contains(p.a.Sources, s) {
			p.m.log.Info("preferred source off", "interface", s.Interface, "vip", s.Address)
		}
	}
	p.m.logged = p.a.Sources
}

// sourcesInEffect are the preferred sources of the routes through each listed
// interface in tables that a rule leads to.
func (p *pass) sourcesInEffect() []SourceState {
	live := map[tableKey]bool{}
	for _, r := range p.s.rules {
		if r.proto == Protocol && r.table != 0 {
			live[tableKey{r.family, r.table}] = true
		}
	}
	type use struct {
		index  int
		source netip.Addr
	}
	var found []use
	for i := range p.s.own {
		r := &p.s.own[i]
		if !r.prefsrc.IsValid() || !r.tabled() || !live[tableKey{r.family(), r.table}] {
			continue
		}
		for _, l := range r.legs {
			if u := (use{l.index, r.prefsrc}); !slices.Contains(found, u) {
				found = append(found, u)
			}
		}
	}
	var out []SourceState
	for i := range p.ports {
		for _, u := range found { // IPv4 was read first
			if u.index == p.ports[i].index {
				out = append(out, SourceState{p.ports[i].Name, u.source})
			}
		}
	}
	return out
}

// tableKey names a routing table: the families have tables of their own.
type tableKey struct {
	family uint8
	table  uint32
}

// inspect looks for conditions that break a promise and are cheap to see. What
// it finds is told until the next Steer.
func (p *pass) inspect() {
	p.inspectRules()
	p.inspectAddresses()
	p.inspectMTUs()
	p.m.problems = p.a.Problems
}

// inspectGateways reports interfaces that the default route of the return table
// could use and does not, though it uses others. Where routers are silent, it
// uses none on purpose.
func (p *pass) inspectGateways(planned *plan, family uint8) {
	i := slices.IndexFunc(planned.routes, func(r *route) bool {
		return r.table == p.m.opts.BaseTable && r.family() == family && r.dst.Bits() == 0
	})
	for _, q := range p.ports {
		if q.usable && !q.silent(family) && !p.learnsDefault(family) && i >= 0 && !planned.routes[i].via(q.index) {
			name := "IPv4"
			if family == unix.AF_INET6 {
				name = "IPv6"
			}
			p.problem("interface %s has no %s gateway: the default route for the VIPs does not use it", q.Name, name)
		}
	}
}

// inspectRules reports rules of ours that do not win over that of the main table.
func (p *pass) inspectRules() {
	if len(p.s.rules) > 0 && p.m.opts.BasePriority+offsetEnd >= mainPriority {
		p.problem("base priority %d is not below that of the main table, %d: no VIP as source", p.m.opts.BasePriority, mainPriority)
	}
}

// inspectAddresses reports VIPs that are not ours to remove, or do not work.
func (p *pass) inspectAddresses() {
	vips := make(map[netip.Addr]bool, len(p.d.VIPs))
	for _, v := range p.d.VIPs {
		if v.IsSingleIP() {
			vips[v.Addr()] = true
		}
	}
	current, former := p.devices()
	ours := map[int]bool{}
	for _, l := range slices.Concat(current, former) {
		ours[l.index] = true
		if l.name == p.d.Device.Name && p.given() && !l.up() {
			p.problem("device %s is down", l.name)
		}
	}
	for _, a := range p.s.addresses {
		switch {
		case !vips[a.prefix.Addr()] || !ours[a.index]:
		case !a.ours():
			p.problem("vip %s on %s was bound by another owner: it is used and never removed", a.prefix.Addr(), p.s.linkName(a.index))
		case !a.usable():
			p.problem("vip %s is tentative or failed duplicate address detection", a.prefix.Addr())
		}
	}
}
