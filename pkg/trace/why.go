package trace

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// why says why a connection gets its source.
func (t *tracer) why(l *vip.Lookup, f vip.Flow) (status.Reason, string) {
	last := vip.LookupRule{Rank: -1}
	if len(l.Rules) > 0 {
		last = l.Rules[len(l.Rules)-1]
	}
	switch {
	case l.Unreachable != "":
		return status.SourceUnreachable, l.Unreachable
	case l.Local:
		return status.SourceLocal, "the destination is an address of this host"
	case last.Rank >= 0:
		v, r := t.ranked(last.Rank)
		if v == nil {
			return status.SourceByRule, "by a rule that the daemon's configuration no longer has"
		}
		return status.SourceByRule, fmt.Sprintf("source.rules[%d] of %s: %s", r.Entry, v.Name, r)
	case last.General:
		return status.SourcePreferred, "what leaves by " + interfaces(l) + " and names no source"
	}
	return t.whyNot(l, f, last)
}

// whyNot says why the source is not that of a VIP.
func (t *tracer) whyNot(l *vip.Lookup, f vip.Flow, last vip.LookupRule) (status.Reason, string) {
	for _, r := range l.Rules {
		if r.Ours && r.Jump {
			return status.SourceExcluded, t.exclusion(f.To)
		}
	}
	listed := slices.ContainsFunc(l.Hops, func(h vip.Hop) bool {
		return slices.ContainsFunc(t.s.Interfaces, func(n status.Interface) bool { return n.Name == h.Interface })
	})
	switch {
	case !last.Ours && l.Table != 0 && l.Table != tableMain && l.Table != tableLocal:
		return status.SourceForeignRule, "a rule of another owner was first: " + last.Text
	case !listed:
		return status.SourceUnlisted, "it leaves by " + interfaces(l) + ", which is not a listed interface"
	case !l.Own:
		return status.SourceByRoute, "the route of the main table names this source"
	}
	if v := t.wanted(l, f); v != nil {
		if v.Reason != "" {
			return v.Reason, strings.TrimSuffix(v.Name+" would be the source, and is not announced: "+v.Detail, ": ")
		}
		return status.SourceNotYet, v.Name + " would be the source, and is not in effect on " + interfaces(l)
	}
	return status.SourceNone, "no VIP is a preferred source of it"
}

// The tables of the kernel. A look-up that found none has 0: that of a socket which is
// bound to an interface without a route, where the destination is taken for on-link.
const (
	tableMain  = 254
	tableLocal = 255
)

// ranked finds the source rule of a rank.
func (t *tracer) ranked(rank int) (*status.VIP, *status.SourceRule) {
	for i := range t.s.VIPs {
		for j := range t.s.VIPs[i].SourceRules {
			if r := &t.s.VIPs[i].SourceRules[j]; r.Rank == rank {
				return &t.s.VIPs[i], r
			}
		}
	}
	return nil, nil
}

// wanted is the VIP that the configuration has for the flow.
func (t *tracer) wanted(l *vip.Lookup, f vip.Flow) *status.VIP {
	var best *status.VIP
	rank := math.MaxInt
	for i := range t.s.VIPs {
		v := &t.s.VIPs[i]
		if v.Prefix.Addr().Is4() != f.To.Is4() || !slices.ContainsFunc(l.Hops, func(h vip.Hop) bool { return on(v, h.Interface) }) {
			continue
		}
		if v.PreferredSource && best == nil {
			best = v
		}
		for j := range v.SourceRules {
			if r := &v.SourceRules[j]; r.Rank < rank && selects(r, f) {
				best, rank = v, r.Rank
			}
		}
	}
	return best
}

// selects tells whether a rule matches the flow.
func selects(r *status.SourceRule, f vip.Flow) bool {
	return (!r.Destination.IsValid() || r.Destination.Contains(f.To.WithZone(""))) && f.Mark&r.Mask == r.Mark &&
		(r.Users == nil || r.Users.First <= f.User && f.User <= r.Users.Last)
}

// exclusion says why a destination is exempt.
func (t *tracer) exclusion(to netip.Addr) string {
	for i := range t.s.Peers {
		if t.s.Peers[i].Address == to {
			return to.String() + " is a BGP peer, which never gets a VIP as source"
		}
	}
	switch {
	case to.IsLinkLocalUnicast():
		return "link-local destinations never get a VIP as source"
	case to.IsMulticast():
		return "multicast destinations never get a VIP as source"
	case to == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "broadcasts never get a VIP as source"
	}
	return "egress.exclude has it"
}

// interfaces are those of the next hops.
func interfaces(l *vip.Lookup) string {
	var names []string
	for _, h := range l.Hops {
		if !slices.Contains(names, h.Interface) {
			names = append(names, h.Interface)
		}
	}
	return strings.Join(names, ", ")
}
