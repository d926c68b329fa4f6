package bfd

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// When the engine was held up during a flood, a packet of the session may wait
// behind more than it reads in a turn. The session is not silent then.
func TestPacketsBehindAFlood(t *testing.T) {
	for name, waits := range map[string]bool{"a packet waits": true, "none waits": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *Manager, f *fakeNet, _ *atomic.Int64) {
				f.bringUp(t, m)
				detection := m.State().Sessions[0].DetectionTime
				queue := make([]datagram, 0, 1001)
				for range 1000 {
					queue = append(queue, f.datagram(packet{state: stateUp, my: 9, your: 4711, mult: 3}))
				}
				if waits {
					queue = append(queue, f.datagram(packet{state: stateUp, my: 9, your: f.ours(), mult: 3, minTx: 50_000, minRx: 50_000}))
				}
				// They came at even distances until just before the detection.
				start := time.Now()
				for i := range queue {
					queue[i].at = start.Add(detection * 9 / 10 * time.Duration(i) / 1000)
				}
				time.Sleep(detection - time.Nanosecond)
				f.set(func() { f.in, f.burst = queue, 100 })
				time.Sleep(detection / 4)
				want, downs := Down, uint64(1)
				if waits {
					want, downs = Up, 0
				}
				if s := m.State().Sessions[0]; s.Status != want || s.Downs != downs {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A flood without an end puts a detection off, not away.
func TestSilenceInAnEndlessFlood(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, f *fakeNet, _ *atomic.Int64) {
		f.bringUp(t, m)
		old := f.datagram(packet{state: stateUp, my: 9, your: 4711, mult: 3})
		f.set(func() { f.burst = 1 })
		for range 3000 {
			f.set(func() { f.in = append(f.in, slices.Repeat([]datagram{old}, 10)...) })
			f.wake()
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		if s := m.State().Sessions[0]; s.Status != Down || s.Downs != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// datagram is a packet of the peer that comes now.
func (f *fakeNet) datagram(p packet) datagram {
	b := make([]byte, headerLen)
	p.encode(b, 0)
	d := netConfig()
	return datagram{data: b, src: d.Peer, dst: d.Local, ifindex: 4, ttl: 255, at: time.Now()}
}
