package health

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// While nothing is known, runs follow each other quickly, and a verdict puts the
// check on its schedule.
func TestUnknownRunsQuickly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var starts []time.Duration
		slow := spec("web", checkerFunc(func(context.Context) error {
			starts = append(starts, time.Since(begin))
			return nil
		}))
		slow.Interval, slow.Rise = time.Minute, 3
		m, _ := runManager(t, slow)
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		if r := m.Results()["web"]; r.Verdict != Healthy {
			t.Errorf("after 300 ms: %+v, want healthy", r)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		grid := splay("web", time.Minute)
		first := firstRun("web", time.Minute)
		want := []time.Duration{first, first + quickInterval, first + 2*quickInterval, grid, grid + time.Minute}
		if !slices.Equal(starts[:len(want)], want) {
			t.Errorf("runs at %s, want %s", starts, want)
		}
	})
}

// A schedule that changes takes no verdict away, nor does it bring one back.
func TestRescheduleKeepsVerdict(t *testing.T) {
	for _, tc := range []struct {
		name     string
		old, new time.Duration
	}{
		{"shorter", time.Minute, time.Second},
		{"longer", time.Second, time.Minute},
		{"same", time.Second, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runs := &outcomes{begin: time.Now()}
				web := spec("web", checkerFunc(runs.check))
				web.Interval = tc.old
				m, pokes := runManager(t, web)
				time.Sleep(170 * time.Second)
				synctest.Wait()
				before, told := m.Results()["web"], pokes.Load()
				web.Interval, web.Rise, web.Fall, web.Timeout = tc.new, 4, 5, time.Second
				m.Set([]Spec{web})
				r := m.Results()["web"]
				if r.Verdict != Healthy || r.Streak != before.Streak || !r.Since.Equal(before.Since) || time.Now().After(r.Expires) {
					t.Errorf("after the change: %+v, before: %+v", r, before)
				}
				earlier := len(runs.ran())
				for range 600 {
					time.Sleep(time.Second)
					if r = m.Results()["web"]; r.Verdict != Healthy || time.Now().After(r.Expires) {
						t.Fatalf("later: %+v, want healthy and not expired", r)
					}
				}
				if got := pokes.Load(); got != told {
					t.Errorf("%d pokes for a verdict that stays", got-told)
				}
				starts := runs.ran()[earlier:]
				for i := range starts[2:] {
					if d := starts[i+2] - starts[i+1]; d != tc.new {
						t.Fatalf("%s between two runs, want %s", d, tc.new)
					}
				}
			})
		})
	}
}

// Neither a hung check nor one that expired gains by new schedules.
func TestRescheduleDoesNotRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		runs := 0
		hung := spec("hung", checkerFunc(func(context.Context) error {
			if runs++; runs > 2 {
				<-release
			}
			return nil
		}))
		m, _ := runManager(t, hung)
		time.Sleep(time.Second)
		synctest.Wait()
		last := m.Results()["hung"].Checked
		longest := 2 * time.Second
		for i := range 20 {
			hung.Interval = time.Second + time.Duration(i%2)*time.Second
			m.Set([]Spec{hung})
			time.Sleep(time.Second)
		}
		r := m.Results()["hung"]
		if limit := last.Add(3*longest + hung.Timeout); r.Expires.After(limit) {
			t.Errorf("expires %s after the last run, want at most %s", r.Expires.Sub(last), limit.Sub(last))
		}
		hung.Interval = time.Hour
		m.Set([]Spec{hung})
		if r = m.Results()["hung"]; r.Expires.After(time.Now()) {
			t.Errorf("an expired verdict is back: %+v", r)
		}
	})
}

// The fall that is configured now counts at the next failure.
func TestRescheduleTakesFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		web := spec("web", checkerFunc(func(context.Context) error {
			if down.Load() {
				return errDown
			}
			return nil
		}))
		m, _ := runManager(t, web)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		web.Fall = 1
		m.Set([]Spec{web})
		down.Store(true)
		time.Sleep(time.Second)
		synctest.Wait()
		if r := m.Results()["web"]; r.Verdict != Unhealthy || r.Streak != 1 {
			t.Errorf("after one failure: %+v, want unhealthy", r)
		}
	})
}

// A check that nothing can end does not hold the end of the daemon up.
func TestRunEndsWithoutHungChecker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		var said bytes.Buffer
		m := New(Options{Log: slog.New(slog.NewTextHandler(&said, nil))})
		m.Set([]Spec{
			spec("stuck", checkerFunc(func(context.Context) error { <-release; return nil })),
			spec("slow", checkerFunc(func(context.Context) error { time.Sleep(time.Second); return nil })),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(quickInterval)
		synctest.Wait()
		cancel()
		ended := time.Now()
		select {
		case err := <-done:
			if err != nil || time.Since(ended) != endBound {
				t.Errorf("Run = %v after %s, want nil after %s", err, time.Since(ended), endBound)
			}
		case <-time.After(time.Minute):
			t.Fatal("Run waits for a check that hangs")
		}
		if !strings.Contains(said.String(), "checks=[stuck]") {
			t.Errorf("log = %q, want the check that was left behind", said.String())
		}
	})
}
