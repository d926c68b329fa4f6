package bfd

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/netnstest"
)

// end is one end of a session under test.
type end struct {
	m     *Manager
	cfg   SessionConfig
	pokes atomic.Uint64
	// onPoke is called by a poke of an end that runs apart.
	onPoke atomic.Pointer[func()]
	stop   func()
}

// start runs a Manager in the namespace until the test or stop ends it.
func start(t *testing.T, ns netnstest.NS, cfg SessionConfig) *end {
	t.Helper()
	e := &end{cfg: cfg}
	e.m = New(Options{Poke: func() { e.pokes.Add(1) }})
	e.m.Set([]SessionConfig{cfg})
	e.run(t, ns)
	return e
}

func (e *end) run(t *testing.T, ns netnstest.NS) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go ns.Do(func() error {
		done <- e.m.Run(ctx)
		return nil
	})
	stopped := false
	e.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(func() { e.stop() })
}

func (e *end) state(t *testing.T) SessionState {
	t.Helper()
	s, ok := e.m.State().Session(e.cfg.Peer, e.cfg.Local, e.cfg.Interface)
	if !ok {
		t.Fatalf("no session %s in %+v", e.cfg.Peer, e.m.State())
	}
	return s
}

// reaches waits until the session is in that state.
func (e *end) reaches(t *testing.T, want SessionStatus) SessionState {
	t.Helper()
	var s SessionState
	netnstest.Until(t, patience, func() error {
		if s = e.state(t); s.Status != want {
			return fmt.Errorf("session to %s is %+v, want %s", e.cfg.Peer, s, want)
		}
		return nil
	})
	return s
}

// pair makes a router namespace behind en1 and the configurations of both ends.
func pair(ns netnstest.NS, local, peer string, change func(*SessionConfig)) (netnstest.NS, SessionConfig, SessionConfig) {
	router := ns.New("r1")
	ns.VethTo("en1", router, "p1")
	bits := 24
	if netip.MustParseAddr(local).Is6() {
		bits = 64
	}
	ns.IP("addr add %s/%d dev en1 %s", local, bits, nodad(bits))
	router.IP("addr add %s/%d dev p1 %s", peer, bits, nodad(bits))
	a := SessionConfig{
		Peer: netip.MustParseAddr(peer), Local: netip.MustParseAddr(local), Interface: "en1",
		MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: calm,
	}
	if change != nil {
		change(&a)
	}
	b := a
	b.Peer, b.Local, b.Interface = a.Local, a.Peer, "p1"
	return router, a, b
}

func nodad(bits int) string {
	if bits == 64 {
		return "nodad"
	}
	return ""
}

func TestSessionComesUp(t *testing.T) {
	for name, c := range map[string]struct{ local, peer string }{
		"ipv4":       {"10.68.1.1", "10.68.1.2"},
		"ipv6":       {"fd68::1", "fd68::2"},
		"link-local": {"fe80::68:1", "fe80::68:2"},
	} {
		t.Run(name, func(t *testing.T) {
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				router, ca, cb := pair(ns, c.local, c.peer, nil)
				a, b := start(t, ns, ca), start(t, router, cb)
				a.reaches(t, Up)
				b.reaches(t, Up)
				netnstest.Until(t, patience, func() error {
					if s := a.state(t); s.TxInterval != 50*time.Millisecond || s.DetectionTime != calm*50*time.Millisecond {
						return fmt.Errorf("timers of %+v", s)
					}
					return nil
				})
				t.Logf("%+v", a.state(t))
				b.stop()
				s := a.reaches(t, Down)
				if s.RemoteStatus != AdminDown || s.Downs != 0 {
					t.Errorf("after the other end stopped: %+v", s)
				}
			})
		})
	}
}

// up starts both ends and waits until they are Up at their wanted timers.
func up(t *testing.T, ns, router netnstest.NS, ca, cb SessionConfig) (a, b *end) {
	t.Helper()
	a, b = start(t, ns, ca), start(t, router, cb)
	settled(t, a)
	settled(t, b)
	return a, b
}

func settled(t *testing.T, e *end) {
	t.Helper()
	netnstest.Until(t, patience, func() error {
		if s := e.state(t); s.Status != Up || s.TxInterval > max(e.cfg.MinTx, e.cfg.MinRx) {
			return fmt.Errorf("session to %s is %+v", e.cfg.Peer, s)
		}
		return nil
	})
}

// fails waits until the session is Down with an error that says so.
func (e *end) fails(t *testing.T, text string) {
	t.Helper()
	netnstest.Until(t, patience, func() error {
		if s := e.state(t); s.Status != Down || !strings.Contains(s.Error, text) {
			return fmt.Errorf("session is %+v, want Down because of %q", s, text)
		}
		return nil
	})
}

// heals waits until the session is Up again and has no error.
func (e *end) heals(t *testing.T) {
	t.Helper()
	netnstest.Until(t, patience, func() error {
		if s := e.state(t); s.Status != Up || s.Error != "" {
			return fmt.Errorf("session is %+v", s)
		}
		return nil
	})
}

func TestPathCut(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, ca, cb := pair(ns, "10.68.1.1", "10.68.1.2", nil)
		a, b := up(t, ns, router, ca, cb)
		pokes := a.pokes.Load()
		router.Exec("nft", "add table ip cut")
		cut := time.Now()
		router.Exec("nft", "add chain ip cut in { type filter hook input priority 0 ; policy drop ; }")
		s := b.reaches(t, Down)
		if s.Diagnostic != "control detection time expired" || s.Downs != 1 || !s.WasUp || s.DownSince.Before(cut) {
			t.Errorf("the router's end: %+v", s)
		}
		// Only one direction is cut, so the other end tells us at once, and by its second
		// packet we are in Init.
		netnstest.Until(t, patience, func() error {
			if s = a.state(t); s.Status == Up {
				return fmt.Errorf("our end: %+v", s)
			}
			return nil
		})
		if s.RemoteDiagnostic != "control detection time expired" || s.Downs != 1 || s.Diagnostic != "neighbor signaled session down" && s.Status == Down {
			t.Errorf("our end: %+v", s)
		}
		if a.pokes.Load() == pokes {
			t.Error("no poke")
		}
		router.Exec("nft", "delete table ip cut")
		a.heals(t)
		b.heals(t)
	})
}

func TestInterfaceTroubles(t *testing.T) {
	t.Parallel() // it waits for five detection times
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, ca, cb := pair(ns, "10.68.1.1", "10.68.1.2", nil)
		a, _ := up(t, ns, router, ca, cb)

		ns.IP("link set dev en1 down")
		a.fails(t, "en1 is down")
		ns.IP("link set dev en1 up")
		a.heals(t)

		router.IP("link set dev p1 down")
		a.fails(t, "en1 has no carrier")
		router.IP("link set dev p1 up")
		a.heals(t)

		ns.IP("addr del 10.68.1.1/24 dev en1")
		a.fails(t, "address 10.68.1.1")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		a.heals(t)

		ns.IP("link set dev en1 name en9")
		a.fails(t, "interface en1: no such device")
		ns.IP("link set dev en9 name en1")
		a.heals(t)

		ns.IP("link del en1")
		a.fails(t, "interface en1: no such device")
		ns.VethTo("en1", router, "p1")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		router.IP("addr add 10.68.1.2/24 dev p1")
		a.heals(t)
		if s := a.state(t); s.Downs != 5 {
			t.Errorf("%+v, want 5 downs", s)
		}
	})
}

func TestStartsBeforeItsInterface(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		cfg := SessionConfig{
			Peer: netip.MustParseAddr("fe80::2"), Local: netip.MustParseAddr("fe80::1%en1"), Interface: "en1",
			MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: calm,
		}
		a := start(t, ns, cfg)
		a.fails(t, "interface en1: no such device")
		router, _, cb := pair(ns, "fe80::1", "fe80::2", nil)
		start(t, router, cb)
		a.heals(t)
	})
}

func TestMultihop(t *testing.T) {
	for name, c := range map[string]struct {
		local, peer string
		ttl         uint8
		up          bool
	}{
		"ipv4":           {"10.68.1.1", "10.68.2.2", 0, true},
		"ipv6":           {"fd68:1::1", "fd68:2::2", 254, true},
		"ttl is checked": {"10.68.1.1", "10.68.2.2", 255, false},
	} {
		t.Run(name, func(t *testing.T) {
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				gw, far := routed(ns)
				_ = gw
				a := SessionConfig{
					Peer: netip.MustParseAddr(c.peer), Local: netip.MustParseAddr(c.local), Multihop: true, MinTTL: c.ttl,
					MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: calm,
				}
				b := a
				b.Peer, b.Local = a.Local, a.Peer
				ea := start(t, ns, a)
				start(t, far, b)
				if c.up {
					ea.reaches(t, Up)
					return
				}
				netnstest.Until(t, patience, func() error {
					if s := ea.state(t); s.Dropped < 2 || s.LastDrop != "TTL too low" || s.Status != Down || s.RemoteStatus != "" {
						return fmt.Errorf("%+v", s)
					}
					return nil
				})
			})
		})
	}
}

// routed makes two namespaces in a row: a router and a host behind it.
func routed(ns netnstest.NS) (gw, far netnstest.NS) {
	gw, far = ns.New("gw"), ns.New("far")
	ns.VethTo("en1", gw, "g1")
	gw.VethTo("g2", far, "f1")
	gw.Sysctl("net/ipv4/ip_forward", "1")
	gw.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, a := range []struct {
		ns        netnstest.NS
		dev, v4   string
		v6, route string
	}{
		{ns, "en1", "10.68.1.1/24", "fd68:1::1/64", "1"},
		{gw, "g1", "10.68.1.9/24", "fd68:1::9/64", ""},
		{gw, "g2", "10.68.2.9/24", "fd68:2::9/64", ""},
		{far, "f1", "10.68.2.2/24", "fd68:2::2/64", "2"},
	} {
		a.ns.IP("addr add %s dev %s", a.v4, a.dev)
		a.ns.IP("addr add %s dev %s nodad", a.v6, a.dev)
		if a.route != "" {
			a.ns.IP("route add default via 10.68.%s.9", a.route)
			a.ns.IP("-6 route add default via fd68:%s::9", a.route)
		}
	}
	return gw, far
}

// Timers change without leaving Up; a removed session says goodbye and its
// return is heard; another key breaks it and the right one mends it.
func TestSetWhileRunning(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, ca, cb := pair(ns, "10.68.1.1", "10.68.1.2", func(c *SessionConfig) {
			c.Auth = &Auth{Type: MeticulousKeyedSHA1, KeyID: 1, Key: "one"}
		})
		a, b := up(t, ns, router, ca, cb)
		since := a.state(t).Since

		a.cfg.MinTx, a.cfg.MinRx, a.cfg.Multiplier = 100*time.Millisecond, 20*time.Millisecond, calm/2
		a.m.Set([]SessionConfig{a.cfg})
		netnstest.Until(t, patience, func() error {
			sa, sb := a.state(t), b.state(t)
			if sa.TxInterval != 100*time.Millisecond || sa.DetectionTime != calm*50*time.Millisecond || sb.DetectionTime != calm/2*100*time.Millisecond {
				return fmt.Errorf("%+v\n%+v", sa, sb)
			}
			return nil
		})
		if s := a.state(t); s.Since != since || s.Downs != 0 || b.state(t).Downs != 0 {
			t.Errorf("left Up: %+v", s)
		}

		a.m.Set(nil)
		s := b.reaches(t, Down)
		if s.RemoteStatus != AdminDown || s.RemoteDiagnostic != "administratively down" || s.Downs != 0 {
			t.Errorf("removed: %+v", s)
		}
		a.m.Set([]SessionConfig{a.cfg})
		a.heals(t)
		b.heals(t)

		// a waits for b with another key, and back; b cannot know that of a.
		a.cfg.Auth = &Auth{Type: MeticulousKeyedSHA1, KeyID: 1, Key: "two"}
		a.m.Set([]SessionConfig{a.cfg})
		rotating := func(want bool) {
			t.Helper()
			netnstest.Until(t, patience, func() error {
				if s := a.state(t); s.Status != Up || s.Rotating != want {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
		}
		rotating(true)
		a.cfg.Auth = &Auth{Type: MeticulousKeyedSHA1, KeyID: 1, Key: "one"}
		a.m.Set([]SessionConfig{a.cfg})
		rotating(false)
		if n := a.state(t).Downs + b.state(t).Downs; n != 0 {
			t.Errorf("%d downs, all were by order", n)
		}
	})
}

func TestWrongEntriesHarmNobody(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, ca, cb := pair(ns, "10.68.1.1", "10.68.1.2", nil)
		bad := ca
		bad.Peer, bad.MinTx = netip.MustParseAddr("10.68.1.3"), time.Millisecond
		a := &end{cfg: ca, m: New(Options{})}
		a.m.Set([]SessionConfig{bad, ca, ca, {}})
		a.run(t, ns)
		start(t, router, cb)
		a.reaches(t, Up)
		var got []string
		for _, s := range a.m.State().Sessions {
			got = append(got, string(s.Status)+" "+s.Error)
		}
		want := []string{
			"Down min_tx 1ms is not within 10ms and 1m0s", "Up ", "Down the same session is wanted twice",
			"Down peer invalid IP is not an address of a host",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}
