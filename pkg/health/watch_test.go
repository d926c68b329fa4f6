package health

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// watched is a Watcher of two functions.
type watched struct {
	check checkerFunc
	watch func(ctx context.Context, again func())
}

func (w *watched) Check(ctx context.Context) error { return w.check(ctx) }

func (w *watched) Watch(ctx context.Context, again func()) { w.watch(ctx, again) }

// outcomes is a check that does as told and notes when it ran.
type outcomes struct {
	begin time.Time
	took  time.Duration
	of    func(n int) error // of the run with that number, from 1; nil for a pass

	mu     sync.Mutex
	starts []time.Duration
}

func (o *outcomes) check(context.Context) error {
	o.mu.Lock()
	o.starts = append(o.starts, time.Since(o.begin))
	n := len(o.starts)
	o.mu.Unlock()
	time.Sleep(o.took)
	if o.of == nil {
		return nil
	}
	return o.of(n)
}

// ran returns the starts of the runs.
func (o *outcomes) ran() []time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.starts)
}

// events returns a Watch that gives its again away and lasts.
func events(again *func()) func(context.Context, func()) {
	return func(ctx context.Context, f func()) {
		*again = f
		<-ctx.Done()
	}
}

// What a Watch tells is looked at without delay, and counts as any other result.
func TestWatchRunsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var again func()
		runs := &outcomes{begin: time.Now(), of: func(n int) error {
			if n > 1 {
				return errDown
			}
			return nil
		}}
		web := spec("web", &watched{runs.check, events(&again)})
		web.Interval, web.Rise, web.Fall = time.Minute, 1, 2
		m, pokes := runManager(t, web)
		time.Sleep(time.Second)
		synctest.Wait()
		told := pokes.Load()
		again()
		synctest.Wait()
		if r := m.Results()["web"]; r.Verdict != Healthy || r.Streak != 1 || r.Reason == "" || pokes.Load() != told {
			t.Errorf("after one failure of two: %+v", r)
		}
		time.Sleep(time.Second)
		again()
		synctest.Wait()
		if r := m.Results()["web"]; r.Verdict != Unhealthy || r.Streak != 2 || pokes.Load() != told+1 {
			t.Errorf("after two: %+v and %d pokes, want unhealthy and one", r, pokes.Load()-told)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		grid := splay("web", time.Minute)
		if d := cmp.Diff([]time.Duration{firstRun("web", time.Minute), time.Second, 2 * time.Second, grid, grid + time.Minute}, runs.ran()); d != "" {
			t.Errorf("starts of runs (-want +got):\n%s", d)
		}
	})
}

// What happens during a run needs one more after it, and no more than one.
func TestWatchDuringRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var again func()
		runs := &outcomes{begin: time.Now(), took: 100 * time.Millisecond}
		web := spec("web", &watched{runs.check, events(&again)})
		web.Interval, web.Rise = time.Hour, 1
		runManager(t, web)
		first := firstRun("web", time.Hour)
		time.Sleep(first + 50*time.Millisecond)
		synctest.Wait()
		again()
		again()
		synctest.Wait()
		again()
		time.Sleep(time.Minute)
		synctest.Wait()
		if d := cmp.Diff([]time.Duration{first, first + 100*time.Millisecond}, runs.ran()); d != "" {
			t.Errorf("starts of runs with three events during the first (-want +got):\n%s", d)
		}
	})
}

// A storm of events is none of runs, and its last event is not lost.
func TestWatchStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var again func()
		storm := &outcomes{begin: time.Now()}
		web := spec("web", &watched{storm.check, events(&again)})
		web.Interval, web.Rise = time.Hour, 1
		runManager(t, web)
		time.Sleep(firstRun("web", web.Interval))
		synctest.Wait()
		begin := len(storm.ran())
		for range 10_000 {
			time.Sleep(100 * time.Microsecond)
			again()
		}
		end := time.Since(storm.begin)
		time.Sleep(time.Minute)
		starts := storm.ran()
		runs, last := len(starts)-begin, starts[len(starts)-1]
		if most := int(time.Second/extraInterval) + 2; runs > most || runs < most-3 {
			t.Errorf("%d runs in a second of events, want at most one in %s", runs, extraInterval)
		}
		if last < end {
			t.Errorf("no run after the last event, the last was %s before it", end-last)
		}
	})
}

// A Watch that cannot go on is started again, later each time; the check goes on
// by its interval, and one line says so.
func TestWatchEndsEarly(t *testing.T) {
	for _, tc := range []struct {
		name, cause string
		end         func()
	}{
		{"returns", "watch ended", func() {}},
		{"panics", "watch panicked: boom", func() { panic("boom") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said bytes.Buffer
				checks, watches := &outcomes{begin: time.Now()}, &outcomes{begin: time.Now()}
				m := New(Options{Log: slog.New(slog.NewTextHandler(&said, nil))})
				web := spec("web", &watched{checks.check, func(ctx context.Context, _ func()) {
					_ = watches.check(ctx)
					tc.end()
				}})
				web.Rise, web.Name = 1, "vipa/web"
				m.Set([]Spec{web})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- m.Run(ctx) }()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				want := []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, 1500 * time.Millisecond}
				if d := cmp.Diff(want, watches.ran()); d != "" {
					t.Errorf("starts of the watch (-want +got):\n%s", d)
				}
				grid := splay("web", time.Second)
				runs := slices.Sorted(slices.Values(append([]time.Duration{firstRun("web", time.Second), grid, grid + time.Second}, want[1:]...)))
				if d := cmp.Diff(runs, checks.ran()); d != "" {
					t.Errorf("starts of runs (-want +got):\n%s", d)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if n := len(watches.ran()); n < 100 || n > 130 {
					t.Errorf("%d starts of the watch in an hour, want one in %s", n, mostWatchWait)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if got := said.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `check=vipa/web cause="`+tc.cause+`"`) {
					t.Errorf("log = %q, want one line with %q", got, tc.cause)
				}
			})
		})
	}
}

// A Watch ends with its check, and the end of Run waits for it.
func TestWatchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var live atomic.Int64
		lasting := &watched{func(context.Context) error { return nil }, func(ctx context.Context, _ func()) {
			live.Add(1)
			defer live.Add(-1)
			<-ctx.Done()
			time.Sleep(time.Second)
		}}
		m := New(Options{Log: slog.New(slog.DiscardHandler)})
		m.Set([]Spec{spec("a", lasting), spec("b", lasting)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		if n := live.Load(); n != 2 {
			t.Fatalf("%d watches, want 2", n)
		}
		m.Set([]Spec{spec("a", lasting)})
		time.Sleep(time.Second)
		synctest.Wait()
		if n := live.Load(); n != 1 {
			t.Errorf("%d watches after one check has gone, want 1", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := live.Load(); n != 0 {
			t.Errorf("%d watches after Run, want none", n)
		}
	})
}

// Verdicts are logged by whoever shows them, once.
func TestVerdictsAreLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		m := New(Options{Log: slog.New(slog.NewTextHandler(&said, nil))})
		runs := &outcomes{of: func(n int) error {
			switch {
			case n > 10:
				time.Sleep(time.Hour)
			case n > 5:
				return errDown
			}
			return nil
		}}
		web := spec("web", checkerFunc(runs.check))
		m.Set([]Spec{web})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(30 * time.Second)
		if r := m.Results()["web"]; r.Downs != 1 || !time.Now().After(r.Expires) {
			t.Errorf("result = %+v, want one that went down and expired", r)
		}
		if said.Len() > 0 {
			t.Errorf("log = %s, want none", said.String())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
	})
}
