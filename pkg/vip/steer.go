package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// errForeignTable tells that a routing table that should be ours is in use.
var errForeignTable = errors.New("routing table holds routes of another owner")

// steer makes tables and rules right for the VIPs that are bound. New routes
// come first and rules that use them next; rules go before their routes. It tells
// whether nothing is left of what had to go.
func (p *pass) steer(bound []netip.Prefix) bool {
	plan, err := p.plan(bound)
	if err != nil {
		p.fail(err)
		return false
	}
	leaving, lost := p.leaving(), p.lostLegs(plan.routes)
	upserts, deletes := p.diffRoutes(plan.routes)
	ruleAdds, ruleDeletes := p.diffRules(plan.rules)
	puts, removals := slices.Concat(upserts, ruleAdds), slices.Concat(ruleDeletes, deletes)
	changes, gone := len(puts)+len(removals), true
	if changes > 0 {
		if err := p.m.state.touch(); err != nil {
			p.fail(err)
			return false
		}
		if err := p.noteMain(plan.routes); err != nil {
			p.fail(err)
			return false
		}
		p.apply(puts)
		gone = p.apply(removals) == len(removals)
	}
	p.flushNeighbours(append(lost, leaving...))
	if len(leaving) > 0 {
		p.refreshSockets6()
	}
	if changes > 0 {
		if err := p.m.conn.readOwn(p.ctx, p.s); err != nil {
			p.fail(err)
			return gone
		}
	}
	p.settleMain(plan.routes)
	return gone
}

// ours tells whether a route of protocol 68 is one of ours: we write to tables
// of our own and local routes, never to the main table.
func (r *route) ours() bool {
	switch r.table {
	case unix.RT_TABLE_MAIN, unix.RT_TABLE_DEFAULT:
		return false
	case unix.RT_TABLE_LOCAL:
		return r.kind == unix.RTN_LOCAL && r.proto == Protocol
	default:
		return r.proto == Protocol
	}
}

// tabled tells whether it is a route of one of our tables.
func (r *route) tabled() bool { return r.ours() && r.table != unix.RT_TABLE_LOCAL }

func (p *pass) diffRoutes(want []*route) (upserts, deletes []change) {
	have := make(map[routeKey]*route, len(p.s.own))
	for i := range p.s.own {
		if r := &p.s.own[i]; p.managed(r) {
			have[r.routeKey] = r
		}
	}
	wanted := make(map[routeKey]bool, len(want))
	for _, r := range want {
		wanted[r.routeKey] = true
		h := have[r.routeKey]
		if h != nil && r.equal(h) {
			p.m.placed.routes[r.routeKey] = r
			continue
		}
		if h == nil && r.table == unix.RT_TABLE_MAIN {
			upserts = append(upserts, p.addMain(r))
			continue
		}
		upserts = append(upserts, p.upsertRoute(r))
	}
	for i := range p.s.own {
		if r := &p.s.own[i]; p.managed(r) && !wanted[r.routeKey] {
			deletes = append(deletes, p.deleteRoute(r))
		}
	}
	for key := range p.m.placed.routes {
		if !wanted[key] {
			delete(p.m.placed.routes, key)
		}
	}
	return upserts, deletes
}

func (p *pass) upsertRoute(r *route) change {
	return change{
		operation: opReplaceRoute(r),
		what:      func() string { return "put " + r.String() },
		done: func(written bool) {
			if before := p.m.placed.routes[r.routeKey]; written && before != nil && before.equal(r) {
				p.repaired(objectRoute)
			}
			p.m.placed.routes[r.routeKey] = r
		},
	}
}

func (p *pass) deleteRoute(r *route) change {
	return change{
		operation: opDeleteRoute(r),
		what:      func() string { return "remove " + r.String() },
		tolerate:  []unix.Errno{unix.ESRCH, unix.ENOENT},
	}
}

func (r *route) String() string {
	return "route " + r.dst.String() + " in table " + tableName(r.table)
}

func (p *pass) diffRules(want []rule) (adds, deletes []change) {
	// A rule of somebody else that is the same but for its owner serves as well,
	// and the kernel would refuse a second one.
	have := make(map[rule]bool, len(p.s.rules))
	for _, r := range p.s.rules {
		r.proto = Protocol
		have[r] = true
	}
	wanted := make(map[rule]bool, len(want))
	for _, r := range want {
		wanted[r] = true
	}
	obsolete := map[ruleKey][]rule{}
	for _, r := range p.s.rules {
		if r.proto == Protocol && !wanted[r] {
			obsolete[r.key()] = append(obsolete[r.key()], r)
		}
	}
	for _, r := range want {
		if have[r] {
			p.m.placed.rules[r] = true
			continue
		}
		// The new one would be refused beside one that it is taken for.
		key := r.key()
		obsolete[key] = slices.DeleteFunc(obsolete[key], func(o rule) bool {
			if r.takenFor(o) {
				adds = append(adds, p.deleteRule(o))
				return true
			}
			return false
		})
		adds = append(adds, p.addRule(r))
	}
	for _, r := range p.s.rules {
		if slices.Contains(obsolete[r.key()], r) {
			deletes = append(deletes, p.deleteRule(r))
		}
	}
	for r := range p.m.placed.rules {
		if !wanted[r] {
			delete(p.m.placed.rules, r)
		}
	}
	return adds, deletes
}

func (p *pass) addRule(r rule) change {
	return change{
		operation: opAddRule(&r),
		what:      func() string { return "add " + r.String() },
		tolerate:  []unix.Errno{unix.EEXIST},
		done: func(written bool) {
			if written && p.m.placed.rules[r] {
				p.repaired(objectRule)
			}
			p.m.placed.rules[r] = true
		},
	}
}

func (p *pass) deleteRule(r rule) change {
	return change{
		operation: opDeleteRule(&r),
		what:      func() string { return "remove " + r.String() },
		tolerate:  []unix.Errno{unix.ENOENT},
	}
}

func (r *rule) String() string {
	s := fmt.Sprintf("rule %d", r.pref)
	if r.src.IsValid() {
		s += " from " + r.src.String()
	}
	if r.dst.IsValid() {
		s += " to " + r.dst.String()
	}
	s += r.selector.String()
	if r.table != 0 {
		s += " lookup " + strconv.FormatUint(uint64(r.table), 10)
	}
	return s
}

// checkTable refuses a table that somebody else uses. It is asked only when we
// have nothing in it.
func (p *pass) checkTable(family uint8, table uint32) error {
	for i := range p.s.own {
		if r := &p.s.own[i]; r.table == table && r.family() == family {
			return nil
		}
	}
	all, err := p.m.conn.routes(p.ctx, family, table, 0)
	if err != nil {
		return fmt.Errorf("read routing table %d: %w", table, err)
	}
	if slices.ContainsFunc(all, func(r route) bool { return r.proto != Protocol }) {
		return fmt.Errorf("%w: table %d (see %s)", errForeignTable, table, showTable(family, table))
	}
	return nil
}

// showTable is the command that shows a routing table.
func showTable(family uint8, table uint32) string {
	option := ""
	if family == unix.AF_INET6 {
		option = "-6 "
	}
	return "ip " + option + "route show table " + tableName(table)
}

// tableName is the table as ip(8) knows it.
func tableName(table uint32) string {
	if table == unix.RT_TABLE_MAIN {
		return "main"
	}
	return strconv.FormatUint(uint64(table), 10)
}
