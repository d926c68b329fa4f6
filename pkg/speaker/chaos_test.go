package speaker

import (
	"testing"
	"testing/synctest"
	"time"

	"vipspeaker/pkg/health"
)

// Random worlds in which calls fail, wake-ups get lost and others interfere come
// to rest where they should, within one resync.
func TestLoopConverges(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.faults, w.slow = true, 3*time.Millisecond
			l, stop := w.start(w.options())
			for range 50 {
				w.step(l)
				w.sleep(time.Duration(w.random(int(400 * time.Millisecond))))
			}
			w.faults = false
			w.settled(resync + 3*time.Second) // a lost wake-up, then the hold-up
			w.stop(stop)
			if !w.restored || len(w.bound) > 0 {
				t.Errorf("stop left %v", w.bound)
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

func (w *world) random(n int) int {
	return w.rand.IntN(n)
}

// step does one thing that happens to hosts.
func (w *world) step(l *Loop) {
	name := []string{"en1", "en5"}[w.random(2)]
	v := []string{"vipa", "vipb", "vipc"}[w.random(3)]
	up := w.random(2) == 0
	switch w.random(11) {
	case 0, 1:
		w.do(func() { w.link(name, up) })
	case 2:
		w.do(func() { w.routers[name] = up })
	case 3:
		w.do(func() {
			w.verdict(v, map[bool]health.Verdict{true: health.Healthy, false: health.Unhealthy}[up], time.Hour)
		})
	case 4:
		w.do(func() { w.verdict(v, health.Healthy, time.Duration(w.rand.Int64N(int64(time.Minute)))) })
	case 5: // somebody removes one address, or the device with all of them
		w.do(func() {
			for _, c := range w.config.VIPs {
				if up || c.Name == v {
					w.drop(c.Prefix)
				}
			}
		})
	case 6: // somebody flushes the rules
		w.do(func() { clear(w.sources); clear(w.legs) })
	case 7: // a speaker dies and is started again
		w.do(func() { w.crashed[name] = true })
		time.AfterFunc(time.Duration(w.random(int(time.Second))), func() {
			w.mu.Lock()
			w.do(func() { w.crashed[name] = false })
			w.mu.Unlock()
		})
	case 8:
		next := *loopConfig()
		if up {
			next.VIPs = next.VIPs[:2]
		}
		w.config = &next
		err := l.SetConfig(&next)
		if err != nil {
			w.t.Errorf("reload: %v", err)
		}
	case 9: // the router behind a switch dies, or only what is between
		w.do(func() { w.probe(name, up) })
	case 10:
		w.do(func() { w.path(name, up) })
	}
}
