package speaker

import (
	"context"
	"slices"
	"testing"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"
)

// Whoever waits after an order finds it in the picture, however the passes of the
// time before fell.
func TestShown(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		var picture *status.Status
		opt := w.options()
		opt.Publish = func(s *status.Status) { picture = s }
		l, stop := w.start(opt)
		w.settled(time.Second)
		for i := range 20 {
			next := *w.config
			next.VIPs = slices.Clone(next.VIPs)
			if i%2 == 0 {
				next.VIPs = append(next.VIPs, config.VIP{Name: "vipd", Prefix: prefix("10.68.6.4/32"), Interfaces: []string{"en1"}, Checks: webCheck("10.68.6.4")})
			} else {
				next.VIPs = next.VIPs[:len(next.VIPs)-1]
			}
			if w.config = &next; i%2 == 0 {
				w.verdict("vipd", health.Healthy, time.Hour)
			}
			w.poke() // a pass may run, or be due, when the order comes
			w.sleep(time.Duration(i) * time.Millisecond / 2)
			if err := l.SetConfig(&next); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			w.mu.Unlock()
			l.Shown(w.t.Context())
			w.mu.Lock()
			took := time.Since(began)
			has := slices.ContainsFunc(picture.VIPs, func(v status.VIP) bool { return v.Name == "vipd" && v.Wanted })
			if has != (i%2 == 0) || took > time.Second {
				t.Errorf("order %d: after %s vipd is in the status: %v", i, took, has)
			}
		}
		w.stop(stop)
	})
}

// A wait ends with its context while no pass can be made, and with the loop.
func TestShownGivesUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		l, err := New(w.options())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		l.Shown(ctx)
		if took := time.Since(began); took != time.Second {
			t.Errorf("without a pass it waited for %s, want 1s", took)
		}
		began = time.Now()
		l.Stop()
		l.Shown(w.t.Context())
		if took := time.Since(began); took != 0 {
			t.Errorf("of a loop that stops it waited for %s, want 0", took)
		}
	})
}
