package bfd

import "time"

// setTimers makes the intervals of the configuration and the state the wanted
// ones. While Up, the other end learns of them by a Poll Sequence, and until it
// ends we neither send less often nor expect packets more often (RFC 5880
// section 6.8.3).
func (s *session) setTimers() {
	tx, rx := s.cfg.MinTx, s.cfg.MinRx
	if s.state != stateUp {
		s.desiredMinTx, s.requiredMinRx = max(tx, slowTx), rx
		s.txInForce, s.rxInForce = s.desiredMinTx, rx
		return
	}
	if tx == s.desiredMinTx && rx == s.requiredMinRx {
		return
	}
	s.desiredMinTx, s.requiredMinRx = tx, rx
	s.txInForce, s.rxInForce = min(s.txInForce, tx), max(s.rxInForce, rx)
	// A Final that is under way may answer what we said before.
	s.pollAgain = s.polling
	s.polling, s.sendNow = true, true
}

// endPoll ends a Poll Sequence, for a received Final.
func (s *session) endPoll() {
	if s.pollAgain {
		s.pollAgain = false
		return
	}
	s.polling = false
	s.txInForce, s.rxInForce = s.desiredMinTx, s.requiredMinRx
}

// reconfigure takes new timers, multiplier, TTL, role or authentication without
// leaving the state. The rest of cfg is what it was.
func (s *session) reconfigure(cfg *SessionConfig, now time.Time) {
	if cfg.Multiplier != s.cfg.Multiplier {
		s.sendNow = true
	}
	if !sameAuth(cfg.Auth, s.cfg.Auth) {
		s.rekey(cfg.Auth, now)
	}
	s.cfg = *cfg
	s.setTimers()
	s.detection = s.detectionTime()
	s.schedule(now)
}

// txInterval is the time between two packets of ours before jitter (RFC 5880
// section 6.8.2).
func (s *session) txInterval() time.Duration {
	if s.state == stateAdminDown {
		return s.lingerInterval
	}
	return max(s.txInForce, s.remoteMinRx)
}

// detectionTime is that of section 6.8.4; zero before the first packet.
func (s *session) detectionTime() time.Duration {
	if s.remoteMult == 0 {
		return 0
	}
	return time.Duration(s.remoteMult) * max(s.rxInForce, s.remoteMinTx)
}

// jittered takes 0 to 25 % off, or 10 to 25 % when a single lost packet counts
// (section 6.8.7).
func (s *session) jittered(d time.Duration) time.Duration {
	if s.cfg.Multiplier == 1 {
		return d - d/10 - time.Duration(s.rnd.Int64N(int64(d*15/100)+1))
	}
	return d - time.Duration(s.rnd.Int64N(int64(d/4)+1))
}

// schedule sets when the next packet is due, counted from the last one.
func (s *session) schedule(now time.Time) {
	s.nextTx = now
	if !s.lastTx.IsZero() {
		if t := s.lastTx.Add(s.jittered(s.txInterval())); t.After(now) {
			s.nextTx = t
		}
	}
}

// transmitting tells whether packets are sent periodically (section 6.8.7).
func (s *session) transmitting() bool {
	switch {
	case s.remoteDiscr == 0 && (s.cfg.Passive && s.hailEnd.IsZero() || s.state == stateAdminDown):
		return false
	case s.remoteMinRx == 0:
		return false
	case s.remoteDemand && s.state == stateUp && s.remoteState == stateUp && !s.polling:
		return false
	}
	return true
}

// expiry is when the other end's silence has lasted for the detection time;
// zero for never.
func (s *session) expiry() time.Time {
	switch {
	case !s.alive:
		return time.Time{}
	case !s.suspectUntil.IsZero():
		return s.suspectUntil
	}
	return s.heardAt.Add(s.detection)
}

// authExpiry is when the other end's sequence number is forgotten, after twice
// the detection time (section 6.8.1, bfd.AuthSeqKnown); zero for never.
func (s *session) authExpiry() time.Time {
	if !s.auth.seqKnown {
		return time.Time{}
	}
	return s.heardAt.Add(2 * s.detection)
}

// next is when the session wants to be called again; zero for not before a
// packet comes.
func (s *session) next(now time.Time) time.Time {
	if s.sendFinal || s.sendNow && s.transmitting() {
		return now
	}
	var at time.Time
	earlier := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if s.transmitting() {
		earlier(s.nextTx)
	}
	earlier(s.expiry())
	earlier(s.authExpiry())
	earlier(s.hailEnd)
	if s.rotation != nil {
		earlier(s.rotation.until)
	}
	if s.state == stateAdminDown {
		earlier(s.lingerEnd)
	}
	return at
}

// output writes the packet that is due to b and returns its length, or 0. It is
// called again until it returns 0: after the answer to a Poll there may be a
// packet of our own. b has room for maxPacketLen.
func (s *session) output(b []byte, now time.Time) int {
	final := s.sendFinal
	periodic := s.transmitting() && (s.sendNow || !now.Before(s.nextTx))
	switch {
	case final:
		// It says all that a changed state has to say, but cannot ask.
		s.sendFinal = false
		s.sendNow = s.sendNow && s.polling
	case periodic:
		s.sendNow = false
		s.lastTx = now
		s.schedule(now)
		if s.lingerLeft > 0 {
			s.lingerLeft--
		}
	default:
		s.sendNow = false
		return 0
	}
	p := packet{
		diag: s.diag, state: s.state, mult: s.cfg.Multiplier,
		poll: s.polling && !final, final: final,
		my: s.localDiscr, your: s.remoteDiscr,
		minTx: micros(s.desiredMinTx), minRx: micros(s.requiredMinRx),
	}
	p.encode(b, s.auth.len())
	s.auth.sign(b)
	return headerLen + s.auth.len()
}

// micros is d on the wire; a validated one fits.
func micros(d time.Duration) uint32 {
	return uint32(d / time.Microsecond) //nolint:gosec // validated: up to 60 s
}
