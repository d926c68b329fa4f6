package bfd

import "time"

// rotateMax is how long a session that is up goes on with its former
// authentication, for another end that does not use the new one yet.
const rotateMax = 5 * time.Minute

// rotation is an authentication that a session has been told to take, while the
// other end still uses the one before. Two ends are never told at the same time,
// and with one key each the session would go down in between: so both are taken,
// and the former is sent until the other end sends the new one (RFC 5880 section
// 6.7.1 has keys change without a break).
type rotation struct {
	auth  authenticator
	inUse *Auth
	until time.Time // when the former one ends in any case
}

// rekey has the session authenticate otherwise: at once where it is not up, else as
// a rotation. One that has not ended is forgotten.
func (s *session) rekey(a *Auth, now time.Time) {
	s.rotation = nil
	if sameAuth(a, s.inUse) {
		return
	}
	s.rotation = &rotation{auth: newAuthenticator(a, 0), inUse: a, until: now.Add(rotateMax)}
	if s.state != stateUp {
		s.rotate()
	}
}

// rotate ends a rotation: only the new authentication counts from now on. The
// sequence numbers go on, for they are the session's and not the key's.
func (s *session) rotate() {
	r := s.rotation
	if r == nil {
		return
	}
	s.rotation = nil
	r.auth.follow(&s.auth)
	s.auth, s.inUse = r.auth, r.inUse
	s.sendNow = true
}

// follow takes the sequence numbers over from the one before.
func (a *authenticator) follow(before *authenticator) {
	a.xmitSeq, a.rcvSeq, a.seqKnown = before.xmitSeq, before.rcvSeq, before.seqKnown
}

// verify tells why a packet is not authentic. One with the new authentication ends
// a rotation.
func (s *session) verify(p *packet, raw []byte) drop {
	why := s.auth.verify(p, raw)
	if why == dropNone || s.rotation == nil {
		return why
	}
	next := s.rotation.auth
	next.follow(&s.auth)
	if next.verify(p, raw) != dropNone {
		return why
	}
	s.rotate()
	s.auth.rcvSeq, s.auth.seqKnown = next.rcvSeq, next.seqKnown
	return dropNone
}
