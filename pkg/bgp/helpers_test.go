package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// testPort is the port on which every speaker and router of these tests listens.
const testPort = 17917

// patience bounds what has to come at some time: only a failure uses it up.
const patience = 30 * time.Second

// addresses hands out loopback addresses that no other test uses.
var nextAddress atomic.Uint32

func addr(t *testing.T) netip.Addr {
	t.Helper()
	n := nextAddress.Add(1)
	pid := uint32(os.Getpid())
	return netip.AddrFrom4([4]byte{127, byte(64 + pid%128), byte(pid/128%250 + n/250), byte(1 + n%250)})
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Log(string(p[:len(p)-1]))
	return len(p), nil
}

// testLog writes to the test's log, and drops what comes after the test.
func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	var done atomic.Bool
	t.Cleanup(func() { done.Store(true) })
	w := &gate{w: testWriter{t}, closed: &done}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type gate struct {
	w      testWriter
	closed *atomic.Bool
}

func (g *gate) Write(p []byte) (int, error) {
	if g.closed.Load() {
		return len(p), nil
	}
	return g.w.Write(p)
}

// eventually polls until ok or the deadline, and then fails with what says.
func eventually(t *testing.T, within time.Duration, what func() string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("not within %s: %s", within, what())
		}
		<-tick.C
	}
	return time.Since(start)
}

// startSpeaker runs a speaker until the test ends.
func startSpeaker(t *testing.T, o SpeakerOptions) *Speaker {
	t.Helper()
	if o.Log == nil {
		o.Log = testLog(t)
	}
	s := NewSpeaker(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(func() {
		stop, end := context.WithTimeout(context.Background(), 2*time.Second)
		defer end()
		_ = s.Close(stop, StopDrain, "test over")
		cancel()
		<-done
	})
	return s
}

// conf is a speaker that listens on its address and has the given peers.
func conf(name string, asn uint32, local netip.Addr, peers ...Peer) SpeakerConfig {
	for i := range peers {
		peers[i].LocalAddress = local
	}
	return SpeakerConfig{
		Name: name, ASN: asn, RouterID: local, ListenPort: testPort, ListenAddresses: []netip.Addr{local}, Peers: peers,
	}
}

// graceful turns graceful restart on. GoBGP has data races of its own with it,
// so tests that run such a speaker in this process are not built with the race
// detector.
func graceful(cfg SpeakerConfig) SpeakerConfig {
	cfg.GracefulRestart = GracefulRestart{Enabled: true, RestartTime: 20 * time.Second}
	return cfg
}

func peer(address netip.Addr, asn uint32) Peer {
	return Peer{
		Address: address, ASN: asn, Port: testPort, HoldTime: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: time.Second,
	}
}

func path4(n int) Path {
	return Path{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + n>>16), byte(n >> 8), byte(n)}), 32)}
}

func apply(t *testing.T, s *Speaker, cfg SpeakerConfig) {
	t.Helper()
	if err := s.Apply(context.Background(), cfg); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func peerState(s *SpeakerState, a netip.Addr) PeerState {
	for _, p := range s.Peers {
		if p.Address == a {
			return p
		}
	}
	return PeerState{}
}

func awaitEstablished(t *testing.T, s *Speaker, a netip.Addr) time.Duration {
	t.Helper()
	return eventually(t, patience, func() string { return fmt.Sprintf("established with %s: %+v", a, s.State()) },
		func() bool { return peerState(s.State(), a).State == Established })
}

// prefixes returns what a router received from one peer.
func prefixes(s *Speaker, from netip.Addr) map[netip.Prefix]netip.Addr {
	out := map[netip.Prefix]netip.Addr{}
	for _, r := range s.Received() {
		if r.Peer == from {
			out[r.Prefix] = r.NextHop
		}
	}
	return out
}

// awaitListening waits until a connection of the peer would be taken.
func awaitListening(t *testing.T, s *Speaker, a netip.Addr) {
	t.Helper()
	eventually(t, patience, func() string { return fmt.Sprintf("active for %s: %+v", a, s.State()) },
		func() bool { return peerState(s.State(), a).State == Active })
}

// countConnections listens on an address and counts who connects.
func countConnections(t *testing.T, at netip.Addr) func() int64 {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", tcpAddr(at, testPort).String())
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return n.Load
}
