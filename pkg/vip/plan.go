package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// tableCount bounds the numbers that our tables take from the base on: the
// return table and one per source VIP.
const tableCount = 64

// Offsets of the rules' priorities from the base priority. Rules of IPv4 that
// match "from 0.0.0.0/32" apply only while no source is chosen yet. IPv6 has no
// such match (a rule with a source prefix is skipped for look-ups without
// one), so there two halves of the address space sort out the others.
const (
	offsetLinkLocal = 0   // IPv6: to link-local and multicast: past our tables
	offsetReturn    = 1   // from a VIP: return table
	offsetFirst     = 1   // last words of a session whose path is dead though main has it: return table
	offsetExclude   = 2   // to an excluded destination: past our tables
	offsetChosen    = 3   // IPv6: any source chosen: past our tables
	offsetRule      = 10  // one per source rule, by rank
	offsetSource    = 266 // one per source table for all traffic
	offsetSection   = 330 // two per section of the return rules, where there are many
	offsetEnd       = 599 // our own target of all jumps
)

// fallbackPriority is that of the fallback rules: after those of the main
// (32766) and the default table (32767).
const fallbackPriority = 32800

// dhcpClientPort is where a DHCP client sends from; the server answers to the
// address of the interface.
const dhcpClientPort = 68

// excluded destinations that never get a VIP as source: link-local (instance
// metadata services), multicast and broadcast.
func excluded(family uint8) []netip.Prefix {
	if family == unix.AF_INET {
		return []netip.Prefix{
			netip.MustParsePrefix("169.254.0.0/16"),
			netip.MustParsePrefix("224.0.0.0/4"),
			netip.MustParsePrefix("255.255.255.255/32"),
		}
	}
	return []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8")}
}

// plan is what our tables and rules should hold.
type plan struct {
	routes []*route // in the order in which the kernel accepts them
	rules  []rule   // targets of jumps first
}

// plan makes the tables and rules for the VIPs that are bound.
func (p *pass) plan(bound []netip.Prefix) (plan, error) {
	var out plan
	for _, family := range families() {
		if err := p.planFamily(&out, family, bound); err != nil {
			return plan{}, err
		}
	}
	p.planMain(&out, bound)
	// Connected routes before those with a gateway, which IPv6 looks up in the
	// tables as they are at that moment; defaults last.
	slices.SortStableFunc(out.routes, func(a, b *route) int { return a.stage() - b.stage() })
	return out, nil
}

func (r *route) stage() int {
	switch {
	case r.dst.Bits() == 0:
		return 2
	case slices.ContainsFunc(r.legs, func(l leg) bool { return l.gateway.IsValid() }):
		return 1
	default:
		return 0
	}
}

func (p *pass) planFamily(out *plan, family uint8, bound []netip.Prefix) error {
	var vips []netip.Prefix
	for _, v := range bound {
		if familyOf(v.Addr()) == family {
			vips = append(vips, v)
		}
	}
	fallbacks := slices.DeleteFunc(slices.Clone(p.d.Fallbacks), func(f Fallback) bool {
		return familyOf(f.Local) != family || familyOf(f.Peer) != family
	})
	if len(vips) == 0 && len(fallbacks) == 0 {
		return nil
	}
	sources := p.sources(family, vips)
	tables := p.sourceTables(family, sources)
	skipped, err := p.planTable(out, newView(family, p.m.opts.BaseTable, netip.Addr{}, p.ports, p.s))
	if errors.Is(err, errForeignTable) {
		p.fail(err)
		return nil // not a rule leads to it; the other family is not concerned
	}
	if err != nil {
		return err
	}
	for _, g := range skipped {
		p.problem("gateway %s of interface %s is not on-link and is not used", g.gateway, g.name)
	}
	p.inspectGateways(out, family)
	returns, err := p.planReturns(out, family, vips)
	if err != nil {
		return err
	}
	var accepted []sourceTable
	for i, table := range tables {
		v := newView(family, table, sources[i], p.ports, p.s)
		v.mtu = p.mtuOf(sources[i], vips)
		_, err := p.planTable(out, v)
		switch {
		case err == nil:
			accepted = append(accepted, sourceTable{sources[i], table})
		case errors.Is(err, errForeignTable):
			p.fail(err)
		default:
			return err
		}
	}
	out.rules = append(out.rules, p.planRules(family, returns, accepted, fallbacks)...)
	return nil
}

// planTable adds the routes of one table.
func (p *pass) planTable(out *plan, v *view) ([]gatewayError, error) {
	if v.source.IsValid() && v.table >= p.m.opts.BaseTable+tableCount {
		return nil, fmt.Errorf("%w: every table up to %d", errForeignTable, v.table-1)
	}
	if err := p.checkTable(v.family, v.table); err != nil {
		return nil, err
	}
	routes, skipped := p.tableRoutes(v)
	for _, r := range routes {
		r.limit(v.mtu, p.s)
	}
	out.routes = append(out.routes, routes...)
	return skipped, nil
}

// sources are the distinct source VIPs of a family that are bound, in the order
// of the configuration.
func (p *pass) sources(family uint8, vips []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	add := func(a netip.Addr) {
		// Of a bound IPv6 prefix the kernel takes no address as preferred source.
		ok := a.IsValid() && familyOf(a) == family && isSource(a, vips) && (family == unix.AF_INET || slices.Contains(vips, host(a)))
		if ok && !slices.Contains(out, a) && len(out) < MaxSources {
			out = append(out, a)
		}
	}
	for i := range p.ports {
		add(p.ports[i].source(family))
	}
	for i := range p.ports {
		for _, a := range p.ports[i].sources {
			add(a)
		}
	}
	return out
}

// sourceTables gives each source a table: the one that holds its routes
// already, so that a change elsewhere does not move it, else one that nobody
// uses.
func (p *pass) sourceTables(family uint8, sources []netip.Addr) []uint32 {
	base := p.m.opts.BaseTable
	held := map[netip.Addr]uint32{}
	taken := map[uint32]bool{}
	for i := range p.s.own {
		r := &p.s.own[i]
		if r.family() != family || !slices.Contains(sources, r.prefsrc) || r.table <= base || r.table >= base+tableCount {
			continue
		}
		if held[r.prefsrc] == 0 && !taken[r.table] {
			held[r.prefsrc], taken[r.table] = r.table, true
		}
	}
	out := make([]uint32, len(sources))
	next := base + 1
	for i, s := range sources {
		if out[i] = held[s]; out[i] != 0 {
			continue
		}
		for next < base+tableCount && (taken[next] || p.foreignTable(family, next)) {
			next++
		}
		out[i], taken[next] = next, true // beyond the last one, planTable refuses
	}
	return out
}

// foreignTable tells whether somebody else uses a table that we have nothing in;
// the next one serves as well. A table that cannot be read is for planTable to
// report.
func (p *pass) foreignTable(family uint8, table uint32) bool {
	err := p.checkTable(family, table)
	foreign := errors.Is(err, errForeignTable)
	if foreign {
		p.m.log.Info("source table is another one", "reason", err)
	}
	return foreign
}

func (p *pass) planRules(family uint8, returns []returnTable, tables []sourceTable, fallbacks []Fallback) []rule {
	base := p.m.opts.BasePriority
	end := base + offsetEnd
	lookup := func(offset, table uint32, src netip.Prefix) rule {
		return rule{family: family, pref: base + offset, action: unix.FR_ACT_TO_TBL, table: table, src: src, proto: Protocol}
	}
	jump := func(offset uint32, src, dst netip.Prefix) rule {
		return rule{family: family, pref: base + offset, action: unix.FR_ACT_GOTO, target: end, src: src, dst: dst, proto: Protocol}
	}
	var out []rule
	back, sectioned := p.returnRules(family, returns, len(tables) > 0)
	if family == unix.AF_INET6 || len(tables) > 0 || sectioned {
		out = append(out, rule{family: family, pref: end, action: unix.FR_ACT_NOP, proto: Protocol})
	}
	if family == unix.AF_INET6 {
		for _, dst := range excluded(family) {
			out = append(out, jump(offsetLinkLocal, netip.Prefix{}, dst))
		}
	}
	out = append(out, back...)
	if len(tables) > 0 {
		out = append(out, p.selectionRules(family, jump)...)
	}
	out = append(out, p.sourceRules(family, tables)...)
	for _, f := range fallbacks {
		r := lookup(offsetFirst, p.m.opts.BaseTable, host(f.Local))
		if sectioned {
			r.pref = base
		}
		r.dst = host(f.Peer)
		// For TCP only: BFD packets of the same two addresses must still take the
		// interface, in both directions (a strict reverse path filter looks up the
		// way back), or nobody would see the path return.
		first := r
		first.ipproto = unix.IPPROTO_TCP
		if f.First && !slices.Contains(out, first) {
			out = append(out, first)
		}
		if r.pref = fallbackPriority; !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// selectionRules keep what must not get a VIP as source away from the source
// tables.
func (p *pass) selectionRules(family uint8, jump func(offset uint32, src, dst netip.Prefix) rule) []rule {
	var destinations []netip.Prefix
	for _, e := range p.d.Exclude {
		if familyOf(e.Addr()) == family {
			destinations = append(destinations, e)
		}
	}
	var out []rule
	if family == unix.AF_INET {
		unset := host(netip.IPv4Unspecified())
		for _, dst := range aggregate(append(destinations, excluded(family)...)) {
			out = append(out, jump(offsetExclude, unset, dst))
		}
		dhcp := jump(offsetExclude, unset, netip.Prefix{})
		dhcp.ipproto, dhcp.sport = unix.IPPROTO_UDP, dhcpClientPort
		return append(out, dhcp)
	}
	for _, dst := range aggregate(destinations) {
		out = append(out, jump(offsetExclude, netip.Prefix{}, dst))
	}
	for _, half := range []string{"::/1", "8000::/1"} {
		out = append(out, jump(offsetChosen, netip.MustParsePrefix(half), netip.Prefix{}))
	}
	return out
}
