package speaker

import (
	"bytes"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
)

// used tells what is in use of an interface: sessions, BFD sessions, leg.
func (w *world) used(name string) (sessions, watched int, leg bool) {
	for _, s := range w.bfd.Sessions {
		if s.Interface == name {
			watched++
		}
	}
	return len(w.orders[name].Peers), watched, w.legs[name]
}

// Whatever happens to an interface ends its sessions and its use, and it comes
// back by itself after its hold-up.
func TestLoopInterfaceGoesAndComesBack(t *testing.T) {
	t.Parallel()
	en1 := link(2, "en1", "10.68.1.1/24", "fe80::1/64", "fd01::1/64")
	set := func(l netmon.Link) func(w *world) {
		return func(w *world) { w.links["en1"] = l }
	}
	gone := func(w *world) { delete(w.links, "en1") }
	down, bare, other := en1, en1, en1
	down.Up, down.Running = false, false
	bare.Addresses = bare.Addresses[1:]
	other.Name = "en1x"
	again := en1
	again.Index = 77
	for _, tt := range []struct {
		name      string
		gone, own func(w *world)
		watched   int // BFD sessions meanwhile
	}{
		{"administratively down", set(down), set(en1), 0},
		{"deleted and made again", gone, set(again), 0},
		{"renamed", set(other), set(en1), 0},
		{"its address goes", set(bare), set(en1), 0},
		{"moved to another namespace", gone, set(en1), 0},
		{"the gateway is silent", func(w *world) { w.probe("en1", false) }, func(w *world) { w.probe("en1", true) }, 1},
		{"BFD goes down", func(w *world) { w.path("en1", false) }, func(w *world) { w.path("en1", true) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(w *world) {
				_, stop := w.start(w.options())
				w.settled(time.Second)
				w.do(func() { tt.gone(w) })
				w.sleep(0)
				if sessions, watched, leg := w.used("en1"); sessions != 0 || watched != tt.watched || leg {
					t.Errorf("without any time passed: %d sessions, %d of BFD, leg %t", sessions, watched, leg)
				}
				if p := paths(w.orders["en5"]); len(p) != 3-1 { // vipc has no next hop there
					t.Errorf("on en5: %v", p)
				}
				w.sleep(5 * time.Second)
				w.do(func() { tt.own(w) })
				w.sleep(2*time.Second - time.Millisecond)
				if sessions, watched, leg := w.used("en1"); sessions != 0 || watched != 1 || leg {
					t.Errorf("in its hold-up: %d sessions, %d of BFD, leg %t", sessions, watched, leg)
				}
				w.settled(10 * time.Millisecond)
				if sessions, watched, leg := w.used("en1"); sessions != 1 || watched != 1 || !leg {
					t.Errorf("after it: %d sessions, %d of BFD, leg %t", sessions, watched, leg)
				}
				w.stop(stop)
			})
		})
	}
}

// A link that is replaced between two looks ends its sessions once, so that none
// of them hangs on to the one that is gone.
func TestLoopReplacedLink(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.config.Interfaces[0].HoldUp = 0
		_, stop := w.start(w.options())
		w.settled(time.Second)
		before := w.watches
		w.do(func() {
			l := w.links["en1"]
			l.Index = 77
			w.links["en1"] = l
		})
		w.sleep(0)
		if sessions, watched, leg := w.used("en1"); sessions != 0 || watched != 0 || leg {
			t.Errorf("%d sessions, %d of BFD, leg %t", sessions, watched, leg)
		}
		w.settled(200 * time.Millisecond)
		if w.watches != before+2 {
			t.Errorf("BFD was told %d times, want off and on", w.watches-before)
		}
		w.stop(stop)
	})
}

// The text of the Cease says what BFD found, and to that peer only.
func TestLoopCeaseOfBFD(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		reasons := map[string]string{}
		opt := w.options()
		_, stop := w.start(opt)
		w.settled(time.Second)
		w.do(func() { w.path("en1", false) })
		w.sleep(0)
		for name, order := range w.orders {
			for peer, text := range order.DownReasons {
				reasons[name+" "+peer.String()] = text
			}
		}
		if got := reasons["en1 10.68.1.2"]; len(reasons) != 1 || got != "BFD with 10.68.1.2 down: control detection time expired" {
			t.Errorf("%q", reasons)
		}
		// The router stays away from BFD: it gets its session back.
		w.sleep(bfdPatience - time.Millisecond)
		if n, _, _ := w.used("en1"); n != 0 {
			t.Error("the session came back too early")
		}
		w.settled(50 * time.Millisecond)
		w.stop(stop)
	})
}

// A router that does not speak BFD, or not yet, keeps nothing from coming up,
// also after a restart that adopts what a former process left.
func TestLoopWithoutBFD(t *testing.T) {
	t.Parallel()
	for _, adopted := range []bool{false, true} {
		bubble(t, func(w *world) {
			w.mute = true
			opt := w.options()
			opt.Adopted = adopted
			_, stop := w.start(opt)
			w.settled(100 * time.Millisecond)
			w.stop(stop)
		})
	}
	bubble(t, func(w *world) {
		opt := w.options()
		opt.BFD, opt.NewProbe = nil, nil
		_, stop := w.start(opt)
		w.settled(100 * time.Millisecond)
		w.stop(stop)
	})
}

// Probes and BFD are ordered when something about them changes, and not else.
func TestLoopOrdersOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		l, stop := w.start(w.options())
		w.settled(time.Second)
		var ids []string
		for _, s := range w.probes {
			ids = append(ids, s.ID)
		}
		if want := []string{"attachment/en1/10.68.1.2", "attachment/en5/10.68.5.2"}; !slices.Equal(ids, want) {
			t.Errorf("probes %q, want %q", ids, want)
		}
		sets, watches, orders := w.sets, w.watches, w.orders
		w.do(func() { w.routers["en5"] = false })
		w.do(func() { w.verdict("vipb", "unhealthy", time.Hour) })
		w.sleep(10 * resync)
		if w.sets != sets || w.watches != watches {
			t.Errorf("told again: %d and %d times", w.sets-sets, w.watches-watches)
		}
		w.do(func() { w.routers["en5"] = true })
		w.do(func() { w.verdict("vipb", "healthy", time.Hour) })
		w.settled(time.Second)
		// A reload changes timers in place.
		next := loopConfig()
		next.Interfaces[0].GatewayProbe.Interval = time.Second
		next.Interfaces[0].Peers[0].BFD.MinTx = 10 * time.Millisecond
		next.Interfaces[0].Damping = damping()
		w.config, w.journal = next, nil
		if err := l.SetConfig(next); err != nil {
			t.Fatal(err)
		}
		w.settled(time.Second)
		if w.watches != watches+1 || len(w.probes) != 2 || w.probes[0].Interval != time.Second {
			t.Errorf("after a reload: BFD told %d times, probes %v", w.watches-watches, w.probes)
		}
		if len(w.journal) > 0 || !slices.Equal(w.orders["en1"].Peers, orders["en1"].Peers) {
			t.Errorf("the reload did %q", w.journal)
		}
		// The interface goes: its probe of a peer has no address to ask from.
		w.do(func() { w.links["en1"] = link(2, "en1") })
		w.sleep(time.Second)
		if len(w.probes) != 1 {
			t.Errorf("probes without an address: %v", w.probes)
		}
		w.stop(stop)
	})
}

// A probe that cannot be made is said with the pass and takes nothing away.
func TestLoopBadProbe(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		var last *status.Status
		opt := w.options()
		opt.Publish = func(s *status.Status) { last = s }
		made := opt.NewProbe
		opt.NewProbe = func(b Probe) (c health.Checker, err error) {
			if b.Interface == "en1" {
				return nil, errInjected
			}
			return made(b)
		}
		_, stop := w.start(opt)
		w.settled(time.Second)
		if want := "probe: attachment of 10.68.1.2 on en1: injected"; last.Passes.LastError != want || len(w.probes) != 1 {
			t.Errorf("%d probes, last error %q", len(w.probes), last.Passes.LastError)
		}
		w.stop(stop)
	})
}

// A silent gateway is one line with its text, however long it lasts.
func TestLoopTellsOfASilentGateway(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		var b bytes.Buffer
		var last *status.Status
		passes := 0
		w.config.VIPs = w.config.VIPs[:1]
		opt := w.options()
		opt.Log = textLog(&b, slog.LevelInfo)
		opt.Publish = func(s *status.Status) { last = s; passes++ }
		_, stop := w.start(opt)
		w.settled(time.Second)
		b.Reset()
		w.do(func() { w.probe("en1", false) })
		w.settled(time.Second)
		before := passes
		w.sleep(10 * resync)
		want := []string{
			`level=WARN msg="interface unusable" interface=en1 reason=attachment detail="10.68.1.2 unreachable since 1.6 s (3 of 3 probes)"`,
			`level=WARN msg="probe verdict" interface=en1 layer=attachment target=10.68.1.2 verdict=unhealthy error="no answer"`,
			`level=WARN msg="peer down" peer=10.68.1.2 interface=en1 state=Down last_error="interface en1: attachment: 10.68.1.2 unreachable since 1.6 s (3 of 3 probes)"`,
		}
		if got := strings.Split(strings.TrimSpace(b.String()), "\n"); !slices.Equal(got, want) {
			t.Errorf("logged:\n%s", b.String())
		}
		if got := passes - before; got != 10 {
			t.Errorf("%d passes in 10 resync intervals", got)
		}
		n := last.Interfaces[0]
		if len(n.Failures) != 1 || n.Failures[0].Target != "10.68.1.2" || len(n.Probes) != 1 || n.Probes[0].Verdict != "unhealthy" || n.Penalty.Flaps != 1 {
			t.Errorf("picture: %+v", n)
		}
		w.stop(stop)
	})
}

// A VIP that leaves the configuration while another one has the same check
// leaves the check running.
func TestLoopSharedCheck(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		shared := webCheck("10.68.6.1")
		w.config.VIPs[1].Checks = shared
		l, stop := w.start(w.options())
		w.sleep(time.Second)
		announced := func() bool {
			return paths(w.orders["en5"])[prefix("10.68.6.2/32")]
		}
		if len(w.specs) != 2 || !announced() {
			t.Errorf("%d checks run, want 2; announced: %t", len(w.specs), announced())
		}
		next := *w.config
		next.VIPs = next.VIPs[1:]
		w.config = &next
		if err := l.SetConfig(&next); err != nil {
			t.Fatal(err)
		}
		w.sleep(5 * time.Second)
		if len(w.specs) != 2 || !announced() {
			t.Errorf("after the reload: %d checks run, announced: %t", len(w.specs), announced())
		}
		w.stop(stop)
	})
}

// The picture of a host with BFD and penalties.
func TestPictureBehindTheLinks(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		var last *status.Status
		w.config.VIPs = w.config.VIPs[:1]
		w.config.VIPs[0].Degrade = &config.Degrade{Prepend: 2}
		w.config.VIPs[0].Damping = damping()
		opt := w.options()
		opt.Publish = func(s *status.Status) { last = s }
		_, stop := w.start(opt)
		w.settled(time.Second)
		w.do(func() { w.path("en5", false); w.verdict("vipa", "unhealthy", time.Hour) })
		w.sleep(time.Second)
		if b := last.Peers[0].BFD; b == nil || b.State != "Up" || b.Downs != 0 {
			t.Errorf("BFD of en1: %+v", b)
		}
		if b := last.Peers[1].BFD; b == nil || b.State != "Down" || b.Downs != 1 || b.Diagnostic == "" {
			t.Errorf("BFD of en5: %+v", b)
		}
		if p := last.Peers[1]; p.State != stateDown || !strings.HasPrefix(p.LastError, "BFD with 10.68.5.2 down") {
			t.Errorf("peer of en5: %+v", p)
		}
		v := last.VIPs[0]
		if !v.Degraded || !v.Announced || v.Penalty.Flaps != 1 || v.Penalty.Value < 900 || w.orders["en1"].Paths[0].Prepend != 2 {
			t.Errorf("vip: %+v", v)
		}
		if n := last.Interfaces[1]; !n.Usable || len(n.Failures) != 1 || n.Failures[0].Layer != "bfd" || n.Penalty.Flaps != 1 {
			t.Errorf("en5: %+v", n)
		}
		w.stop(stop)
	})
}

// A reload that changes only the schedule of a check withdraws nothing, and one
// that makes a check fail is no flap.
func TestLoopReloadOfChecks(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		var last *status.Status
		opt := w.options()
		opt.Publish = func(s *status.Status) { last = s }
		l, stop := w.start(opt)
		w.settled(time.Second)
		reload := func(change func(*config.Check)) {
			next := loopConfig()
			change(&next.VIPs[0].Checks[0])
			w.config, w.journal = next, nil
			if err := l.SetConfig(next); err != nil {
				t.Fatal(err)
			}
		}
		slower := func(c *config.Check) { c.Interval = 7 * time.Second }
		reload(slower)
		w.sleep(100 * time.Millisecond)
		if len(w.journal) > 0 || !last.VIPs[0].Announced {
			t.Errorf("another interval did %q", w.journal)
		}
		other := func(c *config.Check) { c.TCP = &config.TCPCheck{Address: netip.MustParseAddrPort("10.68.6.1:81")} }
		failing := webCheck("10.68.6.1")[0]
		other(&failing)
		w.results = maps.Clone(w.results)
		w.results[CheckID(&failing)] = health.Result{Verdict: health.Unhealthy}
		reload(other)
		w.sleep(100 * time.Millisecond)
		if v := last.VIPs[0]; v.Reason != status.CheckFailed || v.Penalty.Flaps != 0 {
			t.Errorf("another check: %s with %d flaps", v.Reason, v.Penalty.Flaps)
		}
		reload(slower)
		w.stop(stop)
	})
}
