package speaker

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
)

// settled waits and compares the world with what is wanted.
func (w *world) settled(after time.Duration) {
	w.t.Helper()
	w.sleep(after)
	if diff := w.differences(); len(diff) > 0 {
		w.t.Errorf("after %s:\n%s", after, strings.Join(diff, "\n"))
	}
}

func (w *world) noteRule() {
	w.t.Helper()
	if len(w.broken) > 0 {
		w.t.Errorf("rules broken:\n%s", strings.Join(w.broken, "\n"))
	}
}

// bubble runs a test with a world in virtual time.
func bubble(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.mu.Lock()
		test(w)
		w.noteRule()
		w.mu.Unlock()
	})
}

func (w *world) stop(stop func() error) {
	w.t.Helper()
	if err := stop(); err != nil {
		w.t.Errorf("stop: %v", err)
	}
}

// From nothing to the steady state takes a few milliseconds and no resync.
func TestLoopStarts(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		_, stop := w.start(w.options())
		w.settled(50 * time.Millisecond)
		if !slices.Equal(w.watched, []string{"en1", "en5"}) || len(w.specs) != 3 {
			t.Errorf("watched %v with %d checks, want both interfaces and 3", w.watched, len(w.specs))
		}
		w.stop(stop)
	})
}

// Waiting for the first reading of the network is no pass that failed.
func TestLoopWaitsForTheNetwork(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		var last *status.Status
		opt := w.options()
		opt.Publish = func(s *status.Status) { last = s }
		w.net = nil
		_, stop := w.start(opt)
		w.sleep(100 * time.Millisecond)
		w.do(func() {})
		w.settled(time.Second)
		if p := last.Passes; p.Error != 0 || p.OK == 0 || p.LastError != "" {
			t.Errorf("passes = %+v, want no error", p)
		}
		w.stop(stop)
	})
}

// A loop without news makes one pass in each resync interval and writes nothing.
func TestLoopIsQuiet(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		passes := 0
		opt := w.options()
		opt.Publish = func(*status.Status) { passes++ }
		_, stop := w.start(opt)
		w.settled(time.Second)
		writes, before := w.writes, passes
		w.sleep(10 * resync)
		if got := passes - before; got != 10 {
			t.Errorf("%d passes in 10 resync intervals", got)
		}
		if w.writes != writes {
			t.Errorf("%d writes to the kernel without a cause", w.writes-writes)
		}
		w.stop(stop)
	})
}

// A storm of wake-ups makes one pass in each spacing, no more.
func TestLoopSurvivesStorm(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		passes := 0
		opt := w.options()
		opt.Publish = func(*status.Status) { passes++ }
		_, stop := w.start(opt)
		w.settled(time.Second)
		before := passes
		for range 10000 {
			w.signal.Poke()
			w.sleep(100 * time.Microsecond)
		}
		if got, most := passes-before, int(time.Second/spacing)+1; got > most {
			t.Errorf("%d passes in a second of wake-ups, want at most %d", got, most)
		}
		w.stop(stop)
	})
}

// Bad news does not wait for the spacing after a pass.
func TestLoopActsOnBadNewsAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		_, stop := w.start(w.options())
		w.settled(time.Second)
		w.signal.Poke() // a pass that ends at once; the spacing begins
		w.sleep(0)
		w.do(func() { w.link("en1", false) })
		w.sleep(0)
		peers, leg := len(w.orders["en1"].Peers), w.legs["en1"]
		if peers != 0 || leg {
			t.Errorf("without any time passed: %d peers on en1, leg %t; want none", peers, leg)
		}
		w.stop(stop)
	})
}

// The order of a VIP's coming and going, seen from outside.
func TestLoopOrder(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.config.VIPs = w.config.VIPs[:1]
		l, stop := w.start(w.options())
		w.settled(time.Second)
		want := []string{"bind 10.68.6.1/32", "announce en1", "announce en5", "source on"}
		if !slices.Equal(w.journal, want) {
			t.Errorf("coming: %q, want %q", w.journal, want)
		}
		w.journal = nil
		next := *w.config
		next.VIPs = nil
		w.config = &next
		before := time.Now()
		if err := l.SetConfig(&next); err != nil {
			t.Fatal(err)
		}
		w.sleep(time.Second)
		if len(w.bound) != 1 {
			t.Error("unbound before routers had the time to move on")
		}
		w.settled(3 * time.Second)
		slices.Sort(w.journal[1:3]) // the speakers have no order
		want = []string{"source off", "withdraw en1", "withdraw en5", "unbind 10.68.6.1/32"}
		if !slices.Equal(w.journal, want) {
			t.Errorf("going within %s: %q, want %q", time.Since(before), w.journal, want)
		}
		w.stop(stop)
	})
}

// Routers get their time from the withdraw on, however late a speaker is with it.
func TestLoopLingersFromTheWithdraw(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		l, stop := w.start(w.options())
		w.settled(time.Second)
		w.late = 1500 * time.Millisecond
		next := *w.config
		next.VIPs = nil
		w.config = &next
		if err := l.SetConfig(&next); err != nil {
			t.Fatal(err)
		}
		var withdrawn, unbound time.Time
		for range 1000 {
			w.sleep(10 * time.Millisecond)
			if withdrawn.IsZero() && !announcesAny(w.state) {
				withdrawn = time.Now()
			}
			if len(w.bound) == 0 {
				unbound = time.Now()
				break
			}
		}
		if wait := unbound.Sub(withdrawn); wait < 1990*time.Millisecond {
			t.Errorf("unbound %s after the withdraw, want 2s", wait)
		}
		w.stop(stop)
	})
}

// A VIP that is removed right after its announcement was ordered stays bound like
// any other, although no speaker has told yet that it announces it.
func TestLoopLetsNewVIPLinger(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		l, stop := w.start(w.options())
		w.sleep(0)
		if len(w.orders["en1"].Paths) == 0 || len(w.state.Speakers) > 0 {
			t.Fatalf("orders %v with state %v, want the moment between", w.orders, w.state)
		}
		next := *w.config
		next.VIPs = nil
		w.config = &next
		if err := l.SetConfig(&next); err != nil {
			t.Fatal(err)
		}
		w.sleep(time.Second)
		if len(w.bound) != 3 {
			t.Errorf("bound after a second: %v, want all", w.bound)
		}
		w.settled(2 * time.Second)
		w.stop(stop)
	})
}

// What a speaker process makes up is never bound: it is no VIP, and never was.
func TestLoopBindsNothingForASpeakersWord(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		_, stop := w.start(w.options())
		w.settled(time.Second)
		next := *w.state
		next.Speakers = slices.Clone(next.Speakers)
		next.Speakers[0].Announced = append(slices.Clone(next.Speakers[0].Announced), prefix("10.68.1.2/32"), prefix("192.0.2.0/24"))
		w.state = &next
		w.poke()
		w.sleep(500 * time.Millisecond)
		for p := range w.bound {
			if !slices.ContainsFunc(w.config.VIPs, func(v config.VIP) bool { return v.Prefix == p }) {
				t.Errorf("%s is bound because a speaker says that it announces it", p)
			}
		}
		w.stop(stop)
	})
}

// A verdict that nobody renews ends by itself, without any wake-up.
func TestLoopRechecks(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.verdict("vipa", health.Healthy, 5*time.Second)
		_, stop := w.start(w.options())
		w.settled(5*time.Second - time.Millisecond)
		w.deaf = true
		w.sleep(2 * time.Millisecond)
		has := paths(w.orders["en1"])[prefix("10.68.6.1/32")]
		w.deaf = false
		if has {
			t.Error("an expired verdict still announces")
		}
		w.stop(stop)
	})
}

// A kernel that fails every call keeps nothing from being withdrawn.
func TestLoopWithdrawsWithoutKernel(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"fails", "hangs"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				_, stop := w.start(w.options())
				w.settled(time.Second)
				release := make(chan struct{})
				if w.refuse = how == "fails"; !w.refuse {
					w.hang = release
				}
				w.do(func() { w.verdict("vipa", health.Unhealthy, time.Hour) })
				w.sleep(steerBound + 10*time.Millisecond)
				if paths(w.orders["en1"])[prefix("10.68.6.1/32")] {
					t.Error("vipa is still announced 210 ms after its check failed")
				}
				if !paths(w.orders["en5"])[prefix("10.68.6.2/32")] {
					t.Error("vipb was withdrawn although nothing happened to it")
				}
				// More news while the same call hangs, and an address that goes.
				w.do(func() { w.verdict("vipb", health.Unhealthy, time.Hour) })
				w.do(func() { w.drop(prefix("fd68:6::3/128")) })
				w.sleep(steerBound + 10*time.Millisecond)
				if n := len(w.orders["en1"].Paths) + len(w.orders["en5"].Paths); n != 0 {
					t.Errorf("%d paths are still announced", n)
				}
				w.refuse, w.hang = false, nil
				close(release)
				w.settled(resync)
				w.stop(stop)
			})
		})
	}
}

// A failing kernel call is tried again by itself, at growing intervals.
func TestLoopBacksOff(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.refuse = true
		var at []time.Time
		opt := w.options()
		opt.Publish = func(s *status.Status) {
			at = append(at, time.Now())
			if !strings.Contains(s.Passes.LastError, "steer: injected") {
				t.Errorf("last error = %q", s.Passes.LastError)
			}
		}
		_, stop := w.start(opt)
		w.sleep(2 * time.Minute)
		w.refuse = false
		for i := 2; i < len(at); i++ {
			gap := at[i].Sub(at[i-1])
			if gap < backoffMin*3/4 || gap > backoffMax {
				t.Errorf("try %d came after %s", i, gap)
			}
		}
		if len(at) < 10 || len(at) > 25 {
			t.Errorf("%d tries in two minutes", len(at))
		}
		w.stop(stop)
	})
}

// Nothing is decided before the network has been read.
func TestLoopWaitsForNetwork(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		net := w.net
		w.net = nil
		l, stop := w.start(w.options())
		w.sleep(20 * time.Second)
		if len(w.journal) > 0 {
			t.Errorf("did %q without knowing the network", w.journal)
		}
		if err := l.Healthy(); err != nil {
			t.Errorf("not healthy while it may still come: %v", err)
		}
		w.net = net
		w.poke()
		w.settled(100 * time.Millisecond)
		w.stop(stop)
	})
}

// A reload that adds a VIP touches nothing else.
func TestLoopReload(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		l, stop := w.start(w.options())
		w.settled(time.Second)
		before := w.orders
		w.journal = nil
		next := *w.config
		next.VIPs = append(slices.Clone(next.VIPs), config.VIP{Name: "vipd", Prefix: prefix("10.68.6.4/32"), Interfaces: []string{"en1"}, Checks: webCheck("10.68.6.4")})
		w.config = &next
		w.verdict("vipd", health.Healthy, time.Hour)
		if err := l.SetConfig(&next); err != nil {
			t.Fatal(err)
		}
		w.settled(time.Second)
		if want := []string{"bind 10.68.6.4/32", "announce en1"}; !slices.Equal(w.journal, want) {
			t.Errorf("reload did %q, want %q", w.journal, want)
		}
		for name, order := range w.orders {
			if !slices.Equal(order.Peers, before[name].Peers) {
				t.Errorf("%s: sessions changed", name)
			}
			for i, p := range before[name].Paths {
				if order.Paths[i].Prefix != p.Prefix || order.Paths[i].NextHop != p.NextHop {
					t.Errorf("%s: path %s changed", name, p.Prefix)
				}
			}
		}
		if len(w.specs) != 4 {
			t.Errorf("%d checks run, want 4", len(w.specs))
		}
		w.stop(stop)
	})
}

// The router id stays when a lower address appears later.
func TestLoopPinsRouterID(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.config.BGP.RouterID = netip.Addr{}
		_, stop := w.start(w.options())
		w.settled(time.Second)
		w.do(func() {
			l := w.links["en1"]
			l.Addresses = append(slices.Clone(l.Addresses), netmon.Address{Prefix: prefix("10.0.0.1/8"), Usable: true})
			w.links["en1"] = l
		})
		w.settled(time.Second)
		if got := w.orders["en1"].RouterID; got != addr("10.68.1.1") {
			t.Errorf("router id = %s, want 10.68.1.1 as at the start", got)
		}
		w.stop(stop)
	})
}
