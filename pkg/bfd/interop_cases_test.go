package bfd

import (
	"testing"
	"time"

	"vipspeaker/test/netnstest"
	"vipspeaker/test/stopwatch"
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

func (w *world) awaitBothUp(us *ours, r router, o over) SessionState {
	w.t.Helper()
	s := us.await("up at its timers", func(s SessionState) bool {
		return s.Status == Up && s.RemoteStatus == Up && s.DetectionTime == o.detection()
	})
	w.awaitTheirStatus(r, o, Up)
	return s
}

// A session comes up, with the timers that both sides agree on.
func TestInteropUp(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		p := o.remote()
		p.minTx, p.minRx, p.times = 2*interval, 3*interval, calm/2
		r.configure(p)
		us := w.run(o.wish())
		us.awaitStatus(Up)
		s := us.await("at the negotiated timers", func(s SessionState) bool {
			return s.TxInterval == p.minRx && s.DetectionTime == calm/2*p.minTx && s.RemoteStatus == Up
		})
		v := w.awaitTheirs(r, o, "up at the negotiated timers", func(v theirs) bool {
			return v.Status == Up && v.Interval == p.minTx && v.DetectAfter == calm*p.minRx
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
		p.minTx, p.minRx, p.times = time.Second, time.Second, 20
		r.configure(p)
		cfg := o.wish()
		cfg.MinTx, cfg.MinRx, cfg.Multiplier = time.Second, time.Second, 20
		us := w.run(cfg)
		us.awaitStatus(Up)
		w.awaitTheirStatus(r, o, Up)
		start := time.Now()
		us.m.Set(nil)
		v := w.awaitTheirStatus(r, o, Down)
		if took := time.Since(start); took > 10*time.Second {
			w.t.Errorf("the router noticed after %s", took)
		} else {
			w.t.Logf("the router knows after %s: %+v", took, v)
		}
		// BIRD does not show what the other end said.
		if _, isFRR := r.(*frr); isFRR && v.RemoteDiag != "administratively down" {
			w.t.Errorf("the router was told %q", v.RemoteDiag)
		}
		us.m.Set([]SessionConfig{cfg})
		us.awaitStatus(Up)
	})
}

// A session that the router's operator shuts is down, but has not failed. BIRD
// says nothing when its protocol is disabled, so there it is a failure like any
// other.
func TestInteropTheirAdminDown(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		told, downs, diagnostic := AdminDown, uint64(0), "neighbor signaled session down"
		if _, bird := r.(*birdRouter); bird {
			told, downs, diagnostic = Up, 1, "control detection time expired"
		}
		r.configure(o.remote())
		us := w.up(r, o)
		r.shut(true)
		s := us.awaitStatus(Down)
		if s.RemoteStatus != told || s.Downs != downs || s.Diagnostic != diagnostic || !s.WasUp || s.DownSince.IsZero() {
			w.t.Errorf("after the router shut the session: %+v", s)
		}
		r.shut(false)
		if s = w.awaitBothUp(us, r, o); s.Downs != downs {
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
		s := us.awaitStatus(Down)
		if s.Downs != 1 || s.Diagnostic == "" {
			w.t.Errorf("after the router died: %+v", s)
		}
		r.start()
		w.awaitBothUp(us, r, o)
		r.kill() // and faster than we can see
		r.start()
		us.await("up with the next one", func(n SessionState) bool { return n.Status == Up && n.Downs >= 2 })
		w.awaitBothUp(us, r, o)
	})
}

// Our process is killed; the next one gets the session back, whether or not the
// router noticed.
func TestInteropOurRestart(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		r.configure(o.remote())
		first := w.child(o.wish())
		w.awaitTheirStatus(r, o, Up)
		first.kill()
		w.awaitTheirStatus(r, o, Down)
		second := w.child(o.wish())
		w.awaitTheirStatus(r, o, Up)
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
		watch := stopwatch.Start(w.t)
		for n := range uint64(2) {
			began := w.cut()
			ran := watch.Elapsed()
			s := us.awaitStatus(Down)
			ran = watch.Elapsed() - ran
			took := s.DownSince.Sub(began)
			w.awaitTheirStatus(r, o, Down)
			w.t.Logf("%s after the cut, of %s: %s; theirs seen after %s", took, o.detection(), s.Diagnostic, time.Since(began))
			// Room for a busy machine, and far below what a missed timer costs.
			if ran > o.detection()+12*interval || took < 0 || s.Downs != n+1 || s.Diagnostic != "control detection time expired" {
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
			{"slower", 2 * interval, 3 * interval, calm / 2},
			{"faster", interval / 2, interval / 2, calm},
			{"back", interval, interval, calm},
		} {
			cfg := o.wish()
			cfg.MinTx, cfg.MinRx, cfg.Multiplier = c.minTx, c.minRx, c.mult
			us.set(cfg)
			wantTx, wantRx := max(c.minTx, interval), max(c.minRx, interval)
			us.await(c.name, func(s SessionState) bool { return s.TxInterval == wantTx && s.DetectionTime == calm*wantRx })
			w.awaitTheirs(r, o, c.name, func(v theirs) bool {
				return v.Status == Up && v.Interval == wantRx && v.DetectAfter == time.Duration(c.mult)*wantTx
			})
			us.stays(before)
		}
		p := o.remote()
		p.minTx, p.minRx, p.times = 4*interval, 2*interval, calm+1
		r.configure(p)
		us.await("at the router's new timers", func(s SessionState) bool {
			return s.TxInterval == p.minRx && s.DetectionTime == (calm+1)*p.minTx
		})
		us.stays(before)
	})
}

// A router that waits for our first packet gets it.
func TestInteropTheyArePassive(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		p := o.remote()
		p.passive = true
		r.configure(p)
		w.up(r, o)
	})
}

// We wait for the router's first packet. FRR would use echo too, which we never
// offer.
func TestInteropWeArePassive(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		cfg := o.wish()
		cfg.Passive = true
		us := w.run(cfg)
		p := o.remote()
		p.echo = true
		r.configure(p)
		before := w.awaitBothUp(us, r, o)
		us.await("going on", func(s SessionState) bool { return s.Received > before.Received+20 })
		us.stays(before)
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
		s := us.await("refusing", func(s SessionState) bool { return s.Dropped > 0 })
		w.t.Logf("from too far away: %s", s.LastDrop)
		if s.Status != Down {
			w.t.Errorf("a session from farther away than MinTTL says: %+v", s)
		}
		cfg.MinTTL = 0 // one router between is allowed
		if _, bird := r.(*birdRouter); bird {
			cfg.MinTTL = 63 // BIRD sends with the kernel's usual TTL, 64
		}
		us.set(cfg)
		w.awaitBothUp(us, r, far)
	})
}

// BIRD and we authenticate each other; with another key or none the session
// stays down, and says why.
func TestInteropAuthentication(t *testing.T) {
	const (
		none    = "authenticated, but no authentication is configured"
		key     = "wrong authentication key"
		keyID   = "other authentication key ID"
		another = "other authentication type"
	)
	type wrong struct {
		auth *Auth
		why  string
	}
	for _, c := range []struct {
		kind   AuthType
		family string
		wrongs []wrong
	}{
		{SimplePassword, "ipv4", nil},
		{KeyedMD5, "ipv4", nil},
		{MeticulousKeyedMD5, "ipv6", nil},
		{KeyedSHA1, "ipv4", nil},
		{MeticulousKeyedSHA1, "ipv6", []wrong{
			{nil, none},
			{&Auth{Type: MeticulousKeyedSHA1, KeyID: 8, Key: "sesame"}, keyID},
			{&Auth{Type: KeyedSHA1, KeyID: 7, Key: "sesame"}, another},
			{&Auth{Type: MeticulousKeyedSHA1, KeyID: 7, Key: "sesame2"}, key},
		}},
	} {
		t.Run(string(c.kind)+" "+c.family, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				t.Helper()
				w, o := newWorld(t, ns), families()[c.family]
				r := newBIRD(w)
				p := o.remote()
				p.auth = &Auth{Type: c.kind, KeyID: 7, Key: "sesame"}
				r.configure(p)
				cfg := o.wish()
				for _, x := range append(c.wrongs, wrong{&Auth{Type: c.kind, KeyID: 7, Key: "simsim"}, key}) {
					cfg.Auth = x.auth
					us := w.run(cfg)
					s := us.await("refusing", func(s SessionState) bool { return s.Dropped > 0 })
					if s.Received != 0 || s.WasUp || s.LastDrop != x.why {
						t.Errorf("with %+v: %+v", x.auth, s)
					}
					us.end()
				}
				cfg.Auth = p.auth
				us := w.run(cfg)
				before := w.awaitBothUp(us, r, o)
				// Through many sequence numbers, a death and a restart.
				us.await("going on", func(s SessionState) bool { return s.Received > before.Received+20 })
				us.stays(before)
				r.kill()
				us.awaitStatus(Down)
				r.start()
				w.awaitBothUp(us, r, o)
			})
		})
	}
}
