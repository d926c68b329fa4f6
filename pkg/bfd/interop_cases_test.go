package bfd_test

import (
	"testing"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/test/netnstest"
)

// eachRouter runs a case with both daemons over both families.
func eachRouter(t *testing.T, body func(w *world, r router, o over)) {
	t.Helper()
	for name, start := range map[string]func(*world) router{"frr": newFRR, "bird": newBIRD} {
		for family, o := range families() {
			t.Run(name+" "+family, func(t *testing.T) {
				t.Parallel()
				netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
					t.Helper()
					w := newWorld(t, ns)
					body(w, start(w), o)
				})
			})
		}
	}
}

// up runs our side and waits until both say that the session is up at the
// timers of these tests.
func (w *world) up(r router, o over) *ours {
	w.t.Helper()
	us := w.run(o.wish())
	w.awaitBothUp(us, r, o)
	return us
}

func (w *world) awaitBothUp(us *ours, r router, o over) bfd.SessionState {
	w.t.Helper()
	s := us.await("up at its timers", func(s bfd.SessionState) bool {
		return s.Status == bfd.Up && s.RemoteStatus == bfd.Up && s.DetectionTime == times*slowest
	})
	w.awaitTheirStatus(r, o, bfd.Up)
	return s
}

// A session comes up, with the timers that both sides agree on.
func TestInteropUp(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		p := o.remote()
		p.minTx, p.minRx, p.mult = 2*slowest, 3*slowest, 4
		r.configure(p)
		us := w.run(o.wish())
		us.awaitStatus(bfd.Up)
		s := us.await("at the negotiated timers", func(s bfd.SessionState) bool {
			return s.TxInterval == p.minRx && s.DetectionTime == 4*p.minTx && s.RemoteStatus == bfd.Up
		})
		v := w.awaitTheirs(r, o, "up at the negotiated timers", func(v theirs) bool {
			return v.Status == bfd.Up && v.Interval == p.minTx && v.DetectAfter == times*p.minRx
		})
		us.stays(s)
		w.t.Logf("ours %+v, theirs %+v", s, v)
	})
}

// A session that is not wanted any more is taken down there at once, not after
// its detection time; wanted again, it comes up again.
func TestInteropOurAdminDown(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		p := o.remote()
		p.minTx, p.minRx, p.mult = time.Second, time.Second, 20
		r.configure(p)
		cfg := o.wish()
		cfg.MinTx, cfg.MinRx, cfg.Multiplier = time.Second, time.Second, 20
		us := w.run(cfg)
		us.awaitStatus(bfd.Up)
		w.awaitTheirStatus(r, o, bfd.Up)
		start := time.Now()
		us.m.Set(nil)
		v := w.awaitTheirStatus(r, o, bfd.Down)
		if took := time.Since(start); took > 10*time.Second {
			w.t.Errorf("the router noticed after %s", took)
		} else {
			w.t.Logf("the router knows after %s: %+v", took, v)
		}
		us.m.Set([]bfd.SessionConfig{cfg})
		us.awaitStatus(bfd.Up)
	})
}

// A session that the router's operator shuts is down, but has not failed.
func TestInteropTheirAdminDown(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		r.configure(o.remote())
		us := w.up(r, o)
		r.shut(true)
		s := us.awaitStatus(bfd.Down)
		if s.RemoteStatus != bfd.AdminDown || s.Downs != 0 || !s.WasUp {
			w.t.Errorf("after the router shut the session: %+v", s)
		}
		w.t.Logf("%+v", s)
		r.shut(false)
		if s = w.awaitBothUp(us, r, o); s.Downs != 0 {
			w.t.Errorf("after the session was let be again: %+v", s)
		}
	})
}

// The daemon there is killed and started again.
func TestInteropTheirRestart(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		r.configure(o.remote())
		us := w.up(r, o)
		r.kill()
		s := us.awaitStatus(bfd.Down)
		if s.Downs != 1 || s.Diagnostic == "" {
			w.t.Errorf("after the router died: %+v", s)
		}
		r.start()
		w.awaitBothUp(us, r, o)
		r.kill() // and faster than we can see
		r.start()
		us.await("up with the next one", func(n bfd.SessionState) bool { return n.Status == bfd.Up && n.Downs >= 2 })
		w.awaitBothUp(us, r, o)
	})
}

// Our process is killed; the next one gets the session back, whether or not the
// router noticed.
func TestInteropOurRestart(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		r.configure(o.remote())
		first := w.child(o.wish())
		w.awaitTheirStatus(r, o, bfd.Up)
		first.kill()
		w.awaitTheirStatus(r, o, bfd.Down)
		second := w.child(o.wish())
		w.awaitTheirStatus(r, o, bfd.Up)
		second.kill()
		us := w.run(o.wish()) // at once: the router still has the session with the former one
		w.awaitBothUp(us, r, o)
	})
}

// Frames are dropped in between while all carriers stay up: both sides see it
// within the detection time, say why, and come back when the path does.
func TestInteropSilentFailure(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		r.configure(o.remote())
		us := w.up(r, o)
		for n := range uint64(2) {
			began := w.cut()
			s := us.awaitStatus(bfd.Down)
			took := s.DownSince.Sub(began)
			w.awaitTheirStatus(r, o, bfd.Down)
			w.t.Logf("%s after the cut, of %s: %s; theirs seen after %s", took, times*slowest, s.Diagnostic, time.Since(began))
			// Room for a busy machine, and far below what a missed timer costs.
			if took > 5*times*slowest || s.Downs != n+1 || s.Diagnostic != "control detection time expired" {
				w.t.Errorf("after %s: %+v", took, s)
			}
			w.heal()
			if s = w.awaitBothUp(us, r, o); s.Diagnostic != "" {
				w.t.Errorf("up again: %+v", s)
			}
		}
	})
}

// New timers on either side take effect by a Poll Sequence, without the session
// leaving Up.
func TestInteropTimersInPlace(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		r.configure(o.remote())
		us := w.up(r, o)
		before := us.state()
		for _, c := range []struct {
			name         string
			minTx, minRx time.Duration
			mult         uint8
		}{
			{"slower", 2 * slowest, 3 * slowest, 5},
			{"faster", slowest / 2, slowest / 2, times},
			{"back", slowest, slowest, times},
		} {
			cfg := o.wish()
			cfg.MinTx, cfg.MinRx, cfg.Multiplier = c.minTx, c.minRx, c.mult
			us.set(cfg)
			wantTx, wantRx := max(c.minTx, slowest), max(c.minRx, slowest)
			us.await(c.name, func(s bfd.SessionState) bool { return s.TxInterval == wantTx && s.DetectionTime == times*wantRx })
			w.awaitTheirs(r, o, c.name, func(v theirs) bool {
				return v.Status == bfd.Up && v.Interval == wantRx && v.DetectAfter == time.Duration(c.mult)*wantTx
			})
			us.stays(before)
		}
		p := o.remote()
		p.minTx, p.minRx, p.mult = 4*slowest, 2*slowest, 6
		r.configure(p)
		us.await("at the router's new timers", func(s bfd.SessionState) bool {
			return s.TxInterval == p.minRx && s.DetectionTime == 6*p.minTx
		})
		us.stays(before)
	})
}

// The routers may wait for our first packet, and we for theirs.
func TestInteropPassive(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		p := o.remote()
		p.passive = true
		r.configure(p)
		us := w.up(r, o)
		us.end()
		p.passive, p.echo = false, true // FRR offers echo, which we never ask for
		r.configure(p)
		cfg := o.wish()
		cfg.Passive = true
		s := w.run(cfg).awaitStatus(bfd.Up)
		w.t.Logf("%+v", s)
	})
}

// Several hops, over a router in between.
func TestInteropMultihop(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		// far is reached through mid, two hops away.
		mid := w.New("mid")
		w.VethTo("en5", mid, "near")
		mid.VethTo("out", w.r1, "in")
		w.IP("addr add 10.68.5.1/24 dev en5")
		w.IP("addr add fd68:5::1/64 dev en5 nodad")
		mid.IP("addr add 10.68.5.2/24 dev near")
		mid.IP("addr add fd68:5::2/64 dev near nodad")
		mid.IP("addr add 10.68.7.1/24 dev out")
		mid.IP("addr add fd68:7::1/64 dev out nodad")
		w.r1.IP("addr add 10.68.7.2/24 dev in")
		w.r1.IP("addr add fd68:7::2/64 dev in nodad")
		for _, family := range []string{"ipv4", "ipv6"} {
			mid.Sysctl("net/"+family+"/conf/all/forwarding", "1")
		}
		w.IP("route add 10.68.7.0/24 via 10.68.5.2")
		w.IP("-6 route add fd68:7::/64 via fd68:5::2")
		w.r1.IP("route add 10.68.5.0/24 via 10.68.7.1")
		w.r1.IP("-6 route add fd68:5::/64 via fd68:7::1")
		far := farther(o)
		p := far.remote()
		p.multihop = true
		r.configure(p)
		cfg := far.wish()
		cfg.Multihop, cfg.Interface, cfg.MinTTL = true, "", 255
		us := w.run(cfg)
		s := us.await("refusing", func(s bfd.SessionState) bool { return s.Dropped > 0 })
		w.t.Logf("from too far away: %s", s.LastDrop)
		if s.Status != bfd.Down {
			w.t.Errorf("a session from farther away than MinTTL says: %+v", s)
		}
		cfg.MinTTL = 0 // one router between is allowed
		us.set(cfg)
		w.awaitBothUp(us, r, far)
	})
}
