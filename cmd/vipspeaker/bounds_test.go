package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWithin: what never comes is waited for as long as it is given, what comes no longer.
func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never, soon := make(chan struct{}), make(chan struct{})
		for _, tt := range []struct {
			done <-chan struct{}
			took time.Duration
			want bool
		}{{never, time.Second, false}, {soon, 900 * time.Millisecond, true}} {
			if tt.want {
				time.AfterFunc(tt.took, func() { close(soon) })
			}
			begin := time.Now()
			if got := within(tt.done, time.Second); got != tt.want || time.Since(begin) != tt.took {
				t.Errorf("%t after %s, want %t after %s", got, time.Since(begin), tt.want, tt.took)
			}
		}
	})
}

// TestBoundIsSeen: a process that stood still for whatever time sees one tick of it, and
// goes on waiting.
func TestBoundIsSeen(t *testing.T) {
	for ticks, both := range map[int]bool{0: true, 1: true, boundSteps - 1: true, boundSteps: true} {
		tick, done := make(chan time.Time, boundSteps), make(chan struct{})
		for range ticks {
			tick <- time.Now()
		}
		time.AfterFunc(time.Millisecond, func() { close(done) })
		if ticks == boundSteps { // both have come by then
			<-done
		}
		if got := before(done, tick); got != both {
			t.Errorf("after %d ticks: done %t, want %t", ticks, got, both)
		}
	}
	tick := make(chan time.Time, boundSteps)
	for range boundSteps {
		tick <- time.Now()
	}
	if before(make(chan struct{}), tick) {
		t.Error("what never comes is done")
	}
}
