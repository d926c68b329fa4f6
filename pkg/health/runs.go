package health

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// runs are the checks whose goroutine is there, wanted or no longer.
type runs struct {
	ended chan struct{} // cap 1: one of them ended

	mu     sync.Mutex
	checks map[*check]bool // guarded by mu
}

func (r *runs) begin(c *check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks[c] = true
}

func (r *runs) end(c *check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.checks, c)
	select {
	case r.ended <- struct{}{}:
	default:
	}
}

// left are those that have not ended.
func (r *runs) left() []*check {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.checks))
}

// await waits until all have ended, for a bounded time, and names the others.
func (r *runs) await(m *Manager) {
	timer := time.NewTimer(endBound)
	defer timer.Stop()
	for {
		left := r.left()
		if len(left) == 0 {
			return
		}
		select {
		case <-r.ended:
		case <-timer.C:
			names := make([]string, len(left))
			for i, c := range left {
				names[i] = m.nameOf(c)
			}
			slices.Sort(names)
			m.log.Warn("checks do not end, left behind", "checks", names, "after", endBound)
			return
		}
	}
}
