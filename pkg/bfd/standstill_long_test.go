//go:build long

package bfd

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// standstill is a time in which the machine stood still.
type standstill struct{ from, to time.Time }

// standstills are what a process that runs tellStandstills has told.
type standstills struct {
	said *lockedBuffer
	ask  io.Writer
}

// watchStandstills starts that process; it ends with the test.
func watchStandstills(t *testing.T) standstills {
	t.Helper()
	w := standstills{said: &lockedBuffer{}}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), watcherVariable+"=1")
	cmd.Stdout, cmd.Stderr = w.said, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.ask = in
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	netnstest.Until(t, patience, func() error {
		if n := strings.Count(w.said.String(), "ready\n"); n != runtime.NumCPU() {
			return fmt.Errorf("%d processors are watched", n)
		}
		return nil
	})
	return w
}

// list is all that were until now.
func (w standstills) list(t *testing.T) (list []standstill) {
	t.Helper()
	if _, err := w.ask.Write([]byte{'?'}); err != nil {
		t.Fatal(err)
	}
	const end = "so far\n"
	netnstest.Until(t, patience, func() error {
		if n := strings.Count(w.said.String(), end); n < runtime.NumCPU() {
			return fmt.Errorf("%d processors have told", n)
		}
		return nil
	})
	c := newClock()
	for line := range strings.Lines(w.said.String()) {
		var from, to instant
		switch _, err := fmt.Sscanf(line, "%d %d\n", &from, &to); {
		case err == nil:
			list = append(list, standstill{c.time(from), c.time(to)})
		case line != "ready\n" && line != end:
			t.Errorf("the watcher says %q: %v", line, err)
		}
	}
	return list
}

// during is how long the machine stood still in all, counted with the whole length of
// each that was in that time, even in part. Processors that did so together count once.
func during(list []standstill, from, to time.Time) (sum time.Duration) {
	list = slices.SortedFunc(slices.Values(list), func(a, b standstill) int { return a.from.Compare(b.from) })
	var until time.Time
	for _, s := range list {
		if !s.from.Before(to) || !s.to.After(from) || !s.to.After(until) {
			continue
		}
		if s.from.Before(until) {
			s.from = until
		}
		sum, until = sum+s.to.Sub(s.from), s.to
	}
	return sum
}

// watchDowns notes each session of the managers that leaves Up, with how it was
// then, until the context ends. Of one that does so twice between two looks the last
// time is noted; its counter tells.
func watchDowns(ctx context.Context, managers ...*Manager) <-chan []SessionState {
	out := make(chan []SessionState, 1)
	go func() {
		var list []SessionState
		seen := map[SessionState]time.Time{}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ended := false; !ended; {
			select {
			case <-ctx.Done():
				ended = true
			case <-tick.C:
			}
			for _, m := range managers {
				for _, s := range m.State().Sessions {
					if s.Downs > 0 && !s.DownSince.Equal(seen[identity(&s)]) {
						seen[identity(&s)] = s.DownSince
						list = append(list, s)
					}
				}
			}
		}
		out <- list
	}()
	return out
}

// identity is what stays the same of a session.
func identity(s *SessionState) SessionState { return SessionState{Peer: s.Peer, Local: s.Local} }

// excuse counts the downs of each session that standstills explain: two of its
// intervals, as in configs, in the time of three.
func excuse(t *testing.T, configs []SessionConfig, list []SessionState, still []standstill) map[SessionState]uint64 {
	t.Helper()
	excused := map[SessionState]uint64{}
	for i := range list {
		s := &list[i]
		c := configs[slices.IndexFunc(configs, func(c SessionConfig) bool { return c.Peer == s.Peer && c.Local == s.Local })]
		// The end that hears of it from the other one is some milliseconds later.
		stood := during(still, s.DownSince.Add(-3*c.MinTx-10*time.Millisecond), s.DownSince)
		t.Logf("%s, %s × 3, went down at %s (%s); the machine stood still in its detection time for %s",
			s.Peer, c.MinTx, s.DownSince.Format(time.StampMilli), s.Diagnostic, stood)
		if stood >= 2*c.MinTx {
			excused[identity(s)]++
		}
	}
	return excused
}

func tellStill(t *testing.T, still []standstill) {
	t.Helper()
	var longest time.Duration
	for _, s := range still {
		longest = max(longest, s.to.Sub(s.from))
	}
	t.Logf("the machine stood still %d times for %s or more, %s at the longest", len(still), shortestStandstill, longest)
}
