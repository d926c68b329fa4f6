package health

import (
	"log/slog"
	"slices"
	"sync"
	"time"
)

// runs are the checks whose goroutine is there, wanted or no longer.
type runs struct {
	ended chan struct{} // cap 1: one of them ended

	mu    sync.Mutex
	names map[*check]bool // guarded by mu
}

func (r *runs) begin(c *check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names[c] = true
}

func (r *runs) end(c *check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.names, c)
	select {
	case r.ended <- struct{}{}:
	default:
	}
}

// left names those that have not ended, sorted.
func (r *runs) left() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for c := range r.names {
		list = append(list, c.id)
	}
	slices.Sort(list)
	return list
}

// await waits until all have ended, for a bounded time, and names the others.
func (r *runs) await(logger *slog.Logger) {
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
			logger.Warn("checks do not end, left behind", "checks", left, "after", endBound)
			return
		}
	}
}
