package vip

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// bind makes the wanted VIPs exist on the device. It tells whether anything
// was written.
func (p *pass) bind() bool {
	before := p.a.Writes
	if err := p.m.state.touch(); err != nil {
		p.fail(err)
		return false
	}
	todo := p.place()
	actual := map[string]string{} // wanted device name to the one in use
	for _, name := range todo.names {
		made, err := p.ensureDevice(name)
		if err != nil {
			p.fail(err)
			continue
		}
		actual[name] = made
	}
	if p.a.Writes > before { // indexes of new devices
		links, err := p.m.conn.links(p.ctx)
		if err != nil {
			p.fail(err)
			return true
		}
		p.s.links = links
	}
	p.recordDevices(todo.names)
	obstacles, ok := p.obstacles(todo)
	if !ok {
		return p.a.Writes > before
	}
	var changes []change
	for _, name := range todo.names {
		l, ok := p.s.link(actual[name])
		for _, v := range todo.missing[name] {
			if ok && !p.refused(v, obstacles) {
				changes = append(changes, p.addAddress(l, v))
			}
		}
	}
	if l, ok := p.s.link(actual[p.deviceName()]); ok {
		changes = append(changes, p.addPrefixes(l, obstacles)...)
	}
	p.apply(changes)
	p.logVIPs("vips bound", p.turned)
	return p.a.Writes > before
}

func (p *pass) addAddress(l link, v netip.Prefix) change {
	return change{
		operation: opAddAddress(l.index, v),
		what:      func() string { return "bind " + v.String() + " on " + l.name },
		tolerate:  []unix.Errno{unix.EEXIST}, // somebody was faster: used, not owned
		done:      func(written bool) { p.bound(v, written) },
	}
}

// bound notes a VIP that is in place.
func (p *pass) bound(v netip.Prefix, written bool) {
	if written && p.m.placed.addresses[v] {
		p.repaired(objectAddress)
	}
	p.m.placed.addresses[v] = true
	p.turned = append(p.turned, v)
}

// logVIPs is one line for any number of VIPs; it names the first ones.
func (p *pass) logVIPs(what string, vips []netip.Prefix) {
	const named = 8
	if len(vips) > 0 {
		p.m.log.Info(what, "count", len(vips), "vips", vips[:min(named, len(vips))]) //nolint:sloglint // both callers give a constant
	}
}

// addPrefixes are the local routes that bind whole prefixes (AnyIP) and that
// are missing.
func (p *pass) addPrefixes(l link, obstacles []obstacle) []change {
	var changes []change
	for _, v := range p.d.VIPs {
		if v.IsSingleIP() || p.hasLocal(v) || p.refused(v, obstacles) {
			continue
		}
		r := localRoute(v, l.index)
		changes = append(changes, change{
			operation: opReplaceRoute(&r).exclusive(),
			what:      func() string { return "bind " + v.String() + " on " + l.name },
			tolerate:  []unix.Errno{unix.EEXIST},
			done:      func(written bool) { p.bound(v, written) },
		})
	}
	return changes
}

// exclusive makes an operation that replaces one that only adds.
func (o operation) exclusive() operation {
	o.flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	return o
}

// localRoute makes the kernel accept every address of the prefix as its own.
func localRoute(v netip.Prefix, index int) route {
	r := route{
		routeKey: routeKey{table: unix.RT_TABLE_LOCAL, dst: v.Masked()},
		proto:    Protocol, kind: unix.RTN_LOCAL, legs: []leg{{index: index}},
	}
	if v.Addr().Is4() {
		r.scope = unix.RT_SCOPE_HOST
	}
	return r
}

// hasLocal tells whether a local route for the prefix exists.
func (p *pass) hasLocal(v netip.Prefix) bool {
	return slices.ContainsFunc(p.s.local, func(r route) bool { return r.dst == v.Masked() && r.kind == unix.RTN_LOCAL })
}

// boundVIPs are the wanted VIPs that the kernel holds and that are usable, in
// the order of Desired.
func (p *pass) boundVIPs() []netip.Prefix {
	usable := p.usableAddresses()
	var out []netip.Prefix
	for _, v := range p.d.VIPs {
		if usable[v] || !v.IsSingleIP() && p.prefixUsable(v) {
			out = append(out, v)
		}
	}
	return out
}

// servedVIPs are the bound VIPs whose replies our tables carry: the wanted ones,
// and those of ours that are still to be unbound.
func (p *pass) servedVIPs() []netip.Prefix {
	out := p.boundVIPs()
	usable := p.usableAddresses()
	wanted := make(map[netip.Prefix]bool, len(p.d.VIPs))
	for _, v := range p.d.VIPs {
		wanted[v.Masked()] = true
	}
	for _, a := range p.s.addresses {
		if a.ours() && usable[a.prefix] && !wanted[a.prefix] {
			out = append(out, a.prefix)
		}
	}
	for _, r := range p.s.local {
		if r.ours() && !wanted[r.dst] && p.prefixUsable(r.dst) {
			out = append(out, r.dst)
		}
	}
	return out
}

// usableAddresses are the host addresses on our devices that work: not
// tentative, the device up, packets for them taken.
func (p *pass) usableAddresses() map[netip.Prefix]bool {
	if p.usable != nil {
		return p.usable
	}
	current, former := p.devices()
	up := map[int]bool{}
	for _, l := range slices.Concat(current, former) {
		up[l.index] = l.up()
	}
	out := make(map[netip.Prefix]bool, len(p.s.addresses))
	for _, a := range p.s.addresses {
		if v := a.vip(); up[a.index] && a.usable() && v.IsSingleIP() {
			out[v] = true
		}
	}
	p.dropUndelivered(out)
	p.usable = out
	return out
}

func (p *pass) prefixUsable(v netip.Prefix) bool {
	return slices.ContainsFunc(p.s.local, func(r route) bool {
		return r.dst == v.Masked() && r.kind == unix.RTN_LOCAL && slices.ContainsFunc(p.s.links, func(l link) bool {
			return l.up() && r.via(l.index)
		})
	})
}
