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
// since the call of Awake, and is never called after the test.
func Awake(tb testing.TB) func() time.Duration {
	tb.Helper()
	var sum atomic.Int64
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for last := time.Now(); ; {
			select {
			case <-done:
				return
			case <-time.After(awakeStep):
			}
			now := time.Now()
			sum.Add(int64(min(now.Sub(last), 2*awakeStep)))
			last = now
		}
	}()
	tb.Cleanup(func() {
		close(done)
		<-ended
	})
	return func() time.Duration { return time.Duration(sum.Load()) }
}
