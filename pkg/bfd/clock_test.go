package bfd

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vipspeaker/test/netnstest"
)

// Times cross to the daemon by the monotonic clock: what a step of the wall clock
// would move is not in the message, and the daemon can tell from each how long
// ago it was, whatever its own wall clock did.
func TestTimesCrossByTheMonotonicClock(t *testing.T) {
	// Nothing was before the host's start, which may have been a minute ago.
	since, down := time.Now().Add(-5*time.Second), time.Now().Add(-15*time.Second)
	told := []SessionState{{Status: Up, Since: since, DownSince: down}}
	theirs := newClock()
	c := netConfig()
	s := newSlot(keyOf(&c), &c, nil)
	s.remote = true
	var first SessionState
	for n := range 3 {
		var b bytes.Buffer
		if err := writeFrame(&b, report{Sessions: newWireStates(told, theirs)}); err != nil {
			t.Fatal(err)
		}
		if text := b.String(); strings.Contains(text, fmt.Sprint(since.Year())+"-") {
			t.Errorf("a wall clock crosses: %s", text)
		}
		r, err := readFrame[report](&b)
		if err != nil {
			t.Fatal(err)
		}
		s.accept(&r.Sessions[0], newClock())
		got := s.state()
		for _, at := range []struct{ want, got time.Time }{{since, got.Since}, {down, got.DownSince}} {
			if at.got.Sub(at.want).Abs() > time.Second || !monotonic(at.got) {
				t.Errorf("got %s, want %s", at.got, at.want)
			}
		}
		if n == 0 {
			first = got
		}
		if got.Since != first.Since || got.DownSince != first.DownSince {
			t.Errorf("%+v became %+v", first, got)
		}
	}
}

// monotonic tells whether a time has a monotonic reading.
func monotonic(t time.Time) bool { return strings.Contains(t.String(), " m=") }

func TestInstantsThatCannotBe(t *testing.T) {
	c := newClock()
	for _, i := range []instant{0, -1, -1 << 63, c.mono + 1, 1<<63 - 1} {
		if got := c.time(i); got != c.at {
			t.Errorf("%d is %s, want %s", i, got, c.at)
		}
	}
	if got := c.instant(time.Time{}); got != 0 {
		t.Errorf("no time is %d", got)
	}
}

// A clock is of one moment, also where the machine stands still while it is read.
func TestClockIsOfOneMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		for name, still := range map[string][]time.Duration{
			"never": {0}, "before": {time.Second, 0}, "each time": {3 * time.Second, 2 * time.Second, time.Second, 4 * time.Second},
		} {
			reads, least := 0, time.Duration(0)
			c := readClock(func() instant {
				d := still[min(reads, len(still)-1)]
				reads++
				time.Sleep(d)
				return instant(time.Since(start))
			})
			if name == "each time" {
				least = time.Second
			}
			if got := time.Duration(c.mono) - c.at.Sub(start); got != least || reads > clockTries {
				t.Errorf("%s: %s apart after %d looks, want %s", name, got, reads, least)
			}
		}
	})
}

func TestProcessTellsMonotonicTimes(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, ca, cb := pair(ns, "10.68.1.1", "10.68.1.2", nil)
		began := time.Now()
		a, _ := apart(t, ns, ca, nil)
		a.m.Set([]SessionConfig{ca})
		start(t, router, cb)
		s := a.reaches(t, Up)
		if s.Since.Before(began) || s.Since.After(time.Now()) || !monotonic(s.Since) || !s.DownSince.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}
