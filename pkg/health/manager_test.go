package health

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// checkerFunc is a Checker of a function.
type checkerFunc func(ctx context.Context) error

func (f checkerFunc) Check(ctx context.Context) error { return f(ctx) }

var errDown = errors.New("tcp 10.68.6.1:80: connection refused")

// runManager runs a Manager to the end of the test and counts its pokes.
func runManager(t *testing.T, specs ...Spec) (m *Manager, pokes *atomic.Int64) {
	t.Helper()
	pokes = &atomic.Int64{}
	m = New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Poke: func() { pokes.Add(1) }})
	m.Set(specs)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil at the end", err)
		}
	})
	return m, pokes
}

func spec(id string, c Checker) Spec {
	return Spec{ID: id, Key: "k1 of " + id, Kind: "tcp", Checker: c, Interval: time.Second, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 3}
}

// judge is all of rise and fall: p is a pass, f a failure, . a pause in which
// the verdict expires.
func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name       string
		rise, fall int
		runs, want string // one verdict each: u, H or X
		downs      uint64
	}{
		{"good news waits for rise", 2, 3, "ppp", "uHH", 0},
		{"bad news decides at once where nothing is known", 2, 3, "f", "X", 0},
		{"a pass too few at the start", 3, 3, "ppfppp", "uuXXXH", 0},
		{"fall in a row", 2, 3, "ppffpff", "uHHHHHH", 0},
		{"fall reached", 2, 3, "ppfff", "uHHHX", 1},
		{"rise in a row", 2, 3, "fpfpp", "XXXXH", 0},
		{"rise and fall of one", 1, 1, "pfpf", "HXHX", 2},
		{"good news after expiry waits again", 2, 3, "ppp.pp", "uHHuH", 0},
		{"bad news after expiry decides at once", 2, 3, "ppp.f", "uHHX", 0},
		{"an expired streak does not count", 2, 2, "ppf.pf", "uHHuX", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := Spec{Interval: time.Second, Timeout: time.Second, Rise: tc.rise, Fall: tc.fall}
			r, now, got := Result{Verdict: Unknown}, time.Now(), ""
			for _, run := range tc.runs {
				now = now.Add(s.Interval)
				switch run {
				case 'p':
					r = s.judge(r, "", now)
				case 'f':
					r = s.judge(r, "down", now)
				default:
					now = now.Add(3*s.Interval + s.Timeout)
					continue
				}
				got += map[Verdict]string{Unknown: "u", Healthy: "H", Unhealthy: "X"}[r.Verdict]
			}
			if got != tc.want {
				t.Errorf("verdicts of %s with rise %d, fall %d = %s, want %s", tc.runs, tc.rise, tc.fall, got, tc.want)
			}
			if r.Downs != tc.downs {
				t.Errorf("%d downs, want %d", r.Downs, tc.downs)
			}
			if passed := r.Passed.Equal(r.Checked); passed != strings.HasSuffix(tc.runs, "p") {
				t.Errorf("last pass at %s, last run at %s", r.Passed, r.Checked)
			}
		})
	}
}

func TestResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		m, pokes := runManager(t, spec("web", checkerFunc(func(context.Context) error {
			time.Sleep(100 * time.Millisecond)
			return errDown
		})))
		synctest.Wait()
		want := Results{"web": {ID: "web", Kind: "tcp", Verdict: Unknown, Since: begin}}
		if d := cmp.Diff(want, m.Results()); d != "" {
			t.Errorf("results before the first run ended (-want +got):\n%s", d)
		}
		first := firstRun("web", time.Second)
		time.Sleep(first + 100*time.Millisecond)
		synctest.Wait()
		at := begin.Add(first + 100*time.Millisecond)
		want = Results{"web": {
			ID: "web", Kind: "tcp", Verdict: Unhealthy, Reason: "tcp 10.68.6.1:80: connection refused",
			Since: at, Checked: at, Duration: 100 * time.Millisecond, Expires: at.Add(3500 * time.Millisecond), Streak: 1,
		}}
		if d := cmp.Diff(want, m.Results()); d != "" {
			t.Errorf("results after the first run (-want +got):\n%s", d)
		}
		time.Sleep(10 * time.Second)
		if n := pokes.Load(); n != 1 {
			t.Errorf("%d pokes for one verdict and many runs, want 1", n)
		}
	})
}

// The first run is soon, the others are on a grid that no run moves.
func TestSchedule(t *testing.T) {
	for _, tc := range []struct {
		name string
		took time.Duration
		want []int // starts of the runs after the second, in intervals after it
	}{
		{"quick", 0, []int{1, 2, 3}},
		{"slow", 999 * time.Millisecond, []int{1, 2, 3}},
		{"too slow", 1001 * time.Millisecond, []int{2, 4, 6}},
		{"much too slow", 2500 * time.Millisecond, []int{3, 6, 9}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var starts []time.Duration
				web := spec("web", checkerFunc(func(context.Context) error {
					starts = append(starts, time.Since(begin))
					if len(starts) > 1 { // the first one shall not shift the second
						time.Sleep(tc.took)
					}
					return nil
				}))
				web.Rise, web.FastInterval = 1, web.Interval
				runManager(t, web)
				time.Sleep(15 * time.Second)
				synctest.Wait()
				if first := firstRun("web", time.Second); starts[0] != first || first > quickInterval {
					t.Errorf("first run after %s, want %s within %s", starts[0], first, quickInterval)
				}
				second := splay("web", time.Second)
				if starts[1] != second || second <= 0 || second > time.Second {
					t.Errorf("second run after %s, want the splay %s within the interval", starts[1], second)
				}
				for i, n := range tc.want {
					if got, want := starts[2+i], second+time.Duration(n)*time.Second; got != want {
						t.Errorf("run %d at %s, want %s", 2+i, got, want)
					}
				}
			})
		})
	}
}

func TestSplaySpreads(t *testing.T) {
	var buckets [10]int
	for i := range 1000 {
		d := splay("vip"+string(rune('a'+i%26))+"/"+time.Duration(i).String(), time.Second)
		buckets[min(9, d/(100*time.Millisecond))]++
	}
	for i, n := range buckets {
		if n < 50 || n > 150 {
			t.Errorf("%d of 1000 checks start in tenth %d of the interval", n, i)
		}
	}
}

// One that hangs, even against its context, delays no other; its verdict
// expires, which is told.
func TestHungChecker(t *testing.T) {
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
		m, pokes := runManager(t, hung, spec("web", checkerFunc(func(context.Context) error { return nil })))
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		last := m.Results()["hung"]
		if last.Verdict != Healthy {
			t.Fatalf("hung check before it hangs = %+v, want healthy", last)
		}
		n := pokes.Load()
		time.Sleep(time.Until(last.Expires) - time.Nanosecond)
		synctest.Wait()
		if got := pokes.Load(); got != n {
			t.Errorf("%d pokes before the verdict expired", got-n)
		}
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		if got := pokes.Load(); got != n+1 {
			t.Errorf("%d pokes when the verdict expired, want 1", got-n)
		}
		r := m.Results()
		if !time.Now().After(r["hung"].Expires) || time.Since(r["web"].Checked) > time.Second || r["web"].Verdict != Healthy {
			t.Errorf("results = %+v, want hung expired, web fresh and healthy", r)
		}
	})
}

func TestTimeoutAndPanic(t *testing.T) {
	for _, tc := range []struct {
		name  string
		check checkerFunc
		want  string
	}{
		{"returns the context's error", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, "timeout after 500ms"},
		{"passes too late", func(ctx context.Context) error { <-ctx.Done(); return nil }, "timeout after 500ms"},
		{"panics", func(context.Context) error { panic("boom") }, "check panicked: boom"},
		{"says nothing", func(context.Context) error { return errors.New("\x1b") }, "check failed without a word"},
		{"says much", func(context.Context) error { return errors.New("first\x1b[1m\nsecond") }, "first [1m"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := runManager(t, spec("bad", tc.check), spec("web", checkerFunc(func(context.Context) error { return nil })))
				time.Sleep(3 * time.Second)
				synctest.Wait()
				r := m.Results()
				if r["bad"].Verdict != Unhealthy || r["bad"].Reason != tc.want {
					t.Errorf("result = %+v, want unhealthy: %s", r["bad"], tc.want)
				}
				if r["web"].Verdict != Healthy {
					t.Errorf("the other check = %+v, want healthy", r["web"])
				}
			})
		})
	}
}

// Set leaves alone what did not change, and what changed starts anew at once.
func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keptRuns, goneRuns atomic.Int64
		kept := spec("kept", checkerFunc(func(context.Context) error { keptRuns.Add(1); return nil }))
		gone := spec("gone", checkerFunc(func(context.Context) error { goneRuns.Add(1); return nil }))
		changed := spec("changed", checkerFunc(func(context.Context) error { return nil }))
		m, _ := runManager(t, kept, gone, changed)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before := m.Results()
		runs := keptRuns.Load()

		changed.Key = "k2"
		changed.Checker = checkerFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		m.Set([]Spec{kept, changed, spec("new", checkerFunc(func(context.Context) error { return nil }))})
		now := time.Now()
		want := Results{
			"kept":    before["kept"],
			"changed": {ID: "changed", Kind: "tcp", Verdict: Unknown, Since: now},
			"new":     {ID: "new", Kind: "tcp", Verdict: Unknown, Since: now},
		}
		if d := cmp.Diff(want, m.Results()); d != "" {
			t.Errorf("results when Set returned (-want +got):\n%s", d)
		}
		synctest.Wait()
		if got := keptRuns.Load(); got != runs {
			t.Errorf("%d runs of the unchanged check because of Set", got-runs)
		}
		n := goneRuns.Load()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := goneRuns.Load(); got != n {
			t.Errorf("%d runs of a check that is not wanted any more", got-n)
		}
		r := m.Results()
		if r["kept"].Streak != before["kept"].Streak+10 || r["kept"].Since != before["kept"].Since {
			t.Errorf("kept = %+v, want the streak of %+v and ten more", r["kept"], before["kept"])
		}
		if r["changed"].Verdict != Unhealthy || r["new"].Verdict != Healthy || len(r) != 3 {
			t.Errorf("results = %+v, want changed unhealthy, new healthy, no other", r)
		}
	})
}

// The late answer of a check that was replaced is not taken for the new one's.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		old := spec("web", checkerFunc(func(context.Context) error { <-release; return errDown }))
		m, pokes := runManager(t, old)
		synctest.Wait()
		replaced := spec("web", checkerFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
		replaced.Key = "k2"
		m.Set([]Spec{replaced})
		close(release)
		synctest.Wait()
		if r := m.Results()["web"]; r.Verdict != Unknown || r.Reason != "" || pokes.Load() != 0 {
			t.Errorf("after the late answer: %+v and %d pokes, want unknown and none", r, pokes.Load())
		}
		// The same check removed and wanted again starts anew as well.
		m.Set(nil)
		m.Set([]Spec{replaced})
		if r := m.Results()["web"]; r.Verdict != Unknown {
			t.Errorf("wanted again: %+v, want unknown", r)
		}
	})
}

// A run may take all of its timeout without its last verdict expiring.
func TestSlowRunDoesNotExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec("web", checkerFunc(func(ctx context.Context) error {
			select {
			case <-time.After(59 * time.Second):
			case <-ctx.Done():
			}
			return nil
		}))
		s.Rise, s.Timeout = 1, time.Minute
		m, pokes := runManager(t, s)
		for range 300 {
			time.Sleep(time.Second)
			if r := m.Results()["web"]; r.Verdict != Unknown && time.Now().After(r.Expires) {
				t.Fatalf("result = %+v, expired", r)
			}
		}
		if n := pokes.Load(); n != 1 {
			t.Errorf("%d pokes, want one for the first verdict", n)
		}
	})
}
