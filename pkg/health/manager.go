package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// endBound is how long the end of Run waits for runs that do not end.
const endBound = 2 * time.Second

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
	origin  time.Time     // of the grids of all checks
	changed chan struct{} // wakes Run after Set

	mu     sync.Mutex
	checks map[string]*check // by ID; guarded by mu
	cached Results           // of the checks, nil when out of date; guarded by mu
}

// check is one wanted check. It is known by its pointer: the late answer of a
// check that was replaced finds another one in its place and is dropped.
type check struct {
	retime chan struct{} // cap 1: the interval changed
	again  chan struct{} // cap 1: its Watcher wants a run

	// Guarded by the Manager's mu.

	spec   Spec
	result Result
	expiry *time.Timer // of the result; nil before the first run of our own
}

func newCheck(s Spec, now time.Time) *check {
	return &check{
		retime: make(chan struct{}, 1), again: make(chan struct{}, 1), spec: s,
		result: Result{ID: s.ID, Kind: s.Kind, Verdict: Unknown, Since: now},
	}
}

// New returns a Manager without checks.
func New(o Options) *Manager {
	return &Manager{
		log:     o.Log,
		poke:    o.Poke,
		origin:  time.Now(),
		changed: make(chan struct{}, 1),
		checks:  map[string]*check{},
	}
}

// Set makes specs the wanted checks; of several with one ID the last counts. A
// check whose Key is as before keeps its streak and verdict, and takes another
// ID and schedule over without a gap; where one has become two, both have them.
// All others start as Unknown, and when Set returns Results shows them so. What
// is no longer wanted is cancelled and may take as long as its Checker to be
// gone, but is not heard of again.
func (m *Manager) Set(specs []Spec) {
	m.mu.Lock()
	m.checks, m.cached = succeed(m.checks, specs, time.Now()), nil
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default:
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
	running := runs{checks: map[*check]bool{}, ended: make(chan struct{}, 1)}
	defer running.await(m)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := map[*check]context.CancelFunc{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.changed:
		}
		wanted := m.wanted()
		for c, stop := range started {
			if !wanted[c] {
				stop()
				delete(started, c)
			}
		}
		for c := range wanted {
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

func (m *Manager) wanted() map[*check]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := make(map[*check]bool, len(m.checks))
	for _, c := range m.checks {
		wanted[c] = true
	}
	return wanted
}

// keepRunning runs one check on its schedule, and when its Watcher says so, until
// the context ends.
func (m *Manager) keepRunning(ctx context.Context, c *check) {
	s, result := m.adopt(c)
	defer m.stopExpiry(c)
	if w, ok := s.Checker.(Watcher); ok {
		var watch sync.WaitGroup
		defer watch.Wait()
		watch.Go(func() { m.keepWatching(ctx, c, w) })
	}
	now := time.Now()
	plan := begin(&s, &result, m.pointAfter(&s, now), now)
	timer := time.NewTimer(time.Until(plan.at))
	defer timer.Stop()
	for {
		again := c.again
		if plan.asked {
			again = nil // else each event of a storm would wake us for nothing
		}
		select {
		case <-ctx.Done():
			return
		case <-c.retime:
			s = m.specOf(c)
			plan.retime(m.pointAfter(&s, time.Now()))
		case <-again:
			plan.ask(time.Now())
		case <-timer.C:
		}
		start := time.Now()
		if wait := plan.at.Sub(start); wait > 0 {
			timer.Reset(wait)
			continue
		}
		select {
		case <-c.again: // of before this run, which answers it
		default:
		}
		s = m.specOf(c)
		failure := m.runOnce(ctx, &s)
		if ctx.Err() != nil {
			return
		}
		end := time.Now()
		result = m.record(c, failure, end, end.Sub(start))
		plan.ran(&s, &result, start, end)
		timer.Reset(time.Until(plan.at))
	}
}

func (m *Manager) specOf(c *check) Spec {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.spec
}

// adopt returns the state of a check whose goroutine begins. What it inherited
// runs out like any other verdict.
func (m *Manager) adopt(c *check) (Spec, Result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); c.expiry == nil && !c.result.Checked.IsZero() && !c.result.expired(now) {
		c.expiry = time.AfterFunc(c.result.Expires.Sub(now), func() { m.expired(c) })
	}
	return c.spec, c.result
}

// nameOf is what the log calls a check.
func (m *Manager) nameOf(c *check) string {
	s := m.specOf(c)
	return s.name()
}

func (s *Spec) name() string { return cmp.Or(s.Name, s.ID) }

func (m *Manager) stopExpiry(c *check) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.expiry != nil {
		c.expiry.Stop()
	}
}

// runOnce runs the check and returns what was wrong, empty for a pass. A pass
// that comes after the deadline is none. A panic costs this check its result
// and nobody else anything.
func (m *Manager) runOnce(ctx context.Context, s *Spec) (failure string) {
	defer func() {
		if p := recover(); p != nil {
			failure = firstLine(fmt.Sprintf("check panicked: %v", p), reasonBytes)
			m.log.Debug("check panicked", "check", s.name(), "panic", p, "stack", string(debug.Stack()))
		}
	}()
	within := &deadline{parent: ctx, at: time.Now().Add(s.Timeout), limit: s.Timeout}
	defer within.end()
	err := s.Checker.Check(within) //nolint:contextcheck // within derives from ctx
	switch {
	case err == nil && within.Err() == nil:
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
// returns it; the zero Result if the check is not wanted any more. What changed
// is told by whoever shows the results, so the log has it for debugging only.
func (m *Manager) record(c *check, failure string, now time.Time, took time.Duration) Result {
	m.mu.Lock()
	if m.checks[c.spec.ID] != c {
		m.mu.Unlock()
		return Result{}
	}
	old, name := c.result, c.spec.name()
	result := c.spec.judge(old, failure, now)
	result.Duration = took
	c.result = result
	// A run that never ends brings no news, so the clock has to.
	wait := result.Expires.Sub(now)
	if c.expiry == nil {
		c.expiry = time.AfterFunc(wait, func() { m.expired(c) })
	} else {
		c.expiry.Reset(wait)
	}
	m.cached = nil
	m.mu.Unlock()

	changed := old.Verdict != result.Verdict || old.expired(now)
	if changed {
		m.wake() // first: it may be urgent
	}
	if changed || failure != "" {
		m.log.Debug("check result", "check", name, "verdict", string(result.Verdict), "reason", failure, "streak", result.Streak, "changed", changed)
	}
	return result
}

// expired tells that a verdict ran out because no run of its check ended.
func (m *Manager) expired(c *check) {
	m.mu.Lock()
	name := c.spec.name()
	gone := m.checks[c.spec.ID] != c || time.Now().Before(c.result.Expires)
	m.mu.Unlock()
	if gone {
		return
	}
	m.wake()
	m.log.Debug("check gives no results, its verdict expired", "check", name)
}

func (m *Manager) wake() {
	if m.poke != nil {
		m.poke()
	}
}
