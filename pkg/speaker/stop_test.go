package speaker

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
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
