package health

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A verdict follows what is asked for, whatever the ID and the schedule are.
func TestVerdictFollowsKey(t *testing.T) {
	for _, tc := range []struct {
		name string
		new  []Spec // by ID, Key and Interval
		want map[string]string
	}{
		{
			"another ID",
			[]Spec{{ID: "a2", Key: "a", Interval: time.Second}, {ID: "b1", Key: "b", Interval: time.Second}},
			map[string]string{"a2": "a1's", "b1": "b1's"},
		},
		{
			"another ID and schedule",
			[]Spec{{ID: "a2", Key: "a", Interval: 5 * time.Second}},
			map[string]string{"a2": "a1's"},
		},
		{
			"one becomes two",
			[]Spec{{ID: "a2", Key: "a", Interval: 5 * time.Second}, {ID: "a3", Key: "a", Interval: time.Minute}},
			map[string]string{"a2": "a1's", "a3": "a1's"},
		},
		{
			"one stays and becomes two",
			[]Spec{{ID: "a0", Key: "a", Interval: 5 * time.Second}, {ID: "a1", Key: "a", Interval: time.Minute}},
			map[string]string{"a0": "a1's", "a1": "a1's"},
		},
		{
			"two become one",
			[]Spec{{ID: "b3", Key: "b", Interval: time.Second}},
			map[string]string{"b3": "b2's"}, // which ran last
		},
		{
			"IDs change places",
			[]Spec{{ID: "b1", Key: "a", Interval: time.Second}, {ID: "a1", Key: "b", Interval: time.Second}},
			map[string]string{"b1": "a1's", "a1": "b2's"},
		},
		{
			"another Key",
			[]Spec{{ID: "a1", Key: "c", Interval: time.Second}},
			map[string]string{"a1": "nobody's"},
		},
		{
			"the last of an ID counts",
			[]Spec{{ID: "a1", Key: "c", Interval: time.Second}, {ID: "a1", Key: "a", Interval: time.Second}},
			map[string]string{"a1": "a1's"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := time.Now()
			old := map[string]*check{}
			for i, key := range map[string]string{"a1": "a", "b1": "b", "b2": "b"} {
				c := newCheck(Spec{ID: i, Key: key, Kind: "tcp", Interval: time.Second, Timeout: time.Second}, now)
				c.expiry = time.NewTimer(time.Hour)
				c.result = Result{ID: i, Kind: "tcp", Verdict: Healthy, Reason: i + "'s", Checked: now.Add(-time.Second), Expires: now.Add(3 * time.Second), Streak: 7, Downs: 2}
				if i == "b2" {
					c.result.Checked = now
				}
				old[i] = c
			}
			for i := range tc.new {
				tc.new[i].Kind, tc.new[i].Timeout = "tcp", time.Second
			}
			checks := succeed(old, tc.new, now)
			got, seen := map[string]string{}, map[*check]bool{}
			for id, c := range checks {
				got[id] = c.result.Reason
				if c.result.Verdict == Unknown {
					got[id] = "nobody's"
				} else if c.result.Streak != 7 || c.result.Downs != 2 || c.result.Verdict != Healthy || c.result.expired(now.Add(time.Second)) {
					t.Errorf("%s = %+v, want all that was known", id, c.result)
				}
				if c.result.ID != id || c.spec.ID != id || seen[c] {
					t.Errorf("check %s has ID %s and result ID %s, twice %t", id, c.spec.ID, c.result.ID, seen[c])
				}
				seen[c] = true
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("whose results the checks have (-want +got):\n%s", d)
			}
		})
	}
}

// A reload that changes a schedule restarts nothing: neither the Watch nor, in
// it, a held connection. The check that is new beside it starts its own.
func TestReloadKeepsWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := map[string]*outcomes{}
		watches, ended := map[string]*outcomes{}, map[string]*outcomes{}
		for _, name := range []string{"first", "second", "third"} {
			runs[name], watches[name], ended[name] = &outcomes{begin: time.Now()}, &outcomes{begin: time.Now()}, &outcomes{}
		}
		hold := func(name string) Checker {
			return &watched{runs[name].check, func(ctx context.Context, _ func()) {
				_ = watches[name].check(ctx)
				<-ctx.Done()
				_ = ended[name].check(ctx)
			}}
		}
		one := spec("1s", hold("first"))
		one.Key = "k"
		m, pokes := runManager(t, one)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before, told := m.Results()["1s"], pokes.Load()

		ten, twenty := one, one
		ten.ID, ten.Interval, ten.Checker = "10s", 10*time.Second, hold("second")
		twenty.ID, twenty.Interval, twenty.Checker = "20s", 20*time.Second, hold("third")
		m.Set([]Spec{ten, twenty})
		results := m.Results()
		if ids := slices.Sorted(maps.Keys(results)); !slices.Equal(ids, []string{"10s", "20s"}) {
			t.Fatalf("results of %s", ids)
		}
		for id, want := range map[string]Result{"10s": before, "20s": before} {
			want.ID, want.Expires = id, want.Checked.Add(3*map[string]time.Duration{"10s": 10 * time.Second, "20s": 20 * time.Second}[id]+want.Expires.Sub(want.Checked)-3*time.Second)
			if d := cmp.Diff(want, results[id]); d != "" {
				t.Errorf("%s when Set returned (-want +got):\n%s", id, d)
			}
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for name, want := range map[string][]time.Duration{"first": {0}, "second": nil, "third": {10 * time.Second}} {
			if d := cmp.Diff(want, watches[name].ran()); d != "" || len(ended[name].ran()) > 0 {
				t.Errorf("starts of watch %s, %d ended (-want +got):\n%s", name, len(ended[name].ran()), d)
			}
		}
		for id, r := range m.Results() {
			if r.Verdict != Healthy || !r.Since.Equal(before.Since) || time.Now().After(r.Expires) {
				t.Errorf("%s later = %+v, want healthy as before", id, r)
			}
		}
		if got := pokes.Load(); got != told {
			t.Errorf("%d pokes for verdicts that stay", got-told)
		}
		if got, want := runs["third"].ran(), splay("20s", twenty.Interval)+20*time.Second; len(got) == 0 || got[0] != want {
			t.Fatalf("runs of third at %s, want the first at its point %s, as its verdict is known", got, want)
		}
		for name, every := range map[string]time.Duration{"first": ten.Interval, "third": twenty.Interval} {
			starts := slices.DeleteFunc(runs[name].ran(), func(at time.Duration) bool { return at < 11*time.Second }) // planned before
			for i := range starts[1:] {
				if d := starts[i+1] - starts[i]; d != every {
					t.Errorf("runs of %s at %s, want one in %s", name, starts, every)
				}
			}
		}
		if n := len(runs["second"].ran()); n > 0 {
			t.Errorf("%d runs of a checker that was not needed", n)
		}
	})
}

// What was inherited expires like any other verdict if no run of the new check
// ends, and a second reload before its first run does no harm.
func TestInheritedExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := spec("good", checkerFunc(func(context.Context) error { return nil }))
		m, pokes := runManager(t, good)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		hung := spec("hung", checkerFunc(func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Hour)
			return nil
		}))
		hung.Key = good.Key
		m.Set([]Spec{good, hung})
		hung.Timeout *= 2
		m.Set([]Spec{good, hung})
		told, r := pokes.Load(), m.Results()["hung"]
		if r.Verdict != Healthy {
			t.Fatalf("hung = %+v, want the verdict of good", r)
		}
		time.Sleep(time.Until(r.Expires) - time.Nanosecond)
		synctest.Wait()
		if got := pokes.Load(); got != told {
			t.Errorf("%d pokes before the verdict expired", got-told)
		}
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		if got := pokes.Load(); got != told+1 {
			t.Errorf("%d pokes when the verdict expired, want 1", got-told)
		}
		m.Set(nil)
		time.Sleep(2 * time.Hour) // for the one that hangs
	})
}
