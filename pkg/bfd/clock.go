package bfd

import (
	"time"

	"golang.org/x/sys/unix"
)

// instant is a time in nanoseconds of CLOCK_MONOTONIC, which all processes of a
// host share and which nobody can set; 0 for none. Times that cross from one
// process to another lose Go's monotonic reading, and what is left of them moves
// against the reader's with every step of the wall clock.
type instant int64

// clock is one moment as a time and as an instant.
type clock struct {
	at   time.Time
	mono instant
}

func newClock() clock {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // every kernel has it
	return clock{at: time.Now(), mono: instant(ts.Nano())}
}

// instant is that of a time of this process, the same one whenever it is asked.
func (c clock) instant(t time.Time) instant {
	if t.IsZero() {
		return 0
	}
	return c.mono + instant(t.Sub(c.at))
}

// time is that of an instant of any process of the host. One that cannot have
// been counts as the clock's own.
func (c clock) time(i instant) time.Time {
	if i <= 0 || i > c.mono {
		return c.at
	}
	return c.at.Add(time.Duration(i - c.mono))
}
