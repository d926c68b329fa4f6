package bfd

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// end is one end of a session under test.
type end struct {
	m     *Manager
	cfg   SessionConfig
	pokes atomic.Uint64
	stop  func()
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
func (e *end) reaches(t *testing.T, want SessionStatus, within time.Duration) SessionState {
	t.Helper()
	var s SessionState
	netnstest.Until(t, within, func() error {
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
		MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 3,
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
				a.reaches(t, Up, 5*time.Second)
				b.reaches(t, Up, time.Second)
				netnstest.Until(t, 5*time.Second, func() error {
					if s := a.state(t); s.TxInterval != 50*time.Millisecond || s.DetectionTime != 150*time.Millisecond {
						return fmt.Errorf("timers of %+v", s)
					}
					return nil
				})
				t.Logf("%+v", a.state(t))
				b.stop()
				s := a.reaches(t, Down, time.Second)
				if s.RemoteStatus != AdminDown || s.Downs != 0 {
					t.Errorf("after the other end stopped: %+v", s)
				}
			})
		})
	}
}
