package bfd

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ms = time.Millisecond

// epoch is any time with a monotonic clock.
func epoch() time.Time { return time.Now() }

func fixedRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func testConfig() *SessionConfig {
	return &SessionConfig{MinTx: 50 * ms, MinRx: 50 * ms, Multiplier: 3}
}

// wire is two sessions and the time between them, without loss or delay unless
// cut.
type wire struct {
	t    *testing.T
	now  time.Time
	a, b *session
	cut  bool
	// strangers tells that either end may refuse what the other sends.
	strangers bool
	last      map[*session]packet // what each sent last
	sent      map[*session]int
	gaps      map[*session][2]time.Duration // shortest and longest between two packets while counting
	at        map[*session]time.Time
}

func newWire(t *testing.T, a, b *SessionConfig) *wire {
	t.Helper()
	now := epoch()
	rnd := fixedRand()
	return &wire{
		t: t, now: now, a: newSession(a, 11, rnd, now), b: newSession(b, 22, rnd, now),
		last: map[*session]packet{}, sent: map[*session]int{},
		gaps: map[*session][2]time.Duration{}, at: map[*session]time.Time{},
	}
}

// flush delivers everything that is due now.
func (w *wire) flush() {
	w.t.Helper()
	var b [maxPacketLen]byte
	for range 20 {
		idle := true
		for _, s := range []*session{w.a, w.b} {
			if s.ended(w.now) {
				continue
			}
			s.advance(w.now, w.now)
			n := s.output(b[:], w.now)
			if n == 0 {
				continue
			}
			idle = false
			w.deliver(s, b[:n])
		}
		if idle {
			return
		}
	}
	w.t.Fatal("the two never stop sending")
}

func (w *wire) deliver(from *session, raw []byte) {
	w.t.Helper()
	p, raw, why := decode(raw)
	if why != dropNone {
		w.t.Fatalf("sent a packet that is %q", why.words())
	}
	if last, ok := w.at[from]; ok && !p.final {
		gap, old := w.now.Sub(last), w.gaps[from]
		if old == [2]time.Duration{} {
			old = [2]time.Duration{gap, gap}
		}
		w.gaps[from] = [2]time.Duration{min(old[0], gap), max(old[1], gap)}
	}
	w.at[from] = w.now
	w.sent[from]++
	w.last[from] = p
	to := w.a
	if from == w.a {
		to = w.b
	}
	if w.cut {
		return
	}
	if why := to.take(&p, raw, w.now, w.now); why != dropNone && !w.strangers {
		w.t.Fatalf("own kind's packet dropped: %s", why.words())
	}
}

// run lets d pass, from event to event.
func (w *wire) run(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for range 100_000 {
		w.flush()
		next := end
		for _, s := range []*session{w.a, w.b} {
			if t := s.next(w.now); !s.ended(w.now) && !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		if !next.After(w.now) && !next.Equal(end) {
			w.t.Fatal("a session wants to be called again at once")
		}
		w.now = next
		if next.Equal(end) {
			return
		}
	}
	w.t.Fatal("time does not pass")
}

func (w *wire) states() [2]SessionStatus {
	return [2]SessionStatus{w.a.state.status(), w.b.state.status()}
}

func (w *wire) want(what string, a, b SessionStatus) {
	w.t.Helper()
	if got, want := w.states(), [2]SessionStatus{a, b}; got != want {
		w.t.Fatalf("%s: states %v, want %v", what, got, want)
	}
}

// forget the gaps seen so far.
func (w *wire) measure() {
	clear(w.gaps)
	clear(w.at)
	clear(w.sent)
}

// The state machine of RFC 5880 section 6.8.6, all of it.
func TestStateTable(t *testing.T) {
	const a, d, i, u = stateAdminDown, stateDown, stateInit, stateUp
	for _, c := range []struct {
		local, received, want state
		diag                  diagnostic
	}{
		{a, a, a, diagAdminDown},
		{a, d, a, diagAdminDown},
		{a, i, a, diagAdminDown},
		{a, u, a, diagAdminDown},
		{d, a, d, diagNone},
		{d, d, i, diagNone},
		{d, i, u, diagNone},
		{d, u, d, diagNone},
		{i, a, d, diagNeighborDown},
		{i, d, i, diagNone},
		{i, i, u, diagNone},
		{i, u, u, diagNone},
		{u, a, d, diagNeighborDown},
		{u, d, d, diagNeighborDown},
		{u, i, u, diagNone},
		{u, u, u, diagNone},
	} {
		now := epoch()
		s := newSession(testConfig(), 7, fixedRand(), now)
		s.state = c.local
		if c.local == a {
			s.diag = diagAdminDown
		}
		p := packet{state: c.received, my: 9, your: 7, mult: 3, minTx: 50_000, minRx: 50_000}
		if why := s.take(&p, nil, now, now); why != dropNone {
			t.Errorf("%s receives %s: dropped, %s", c.local.status(), c.received.status(), why.words())
		}
		if s.state != c.want || s.diag != c.diag {
			t.Errorf("%s receives %s: %s, %q; want %s, %q", c.local.status(), c.received.status(),
				s.state.status(), s.diag.words(), c.want.status(), c.diag.words())
		}
		wasUp, counted := c.local == u, c.local == u && c.want == d && c.received != a
		if (s.downs == 1) != counted || s.downSince.IsZero() != (!wasUp || c.want == u) {
			t.Errorf("%s receives %s: downs %d, down since %s", c.local.status(), c.received.status(), s.downs, s.downSince)
		}
	}
}

func TestUpAndNegotiation(t *testing.T) {
	fast, slow := testConfig(), testConfig()
	slow.MinTx, slow.MinRx, slow.Multiplier = 300*ms, 200*ms, 5
	w := newWire(t, fast, slow)
	if w.a.next(w.now) != w.now {
		t.Error("does not send at once")
	}
	w.run(5 * time.Second)
	w.want("after 5 s", Up, Up)
	if w.a.polling || w.b.polling {
		t.Error("a Poll Sequence never ended")
	}
	w.measure()
	w.run(20 * time.Second)
	type timers struct {
		Interval, Detection time.Duration
		Jitter              bool
	}
	within := func(s *session, interval time.Duration) bool {
		g := w.gaps[s]
		return g[0] >= interval*3/4 && g[0] < interval*80/100 && g[1] <= interval && g[1] > interval*95/100
	}
	got := []timers{
		{w.a.txInterval(), w.a.detection, within(w.a, 200*ms)},
		{w.b.txInterval(), w.b.detection, within(w.b, 300*ms)},
	}
	want := []timers{{200 * ms, 5 * 300 * ms, true}, {300 * ms, 3 * 200 * ms, true}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("timers (-want +got):\n%s\ngaps %v %v", d, w.gaps[w.a], w.gaps[w.b])
	}
}

// Not less than a second between packets while not Up, with jitter.
func TestSlowStart(t *testing.T) {
	w := newWire(t, testConfig(), testConfig())
	w.cut = true
	w.run(20 * time.Second)
	w.want("alone", Down, Down)
	g := w.gaps[w.a]
	if g[0] < 750*ms || g[1] > time.Second || w.last[w.a].minTx != 1_000_000 || w.last[w.a].minRx != 50_000 {
		t.Errorf("gaps %v, last packet %+v", g, w.last[w.a])
	}
}

func TestJitterOfMultiplierOne(t *testing.T) {
	one := testConfig()
	one.Multiplier = 1
	w := newWire(t, one, testConfig())
	w.run(3 * time.Second)
	w.measure()
	w.run(20 * time.Second)
	w.want("multiplier 1", Up, Up)
	if g := w.gaps[w.a]; g[0] < 37500*time.Microsecond || g[0] > 39*ms || g[1] > 45*ms || g[1] < 44*ms {
		t.Errorf("gaps %v, want 75 to 90 %% of 50ms", g)
	}
}

// A longer interval of ours, or a shorter one asked for, waits for the Final
// (RFC 5880 section 6.8.3).
func TestPollSequence(t *testing.T) {
	w := newWire(t, testConfig(), testConfig())
	w.run(5 * time.Second)
	w.want("before", Up, Up)
	c := testConfig()
	c.MinTx, c.MinRx, c.Multiplier = 200*ms, 20*ms, 4
	w.cut = true
	w.a.reconfigure(c, w.now)
	w.flush()
	type view struct {
		Poll         bool
		MinTx, MinRx uint32
		Tx, Rx       time.Duration
	}
	see := func() view {
		p := w.last[w.a]
		return view{p.poll, p.minTx, p.minRx, w.a.txInForce, w.a.rxInForce}
	}
	if d := cmp.Diff(view{true, 200_000, 20_000, 50 * ms, 50 * ms}, see()); d != "" {
		t.Errorf("before the Final (-want +got):\n%s", d)
	}
	w.cut = false
	w.run(100 * ms)
	if d := cmp.Diff(view{false, 200_000, 20_000, 200 * ms, 20 * ms}, func() view {
		w.run(time.Second)
		return see()
	}()); d != "" {
		t.Errorf("after the Final (-want +got):\n%s", d)
	}
	w.want("after", Up, Up)
	if w.a.downs+w.b.downs != 0 || w.b.detection != 4*200*ms {
		t.Errorf("downs %d %d, detection of the other end %s", w.a.downs, w.b.downs, w.b.detection)
	}
	// The other way round it counts at once.
	w.cut = true
	w.a.reconfigure(testConfig(), w.now)
	if got := [2]time.Duration{w.a.txInForce, w.a.rxInForce}; got != [2]time.Duration{50 * ms, 50 * ms} {
		t.Errorf("in force at once: %v", got)
	}
}

// A Final may answer the Poll before the last change.
func TestSecondPollSequence(t *testing.T) {
	w := newWire(t, testConfig(), testConfig())
	w.run(5 * time.Second)
	c := testConfig()
	c.MinTx = 100 * ms
	w.a.reconfigure(c, w.now)
	c.MinTx = 400 * ms
	w.a.reconfigure(c, w.now)
	final := packet{state: stateUp, final: true, my: 22, your: 11, mult: 3, minTx: 50_000, minRx: 50_000}
	w.a.take(&final, nil, w.now, w.now)
	if !w.a.polling || w.a.txInForce != 50*ms {
		t.Errorf("the first Final: polling %t, in force %s", w.a.polling, w.a.txInForce)
	}
	w.a.take(&final, nil, w.now, w.now)
	if w.a.polling || w.a.txInForce != 400*ms {
		t.Errorf("the second Final: polling %t, in force %s", w.a.polling, w.a.txInForce)
	}
}

// A Poll is answered at once, also when nothing else is sent, and not with one.
func TestAnswersPoll(t *testing.T) {
	now := epoch()
	s := newSession(testConfig(), 7, fixedRand(), now)
	var b [maxPacketLen]byte
	for n := s.output(b[:], now); n > 0; n = s.output(b[:], now) {
	}
	poll := packet{state: stateUp, poll: true, my: 9, your: 7, mult: 3, minTx: 50_000} // minRx 0: send nothing
	if why := s.take(&poll, nil, now, now); why != dropNone {
		t.Fatal(why.words())
	}
	n := s.output(b[:], now)
	p, _, why := decode(b[:n])
	if why != dropNone || !p.final || p.poll || p.your != 9 {
		t.Errorf("answer %+v %s", p, why.words())
	}
	if n = s.output(b[:], now.Add(time.Hour)); n != 0 {
		t.Error("sends although the other end wants nothing")
	}
}

func TestDetection(t *testing.T) {
	w := newWire(t, testConfig(), testConfig())
	w.run(5 * time.Second)
	w.cut = true
	w.run(95 * ms) // the last packet is up to 50 ms old
	w.want("before the detection time", Up, Up)
	w.run(65 * ms)
	w.want("after it", Down, Down)
	if w.a.diag.words() != "control detection time expired" || w.a.downs != 1 || w.a.remoteDiscr != 0 || w.a.txInterval() != time.Second {
		t.Errorf("%+v", w.a)
	}
	w.cut = false
	w.run(3 * time.Second)
	w.want("healed", Up, Up)
	if w.a.diag != diagNone || w.a.downs != 1 {
		t.Errorf("diag %q, downs %d", w.a.diag.words(), w.a.downs)
	}
}

// Our own lateness is not the other end's silence: what came in time counts as
// of when it came, and a verdict is looked at twice.
func TestLateReaderIsNoSilence(t *testing.T) {
	w := newWire(t, testConfig(), testConfig())
	w.run(5 * time.Second)
	came := w.now.Add(100 * ms)
	late := w.now.Add(400 * ms)
	w.a.advance(late, late)
	if w.a.state != stateUp || w.a.next(late).Sub(late) > graceMax {
		t.Fatalf("%s, next in %s", w.a.state.status(), w.a.next(late).Sub(late))
	}
	p := packet{state: stateUp, my: 22, your: 11, mult: 3, minTx: 50_000, minRx: 50_000}
	w.a.take(&p, nil, late, late)
	w.a.advance(late.Add(graceMax), late.Add(graceMax))
	if w.a.state != stateUp {
		t.Error("down although a packet came")
	}
	w.a.take(&p, nil, came, late) // an older one does not set the clock back
	if w.a.heardAt != late {
		t.Error("an older packet set the clock back")
	}
}

func TestAdminDownOfEitherSide(t *testing.T) {
	w := newWire(t, testConfig(), testConfig())
	w.run(5 * time.Second)
	w.a.goodbye(w.now, false)
	w.measure()
	w.run(149 * ms)
	w.want("our AdminDown", AdminDown, Down)
	if w.a.diag.words() != "administratively down" || w.b.remoteDiag.words() != "administratively down" ||
		w.b.diag.words() != "neighbor signaled session down" || w.b.downs != 0 || w.a.downs != 0 {
		t.Errorf("a %+v\nb %+v", w.a, w.b)
	}
	if n := w.sent[w.a]; n < 3 || n > 5 || w.a.ended(w.now) {
		t.Errorf("%d goodbyes in 149 ms", n)
	}
	w.run(2 * ms)
	if !w.a.ended(w.now) {
		t.Error("the goodbye has no end")
	}
	// The other end's AdminDown keeps us Down until it ends.
	w.b.remoteDiscr = 0
	w.a = newSession(testConfig(), 33, fixedRand(), w.now)
	w.run(3 * time.Second)
	w.want("back", Up, Up)
}

func TestGoodbyeOfAStoppingProgram(t *testing.T) {
	w := newWire(t, testConfig(), testConfig())
	w.run(5 * time.Second)
	w.measure()
	w.a.goodbye(w.now, true)
	for range 200 {
		w.run(ms)
	}
	if !w.a.ended(w.now) || w.sent[w.a] != stopPackets {
		t.Errorf("ended %t after %d packets", w.a.ended(w.now), w.sent[w.a])
	}
	w.want("stopped", AdminDown, Down)
}

func TestRestartOfTheOtherEnd(t *testing.T) {
	w := newWire(t, testConfig(), testConfig())
	w.run(5 * time.Second)
	w.b = newSession(testConfig(), 44, fixedRand(), w.now)
	w.flush()
	if w.a.downs != 1 {
		t.Errorf("the restart was not seen: %+v", w.a)
	}
	w.run(3 * time.Second)
	w.want("restarted", Up, Up)
	if w.a.remoteDiscr != 44 {
		t.Errorf("remote discriminator %d", w.a.remoteDiscr)
	}
}

func TestPassive(t *testing.T) {
	p := testConfig()
	p.Passive = true
	w := newWire(t, p, p)
	w.run(5 * time.Second)
	if len(w.sent) != 0 {
		t.Errorf("two passive ends sent %d packets", len(w.sent))
	}
	w = newWire(t, p, testConfig())
	w.run(5 * time.Second)
	w.want("one passive end", Up, Up)
}

// Demand mode of the other end: no periodic packets once both are Up, but polls.
func TestRemoteDemand(t *testing.T) {
	w := newWire(t, testConfig(), testConfig())
	w.run(5 * time.Second)
	p := packet{state: stateUp, demand: true, my: 22, your: 11, mult: 3, minTx: 50_000, minRx: 50_000}
	w.a.take(&p, nil, w.now, w.now)
	if w.a.transmitting() {
		t.Error("sends to one that does not want it")
	}
	c := testConfig()
	c.MinTx = 60 * ms
	w.a.reconfigure(c, w.now)
	if !w.a.transmitting() {
		t.Error("does not poll")
	}
}

// After a long silence of a peer that wanted nothing we may ask again.
func TestForgetsTheOtherEnd(t *testing.T) {
	now := epoch()
	s := newSession(testConfig(), 7, fixedRand(), now)
	p := packet{state: stateAdminDown, my: 9, mult: 3, minTx: 1_000_000}
	s.take(&p, nil, now, now)
	if s.transmitting() || s.remoteDiscr != 9 {
		t.Errorf("remote minRx 0: %+v", s)
	}
	s.advance(now.Add(3*time.Second), now.Add(3*time.Second))
	if !s.transmitting() || s.remoteDiscr != 0 || s.remoteState != stateAdminDown {
		t.Errorf("after its detection time: %+v", s)
	}
}

func TestReflectedPacket(t *testing.T) {
	now := epoch()
	s := newSession(testConfig(), 7, fixedRand(), now)
	p := packet{state: stateDown, my: 7, mult: 3, minTx: 50_000, minRx: 50_000}
	if why := s.take(&p, nil, now, now); why != dropReflected || s.state != stateDown || s.alive {
		t.Errorf("%s, %+v", why.words(), s)
	}
}
