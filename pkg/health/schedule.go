package health

import (
	"hash/fnv"
	"time"
)

const (
	// leastInterval bounds how often a check can run, whatever its Spec says.
	leastInterval = 10 * time.Millisecond
	// quickInterval is the most between two runs while the verdict is Unknown.
	quickInterval = 100 * time.Millisecond
	// extraInterval is the least between two runs that a Watcher asks for, so that
	// a storm of events is none of runs.
	extraInterval = 5 * time.Millisecond
	// groupApart is between the points of two groups of checks that run in step.
	groupApart = 25 * time.Millisecond
	// leastGroups is how many groups an interval that is short has.
	leastGroups = 40
)

// schedule is when one check runs: on a grid with one point in each interval,
// whatever the runs take. Runs between the points move none of them, and points
// that a slow run has missed are left out.
type schedule struct {
	at    time.Time // of the next run
	point time.Time // of the grid, the next
	asked bool      // for an extra run, which at allows for
	extra time.Time // the earliest time of the next extra run
	first bool      // no run yet, and no verdict
}

// begin is the schedule of a check that was not there before. The first run comes
// soon, because a VIP waits for it, but not with that of all others at the start of
// the daemon, unless the verdict was inherited.
func begin(s *Spec, r *Result, point, now time.Time) schedule {
	p := schedule{at: now.Add(splay(s.ID, min(quickInterval, s.Interval))), point: point}
	if p.first = r.Checked.IsZero() || r.expired(now); !p.first {
		p.at = soonest(p.point, now, s.pace(r))
	}
	return p
}

// retime takes over the next point of another grid.
func (p *schedule) retime(point time.Time) {
	p.point = point
	if p.point.Before(p.at) {
		p.at = p.point
	}
}

// ask is for an extra run as soon as may be. The first run, which is to come soon,
// is one.
func (p *schedule) ask(now time.Time) {
	p.asked = true
	if p.first {
		return
	}
	if now.Before(p.extra) {
		now = p.extra
	}
	if now.Before(p.at) {
		p.at = now
	}
}

// ran plans the next run after one that gave the result.
func (p *schedule) ran(s *Spec, r *Result, start, end time.Time) {
	p.first = false
	if missed := end.Sub(p.point); missed >= 0 {
		p.point = p.point.Add(missed.Truncate(s.Interval) + s.Interval)
	}
	if p.asked {
		p.asked, p.extra = false, start.Add(extraInterval)
	}
	p.at = soonest(p.point, start, s.pace(r))
}

// soonest is the next point, or one pace after the start of the last run.
func soonest(point, start time.Time, pace time.Duration) time.Time {
	if quick := start.Add(pace); pace > 0 && quick.Before(point) {
		return quick
	}
	return point
}

// pace is the most between the starts of two runs after a result, 0 if the grid
// is enough: runs come quicker while nothing is known, since good news needs
// some in a row, and while results disagree with the verdict.
func (s *Spec) pace(r *Result) time.Duration {
	quick := s.FastInterval
	if quick >= s.Interval {
		quick = 0 // or a slow run would leave the grid
	}
	switch passed := r.Reason == ""; {
	case r.Verdict == Unknown && quick == 0:
		return min(s.Interval, quickInterval)
	case r.Verdict == Unknown:
		return min(quickInterval, quick)
	case r.Verdict == Healthy && !passed, r.Verdict == Unhealthy && passed:
		return quick
	}
	return 0
}

// pointAfter is the next point of the check's grid. All grids have one origin.
func (m *Manager) pointAfter(s *Spec, now time.Time) time.Time {
	first := m.origin.Add(splay(s.ID, s.Interval))
	if passed := now.Sub(first); passed >= 0 {
		return first.Add(passed.Truncate(s.Interval) + s.Interval)
	}
	return first
}

// splay is where in the interval the points of a check are, by its ID so that
// checks do not run in step: more than zero and at most the interval. It is a whole
// number of groupApart, so that few wake-ups of the process serve many checks: at
// one a millisecond they cost as much as the checks themselves.
func splay(id string, interval time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	apart := max(min(groupApart, interval/leastGroups), 1)
	groups := max(int64(interval/apart), 1)
	return apart * time.Duration(int64(h.Sum32())%groups+1)
}
