package bfd

import (
	"log/slog"
	"testing"
	"time"
)

// rounds are the kinds of authentication whose packets are counted.
func rounds() map[string]*Auth {
	return map[string]*Auth{"plain": nil, "sha1": {Type: MeticulousKeyedSHA1, Key: "secret"}}
}

// receiveAndSend is one packet of the peer and one of ours through an engine.
func receiveAndSend(tb testing.TB, auth *Auth) (turn func(), check func(turns int)) {
	tb.Helper()
	f := &quietNet{}
	e := newEngine(f, fixedRand(), newTracer(tb.Context(), slog.New(slog.DiscardHandler)), New(Options{}))
	cfg := netConfig()
	cfg.Auth = auth
	e.now = time.Now()
	w := []wanted{{cfg: cfg, slot: newSlot(keyOf(&cfg), &cfg, nil)}}
	e.turn(&w)
	e.turn(nil)
	en := e.all[keyOf(&cfg)]
	peer := newSession(&cfg, 9, fixedRand(), e.now)
	peer.remoteDiscr, peer.state = en.localDiscr, stateUp
	en.state, en.remoteState = stateUp, stateUp
	buf := make([]byte, maxPacketLen)
	d := datagram{src: cfg.Peer, dst: cfg.Local, ttl: 255, ifindex: 4}
	return func() {
			now := time.Now()
			peer.nextTx = now
			d.data, d.at = buf[:peer.output(buf, now)], now
			f.in = &d
			en.nextTx, en.at = now, now
			e.turn(nil)
		}, func(turns int) {
			if s := w[0].slot.state(); s.Received < uint64(turns) || s.Sent < uint64(turns) || s.Dropped > 0 {
				tb.Fatalf("%d turns, but %+v", turns, s)
			}
		}
}

// Nothing is allocated for a packet that comes and one that goes.
func TestEngineDoesNotAllocate(t *testing.T) {
	for name, auth := range rounds() {
		t.Run(name, func(t *testing.T) {
			turn, check := receiveAndSend(t, auth)
			const turns = 200
			if n := testing.AllocsPerRun(turns, turn); n != 0 {
				t.Errorf("%v allocations for a packet received and sent", n)
			}
			check(turns)
		})
	}
}

// Rx and tx of one packet through the engine.
func BenchmarkReceiveAndSend(b *testing.B) {
	for name, auth := range rounds() {
		b.Run(name, func(b *testing.B) {
			turn, check := receiveAndSend(b, auth)
			b.ReportAllocs()
			for b.Loop() {
				turn()
			}
			check(b.N)
		})
	}
}
