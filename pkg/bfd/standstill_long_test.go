//go:build long

package bfd

import (
	"context"
	"fmt"
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
type standstills struct{ said *lockedBuffer }

// watchStandstills starts that process; it ends with the test.
func watchStandstills(t *testing.T) standstills {
	t.Helper()
	w := standstills{&lockedBuffer{}}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), watcherVariable+"=1")
	cmd.Stdout, cmd.Stderr = w.said, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	netnstest.Until(t, 10*time.Second, func() error {
		if n := strings.Count(w.said.String(), "ready\n"); n != runtime.NumCPU() {
			return fmt.Errorf("%d processors are watched", n)
		}
		return nil
	})
	return w
}

func (w standstills) list(t *testing.T) (list []standstill) {
	t.Helper()
	for line := range strings.Lines(w.said.String()) {
		var from, to int64
		switch _, err := fmt.Sscanf(line, "%d %d\n", &from, &to); {
		case err == nil:
			list = append(list, standstill{time.Unix(0, from), time.Unix(0, to)})
		case line != "ready\n":
			t.Errorf("the watcher says %q: %v", line, err)
		}
	}
	return list
}

// during tells whether one of them of that length was in that time.
func during(list []standstill, least time.Duration, from, to time.Time) bool {
	return slices.ContainsFunc(list, func(s standstill) bool {
		return s.to.Sub(s.from) >= least && s.from.Before(to) && s.to.After(from)
	})
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

// excuse counts the downs of each session that a standstill explains: one of two of
// its intervals, as in configs, in the time of three.
func excuse(t *testing.T, configs []SessionConfig, list []SessionState, still []standstill) map[SessionState]uint64 {
	t.Helper()
	excused := map[SessionState]uint64{}
	for i := range list {
		s := &list[i]
		c := configs[slices.IndexFunc(configs, func(c SessionConfig) bool { return c.Peer == s.Peer && c.Local == s.Local })]
		// The end that hears of it from the other one is some milliseconds later.
		found := during(still, 2*c.MinTx, s.DownSince.Add(-3*c.MinTx-10*time.Millisecond), s.DownSince)
		t.Logf("%s, %s × 3, went down at %s (%s); the machine stood still in its detection time: %t",
			s.Peer, c.MinTx, s.DownSince.Format(time.StampMilli), s.Diagnostic, found)
		if found {
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
