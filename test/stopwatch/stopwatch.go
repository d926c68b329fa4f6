// Package stopwatch measures how long something took on a machine that may stand
// still for a moment, or keep everybody waiting.
package stopwatch

import (
	"sync/atomic"
	"testing"
	"time"
)

// Watch counts the milliseconds in which this process could run: of a time in which
// it could not, one at most. It shows never more than has passed.
type Watch struct{ ticks atomic.Int64 }

// Start returns one that runs until the test ends.
func Start(tb testing.TB) *Watch {
	tb.Helper()
	w, ctx := &Watch{}, tb.Context()
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C: // one, however many were missed
				w.ticks.Add(1)
			}
		}
	}()
	return w
}

// Elapsed is what it has counted.
func (w *Watch) Elapsed() time.Duration { return time.Duration(w.ticks.Load()) * time.Millisecond }
