package bfd

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeNet is a transport whose packets go to the test.
type fakeNet struct {
	mu      sync.Mutex
	wakes   chan struct{}
	in      []datagram
	sent    []packet
	dialErr error
	sendErr error
	checks  func() (bool, error)
	index   int
	burst   int // packets in a turn, 0 for all
}

type fakePath struct{ *fakeNet }

func newFakeNet() *fakeNet { return &fakeNet{wakes: make(chan struct{}, 1), index: 4} }

func (f *fakeNet) dial(*SessionConfig) (path, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dialErr != nil {
		return nil, f.dialErr
	}
	return &fakePath{f}, nil
}

func (f *fakeNet) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.wakes:
	}
}

func (f *fakeNet) wake() {
	select {
	case f.wakes <- struct{}{}:
	default:
	}
}

func (f *fakeNet) receive(deliver func(*datagram)) (behind time.Time) {
	f.mu.Lock()
	in := f.in
	f.in = nil
	if n := len(in); f.burst > 0 && n >= f.burst {
		in, f.in = in[:f.burst], in[f.burst:]
		behind = in[f.burst-1].at
	}
	f.mu.Unlock()
	for i := range in {
		deliver(&in[i])
	}
	return behind
}

func (f *fakeNet) close() {}

func (p *fakePath) send(b []byte) error {
	got, _, why := decode(b)
	if why != dropNone {
		return errors.New(why.words())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sendErr == nil {
		p.sent = append(p.sent, got)
	}
	return p.sendErr
}

func (p *fakePath) index() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fakeNet.index
}

// ours is the discriminator that the session sends.
func (f *fakeNet) ours() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent[0].my
}

// set changes what the network does.
func (f *fakeNet) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (p *fakePath) check() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checks == nil {
		return false, nil
	}
	return p.checks()
}

func (p *fakePath) close() {}

func netConfig() SessionConfig {
	c := *testConfig()
	c.Peer, c.Local, c.Interface = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1"), "en1"
	return c
}

// say brings a packet of the peer to the engine.
func (f *fakeNet) say(p packet, change func(*datagram)) {
	b := make([]byte, headerLen)
	p.encode(b, 0)
	d := datagram{
		data: b, src: netip.MustParseAddr("192.0.2.2"), dst: netip.MustParseAddr("192.0.2.1"),
		ifindex: 4, ttl: 255, at: time.Now(),
	}
	if change != nil {
		change(&d)
	}
	f.set(func() { f.in = append(f.in, d) })
	f.wake()
	synctest.Wait()
}

// bubble runs a Manager over a fake network in fake time.
func bubble(t *testing.T, test func(t *testing.T, m *Manager, f *fakeNet, pokes *atomic.Int64)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var pokes atomic.Int64
		m := New(Options{Poke: func() { pokes.Add(1) }, Log: slog.New(slog.DiscardHandler)})
		f := newFakeNet()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		m.Set([]SessionConfig{netConfig()})
		go func() { done <- m.run(ctx, f) }()
		synctest.Wait()
		test(t, m, f, &pokes)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (f *fakeNet) bringUp(t *testing.T, m *Manager) {
	t.Helper()
	f.say(packet{state: stateDown, my: 9, mult: 3, minTx: 50_000, minRx: 50_000}, nil)
	f.say(packet{state: stateUp, my: 9, your: f.ours(), mult: 3, minTx: 50_000, minRx: 50_000}, nil)
	if s := m.State().Sessions[0]; s.Status != Up {
		t.Fatalf("%+v", s)
	}
}

// What must not be taken is counted and changes nothing.
func TestPacketsThatAreNotTaken(t *testing.T) {
	up := packet{state: stateUp, my: 9, mult: 3, minTx: 50_000, minRx: 50_000}
	for name, c := range map[string]struct {
		packet packet
		change func(*datagram)
		your   bool
		why    string
	}{
		"ttl 254":            {up, func(d *datagram) { d.ttl = 254 }, true, "TTL too low"},
		"other interface":    {up, func(d *datagram) { d.ifindex = 5 }, true, "came in by another interface or port"},
		"other port":         {up, func(d *datagram) { d.multihop = true }, true, "came in by another interface or port"},
		"version":            {up, func(d *datagram) { d.data[0] = 0 }, true, "version is not 1"},
		"short":              {up, func(d *datagram) { d.data = d.data[:20] }, true, "shorter than a control packet"},
		"unknown session":    {packet{state: stateDown, my: 9, your: 12345, mult: 3}, nil, false, "your discriminator is of no session"},
		"reflected":          {packet{state: stateDown, mult: 3}, nil, false, "own packet came back"},
		"zero discriminator": {up, nil, false, "your discriminator is 0 in a state other than Down and AdminDown"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *Manager, f *fakeNet, pokes *atomic.Int64) {
				f.bringUp(t, m)
				before, poked := m.State().Sessions[0], pokes.Load()
				p := c.packet
				if c.your {
					p.your = f.ours()
				}
				if p.my == 0 {
					p.my = f.ours()
				}
				p.state = min(p.state, stateUp)
				f.say(p, c.change)
				want := before
				want.Dropped, want.LastDrop = before.Dropped+1, c.why
				if d := cmp.Diff(want, m.State().Sessions[0], cmp.Comparer(sameAddr)); d != "" || pokes.Load() != poked {
					t.Errorf("(-want +got), %d pokes:\n%s", pokes.Load()-poked, d)
				}
			})
		})
	}
}

func sameAddr(a, b netip.Addr) bool { return a == b }

// Nobody's packets are nobody's business.
func TestStrangersPackets(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, f *fakeNet, _ *atomic.Int64) {
		before := m.State()
		f.say(packet{state: stateDown, my: 9, mult: 3}, func(d *datagram) { d.src = netip.MustParseAddr("192.0.2.66") })
		f.say(packet{state: stateDown, my: 9, mult: 3}, func(d *datagram) { d.dst = netip.MustParseAddr("192.0.2.66") })
		if d := cmp.Diff(before, m.State(), cmp.Comparer(sameAddr)); d != "" {
			t.Error(d)
		}
	})
}

// A path that cannot be opened or fails is tried again until it works.
func TestPathErrors(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, f *fakeNet, pokes *atomic.Int64) {
		want := func(text string) {
			t.Helper()
			time.Sleep(checkInterval + time.Second)
			synctest.Wait()
			if s := m.State().Sessions[0]; s.Error != text || s.Status != Down {
				t.Errorf("%+v, want error %q", s, text)
			}
		}
		want("")
		f.set(func() { f.sendErr = errors.New("send: no way") })
		want("send: no way")
		f.set(func() { f.sendErr = nil })
		want("")
		f.set(func() { f.checks = func() (bool, error) { return false, errors.New("no carrier") } })
		want("no carrier")
		f.set(func() {
			f.dialErr = errors.New("no device")
			f.checks = func() (bool, error) { return true, nil }
		})
		want("no device")
		f.set(func() { f.dialErr, f.checks, f.index = nil, nil, 77 })
		want("")
		f.say(packet{state: stateDown, my: 9, mult: 3, minTx: 50_000, minRx: 50_000}, func(d *datagram) { d.ifindex = 77 })
		if s := m.State().Sessions[0]; s.Status != Init {
			t.Errorf("by the new interface: %+v", s)
		}
		if n := pokes.Load(); n != 6 {
			t.Errorf("%d pokes, want one for each change", n)
		}
	})
}

// A change of what counts pokes once; packets alone do not.
func TestPokes(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, f *fakeNet, pokes *atomic.Int64) {
		f.bringUp(t, m)
		poked := pokes.Load()
		alive := packet{state: stateUp, my: 9, your: f.ours(), mult: 3, minTx: 50_000, minRx: 50_000}
		for range 100 {
			time.Sleep(50 * ms)
			synctest.Wait() // the engine may be due at the same time
			f.say(alive, nil)
		}
		s := m.State().Sessions[0]
		if pokes.Load() != poked || s.Status != Up || s.Received < 100 || s.Sent < 100 {
			t.Errorf("%d pokes, %+v", pokes.Load()-poked, s)
		}
		alive.state = stateAdminDown
		f.say(alive, nil)
		if s = m.State().Sessions[0]; pokes.Load() != poked+1 || s.RemoteStatus != AdminDown || s.Downs != 0 {
			t.Errorf("%d pokes, %+v", pokes.Load()-poked, s)
		}
	})
}

// The end of the program says goodbye three times within its bound.
func TestEndSaysGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := New(Options{}), newFakeNet()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		m.Set([]SessionConfig{netConfig()})
		go func() { done <- m.run(ctx, f) }()
		synctest.Wait()
		f.bringUp(t, m)
		f.set(func() { f.sent = nil })
		began := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		goodbyes := 0
		for _, p := range f.sent {
			if p.state == stateAdminDown && p.diag == diagAdminDown && p.your == 9 {
				goodbyes++
			}
		}
		if took := time.Since(began); goodbyes != stopPackets || took > stopMax {
			t.Errorf("%d goodbyes in %s: %+v", goodbyes, took, f.sent)
		}
	})
}

// quietNet hands over one datagram per turn and forgets what is sent.
type quietNet struct {
	fakeNet
	in *datagram
}

func (q *quietNet) dial(*SessionConfig) (path, error) { return quietPath{}, nil }

func (q *quietNet) receive(deliver func(*datagram)) (behind time.Time) {
	if q.in != nil {
		deliver(q.in)
		q.in = nil
	}
	return behind
}

type quietPath struct{}

func (quietPath) send([]byte) error    { return nil }
func (quietPath) index() int           { return 4 }
func (quietPath) check() (bool, error) { return false, nil }
func (quietPath) close()               {}

// An end that goes on with our former discriminator makes a passive session
// speak for a detection time: otherwise both would wait for ever.
func TestPassiveHailsWhoIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{})
		f := newFakeNet()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		cfg := netConfig()
		cfg.Passive = true
		m.Set([]SessionConfig{cfg})
		go func() { done <- m.run(ctx, f) }()
		time.Sleep(10 * time.Second)
		stale := packet{state: stateDown, my: 9, your: 1234, mult: 3, minTx: 1_000_000, minRx: 50_000}
		sent := func() int {
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.sent)
		}
		f.say(stale, func(d *datagram) { d.ttl = 254 })
		time.Sleep(10 * time.Second)
		if n := sent(); n != 0 {
			t.Errorf("%d packets to nobody and for a packet from afar", n)
		}
		for range 20 { // no faster for a flood
			f.say(stale, nil)
			time.Sleep(time.Millisecond)
		}
		if n := sent(); n != 1 {
			t.Errorf("%d packets at once", n)
		}
		time.Sleep(20 * time.Second)
		if n := sent(); n < 3 || n > 5 {
			t.Errorf("%d packets within a detection time of 3 s", n)
		}
		if s := m.State().Sessions[0]; s.Dropped != 21 || s.LastDrop != dropTTL.words() && s.LastDrop != dropUnknown.words() || s.Status != Down {
			t.Errorf("%+v", s)
		}
		f.say(stale, nil)
		f.say(packet{state: stateInit, my: 9, your: f.ours(), mult: 3, minTx: 50_000, minRx: 50_000}, nil)
		if s := m.State().Sessions[0]; s.Status != Up {
			t.Errorf("%+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
