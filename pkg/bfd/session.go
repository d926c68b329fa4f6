package bfd

import (
	"math/rand/v2"
	"time"
)

// Timers of a session that is not up, and of one that ends.
const (
	// slowTx is the least DesiredMinTxInterval while not Up (RFC 5880 section
	// 6.8.3).
	slowTx = time.Second
	// initialMinRx is what bfd.RemoteMinRxInterval starts as (section 6.8.1).
	initialMinRx = time.Microsecond
	// lingerGap and lingerMax bound the goodbye of a session that is removed.
	lingerGap = time.Second
	lingerMax = 5 * time.Second
	// stopGap is the longest time between the stopPackets packets of a session
	// whose program ends.
	stopGap     = 60 * time.Millisecond
	stopPackets = 3
	// graceMax is the longest time by which a detection is put off to look into
	// the socket once more.
	graceMax = 5 * time.Millisecond
)

// session is the state machine of one session (RFC 5880 section 6.8) without
// any I/O: it is told packets and the time, and says what is to be sent and
// when it wants to be called again. Not safe for concurrent use.
type session struct {
	cfg SessionConfig
	rnd *rand.Rand

	// State variables of section 6.8.1.
	state, remoteState       state
	localDiscr, remoteDiscr  uint32
	diag, remoteDiag         diagnostic
	desiredMinTx             time.Duration
	requiredMinRx            time.Duration
	remoteMinTx, remoteMinRx time.Duration
	remoteMult               uint8
	remoteDemand             bool
	auth                     authenticator
	// inUse is what auth was made of; rotation is what is to take its place, nil for
	// nothing.
	inUse    *Auth
	rotation *rotation

	// A Poll Sequence runs, and another has to follow it. The intervals in force
	// differ from the wanted ones until it ends.
	polling, pollAgain   bool
	txInForce, rxInForce time.Duration

	since, downSince time.Time
	wasUp            bool
	downs            uint64

	// heardAt is when the last packet was taken, zero for never; alive that the
	// detection time has not passed since.
	heardAt      time.Time
	alive        bool
	detection    time.Duration
	suspectUntil time.Time // when a detection that is put off is made

	// hailEnd is until when a passive session speaks first; zero for not.
	hailEnd time.Time

	lastTx, nextTx     time.Time
	sendNow, sendFinal bool

	lingerEnd      time.Time
	lingerInterval time.Duration
	lingerLeft     int // packets; negative for any number
}

// newSession returns one in Down that sends at once unless it is passive.
func newSession(cfg *SessionConfig, discr uint32, rnd *rand.Rand, now time.Time) *session {
	s := &session{
		cfg: *cfg, rnd: rnd, state: stateDown, remoteState: stateDown, localDiscr: discr,
		desiredMinTx: max(cfg.MinTx, slowTx), requiredMinRx: cfg.MinRx,
		remoteMinRx: initialMinRx, auth: newAuthenticator(cfg.Auth, rnd.Uint32()), inUse: cfg.Auth,
		since: now, nextTx: now,
	}
	s.txInForce, s.rxInForce = s.desiredMinTx, s.requiredMinRx
	return s
}

// take takes a decoded packet that belongs to this session; raw is the
// packet as it came, at when the kernel got it. It follows RFC 5880 section
// 6.8.6 from the authentication on.
func (s *session) take(p *packet, raw []byte, at, now time.Time) drop {
	if p.my == s.localDiscr {
		return dropReflected
	}
	if why := s.verify(p, raw); why != dropNone {
		return why
	}
	before := s.txInterval()
	s.remoteDiscr, s.remoteState, s.remoteDiag = p.my, p.state, p.diag
	s.remoteDemand = p.demand
	s.remoteMult = p.mult
	s.remoteMinTx = time.Duration(p.minTx) * time.Microsecond
	s.remoteMinRx = time.Duration(p.minRx) * time.Microsecond
	if p.final && s.polling {
		s.endPoll()
	}
	if s.heardAt.Before(at) {
		s.heardAt = at
	}
	s.alive = true
	s.suspectUntil = time.Time{}
	if s.state != stateAdminDown {
		s.step(p.state, now)
		s.sendFinal = s.sendFinal || p.poll
	}
	s.detection = s.detectionTime()
	if s.txInterval() != before {
		s.schedule(now)
	}
	return dropNone
}

// step is the state machine proper, for a received state.
func (s *session) step(remote state, now time.Time) {
	switch {
	case remote == stateAdminDown:
		if s.state != stateDown {
			s.enter(stateDown, diagNeighborDown, now)
		}
	case s.state == stateDown && remote == stateDown:
		s.enter(stateInit, diagNone, now)
	case s.state == stateDown && remote == stateInit,
		s.state == stateInit && remote != stateDown:
		s.enter(stateUp, diagNone, now)
	case s.state == stateUp && remote == stateDown:
		s.enter(stateDown, diagNeighborDown, now)
	}
}

// enter changes the state and what depends on it, and has it told at once.
func (s *session) enter(to state, diag diagnostic, now time.Time) {
	if s.state == stateUp {
		s.downSince = now
		if s.remoteState != stateAdminDown {
			s.downs++
		}
		s.rotate() // there is nothing to lose any more
	}
	s.state, s.diag, s.since = to, diag, now
	s.sendNow = true
	s.polling, s.pollAgain = false, false
	s.wasUp = s.wasUp || to == stateUp
	s.setTimers()
	s.schedule(now)
}

// hail has a passive session speak, for a detection time, to an end that answers
// a session that we no longer have, and tells whether it began to. Some (FRR
// 8.4) go on with our former discriminator after a restart of ours: both ends
// would wait for ever.
func (s *session) hail(now time.Time) bool {
	if !s.cfg.Passive || s.state != stateDown || s.remoteDiscr != 0 {
		return false
	}
	began := s.hailEnd.IsZero()
	s.hailEnd = now.Add(time.Duration(s.cfg.Multiplier) * s.txInterval())
	if began {
		s.schedule(now)
	}
	return began
}

// forget drops what the other end said, once it has been silent for the
// detection time (RFC 5880 section 6.8.1, bfd.RemoteDiscr). What it said last
// stays visible.
func (s *session) forget(now time.Time) {
	s.alive, s.suspectUntil = false, time.Time{}
	s.remoteDiscr = 0
	s.remoteMinRx, s.remoteDemand = initialMinRx, false
	s.schedule(now)
}

// advance does what has become due: the detection of silence (RFC 5880 section
// 6.8.4). The caller has read every packet that came until heard, which is not
// after now: nobody is silent whose packets wait to be read.
func (s *session) advance(now, heard time.Time) {
	if !s.hailEnd.IsZero() && !now.Before(s.hailEnd) {
		s.hailEnd = time.Time{}
	}
	if t := s.authExpiry(); !t.IsZero() && !heard.Before(t) {
		s.auth.seqKnown = false
	}
	if s.rotation != nil && !now.Before(s.rotation.until) {
		s.rotate()
	}
	expiry := s.expiry()
	if expiry.IsZero() || heard.Before(expiry) {
		return
	}
	if s.state == stateInit || s.state == stateUp {
		// A packet may have reached the host and not yet the socket, when the
		// processors are busy. So the verdict waits a moment, once.
		if s.suspectUntil.IsZero() {
			s.suspectUntil = now.Add(min(s.detection/16, graceMax))
			return
		}
		s.enter(stateDown, diagTimeExpired, now)
	}
	s.forget(now)
}

// goodbye takes the session down by order (diagnostic 7). It stays for the other
// end's detection time, or, when the program stops, for three packets.
func (s *session) goodbye(now time.Time, stop bool) {
	if s.state == stateAdminDown && !stop {
		return
	}
	interval := max(s.txInterval(), time.Millisecond)
	s.lingerInterval = min(interval, lingerGap)
	s.lingerLeft = -1
	detect := time.Duration(s.cfg.Multiplier) * interval
	if stop {
		s.lingerInterval = min(interval, stopGap)
		s.lingerLeft = stopPackets
		detect = stopPackets * s.lingerInterval
	}
	s.lingerEnd = now.Add(min(max(detect, stopPackets*s.lingerInterval), lingerMax))
	if s.state == stateUp {
		s.downSince = now
	}
	if s.state != stateAdminDown {
		s.state, s.diag, s.since = stateAdminDown, diagAdminDown, now
	}
	s.polling, s.pollAgain, s.sendFinal = false, false, false
	s.sendNow = true
	s.nextTx = now
}

// ended tells that the goodbye has been said or that nobody is there to hear it.
func (s *session) ended(now time.Time) bool {
	return s.state == stateAdminDown &&
		(s.remoteDiscr == 0 || s.lingerLeft == 0 || !now.Before(s.lingerEnd))
}
