package main

import "time"

// boundSteps is in how many parts a bound is waited for. Each is to be seen by the
// process: what it stands still for, as with its whole machine, is one of them, and what
// comes in time for a process that runs does so then, too.
const boundSteps = 10

// within waits for what is done, but not for longer than d in which this process runs. It
// tells whether it is done.
func within(done <-chan struct{}, d time.Duration) bool {
	tick := time.NewTicker(d / boundSteps)
	defer tick.Stop()
	return before(done, tick.C)
}

// before tells whether something is done before there were boundSteps ticks.
func before(done <-chan struct{}, tick <-chan time.Time) bool {
	for range boundSteps {
		select {
		case <-done:
			return true
		case <-tick:
		}
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}
