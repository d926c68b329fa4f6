package vip

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Learned is a route that routers told the host by BGP. In the tables of the
// VIPs it comes before what main has for its prefix; a default route also before
// configured gateways.
type Learned struct {
	Prefix netip.Prefix `json:"prefix"`
	// Legs are its next hops; those that the kernel would refuse are left out.
	Legs []LearnedLeg `json:"legs"`
	// Static tells that all of them look dead, and that they stay because there
	// are no others: a default by another interface that works comes before.
	Static bool `json:"static,omitempty"`
}

// LearnedLeg is one next hop.
type LearnedLeg struct {
	Interface string `json:"interface"`
	// Gateway is an address without a zone, for an IPv4 prefix also an IPv6 one
	// (RFC 8950).
	Gateway netip.Addr `json:"gateway"`
	// Weight is 1 to 256.
	Weight int `json:"weight"`
}

// learned makes the route of one prefix in the view's table, nil if none of its
// legs is for this table.
func (v *view) learned(main []route, l *Learned) *route {
	r := route{
		routeKey: routeKey{table: v.table, dst: l.Prefix},
		proto:    Protocol, kind: unix.RTN_UNICAST, prefsrc: v.source,
	}
	if v.family == unix.AF_INET6 {
		r.metric = ipv6DefaultMetric
	}
	for _, want := range l.Legs {
		i := slices.IndexFunc(v.ports, func(q port) bool { return q.Name == want.Interface })
		if i < 0 || !onLink(main, v.ports[i].index, want.Gateway) || v.family == unix.AF_INET6 && want.Gateway.Is4() {
			continue
		}
		q := &v.ports[i]
		switch v.roles[q.index] {
		case roleKeep:
		case roleSilent, roleFailed:
			if !l.Static || !q.up {
				continue
			}
		case roleOther, roleUnlisted:
			continue
		}
		r.legs = append(r.legs, leg{index: q.index, gateway: want.Gateway, weight: kernelWeight(want.Weight)})
	}
	switch len(r.legs) {
	case 0:
		return nil
	case 1:
		r.legs[0].weight = 0 // of no meaning alone
	}
	return &r
}

// kernelWeight is the weight as the kernel has it.
func kernelWeight(w int) uint8 { return u8(min(max(w, 1), 256) - 1) }

// learnedRoutes are the routes of the view's table that were learned. Stale are
// prefixes whose legs only stay for want of others.
func (v *view) learnedRoutes(main []route, list []Learned) (out []*route, stale map[netip.Prefix]bool) {
	stale = map[netip.Prefix]bool{}
	for i := range list {
		l := &list[i]
		if familyOf(l.Prefix.Addr()) != v.family {
			continue
		}
		if r := v.learned(main, l); r != nil {
			out = append(out, r)
			stale[l.Prefix] = l.Static && !slices.ContainsFunc(r.legs, func(x leg) bool { return v.roles[x.index] == roleKeep })
		}
	}
	return out, stale
}

// tableRoutes are all routes of one table: main's as far as they are for it, what
// was learned in their place, and a default.
func (p *pass) tableRoutes(v *view) (out []*route, skipped []gatewayError) {
	learned, stale := v.learnedRoutes(p.s.main, p.d.Learned)
	everything := netip.PrefixFrom(anyOf(v.family), 0)
	at := slices.IndexFunc(learned, func(r *route) bool { return r.dst == everything })
	if at < 0 || stale[everything] {
		def, wrong := v.defaultRoute(p.s.main)
		skipped = wrong
		if def != nil && at >= 0 {
			learned = slices.Delete(learned, at, at+1)
		}
		if def != nil {
			out = append(out, def)
		}
	}
	for _, r := range v.mirror(p.s.main) {
		if !slices.ContainsFunc(learned, func(l *route) bool { return l.dst == r.dst }) {
			out = append(out, r)
		}
	}
	return append(out, learned...), skipped
}

// learnsDefault tells whether a default route of the family is learned.
func (p *pass) learnsDefault(family uint8) bool {
	return slices.ContainsFunc(p.d.Learned, func(l Learned) bool { return l.Prefix == netip.PrefixFrom(anyOf(family), 0) })
}

// weigh gives the legs of a default that was not learned the weights of their
// interfaces, if any has one.
func (v *view) weigh(r *route) {
	if len(r.legs) < 2 || !slices.ContainsFunc(v.ports, func(q port) bool { return q.Weight > 0 }) {
		return
	}
	for i := range r.legs {
		k := slices.IndexFunc(v.ports, func(q port) bool { return q.index == r.legs[i].index })
		r.legs[i].weight = kernelWeight(v.ports[k].Weight)
	}
}

// mainKey is a route of the main table that is ours. The kernel's mark of it is
// only the protocol number, which others may use there, so the state file knows.
type mainKey struct {
	Prefix netip.Prefix `json:"prefix"`
	Metric uint32       `json:"metric"`
}

func (r *route) mainKey() mainKey { return mainKey{r.dst, r.metric} }

// isOurs tells whether a route is one of ours, also one of the main table.
func (f *stateFile) isOurs(r *route) bool {
	return r.ours() || r.table == unix.RT_TABLE_MAIN && r.proto == Protocol && r.tos == 0 && slices.Contains(f.Main, r.mainKey())
}

// managed tells whether a route is one of ours that follows the plan.
func (p *pass) managed(r *route) bool {
	return r.tabled() || r.table == unix.RT_TABLE_MAIN && p.m.state.isOurs(r)
}

// planMain adds what was learned to the main table. A route of somebody else's
// with the same prefix and metric would be replaced, so it keeps ours out.
func (p *pass) planMain(out *plan, bound []netip.Prefix) {
	if p.d.MainMetric == 0 {
		return
	}
	for _, family := range families() {
		v := newView(family, unix.RT_TABLE_MAIN, netip.Addr{}, p.ports, p.s)
		learned, _ := v.learnedRoutes(p.s.main, p.d.Learned)
		for _, r := range learned {
			r.metric, r.prefsrc = p.d.MainMetric, p.sourceOf(r, bound)
		}
		for _, r := range append(learned, p.sourceless(family, learned)...) {
			if p.mayAdd(r) {
				out.routes = append(out.routes, r)
			}
		}
	}
}

// sourceOf is the VIP that all legs of a route have as source, zero if they do
// not agree: a route has one source for all of its legs.
func (p *pass) sourceOf(r *route, bound []netip.Prefix) netip.Addr {
	var source netip.Addr
	for i, l := range r.legs {
		k := slices.IndexFunc(p.ports, func(q port) bool { return q.index == l.index })
		a := p.ports[k].source(r.family())
		if i > 0 && a != source {
			return netip.Addr{}
		}
		source = a
	}
	if !isSource(source, bound) || source.Is6() && !slices.Contains(bound, host(source)) {
		return netip.Addr{}
	}
	return source
}

// sourceless are the excluded destinations that a learned route with a source
// would catch: the same legs without it, unless main has a way of its own.
func (p *pass) sourceless(family uint8, learned []*route) []*route {
	var out []*route
	for _, dst := range aggregate(append(excluded(family), p.d.Exclude...)) {
		if familyOf(dst.Addr()) != family || handledByRule(dst) || dst == netip.MustParsePrefix("255.255.255.255/32") {
			continue
		}
		var by *route
		for _, r := range learned {
			if r.dst.Bits() <= dst.Bits() && r.dst.Contains(dst.Addr()) && (by == nil || by.dst.Bits() < r.dst.Bits()) {
				by = r
			}
		}
		if by == nil || !by.prefsrc.IsValid() {
			continue
		}
		if by.dst == dst {
			by.prefsrc = netip.Addr{}
			continue
		}
		if slices.ContainsFunc(p.s.main, func(m route) bool {
			return m.family() == family && m.dst.Bits() > by.dst.Bits() && m.dst.Bits() <= dst.Bits() && m.dst.Contains(dst.Addr())
		}) {
			continue
		}
		r := *by
		r.dst, r.prefsrc = dst, netip.Addr{}
		out = append(out, &r)
	}
	return out
}

// mayAdd tells whether main has room for a route of ours, and reports what of
// others stands in its way.
func (p *pass) mayAdd(r *route) bool {
	for i := range p.s.main {
		m := &p.s.main[i]
		if m.dst != r.dst || m.from.IsValid() || m.tos != 0 {
			continue
		}
		switch {
		case m.metric == r.metric:
			p.problem("%s learned from peers is not installed: another owner has one with the metric %d; set another egress.metric", r, r.metric)
			return false
		case m.metric < r.metric:
			p.problem("%s learned from peers is not used: one of another owner with the metric %d comes before; the tables of the VIPs are not concerned",
				r, m.metric)
		}
	}
	return true
}

// noteMain records which routes of main are ours from now on, before they are
// written; those that are still to be deleted stay recorded until settleMain.
func (p *pass) noteMain(want []*route) error {
	var wanted []mainKey
	for _, r := range want {
		if r.table == unix.RT_TABLE_MAIN {
			wanted = append(wanted, r.mainKey())
		}
	}
	return p.m.state.addMain(wanted)
}

// settleMain forgets the routes of main that are gone, and records what was
// learned, for a process that starts after this one was killed.
func (p *pass) settleMain(want []*route) {
	var keys []mainKey
	for _, k := range p.m.state.Main {
		wanted := slices.ContainsFunc(want, func(r *route) bool { return r.table == unix.RT_TABLE_MAIN && r.mainKey() == k })
		left := slices.ContainsFunc(p.s.own, func(r route) bool { return r.table == unix.RT_TABLE_MAIN && r.mainKey() == k })
		if wanted || left {
			keys = append(keys, k)
		}
	}
	if err := p.m.state.setMain(keys); err != nil {
		p.fail(err)
	}
	if err := p.m.state.setLearned(p.d.Learned); err != nil {
		p.fail(err)
	}
}

// inMain are the learned prefixes that main really holds.
func (p *pass) inMain() []netip.Prefix {
	var out []netip.Prefix
	for i := range p.d.Learned {
		k := mainKey{p.d.Learned[i].Prefix, p.d.MainMetric}
		if slices.ContainsFunc(p.s.own, func(r route) bool { return p.managed(&r) && r.table == unix.RT_TABLE_MAIN && r.mainKey() == k }) {
			out = append(out, k.Prefix)
		}
	}
	return out
}

// addMain records routes of main beside those that are recorded.
func (f *stateFile) addMain(wanted []mainKey) error {
	missing := func(s *state) (list []mainKey) {
		for _, k := range wanted {
			if !slices.Contains(s.Main, k) {
				list = append(list, k)
			}
		}
		return list
	}
	if ok, err := f.has(func(s *state) bool { return missing(s) == nil }); ok || err != nil {
		return err
	}
	return f.setMain(append(slices.Clone(f.Main), missing(&f.state)...))
}

// setMain records the routes of main that are ours.
func (f *stateFile) setMain(keys []mainKey) error {
	if ok, err := f.has(func(s *state) bool { return slices.Equal(keys, s.Main) }); ok || err != nil {
		return err
	}
	next := f.state
	next.Main = keys
	return f.write(next)
}

// setLearned records what was learned.
func (f *stateFile) setLearned(list []Learned) error {
	same := func(a, b Learned) bool {
		return a.Prefix == b.Prefix && a.Static == b.Static && slices.Equal(a.Legs, b.Legs)
	}
	if ok, err := f.has(func(s *state) bool { return slices.EqualFunc(list, s.Learned, same) }); ok || err != nil {
		return err
	}
	next := f.state
	next.Learned = list
	return f.write(next)
}

// AdoptedLearned are the learned routes that a former process left, as New found
// them.
func (m *Manager) AdoptedLearned() []Learned { return slices.Clone(m.learned) }

// lostLegs are the interfaces that a route of ours is about to lose as a leg.
func (p *pass) lostLegs(want []*route) []int {
	var out []int
	next := make(map[routeKey]*route, len(want))
	for _, r := range want {
		next[r.routeKey] = r
	}
	for i := range p.s.own {
		r := &p.s.own[i]
		if !p.managed(r) || r.kind != unix.RTN_UNICAST {
			continue
		}
		for _, l := range r.legs {
			to := next[r.routeKey]
			kept := to != nil && slices.ContainsFunc(to.legs, func(n leg) bool { return n.index == l.index && n.gateway == l.gateway })
			if l.gateway.IsValid() && !kept && !slices.Contains(out, l.index) {
				out = append(out, l.index)
			}
		}
	}
	return out
}

// splitMain takes our own routes out of what was read of main, so that nothing
// follows from them.
func (f *stateFile) splitMain(s *snapshot) {
	if len(f.Main) > 0 {
		s.main = slices.DeleteFunc(s.main, func(r route) bool { return f.isOurs(&r) })
	}
}

// addMain is the change that puts a new route into main. It never takes the place
// of one, as the kernel's replace would.
func (p *pass) addMain(r *route) change {
	c := p.upsertRoute(r)
	c.operation = opReplaceRoute(r)
	c.flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	c.what = func() string { return fmt.Sprintf("add %s, metric %d", r, r.metric) }
	return c
}
