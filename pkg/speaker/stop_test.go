package speaker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"
)

// Rule 12: source off, withdraw everywhere, wait, Cease, unbind.
func TestRule12StopDrains(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		var last *status.Status
		opt := w.options()
		opt.Publish = func(s *status.Status) { last = s }
		_, stop := w.start(opt)
		w.settled(time.Second)
		w.journal = nil
		began := time.Now()
		w.stop(stop)
		if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("stop took %s, want the 2s that routers get and little more", took)
		}
		slices.Sort(w.journal[1:3])
		want := []string{"source off", "withdraw en1", "withdraw en5", "stop drain", "restore"}
		if !slices.Equal(w.journal, want) {
			t.Errorf("stop did %q, want %q", w.journal, want)
		}
		if !last.Stopping || last.VIPs[0].Reason != status.Shutdown {
			t.Errorf("last picture: stopping=%t, %s", last.Stopping, last.VIPs[0].Reason)
		}
	})
}

// Rule 12: routers get their time from the withdraw on, however late a speaker is.
func TestRule12StopWaitsForLateWithdraw(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		_, stop := w.start(w.options())
		w.settled(time.Second)
		w.late = 1500 * time.Millisecond
		began := time.Now()
		w.stop(stop)
		if took := time.Since(began); took < 3500*time.Millisecond || took > 4*time.Second {
			t.Errorf("stop took %s, want the 2s that routers get after 1.5s and little more", took)
		}
	})
}

// Rule 12: in restart mode nothing is withdrawn and the kernel stays as it is.
func TestRule12StopForRestart(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.config.Shutdown.Mode = restartMode
		_, stop := w.start(w.options())
		w.settled(time.Second)
		w.journal = nil
		w.stop(stop)
		if want := []string{"stop restart"}; !slices.Equal(w.journal, want) {
			t.Errorf("stop did %q, want %q", w.journal, want)
		}
		if len(w.bound) != 3 || len(w.sources) != 2 {
			t.Errorf("left %v with sources %v, want everything", w.bound, w.sources)
		}
	})
}

// Rule 12: a process that is replaced leaves all as it is, whatever its shutdown
// mode; an order to stop that came before it counts.
func TestRule12HandOver(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%t", late), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				l, stop := w.start(w.options())
				w.settled(time.Second)
				w.journal = nil
				if late {
					l.Stop()
				}
				l.HandOver()
				w.stop(stop)
				if left := slices.Equal(w.journal, []string{"stop restart"}) && len(w.bound) == 3; left == late {
					t.Errorf("stop did %q and left %v", w.journal, w.bound)
				}
			})
		})
	}
}

// Rule 12: the whole stop is bounded, whatever hangs.
func TestRule12StopIsBounded(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"kernel", "sessions", "both", "kernel call in flight"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				_, stop := w.start(w.options())
				w.settled(time.Second)
				release := make(chan struct{})
				if what != "sessions" {
					w.hang = release
				}
				w.silent = what == "sessions" || what == "both"
				if what == "kernel call in flight" {
					w.poke()
					w.sleep(time.Second)
				}
				began := time.Now()
				err := stop()
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("stop took %s, want at most 10s", took)
				}
				if err == nil {
					t.Error("stop reports nothing although something hung")
				}
				if strings.HasPrefix(what, "kernel") && len(w.orders) != 0 {
					t.Errorf("orders left: %v", w.orders)
				}
				if !slices.Equal(w.stopped, []bgp.StopMode{bgp.StopDrain}) {
					t.Errorf("sessions were stopped %v", w.stopped)
				}
				close(release)
			})
		})
	}
}

// The withdraw of a stop needs no kernel that works.
func TestRule12StopWithdrawsWithoutKernel(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		l, stop := w.start(w.options())
		w.settled(time.Second)
		release := make(chan struct{})
		w.hang = release
		l.Stop()
		w.sleep(steerBound + 10*time.Millisecond)
		for name, order := range w.orders {
			if len(order.Paths) > 0 {
				t.Errorf("%s still announces 210 ms after the order to stop", name)
			}
			if len(order.Peers) == 0 {
				t.Errorf("%s: sessions ended before routers could move on", name)
			}
		}
		close(release)
		w.stop(stop)
	})
}

// A stop with nothing announced does not wait for anybody.
func TestStopWithoutSessions(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.routers = map[string]bool{}
		_, stop := w.start(w.options())
		w.sleep(time.Second)
		began := time.Now()
		w.stop(stop)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("stop took %s without any session", took)
		}
	})
}

// The end of Run's context stops like the order does, also before the network
// was read.
func TestStopByContext(t *testing.T) {
	t.Parallel()
	for _, ready := range []bool{true, false} {
		bubble(t, func(w *world) {
			if !ready {
				w.net = nil
			}
			l, err := New(w.options())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(w.t.Context())
			ended := make(chan error, 1)
			go func() { ended <- l.Run(ctx) }()
			w.sleep(time.Second)
			cancel()
			w.sleep(time.Minute)
			if err := <-ended; err != nil {
				t.Errorf("stop: %v", err)
			}
			if !w.restored || !slices.Equal(w.stopped, []bgp.StopMode{bgp.StopDrain}) {
				t.Errorf("ready=%t: restored=%t, sessions stopped %v", ready, w.restored, w.stopped)
			}
		})
	}
}

// tagged counts the paths of all orders, and those with GRACEFUL_SHUTDOWN and the
// lowest preference.
func tagged(w *world) (paths, warned int) {
	for _, order := range w.orders {
		for _, p := range order.Paths {
			paths++
			if slices.Contains(p.Communities, gracefulShutdown) && p.LocalPref != nil && *p.LocalPref == 0 {
				warned++
			}
		}
	}
	return paths, warned
}

// With graceful_shutdown a stop first tells that everything is about to go, for
// that long, with the sources on; then it is as any other.
func TestStopWithGracefulShutdown(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		var last *status.Status
		opt := w.options()
		opt.Publish = func(s *status.Status) { last = s }
		w.config.Shutdown.GracefulShutdown = 3 * time.Second
		l, stop := w.start(opt)
		w.settled(time.Second)
		began := time.Now()
		w.journal = nil
		if paths, warned := tagged(w); paths != 4 || warned != 0 {
			t.Errorf("before: %d of %d paths tell that they go", warned, paths)
		}
		l.Stop()
		w.sleep(50 * time.Millisecond)
		if paths, warned := tagged(w); paths != 4 || warned != 4 {
			t.Errorf("after the order to stop: %d of %d paths tell that they go", warned, paths)
		}
		if !last.Stopping || !last.VIPs[0].Announced || len(w.journal) != 0 {
			t.Errorf("stopping %t, announced %t, and %v", last.Stopping, last.VIPs[0].Announced, w.journal)
		}
		// The world goes on meanwhile.
		w.do(func() { w.verdict("vipb", health.Unhealthy, time.Hour) })
		w.sleep(50 * time.Millisecond)
		if paths, warned := tagged(w); paths != 3 || warned != 3 {
			t.Errorf("a check fails meanwhile: %d of %d paths tell that they go", warned, paths)
		}
		w.journal = nil
		w.sleep(3*time.Second - 100*time.Millisecond - time.Millisecond)
		if len(w.journal) > 0 {
			t.Errorf("too early: %v", w.journal)
		}
		w.stop(stop)
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("stop took %s, want 3s for the word and 2s after the withdraw", took)
		}
		slices.Sort(w.journal[1:3])
		if want := []string{"source off", "withdraw en1", "withdraw en5", "stop drain", "restore"}; !slices.Equal(w.journal, want) {
			t.Errorf("stop did %q, want %q", w.journal, want)
		}
	})
}

// A word ahead that nobody needs takes no time, and one that takes nearly all of
// the time leaves some for the rest.
func TestGracefulShutdownIsBounded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		routers, hang bool
		ahead         time.Duration
		low, high     time.Duration
	}{
		{false, false, 5 * time.Second, 0, 100 * time.Millisecond},
		{true, false, 9 * time.Second, 9 * time.Second, 10 * time.Second},
		{true, true, 5 * time.Second, 5 * time.Second, 10 * time.Second},
	} {
		bubble(t, func(w *world) {
			if !tt.routers {
				w.routers = map[string]bool{}
			}
			w.config.Shutdown.GracefulShutdown = tt.ahead
			_, stop := w.start(w.options())
			w.sleep(time.Second)
			release := make(chan struct{})
			if tt.hang {
				w.hang = release
			}
			began := time.Now()
			err := stop()
			if took := time.Since(began); took < tt.low || took > tt.high {
				t.Errorf("%+v: stop took %s", tt, took)
			}
			if (err != nil) != tt.hang || !slices.Equal(w.stopped, []bgp.StopMode{bgp.StopDrain}) {
				t.Errorf("%+v: %v, sessions stopped %v", tt, err, w.stopped)
			}
			close(release)
		})
	}
}
