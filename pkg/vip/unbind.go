package vip

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// unbind removes what is bound and no longer wanted: its source and its rules
// first, the address last, because the kernel deletes every IPv4 route whose
// preferred source goes away. It tells whether there was anything to remove.
func (p *pass) unbind() bool {
	addresses, prefixes, devices := p.surplus()
	addresses, devices = p.removable(addresses, devices)
	if len(addresses)+len(prefixes)+len(devices) == 0 {
		return false
	}
	if !p.reread() {
		return true
	}
	if !p.steer(p.remaining(addresses, prefixes)) {
		return true // the addresses stay until nothing uses them
	}
	p.remove(addresses, prefixes, devices)
	p.forget()
	return true
}

// forget drops the deleted devices from the state file.
func (p *pass) forget() {
	for _, name := range p.deleted {
		if err := p.m.state.dropDevice(name); err != nil {
			p.fail(err)
		}
	}
}

// surplus are our addresses and whole prefixes that are not wanted, or not where
// they should be, and our devices that hold nothing then.
func (p *pass) surplus() (addresses []address, prefixes []route, devices []link) {
	wanted := make(map[netip.Prefix]bool, len(p.d.VIPs))
	for _, v := range p.d.VIPs {
		wanted[v.Masked()] = true
	}
	// What somebody else took away is not unbound by us; it is forgotten all the same.
	maps.DeleteFunc(p.m.placed.addresses, func(v netip.Prefix, _ bool) bool { return !wanted[v] })
	current, former := p.devices()
	here, elsewhere := map[netip.Prefix]bool{}, map[int]bool{}
	for _, a := range p.s.addresses {
		if slices.ContainsFunc(current, func(l link) bool { return l.index == a.index }) {
			here[a.vip()] = true
		} else {
			elsewhere[a.index] = true
		}
	}
	used := map[int]bool{}
	for _, a := range p.s.addresses {
		// One of a former device goes when its place on the present one is taken.
		if a.ours() && (!wanted[a.prefix] || elsewhere[a.index] && here[a.prefix]) {
			addresses = append(addresses, a)
			continue
		}
		used[a.index] = true
	}
	for _, r := range p.s.local {
		if r.ours() && !wanted[r.dst] {
			prefixes = append(prefixes, r)
			continue
		}
		for _, l := range r.legs {
			used[l.index] = true
		}
	}
	for _, l := range slices.Concat(current, former) {
		if p.ourDevice(l) && l.name != p.d.Device.Name && !used[l.index] {
			devices = append(devices, l)
		}
	}
	return addresses, prefixes, devices
}

// removable leaves out the addresses that a route of somebody else names as its
// source, for the kernel would delete that route, maybe the host's default; and
// the devices of such addresses.
func (p *pass) removable(addresses []address, devices []link) ([]address, []link) {
	kept := p.neededByOthers(addresses, devices)
	stay := map[int]bool{}
	for _, a := range addresses {
		stay[a.index] = stay[a.index] || kept[a.prefix.Addr()]
	}
	return slices.DeleteFunc(addresses, func(a address) bool { return kept[a.prefix.Addr()] }),
		slices.DeleteFunc(devices, func(l link) bool { return stay[l.index] })
}

// remaining are the VIPs that are still served when these are gone. One that
// only leaves a former device is among them.
func (p *pass) remaining(addresses []address, prefixes []route) []netip.Prefix {
	gone := map[netip.Prefix]bool{}
	for _, a := range addresses {
		gone[a.prefix] = true
	}
	for i := range prefixes {
		gone[prefixes[i].dst] = true
	}
	for _, v := range p.boundVIPs() {
		delete(gone, v)
	}
	return slices.DeleteFunc(p.servedVIPs(), func(v netip.Prefix) bool { return gone[v] })
}

// remove takes away addresses, local routes and devices.
func (p *pass) remove(addresses []address, prefixes []route, devices []link) {
	var changes []change
	going := map[int][]netip.Prefix{} // addresses that go with their device
	for _, a := range addresses {
		switch {
		case slices.ContainsFunc(devices, func(l link) bool { return l.index == a.index }):
			going[a.index] = append(going[a.index], a.prefix)
		default:
			changes = append(changes, p.deleteAddress(a))
		}
	}
	for i := range prefixes {
		c := p.deleteRoute(&prefixes[i])
		c.done = func(bool) { p.unbound(prefixes[i].dst) }
		changes = append(changes, c)
	}
	for _, l := range devices {
		changes = append(changes, p.deleteDevice(l, going[l.index]))
	}
	p.apply(changes)
	p.logVIPs("vips unbound", p.turned)
}

func (p *pass) deleteAddress(a address) change {
	return change{
		operation: opDeleteAddress(a),
		what:      func() string { return "unbind " + a.prefix.String() },
		tolerate:  []unix.Errno{unix.EADDRNOTAVAIL, unix.ENODEV},
		done:      func(bool) { p.unbound(a.prefix) },
	}
}

func (p *pass) unbound(v netip.Prefix) {
	delete(p.m.placed.addresses, v)
	p.turned = append(p.turned, v)
}

// deleteDevice deletes a device together with the addresses on it.
func (p *pass) deleteDevice(l link, addresses []netip.Prefix) change {
	return change{
		operation: opDeleteLink(l),
		what:      func() string { return "delete device " + l.name },
		tolerate:  []unix.Errno{unix.ENODEV},
		done: func(bool) {
			for _, v := range addresses {
				p.unbound(v)
			}
			delete(p.m.placed.links, l.name)
			p.m.log.Info("virtual interface deleted", "device", l.name)
			p.deleted = append(p.deleted, l.name)
		},
	}
}

// neededByOthers are the addresses that IPv4 routes of others have as preferred
// source and that the host has nowhere else: as long as the address is still one
// of another device, the kernel keeps the route. (An IPv6 route survives anyway.)
func (p *pass) neededByOthers(addresses []address, devices []link) map[netip.Addr]bool {
	out, going := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, a := range addresses {
		if a.prefix.Addr().Is4() {
			going[a.prefix.Addr()] = true
		}
	}
	if len(going) == 0 {
		return out
	}
	all, err := p.m.conn.routes(p.ctx, unix.AF_INET, 0, 0)
	if err != nil {
		p.fail(err)
		return going // any of them may be needed: the next call knows more
	}
	for i := range all {
		r := &all[i]
		if r.table == unix.RT_TABLE_LOCAL || p.m.state.isOurs(r) || !r.prefsrc.IsValid() {
			continue
		}
		if going[r.prefsrc] && !out[r.prefsrc] && !p.stays(r.prefsrc, addresses, devices) {
			out[r.prefsrc] = true
			p.problem("%s is not unbound: %s of another owner has it as source and would be deleted; change that route (%s)",
				r.prefsrc, r, showTable(unix.AF_INET, r.table))
		}
	}
	return out
}

// stays tells whether the host has the address on a device too where nothing is
// removed.
func (p *pass) stays(a netip.Addr, addresses []address, devices []link) bool {
	return slices.ContainsFunc(p.s.addresses, func(other address) bool {
		return other.prefix.Addr() == a && !slices.Contains(addresses, other) &&
			!slices.ContainsFunc(devices, func(l link) bool { return l.index == other.index })
	})
}

// allOurs are the addresses and devices of ours that can be removed.
func (p *pass) allOurs() ([]address, []link) {
	var addresses []address
	for _, a := range p.s.addresses {
		if a.ours() {
			addresses = append(addresses, a)
		}
	}
	var devices []link
	for _, l := range p.s.links {
		if p.ourDevice(l) {
			devices = append(devices, l)
		}
	}
	return p.removable(addresses, devices)
}

// restore removes all of ours, in the order rules, routes, addresses, devices,
// sysctls, state file. The file stays when something is left to be done; else it
// is not written any more, so that a full disk does not matter.
func (p *pass) restore() {
	var changes []change
	for _, r := range p.s.rules {
		if r.proto == Protocol {
			changes = append(changes, p.deleteRule(r))
		}
	}
	var prefixes []route
	for i := range p.s.own {
		switch r := &p.s.own[i]; {
		case p.managed(r):
			changes = append(changes, p.deleteRoute(r))
		case r.ours():
			prefixes = append(prefixes, *r)
		}
	}
	if p.apply(changes) == len(changes) { // else the addresses may still be the source of something
		addresses, devices := p.allOurs()
		p.remove(addresses, prefixes, devices)
	}
	for _, text := range p.a.Problems { // nobody reads Actual any more
		p.fail(errors.New(text + ", then run vipspeaker cleanup"))
	}
	left := p.restoreSysctls(nil)
	if len(p.errs) > 0 {
		p.forget()
		if err := p.m.state.setSysctls(left); err != nil {
			p.fail(err)
		}
		return
	}
	p.m.placed = newPlaced()
	if err := p.m.state.remove(); err != nil {
		p.fail(err)
	}
}
