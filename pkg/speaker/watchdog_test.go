package speaker

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/netmon"
)

// hung is a source that never answers.
type hung struct {
	Network
	release chan struct{}
}

func (h hung) State() *netmon.State { <-h.release; return h.Network.State() }

// Rule 6: a pass that runs for more than 10 s ends the process, and the sessions
// with it.
func TestRule06HungPassEndsSessions(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"kernel", "decision", "sessions too"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				release := make(chan struct{})
				opt := w.options()
				if what == "decision" {
					opt.Network = hung{opt.Network, release}
				} else {
					w.hang = release
				}
				w.silent = what == "sessions too"
				l, err := New(opt)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				err = w.run(w.t.Context(), l)
				if err == nil || !strings.Contains(err.Error(), "watchdog: a pass") {
					t.Errorf("Run = %v, want the watchdog's word", err)
				}
				if took := time.Since(began); took < passBound || took > passBound+watchEvery+letGoBound+time.Second {
					t.Errorf("Run ended after %s", took)
				}
				if !slices.Equal(w.stopped, []bgp.StopMode{bgp.StopDrain}) {
					t.Errorf("sessions were stopped %v", w.stopped)
				}
				if l.Healthy() == nil {
					t.Error("healthy although it hangs")
				}
				// The process would be gone by now; here its goroutines must end.
				l.Stop()
				close(release)
				w.sleep(time.Minute)
			})
		})
	}
}

// Rule 6: no finished pass in three resync intervals ends the process.
func TestRule06NoPassEndsProcess(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.net = nil
		l, err := New(w.options())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = w.run(w.t.Context(), l)
		if err == nil || !strings.Contains(err.Error(), "no pass") {
			t.Errorf("Run = %v, want the watchdog's word", err)
		}
		if took := time.Since(began); took < silenceBound || took > silenceBound+2*watchEvery {
			t.Errorf("Run ended after %s, want %s", took, silenceBound)
		}
		l.Stop()
		w.sleep(time.Minute)
	})
}

// The time for which the whole process did not run is no silence of the loop, and
// no long pass. What hangs afterwards is found as ever.
func TestWatchdogOfAStoppedProcess(t *testing.T) {
	t.Parallel()
	for name, passes := range map[string]bool{"between passes": false, "in a pass": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &Loop{}
				p := &l.progress
				p.base = time.Now()
				step := func(d time.Duration) { time.Sleep(d); p.looked(d) }
				p.begin()
				p.end(true)
				step(watchEvery)
				if passes {
					p.begin()
				}
				time.Sleep(time.Hour)
				p.end(true) // goes on before the watchdog looks
				if passes {
					p.begin()
				}
				p.looked(time.Hour)
				if err := l.Healthy(); err != nil {
					t.Errorf("after an hour in which nothing ran: %v", err)
				}
				bound := silenceBound
				if passes {
					bound = passBound
				}
				for range bound / watchEvery {
					step(watchEvery)
				}
				if err := l.Healthy(); err != nil {
					t.Errorf("hangs for %s after that: %v", bound, err)
				}
				step(watchEvery)
				if l.Healthy() == nil {
					t.Errorf("hangs for more than %s after that, and is healthy", bound)
				}
			})
		})
	}
}

// Passes that fail are passes: only silence is death.
func TestRule06FailingPassesGoOn(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.refuse = true
		l, stop := w.start(w.options())
		w.sleep(10 * time.Minute)
		if err := l.Healthy(); err != nil {
			t.Errorf("not healthy: %v", err)
		}
		w.refuse = false
		w.stop(stop)
	})
}
