package bfd

import (
	"math"
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

// Two clocks are read one after the other. Where more than oneMoment is in between, as
// on a machine that stands still just then, they are read again, clockTries times at
// most.
const (
	oneMoment  = 50 * time.Microsecond
	clockTries = 10
)

func newClock() clock {
	return readClock(func() instant {
		var ts unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // every kernel has it
		return instant(ts.Nano())
	})
}

func readClock(mono func() instant) (c clock) {
	apart := time.Duration(math.MaxInt64)
	for n := 0; n < clockTries && apart > oneMoment; n++ {
		at, now := time.Now(), mono()
		if d := time.Since(at); d < apart {
			c, apart = clock{at: at, mono: now}, d
		}
	}
	return c
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
