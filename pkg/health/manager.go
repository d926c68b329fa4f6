package health

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// leastInterval bounds how often a check can run, whatever its Spec says.
	leastInterval = 10 * time.Millisecond
	// quickInterval is the most between two runs while the verdict is Unknown.
	quickInterval = 100 * time.Millisecond
	// endBound is how long the end of Run waits for runs that do not end.
	endBound = 2 * time.Second
)

// Options are what a Manager needs.
type Options struct {
	// Log is required.
	Log *slog.Logger
	// Poke is called, without any lock held, when a verdict changed or expired.
	// It must not block. May be nil.
	Poke func()
}

// Manager runs checks. Make it with New, give it checks with Set, and call Run
// once. All methods may be called from any goroutine.
type Manager struct {
	log     *slog.Logger
	poke    func()
	changed chan struct{} // wakes Run after Set

	mu     sync.Mutex
	checks map[string]*check // by ID; guarded by mu
	cached Results           // of the checks, nil when out of date; guarded by mu
}

// check is one wanted check. It is known by its pointer: the late answer of a
// check that was replaced finds another one in its place and is dropped.
type check struct {
	id     string
	retime chan struct{} // cap 1: the interval changed

	// Guarded by the Manager's mu.

	spec   Spec
	result Result
	expiry *time.Timer // of the result; nil before the first
}

// New returns a Manager without checks.
func New(o Options) *Manager {
	return &Manager{
		log:     o.Log,
		poke:    o.Poke,
		changed: make(chan struct{}, 1),
		checks:  map[string]*check{},
	}
}

// Set makes specs the wanted checks; of several with one ID the last counts. A
// check whose ID and Key are as before keeps its streak and verdict, and takes
// another schedule over without a gap. All others start as Unknown, and when Set
// returns Results shows them so. What is no longer wanted is cancelled and may
// take as long as its Checker to be gone, but is not heard of again.
func (m *Manager) Set(specs []Spec) {
	now := time.Now()
	m.mu.Lock()
	checks := make(map[string]*check, len(specs))
	for _, s := range specs {
		s.Interval = max(s.Interval, leastInterval)
		c := m.checks[s.ID]
		if c == nil || c.spec.Key != s.Key {
			c = &check{
				id: s.ID, retime: make(chan struct{}, 1), spec: s,
				result: Result{ID: s.ID, Kind: s.Kind, Verdict: Unknown, Since: now},
			}
		} else {
			c.reschedule(s, now)
		}
		checks[s.ID] = c
	}
	m.checks, m.cached = checks, nil
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// reschedule takes over the schedule of a Spec that asks for the same. The
// verdict lives as long as the new schedule says, but at least until that can
// have renewed it; one that expired stays so. The Manager's mu is held.
func (c *check) reschedule(s Spec, now time.Time) {
	if s.Interval != c.spec.Interval {
		select {
		case c.retime <- struct{}{}:
		default:
		}
	}
	same := s.Interval == c.spec.Interval && s.Timeout == c.spec.Timeout
	s.Checker = c.spec.Checker
	c.spec = s
	if r := &c.result; !same && !r.Checked.IsZero() && !r.expired(now) {
		renewed := now.Add(s.Interval + s.Timeout)
		if r.Expires.Before(renewed) {
			renewed = r.Expires
		}
		if r.Expires = s.expires(r.Checked); r.Expires.Before(renewed) {
			r.Expires = renewed
		}
		c.expiry.Reset(r.Expires.Sub(now))
	}
}

// Results returns the latest results of all wanted checks. It is the caller's
// to compare Expires with the time.
func (m *Manager) Results() Results {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Made when asked for, not at each run: a thousand checks a second would
	// else copy a thousand results each.
	if m.cached == nil {
		m.cached = make(Results, len(m.checks))
		for id, c := range m.checks {
			m.cached[id] = c.result
		}
	}
	return m.cached
}

// Run runs the wanted checks until the context ends, then returns nil when all of
// them are gone, or 2 s later without those that do not end: a program that the
// kernel holds up cannot even be killed, and must not hold the daemon's end up.
func (m *Manager) Run(ctx context.Context) error {
	running := runs{names: map[*check]bool{}, ended: make(chan struct{}, 1)}
	defer running.await(m.log)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := map[*check]context.CancelFunc{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.changed:
		}
		m.mu.Lock()
		wanted := maps.Clone(m.checks)
		m.mu.Unlock()
		for c, stop := range started {
			if wanted[c.id] != c {
				stop()
				delete(started, c)
			}
		}
		for _, c := range wanted {
			if started[c] == nil {
				own, stop := context.WithCancel(ctx)
				started[c] = stop
				running.begin(c)
				go func() {
					defer running.end(c)
					m.keepRunning(own, c)
				}()
			}
		}
	}
}

// keepRunning runs one check on its schedule until the context ends. The first
// run is at once: a VIP waits for it. The others are on a grid with one point in
// each interval, placed by the ID so that checks do not run in step, whatever
// the runs take. Points that a slow run has missed are left out. While the
// verdict is Unknown, runs come quicker than that: good news needs some in a row.
func (m *Manager) keepRunning(ctx context.Context, c *check) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer m.stopExpiry(c)
	at := time.Now()
	next := at.Add(splay(c.id, m.specOf(c).Interval))
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.retime:
			next = time.Now().Add(splay(c.id, m.specOf(c).Interval))
			if next.Before(at) {
				at = next
				timer.Reset(time.Until(at))
			}
			continue
		case <-timer.C:
		}
		s, start := m.specOf(c), time.Now()
		failure := m.runOnce(ctx, s)
		if ctx.Err() != nil {
			return
		}
		end := time.Now()
		verdict := m.record(c, failure, end, end.Sub(start))
		if missed := end.Sub(next); missed >= 0 {
			next = next.Add(missed.Truncate(s.Interval) + s.Interval)
		}
		at = next
		if quick := start.Add(min(s.Interval, quickInterval)); verdict == Unknown && quick.Before(at) {
			at = quick
		}
		timer.Reset(at.Sub(end))
	}
}

func (m *Manager) specOf(c *check) Spec {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.spec
}

func (m *Manager) stopExpiry(c *check) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.expiry != nil {
		c.expiry.Stop()
	}
}

// splay is more than zero and at most the interval.
func splay(id string, interval time.Duration) time.Duration {
	const steps = 1 << 10
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return interval * time.Duration(h.Sum32()%steps+1) / steps
}

// runOnce runs the check and returns what was wrong, empty for a pass. A pass
// that comes after the deadline is none. A panic costs this check its result
// and nobody else anything.
func (m *Manager) runOnce(ctx context.Context, s Spec) (failure string) {
	defer func() {
		if p := recover(); p != nil {
			failure = firstLine(fmt.Sprintf("check panicked: %v", p), reasonBytes)
			m.log.Debug("check panicked", "check", s.ID, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	err := s.Checker.Check(ctx)
	switch {
	case err == nil && ctx.Err() == nil:
		return ""
	case err == nil, errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("timeout after %s", s.Timeout)
	}
	if text := firstLine(err.Error(), reasonBytes); text != "" {
		return text
	}
	return "check failed without a word"
}

// record takes the outcome of a run over into the result of its check and
// returns the verdict.
func (m *Manager) record(c *check, failure string, now time.Time, took time.Duration) Verdict {
	m.mu.Lock()
	if m.checks[c.id] != c {
		m.mu.Unlock()
		return ""
	}
	old := c.result
	c.result = c.spec.judge(old, failure, now)
	c.result.Duration = took
	result := c.result
	// A run that never ends brings no news, so the clock has to.
	wait := result.Expires.Sub(now)
	if c.expiry == nil {
		c.expiry = time.AfterFunc(wait, func() { m.expired(c) })
	} else {
		c.expiry.Reset(wait)
	}
	m.cached = nil
	m.mu.Unlock()

	if old.Verdict == result.Verdict && !old.expired(now) {
		if failure != "" {
			m.log.Debug("check failed", "check", c.id, "verdict", string(result.Verdict), "reason", failure, "streak", result.Streak)
		}
		return result.Verdict
	}
	if result.Verdict == Healthy {
		m.log.Info("check healthy", "check", c.id)
	} else {
		m.log.Warn("check not healthy", "check", c.id, "verdict", string(result.Verdict), "reason", failure)
	}
	m.wake()
	return result.Verdict
}

// expired tells that a verdict ran out because no run of its check ended.
func (m *Manager) expired(c *check) {
	m.mu.Lock()
	gone := m.checks[c.id] != c || time.Now().Before(c.result.Expires)
	m.mu.Unlock()
	if gone {
		return
	}
	m.log.Warn("check gives no results, its verdict expired", "check", c.id)
	m.wake()
}

func (m *Manager) wake() {
	if m.poke != nil {
		m.poke()
	}
}

// judge returns the result after one more run. Bad news acts at once where
// nothing good is known: the first failure of an Unknown check is a verdict.
// Good news waits for Rise passes in a row, at the start and after a verdict
// expired.
func (s Spec) judge(r Result, failure string, now time.Time) Result {
	before := r.Verdict
	if r.expired(now) {
		r.Verdict, r.Streak = Unknown, 0
	}
	if r.Streak > 0 && (r.Reason == "") == (failure == "") {
		r.Streak++
	} else {
		r.Streak = 1
	}
	switch {
	case failure == "" && r.Streak >= s.Rise:
		r.Verdict = Healthy
	case failure != "" && (r.Verdict == Unknown || r.Streak >= s.Fall):
		r.Verdict = Unhealthy
	}
	if r.Verdict != before {
		r.Since = now
	}
	r.Reason, r.Checked = failure, now
	r.Expires = s.expires(now)
	return r
}

// expires is until when the result of a run that ended then counts.
func (s Spec) expires(checked time.Time) time.Time { return checked.Add(3*s.Interval + s.Timeout) }

// expired tells whether there was a verdict and it ran out.
func (r Result) expired(now time.Time) bool {
	return !r.Checked.IsZero() && now.After(r.Expires)
}
