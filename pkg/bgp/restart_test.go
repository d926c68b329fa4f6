//go:build !race

package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	api "github.com/osrg/gobgp/v3/api"
)

type openBits struct {
	Restart, Forwarding bool
	Seconds             uint16
}

func bits(p *rawPeer) openBits {
	r, f, s := p.restarting()
	return openBits{r, f, s}
}

// A cold start claims nothing, and sends at once.
func TestColdStartClaimsNothing(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := graceful(conf("en1", 65010, host, peer(router, 65001)))
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{restart: 120, waits: true})
	p.await(patience, hasPrefix("[+10.100.0.1/32]"))
	if diff := cmp.Diff(openBits{Seconds: 20}, bits(p)); diff != "" {
		t.Errorf("OPEN (-want +got):\n%s", diff)
	}
}

// After a crash every router is told that its routes were kept, also one that
// comes up after others are in sync; a later loss of the session is no restart.
func TestRestartIsClaimedOncePerPeer(t *testing.T) {
	host, r1, r2, r3 := addr(t), addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{Restarting: true})
	cfg := graceful(conf("en1", 65010, host, peer(r1, 65001), peer(r2, 65002), peer(r3, 65003)))
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	restarted := openBits{Restart: true, Forwarding: true, Seconds: 20}

	waits := dialRaw(t, r1, host, 65001, rawOptions{restart: 120, waits: true})
	if got := waits.quiet(300 * time.Millisecond); got != nil {
		t.Errorf("sent before the End-of-RIB: %q", got)
	}
	waits.endOfRIB()
	waits.await(patience, hasPrefix("[+10.100.0.1/32]"))

	// The flag of the others is cleared with that, and set again at once.
	eventually(t, patience, func() string { return "restart flag of the others" }, func() bool {
		peers, err := s.listPeers(t.Context(), s.server.Load())
		return err == nil && peers[r2].GetGracefulRestart().GetLocalRestarting() && peers[r3].GetGracefulRestart().GetLocalRestarting() &&
			!peers[r1].GetGracefulRestart().GetLocalRestarting()
	})
	helper := dialRaw(t, r2, host, 65002, rawOptions{restart: 120})
	helper.await(patience, hasPrefix("[+10.100.0.1/32]"))
	eventually(t, patience, func() string { return "restart flag of the last" }, func() bool {
		peers, err := s.listPeers(t.Context(), s.server.Load())
		return err == nil && peers[r3].GetGracefulRestart().GetLocalRestarting()
	})
	plain := dialRaw(t, r3, host, 65003, rawOptions{})
	plain.await(patience, hasPrefix("[+10.100.0.1/32]"))
	for name, p := range map[string]*rawPeer{"waits": waits, "helper": helper, "plain": plain} {
		if diff := cmp.Diff(restarted, bits(p)); diff != "" {
			t.Errorf("%s: OPEN (-want +got):\n%s", name, diff)
		}
	}

	_ = helper.conn.Close()
	again := dialRaw(t, r2, host, 65002, rawOptions{restart: 120})
	again.await(patience, hasPrefix("[+10.100.0.1/32]"))
	if diff := cmp.Diff(openBits{Seconds: 20}, bits(again)); diff != "" {
		t.Errorf("later OPEN (-want +got):\n%s", diff)
	}
	if got := peerState(s.State(), r1); got.Transitions != 1 {
		t.Errorf("another session flapped: %+v", got)
	}
}

// A router that connects between the moment when GoBGP forgets the restart and the
// moment when the peer is added anew gets no OPEN, for it would say nothing of it.
func TestNoOpenWithoutTheRestart(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{Restarting: true})
	cfg := graceful(conf("en1", 65010, host, peer(router, 65001)))
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	awaitListening(t, s, router)
	s.mu.Lock() // nobody adds peers now
	s.adapter.Info("sync finished", nil)
	conn, err := connect(t.Context(), router, host, nil)
	if err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		var got []byte
		if got, err = io.ReadAll(conn); len(got) > 0 {
			t.Errorf("the router was sent %x", got)
		}
		_ = conn.Close()
	}
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	p := dialRaw(t, router, host, 65001, rawOptions{restart: 120})
	p.await(patience, hasPrefix("[+10.100.0.1/32]"))
	if got := bits(p); !got.Restart || !got.Forwarding {
		t.Errorf("OPEN has %+v", got)
	}
}

// When the restart is forgotten, a connection is left alone whose OPEN was on its way
// before; one is hung up whose OPEN may have come after.
func TestOpenOnItsWayWhenTheRestartIsForgotten(t *testing.T) {
	for name, before := range map[string]bool{"sent before": true, "sent after": false} {
		t.Run(name, func(t *testing.T) {
			host, router := addr(t), addr(t)
			s := startSpeaker(t, SpeakerOptions{Restarting: true})
			apply(t, s, graceful(conf("en1", 65010, host, peer(router, 65001))))
			awaitListening(t, s, router)
			conn, err := connect(t.Context(), router, host, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close() //nolint:errcheck // the test is over
			if err = conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			open := make([]byte, 4096)
			if n, failed := conn.Read(open); failed != nil || n < 19 || open[18] != 1 {
				t.Fatalf("%d octets instead of an OPEN: %v", n, failed)
			}
			if before {
				s.adapter.Debug("EOR received", nil)
			}
			s.adapter.Info("sync finished", nil)
			wait := patience // until it is hung up
			if before {
				wait = 200 * time.Millisecond
			}
			if err = conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
				t.Fatal(err)
			}
			_, err = conn.Read(open)
			if alive := errors.Is(err, os.ErrDeadlineExceeded); alive != before {
				t.Errorf("connection is alive: %t, want %t: %v", alive, before, err)
			}
		})
	}
}

// A session that has just come up is left alone, although its event has not been
// seen yet: its flag is cleared because it is in sync.
func TestFreshSessionIsNoLostRestart(t *testing.T) {
	s := NewSpeaker(SpeakerOptions{Log: testLog(t), Restarting: true})
	defer s.stopWatch()
	rec := &session{state: Active, gr: GracefulRestart{Enabled: true, RestartTime: time.Minute}}
	for state, want := range map[api.PeerState_SessionState]bool{
		api.PeerState_IDLE: true, api.PeerState_ACTIVE: true,
		api.PeerState_OPENSENT: false, api.PeerState_OPENCONFIRM: false, api.PeerState_ESTABLISHED: false,
	} {
		for _, flag := range []bool{false, true} {
			p := &api.Peer{State: &api.PeerState{SessionState: state}, GracefulRestart: &api.GracefulRestart{LocalRestarting: flag}}
			if got := s.lostRestart(rec, p); got != (want && !flag) {
				t.Errorf("%v, flag %t: lost is %t", state, flag, got)
			}
		}
	}
}

// A process that is replaced for its listeners before any session came up leaves
// its successor the word for the routers, which still keep the routes of the
// process before both. One that withdrew leaves nothing.
func TestReplacedProcessStillRestarts(t *testing.T) {
	for name, withdraws := range map[string]bool{"listeners": false, "router id": true} {
		t.Run(name, func(t *testing.T) {
			host, other, router := addr(t), addr(t), addr(t)
			taken, err := net.ListenTCP("tcp", tcpAddr(other, testPort))
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close() //nolint:errcheck // closed below, or the test has failed
			m := startManager(t, Options{Restarting: true}, nil)
			cfg := graceful(conf("en1", 65010, host))
			cfg.Paths = []Path{path4(1)}
			if !withdraws {
				cfg.ListenAddresses = append(cfg.ListenAddresses, other)
			}
			announce(m, cfg)
			// It has the path only once it listens.
			first := awaitPhase(t, m, "en1", func(s SpeakerState) bool { return s.Phase == Running && len(s.Announced) == 1 })
			if err := taken.Close(); err != nil {
				t.Fatal(err)
			}
			if withdraws {
				cfg.RouterID = other
				announce(m, cfg)
			}
			awaitPhase(t, m, "en1", func(s SpeakerState) bool { return s.Phase == Running && s.PID != first.PID })
			cfg.Peers = conf("en1", 65010, host, peer(router, 65001)).Peers
			announce(m, cfg)
			p := dialRaw(t, router, host, 65001, rawOptions{restart: 120, waits: true})
			want := openBits{Restart: !withdraws, Forwarding: !withdraws, Seconds: 20}
			if diff := cmp.Diff(want, bits(p)); diff != "" {
				t.Errorf("OPEN (-want +got):\n%s", diff)
			}
		})
	}
}

// A killed process is started again; a router that helps with graceful restart
// never lets the route go.
func TestKilledProcessKeepsItsRoutes(t *testing.T) {
	host, router := addr(t), addr(t)
	r := startSpeaker(t, SpeakerOptions{AcceptPaths: true})
	apply(t, r, graceful(conf("r1", 65001, router, peer(host, 65010))))
	m := startManager(t, Options{}, nil)
	cfg := graceful(conf("en1", 65010, host, peer(router, 65001)))
	cfg.Paths = []Path{path4(1), path4(2)}
	announce(m, cfg)
	eventually(t, patience, func() string { return fmt.Sprint(r.Received()) }, func() bool { return len(r.Received()) == 2 })
	awaitUp(t, m, "en1", 1)

	var mu sync.Mutex
	fewest := 2
	watch, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.opt.Poke = nil
	go func() {
		for watch.Err() == nil {
			n := 0
			_ = eachPath(watch, r.server.Load(), nil, func(netip.Prefix, *api.Path) { n++ })
			mu.Lock()
			fewest = min(fewest, n)
			mu.Unlock()
		}
	}()
	if err := syscall.Kill(speakerState(m, "en1").PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	st := awaitPhase(t, m, "en1", func(s SpeakerState) bool { return s.Restarts == 1 && s.Phase == Running })
	if !strings.Contains(st.LastExit, "signal: killed") {
		t.Errorf("last exit is %q", st.LastExit)
	}
	awaitUp(t, m, "en1", 1) // GoBGP as the router takes no connection for 5 s
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", r.State()) },
		func() bool { return peerState(r.State(), host).State == Established })
	<-time.After(500 * time.Millisecond) // the End-of-RIB, at which stale routes go
	mu.Lock()
	defer mu.Unlock()
	if fewest != 2 {
		t.Errorf("the router had only %d routes at some time", fewest)
	}
}
