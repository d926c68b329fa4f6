package health

import (
	"cmp"
	"slices"
	"time"
)

// past is a check as it was before Set.
type past struct {
	check  *check
	spec   Spec
	result Result
}

// succeed returns the checks of specs. Each is the old check of its ID if that
// has an equal Key, else any old one with that Key which is left, goroutine,
// held connection and all: its ID or schedule is another now, but not what it
// asks for. If none is left, since one has become two, it gets the result of an
// old one with that Key.
func succeed(old map[string]*check, specs []Spec, now time.Time) map[string]*check {
	checks := make(map[string]*check, len(specs))
	olds := byKey(old)
	taken := make(map[*check]bool, len(old))
	var others []Spec
	for _, s := range lastOfID(specs) {
		s.Interval = max(s.Interval, leastInterval)
		if s.FastInterval != 0 {
			s.FastInterval = max(s.FastInterval, leastInterval)
		}
		if c := old[s.ID]; c != nil && c.spec.Key == s.Key {
			checks[s.ID], taken[c] = c, true
			c.reschedule(s, now)
		} else {
			others = append(others, s)
		}
	}
	for _, s := range others {
		before := olds[s.Key]
		c := newCheck(s, now)
		if i := slices.IndexFunc(before, func(p past) bool { return !taken[p.check] }); i >= 0 {
			c = before[i].check
			taken[c] = true
			c.reschedule(s, now)
		} else if len(before) > 0 {
			c.result = before[0].result
			c.result.renew(&s, &before[0].spec, now)
		}
		c.result.ID, c.result.Kind = s.ID, s.Kind
		checks[s.ID] = c
	}
	return checks
}

// lastOfID leaves out all but the last of several with one ID.
func lastOfID(specs []Spec) []Spec {
	last := make(map[string]int, len(specs))
	for i := range specs {
		last[specs[i].ID] = i
	}
	if len(last) == len(specs) {
		return specs
	}
	var list []Spec
	for i := range specs {
		if last[specs[i].ID] == i {
			list = append(list, specs[i])
		}
	}
	return list
}

// byKey are the old checks by Key, what is known best first.
func byKey(old map[string]*check) map[string][]past {
	olds := make(map[string][]past, len(old))
	for _, c := range old {
		olds[c.spec.Key] = append(olds[c.spec.Key], past{c, c.spec, c.result})
	}
	for _, list := range olds {
		slices.SortFunc(list, func(a, b past) int {
			return cmp.Or(b.result.Checked.Compare(a.result.Checked), cmp.Compare(a.spec.ID, b.spec.ID))
		})
	}
	return olds
}

// reschedule takes over the schedule and names of a Spec that asks for the same.
// The Manager's mu is held.
func (c *check) reschedule(s Spec, now time.Time) {
	if s.Interval != c.spec.Interval {
		select {
		case c.retime <- struct{}{}:
		default:
		}
	}
	if c.result.renew(&s, &c.spec, now) && c.expiry != nil {
		c.expiry.Reset(c.result.Expires.Sub(now))
	}
	s.Checker = c.spec.Checker
	c.spec = s
}

// renew makes the verdict live as long as another schedule says, but at least
// until that can have renewed it. One that expired stays so. It tells whether
// anything changed.
func (r *Result) renew(s, before *Spec, now time.Time) bool {
	same := s.Interval == before.Interval && s.Timeout == before.Timeout
	if same || r.Checked.IsZero() || r.expired(now) {
		return false
	}
	renewed := now.Add(s.Interval + s.Timeout)
	if r.Expires.Before(renewed) {
		renewed = r.Expires
	}
	if r.Expires = s.expires(r.Checked); r.Expires.Before(renewed) {
		r.Expires = renewed
	}
	return true
}
