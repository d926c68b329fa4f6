package speaker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"vipspeaker/pkg/status"
)

// reportEgress is what peers told of egress.import; nil if nothing is taken.
// InMain are the prefixes that the main table holds.
func reportEgress(in *Inputs, d *Desired, inMain []netip.Prefix) *status.Egress {
	c := &in.Config.Egress
	if len(c.Import) == 0 {
		return nil
	}
	out := &status.Egress{Install: c.Install, Metric: d.Kernel.MainMetric, Routes: make([]status.Route, len(c.Import))}
	for i, prefix := range c.Import {
		r := &out.Routes[i]
		*r = status.Route{Prefix: prefix, Main: slices.Contains(inMain, prefix), Legs: []status.Leg{}}
		k := slices.IndexFunc(d.Learned, func(l Learned) bool { return l.Prefix == prefix })
		if k < 0 {
			continue
		}
		r.Static = d.Learned[k].Static
		for j := range d.Learned[k].Legs {
			l := &d.Learned[k].Legs[j]
			r.Legs = append(r.Legs, status.Leg{
				Interface: l.Interface, NextHop: l.Path.NextHop, Peer: l.Path.Peer, Used: l.Used, Weight: l.Weight, Reason: l.Why,
				MED: l.Path.MED, LocalPref: l.Path.LocalPref, ASPathLength: l.Path.ASPathLength, Bandwidth: l.Path.Bandwidth,
			})
		}
	}
	return out
}

// leg names a next hop of a learned route.
type leg struct {
	name string
	hop  netip.Addr
}

func (l leg) String() string { return fmt.Sprintf("%s via %s", l.hop, l.name) }

// legsInUse are the legs of each learned route, with what is against those that
// are not.
func legsInUse(s *status.Status) (used map[netip.Prefix][]leg, why map[netip.Prefix]map[leg]string) {
	used, why = map[netip.Prefix][]leg{}, map[netip.Prefix]map[leg]string{}
	if s.Egress == nil {
		return used, why
	}
	for i := range s.Egress.Routes {
		r := &s.Egress.Routes[i]
		why[r.Prefix] = map[leg]string{}
		for j := range r.Legs {
			l := leg{r.Legs[j].Interface, r.Legs[j].NextHop}
			if r.Legs[j].Used && !slices.Contains(used[r.Prefix], l) {
				used[r.Prefix] = append(used[r.Prefix], l)
			}
			if why[r.Prefix][l] == "" {
				why[r.Prefix][l] = r.Legs[j].Reason
			}
		}
	}
	return used, why
}

// egress tells of legs of learned routes that came or went, and of routes whose
// legs all look dead.
func (c *changes) egress() {
	var prefixes []netip.Prefix
	static := map[netip.Prefix][2]bool{}
	for at, s := range []*status.Status{c.prev, c.next} {
		if s.Egress == nil {
			continue
		}
		for i := range s.Egress.Routes {
			r := &s.Egress.Routes[i]
			if !slices.Contains(prefixes, r.Prefix) {
				prefixes = append(prefixes, r.Prefix)
			}
			both := static[r.Prefix]
			both[at] = r.Static
			static[r.Prefix] = both
		}
	}
	before, _ := legsInUse(c.prev)
	after, why := legsInUse(c.next)
	for _, prefix := range prefixes {
		c.legs(prefix, before[prefix], after[prefix], why[prefix])
		e := status.Event{Kind: kindEgress, Subject: prefix.String()}
		switch was := static[prefix]; {
		case was[1] && !was[0]:
			e.Message, e.Cause = "all legs of a learned route look dead", joinLegs(after[prefix], why[prefix])
			c.add(c.worse, e, "prefix", prefix, "kept", e.Cause)
		case was[0] && !was[1] && len(after[prefix]) > 0:
			e.Message = "learned route has a working leg again"
			c.add(slog.LevelInfo, e, "prefix", prefix)
		}
	}
}

// legs tells of legs of one route that came or went.
func (c *changes) legs(prefix netip.Prefix, before, after []leg, why map[leg]string) {
	for _, l := range after {
		if !slices.Contains(before, l) {
			c.add(slog.LevelInfo, status.Event{Kind: kindEgress, Subject: prefix.String(), Interface: l.name, Message: "leg of learned route on", To: l.String()},
				"prefix", prefix, "interface", l.name, "next_hop", l.hop)
		}
	}
	for _, l := range before {
		if slices.Contains(after, l) {
			continue
		}
		cause := why[l]
		if cause == "" {
			cause = "no longer sent by the peer"
		}
		c.add(c.worse, status.Event{Kind: kindEgress, Subject: prefix.String(), Interface: l.name, Message: "leg of learned route off", From: l.String(), Cause: cause},
			"prefix", prefix, "interface", l.name, "next_hop", l.hop, "reason", cause)
	}
}

func joinLegs(legs []leg, why map[leg]string) string {
	var texts []string
	for _, l := range legs {
		texts = append(texts, joinNonEmpty(": ", l.String(), why[l]))
	}
	return joinNonEmpty("; ", texts...)
}
