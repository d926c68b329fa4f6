package netnstest

import (
	"sync/atomic"
	"testing"
	"time"
)

// awakeStep is the time between two looks of Awake. What passes between them beyond
// twice that long, this process was kept from running.
const awakeStep = 5 * time.Millisecond

// Awake measures time, as time.Since does, in which this process could run: what the
// machine stood still for, or gave to others, does not count. It is for the upper bounds
// that are promised of what the process does. The function that it returns tells the time
// since the call of Awake.
func Awake(tb testing.TB) func() time.Duration {
	tb.Helper()
	var sum atomic.Int64
	watch(tb, func(gap time.Duration) { sum.Add(int64(min(gap, 2*awakeStep))) })
	return func() time.Duration { return time.Duration(sum.Load()) }
}

// Stood tells for how long this process was kept from running at the longest since the
// call of Stood: whether an order of events that two clocks decide may be another one.
func Stood(tb testing.TB) func() time.Duration {
	tb.Helper()
	var longest atomic.Int64
	watch(tb, func(gap time.Duration) {
		longest.Store(max(longest.Load(), int64(gap-awakeStep)))
	})
	return func() time.Duration { return time.Duration(longest.Load()) }
}

// watch tells how long each step took, until the test ends.
func watch(tb testing.TB, step func(took time.Duration)) {
	tb.Helper()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(awakeStep)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := time.Now()
			step(now.Sub(last))
			last = now
		}
	}()
	tb.Cleanup(func() {
		close(done)
		<-ended
	})
}
