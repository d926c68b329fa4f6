package bfd

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	// retryInterval is how often a path that has a problem is looked at, and
	// checkInterval how often one that has none.
	retryInterval = 200 * time.Millisecond
	checkInterval = time.Second
	// idleWait bounds a wait, and stopMax the goodbye of a stopping program.
	idleWait = time.Minute
	stopMax  = 200 * time.Millisecond
	// behindMax is how long a flood of packets can put off a detection at most.
	behindMax = time.Second
)

// entry is a session with what the engine needs to run it.
type entry struct {
	*session
	slot      *slot
	path      path    // nil while it cannot be opened
	addr      addrKey // of the open path
	err       string
	sendErr   bool // err is of sending and ends with the first success
	nextCheck time.Time
	at        time.Time // position in the queue: when it wants to be called
	pos       int
	dirty     bool
	lastTrace time.Time
}

// addrKey finds the session of a packet that does not know our discriminator
// yet (RFC 5880 section 6.3).
type addrKey struct {
	peer, local netip.Addr
	ifindex     int
	multihop    bool
}

// engine runs all sessions in one goroutine. There are no locks on its way.
type engine struct {
	net     transport
	rnd     *rand.Rand
	trace   *tracer
	m       *Manager
	buf     [maxPacketLen]byte
	all     map[sessionKey]*entry // the wanted ones
	leaving map[sessionKey]*entry // those that say goodbye
	byDiscr map[uint32]*entry     // both
	byAddr  map[addrKey]*entry    // both
	queue   queue
	changed bool // poke at the end of the turn
	deliver func(*datagram)
	now     time.Time
	// heard is a time until which all packets that came were read: now, unless
	// there are more than can be read in a turn.
	heard time.Time
	late  time.Duration // the most by which a turn came too late
}

func newEngine(net transport, rnd *rand.Rand, trace *tracer, m *Manager) *engine {
	e := &engine{
		net: net, rnd: rnd, trace: trace, m: m,
		all: map[sessionKey]*entry{}, leaving: map[sessionKey]*entry{}, byDiscr: map[uint32]*entry{}, byAddr: map[addrKey]*entry{},
	}
	e.deliver = e.receive
	return e
}

// run turns until ctx ends and the goodbyes are said. A new Set is found in next.
func (e *engine) run(ctx context.Context, next *atomic.Pointer[[]wanted]) {
	for ctx.Err() == nil {
		e.turn(next.Swap(nil))
		e.net.wait(e.delay())
	}
	e.now = time.Now()
	e.heard = e.now
	last := e.now.Add(stopMax)
	for _, en := range e.byDiscr {
		e.end(en, true)
	}
	for len(e.byDiscr) > 0 && e.now.Before(last) {
		e.net.wait(min(e.delay(), max(time.Until(last), 0)))
		e.turn(nil)
	}
	for _, en := range e.byDiscr {
		e.drop(en)
	}
}

// turn reads what has come and does what is due. The time is taken first: a
// packet that came before it is read before anybody's silence is judged by it.
func (e *engine) turn(next *[]wanted) {
	e.now = time.Now()
	e.heard = e.now
	if len(e.queue) > 0 {
		e.late = max(e.late, e.now.Sub(e.queue[0].at))
	}
	if next != nil {
		e.apply(*next)
	}
	if behind := e.net.receive(e.deliver); !behind.IsZero() && behind.Before(e.now) {
		e.heard = e.now.Add(-min(e.now.Sub(behind), behindMax))
	}
	for len(e.queue) > 0 && !e.queue[0].at.After(e.now) {
		e.serve(e.queue[0])
	}
	if id := e.m.asked.Load(); id != e.m.answered.Load() {
		e.m.answered.Store(id)
		e.changed = true
	}
	if e.changed {
		e.changed = false
		e.m.poke()
	}
}

// delay is the time until the next session wants to be called.
func (e *engine) delay() time.Duration {
	if len(e.queue) == 0 {
		return idleWait
	}
	return min(max(time.Until(e.queue[0].at), 0), idleWait)
}

// serve does what is due for one session and puts it back into the queue.
func (e *engine) serve(en *entry) {
	before, rotating := en.state, en.rotation != nil
	en.advance(e.now, e.heard)
	e.note(en, before)
	en.dirty = en.dirty || rotating != (en.rotation != nil)
	if !e.now.Before(en.nextCheck) {
		e.check(en)
	}
	e.send(en)
	if en.ended(e.now) {
		e.drop(en)
		return
	}
	e.settle(en)
}

// settle publishes what changed and queues the session for its next time.
func (e *engine) settle(en *entry) {
	if en.dirty {
		en.dirty = false
		e.changed = en.slot.publish(en) || e.changed
	}
	at := en.nextCheck
	if t := en.next(e.now); !t.IsZero() && t.Before(at) {
		at = t
	}
	if !at.After(e.now) {
		// Never again within this turn.
		at = e.now.Add(time.Nanosecond)
		if e.heard.Before(e.now) {
			at = e.now.Add(floodPause) // it waits for packets to be read
		}
	}
	en.at = at
	e.queue.fix(en)
}

// note remembers that a session is to be published.
func (e *engine) note(en *entry, before state) {
	if en.state != before {
		en.dirty = true
		e.trace.transition(en, before)
	}
}

// send sends what is due, at most an answer and a packet of its own.
func (e *engine) send(en *entry) {
	for range 2 {
		n := en.output(e.buf[:], e.now)
		if n == 0 {
			return
		}
		if en.path == nil {
			continue
		}
		err := en.path.send(e.buf[:n])
		switch {
		case err == nil:
			en.slot.sent.Add(1)
			if en.sendErr {
				e.fail(en, "", false)
			}
		case en.err == "":
			e.fail(en, err.Error(), true)
			en.nextCheck = e.now // it knows better why
		}
	}
}

// fail sets the session's error, or ends it.
func (e *engine) fail(en *entry, text string, sending bool) {
	en.sendErr = sending && text != ""
	if en.err != text {
		en.err, en.dirty = text, true
	}
}

// receive takes one datagram to its session (RFC 5880 sections 6.3 and 6.8.6).
func (e *engine) receive(d *datagram) {
	p, raw, why := decode(d.data)
	var en *entry
	if why == dropNone && p.your != 0 {
		if en = e.byDiscr[p.your]; en == nil {
			why = dropUnknown
		}
	}
	if en == nil {
		en = e.find(d)
	}
	if en == nil {
		return // nobody's packet
	}
	way := en.takes(d)
	if why == dropNone {
		why = way
	}
	if why != dropNone {
		if why == dropUnknown && way == dropNone && en.hail(e.now) {
			e.settle(en)
		}
		e.count(en, why)
		return
	}
	before := en.shown()
	if why = en.take(&p, raw, d.at, e.now); why != dropNone {
		e.count(en, why)
		return
	}
	en.slot.received.Add(1)
	e.note(en, before.state)
	en.dirty = en.dirty || before != en.shown()
	e.send(en)
	e.settle(en)
}

// find returns the session between the datagram's addresses.
func (e *engine) find(d *datagram) *entry {
	k := addrKey{peer: d.src, local: d.dst, ifindex: d.ifindex, multihop: d.multihop}
	if en := e.byAddr[k]; en != nil || !d.multihop {
		return en
	}
	k.ifindex = 0
	return e.byAddr[k]
}

// takes tells why a datagram cannot be for the session: its way here (RFC 5881
// sections 4 and 5, RFC 5883 section 5).
func (en *entry) takes(d *datagram) drop {
	if en.path == nil || d.multihop != en.cfg.Multihop || en.path.index() != 0 && d.ifindex != en.path.index() {
		return dropInterface
	}
	least := 255
	if en.cfg.Multihop {
		if least = int(en.cfg.MinTTL); least == 0 {
			least = defaultMinTTL
		}
	}
	if d.ttl < least {
		return dropTTL
	}
	return dropNone
}

// count notes a packet that was not taken.
func (e *engine) count(en *entry, why drop) {
	en.slot.dropped.Add(1)
	en.slot.lastDrop.Store(uint32(why))
	e.trace.dropped(en, why, e.now)
}
