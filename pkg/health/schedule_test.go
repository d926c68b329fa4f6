package health

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// firstRun is when the first run of a check comes that was not there before.
func firstRun(id string, interval time.Duration) time.Duration {
	return splay(id, min(quickInterval, interval))
}

// Checks do not all begin at once, and all soon.
func TestFirstRunsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var mu sync.Mutex
		at := map[time.Duration]int{}
		begun := map[int]bool{}
		var specs []Spec
		for i := range 1000 {
			specs = append(specs, spec(fmt.Sprintf("vip%d/web", i), &watched{func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				if !begun[i] {
					begun[i] = true
					at[time.Since(begin)]++
				}
				return nil
			}, func(ctx context.Context, again func()) {
				again()
				<-ctx.Done()
			}}))
		}
		runManager(t, specs...)
		time.Sleep(quickInterval)
		synctest.Wait()
		most := slices.Max(slices.Collect(maps.Values(at)))
		if len(begun) != len(specs) || most > len(specs)/20 {
			t.Errorf("%d first runs within %s, %d of them at one time", len(begun), quickInterval, most)
		}
	})
}

// Runs come quicker while results disagree with the verdict, and the grid is
// where it was before.
func TestFastInterval(t *testing.T) {
	const interval = 10 * time.Second
	grid, first := splay("web", interval), firstRun("web", interval)
	point := func(n int, plus time.Duration) time.Duration { return grid + time.Duration(n)*interval + plus }
	for _, tc := range []struct {
		name    string
		fast    time.Duration
		rise    int
		outcome string // of the runs: p or f
		want    []time.Duration
	}{
		{
			"slower than unknown", 200 * time.Millisecond, 2, "pppfffppp",
			[]time.Duration{
				first, first + 100*time.Millisecond, point(0, 0), // healthy
				point(1, 0), point(1, 200*time.Millisecond), point(1, 400*time.Millisecond), // unhealthy
				point(2, 0), point(2, 200*time.Millisecond), // healthy
				point(3, 0),
			},
		},
		{
			"a failure that is none", 200 * time.Millisecond, 1, "ppfppp",
			[]time.Duration{first, point(0, 0), point(1, 0), point(1, 200*time.Millisecond), point(2, 0), point(3, 0)},
		},
		{
			"quicker than unknown", 20 * time.Millisecond, 3, "ppppfp",
			[]time.Duration{first, first + 20*time.Millisecond, first + 40*time.Millisecond, point(0, 0), point(1, 0), point(1, 20*time.Millisecond)},
		},
		{
			"bounded", time.Nanosecond, 3, "ppp",
			[]time.Duration{first, first + leastInterval, first + 2*leastInterval},
		},
		{
			"none", 0, 2, "pppfffpp",
			[]time.Duration{first, first + 100*time.Millisecond, point(0, 0), point(1, 0), point(2, 0), point(3, 0), point(4, 0), point(5, 0)},
		},
		{
			"slower than the interval", time.Minute, 2, "pppfffpp",
			[]time.Duration{first, first + 100*time.Millisecond, point(0, 0), point(1, 0), point(2, 0), point(3, 0), point(4, 0), point(5, 0)},
		},
		{
			"the point is sooner", 9 * time.Second, 1, "ppfffpp",
			[]time.Duration{first, point(0, 0), point(1, 0), point(1, 9*time.Second), point(2, 0), point(3, 0), point(4, 0)},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runs := &outcomes{begin: time.Now(), of: func(n int) error {
					if n <= len(tc.outcome) && tc.outcome[n-1] == 'f' {
						return errDown
					}
					return nil
				}}
				web := spec("web", checkerFunc(runs.check))
				web.Interval, web.FastInterval, web.Rise = interval, tc.fast, tc.rise
				runManager(t, web)
				time.Sleep(8 * interval)
				synctest.Wait()
				if d := cmp.Diff(tc.want, runs.ran()[:len(tc.want)]); d != "" {
					t.Errorf("starts of runs with outcomes %s (-want +got):\n%s", tc.outcome, d)
				}
			})
		})
	}
}

// A run that an event brings moves no point of the grid, not even one that it
// takes the place of.
func TestExtraRunsKeepGrid(t *testing.T) {
	s := &Spec{ID: "web", Interval: time.Second, Rise: 1, Fall: 1}
	passed := &Result{Verdict: Healthy}
	begun := time.Now()
	at := begun.Add
	p := schedule{at: at(0), point: at(300 * time.Millisecond)}
	for _, step := range []struct {
		ask, took time.Duration // an extra run; none if took is 0
		want      time.Duration // of the run that follows
	}{
		{0, time.Millisecond, 300 * time.Millisecond},
		{100 * time.Millisecond, time.Millisecond, 300 * time.Millisecond},
		{101 * time.Millisecond, time.Millisecond, 300 * time.Millisecond},
		{299 * time.Millisecond, 2 * time.Millisecond, 1300 * time.Millisecond},
		{500 * time.Millisecond, 900 * time.Millisecond, 2300 * time.Millisecond},
	} {
		p.ask(at(step.ask))
		start := p.at
		p.ran(s, passed, start, start.Add(step.took))
		if got := p.at.Sub(begun); got != step.want {
			t.Errorf("after an event at %s: next run at %s, want %s", step.ask, got, step.want)
		}
	}
}
