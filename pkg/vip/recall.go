package vip

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// recall reads from the kernel what a damaged state file no longer tells: the
// routes that were learned, which the return table has with all of their next
// hops, and which routes of main may be ours. The return table has copies of
// main's routes too, which the caller knows not to be learned by their prefixes.
func (m *Manager) recall(ctx context.Context, s *snapshot) error {
	links, err := m.conn.links(ctx)
	if err != nil {
		return fmt.Errorf("read links: %w", err)
	}
	s.links = links
	for i := range s.own {
		r := &s.own[i]
		switch r.table {
		case m.opts.BaseTable:
			if l := (Learned{Prefix: r.dst, Legs: s.learnedLegs(r)}); len(l.Legs) > 0 {
				m.learned = append(m.learned, l)
			}
		case unix.RT_TABLE_MAIN:
			m.unclaimed = append(m.unclaimed, r.mainKey())
		}
	}
	return nil
}

// learnedLegs are the legs of a route of ours as they were learned, none if one
// of them has no gateway.
func (s *snapshot) learnedLegs(r *route) (legs []LearnedLeg) {
	for _, l := range r.legs {
		if !l.gateway.IsValid() {
			return nil
		}
		legs = append(legs, LearnedLeg{Interface: s.linkName(l.index), Gateway: l.gateway, Weight: int(l.weight) + 1})
	}
	return legs
}

// reclaim takes those routes of main for ours again that a former process left
// with a state file that is damaged: nobody else gives a route our number, our
// metric, next hops on listed interfaces only, a destination that is learned or
// excluded, and nothing else.
func (p *pass) reclaim() {
	found := p.reclaimed()
	if len(found) == 0 {
		return
	}
	if err := p.m.state.setMain(append(slices.Clone(p.m.state.Main), found...)); err != nil {
		p.fail(err)
	}
	p.m.state.splitMain(p.s)
}

// reclaimed finds the routes that reclaim takes for ours; each is found once.
func (p *pass) reclaimed() []mainKey {
	if len(p.m.unclaimed) == 0 || p.d.MainMetric == 0 {
		return nil
	}
	var keys []mainKey
	for i := range p.s.main {
		if r := &p.s.main[i]; slices.Contains(p.m.unclaimed, r.mainKey()) && p.looksOurs(r) {
			keys = append(keys, r.mainKey())
			p.m.log.Info("route in the main table is taken over: it looks like that of a former process", "route", r.String(), "metric", r.metric)
		}
	}
	p.m.unclaimed = slices.DeleteFunc(p.m.unclaimed, func(k mainKey) bool { return slices.Contains(keys, k) })
	return keys
}

// Unclaimed tells whether the main table holds routes with our number of which
// nobody knows whose they are, because the state file of a former process is damaged.
func (m *Manager) Unclaimed() bool { return len(m.unclaimed) > 0 }

// RestoreFor is Restore for a caller that knows what the former process was to do: where
// the state file is damaged, routes of the main table are removed too that look like
// those of a process with these VIPs, interfaces, exempt destinations, learned routes and
// metric. Others with our number stay, and are logged.
func (m *Manager) RestoreFor(ctx context.Context, d Desired) error {
	d.Sysctls = SysctlOff
	_, err := m.run(ctx, d, readAll, func(p *pass) {
		// In memory only: a stop needs no room on the disk.
		p.m.state.Main = append(slices.Clone(p.m.state.Main), p.reclaimed()...)
		p.a.Problems = nil // such as an interface that is gone by now
		for _, k := range p.m.unclaimed {
			p.m.log.Warn("route in the main table has our number and stays: the state file is damaged, and it does not look like one of ours",
				"route", k.Prefix, "metric", k.Metric, "protocol", Protocol)
		}
		p.restore()
	})
	return err
}

// looksOurs tells whether a route of main is one that planMain would make, by
// whichever of the listed interfaces.
func (p *pass) looksOurs(r *route) bool {
	known := slices.ContainsFunc(p.d.Learned, func(l Learned) bool { return l.Prefix == r.dst }) ||
		slices.Contains(aggregate(append(excluded(r.family()), p.d.Exclude...)), r.dst)
	if !known || r.proto != Protocol || r.metric != p.d.MainMetric || r.kind != unix.RTN_UNICAST || r.tos != 0 || r.from.IsValid() || r.nexthops != 0 || r.rest != "" {
		return false
	}
	if r.prefsrc.IsValid() && !isSource(r.prefsrc, p.d.VIPs) {
		return false
	}
	return len(r.legs) > 0 && !slices.ContainsFunc(r.legs, func(l leg) bool {
		return !l.gateway.IsValid() || !slices.ContainsFunc(p.ports, func(q port) bool { return q.index == l.index })
	})
}
