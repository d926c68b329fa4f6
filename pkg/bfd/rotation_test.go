package bfd

import (
	"fmt"
	"testing"
	"time"
)

// rotations are pairs of authentications, the second of which takes the place of
// the first.
func rotations() map[string][2]*Auth {
	all := map[string][2]*Auth{
		"none to sha1":   {nil, {KeyedSHA1, 1, "k"}},
		"sha1 to none":   {{MeticulousKeyedSHA1, 1, "k"}, nil},
		"simple to md5":  {{SimplePassword, 1, "k"}, {KeyedMD5, 1, "k"}},
		"md5 to sha1":    {{MeticulousKeyedMD5, 1, "k"}, {MeticulousKeyedSHA1, 1, "k"}},
		"another key id": {{KeyedSHA1, 1, "k"}, {KeyedSHA1, 2, "k"}},
	}
	for _, kind := range authTypes() {
		all["another key, "+string(kind)] = [2]*Auth{{kind, 1, "former"}, {kind, 1, "new"}}
	}
	return all
}

// rekeyed is the wire of two sessions that are up with the first authentication, of
// which a has been told the second.
func rekeyed(t *testing.T, former, next *Auth) *wire {
	t.Helper()
	cfg := testConfig()
	cfg.Auth = former
	w := newWire(t, cfg, cfg)
	w.strangers = true
	w.run(5 * time.Second)
	w.want("before", Up, Up)
	tell(w.a, next, w.now)
	w.run(time.Second)
	w.want("the other end does not know yet", Up, Up)
	if w.a.rotation == nil {
		t.Error("it does not wait for the other end")
	}
	return w
}

func tell(s *session, a *Auth, now time.Time) {
	cfg := s.cfg
	cfg.Auth = a
	s.reconfigure(&cfg, now)
}

// at makes a session use an authentication from now on, without the other one, as
// BIRD does.
func at(s *session, a *Auth, now time.Time) {
	tell(s, a, now)
	s.rotate()
}

// No session goes down when one end is told first and waits for the other, whatever
// takes the place of what.
func TestRotation(t *testing.T) {
	t.Parallel()
	for name, r := range rotations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := rekeyed(t, r[0], r[1])
			at(w.b, r[1], w.now)
			w.run(10 * time.Second)
			w.want("both have it", Up, Up)
			if n := w.a.downs + w.b.downs; n != 0 || w.a.rotation != nil {
				t.Errorf("%d downs, rotation %+v", n, w.a.rotation)
			}
			// Only the new one counts now.
			at(w.b, r[0], w.now)
			w.run(time.Second)
			w.want("the former one again", Down, Down)
		})
	}
}

// An end that takes both, as a router with two keys, and sends the former first, is
// followed when it sends the new one.
func TestRotationOfTwoOfUs(t *testing.T) {
	t.Parallel()
	former, next := &Auth{KeyedSHA1, 1, "former"}, &Auth{KeyedSHA1, 2, "new"}
	w := rekeyed(t, former, next)
	tell(w.b, next, w.now)
	w.run(rotateMax + time.Second)
	w.want("at the end of the time", Up, Up)
	if n := w.a.downs + w.b.downs; n != 0 || w.a.rotation != nil || w.b.rotation != nil {
		t.Errorf("%d downs, rotations %+v, %+v", n, w.a.rotation, w.b.rotation)
	}
}

// The former authentication ends in any case: with the time, with the session, and
// when the order is taken back it stays.
func TestRotationEnds(t *testing.T) {
	t.Parallel()
	former, next, other := &Auth{KeyedSHA1, 1, "former"}, &Auth{KeyedSHA1, 1, "new"}, &Auth{KeyedMD5, 1, "other"}
	for name, tt := range map[string]struct {
		do   func(w *wire)
		want SessionStatus
		auth *Auth
	}{
		"before the time": {func(w *wire) { w.run(rotateMax - 2*time.Second) }, Up, former},
		"with the time":   {func(w *wire) { w.run(rotateMax) }, Down, next},
		"taken back": {func(w *wire) {
			tell(w.a, former, w.now)
			w.run(rotateMax + time.Second)
		}, Up, former},
		"another one instead": {func(w *wire) {
			tell(w.a, other, w.now)
			at(w.b, other, w.now)
			w.run(time.Second)
		}, Up, other},
		"the one that was told first": {func(w *wire) {
			tell(w.a, other, w.now)
			at(w.b, next, w.now)
			w.run(time.Second)
		}, Down, other},
		"with the session": {func(w *wire) {
			w.cut = true
			w.run(time.Second)
			w.cut = false
			w.run(3 * time.Second)
		}, Down, next},
	} {
		w := rekeyed(t, former, next)
		tt.do(w)
		if w.a.state.status() != tt.want || !sameAuth(w.a.inUse, tt.auth) {
			t.Errorf("%s: %s with %+v, want %s with %+v", name, w.a.state.status(), w.a.inUse, tt.want, tt.auth)
		}
	}
}

// What is not up has nothing to wait for, and a wrong packet changes nothing.
func TestRotationAtOnce(t *testing.T) {
	t.Parallel()
	former, next := &Auth{KeyedSHA1, 1, "former"}, &Auth{KeyedSHA1, 1, "new"}
	now := epoch()
	s := newSession(authConfig(KeyedSHA1, 1, "former"), 7, fixedRand(), now)
	tell(s, next, now)
	if s.rotation != nil || !sameAuth(s.inUse, next) {
		t.Errorf("a session that is down waits: %+v", s.rotation)
	}
	w := rekeyed(t, former, next)
	sent, known := w.a.auth.xmitSeq, w.a.auth.rcvSeq
	from := newSession(authConfig(KeyedSHA1, 1, "neither"), 9, fixedRand(), w.now)
	from.auth.xmitSeq = known
	p, raw, _ := decode(signed(from))
	before := fmt.Sprintf("%x", raw)
	if why := w.a.take(&p, raw, w.now, w.now); why != dropAuthDigest {
		t.Errorf("a packet with neither key: %q", why.words())
	}
	if fmt.Sprintf("%x", raw) != before || w.a.rotation == nil || w.a.auth.rcvSeq != known {
		t.Error("a wrong packet changed something")
	}
	from = newSession(authConfig(KeyedSHA1, 1, "new"), 9, fixedRand(), w.now)
	from.auth.xmitSeq = known
	p, raw, _ = decode(signed(from))
	if why := w.a.take(&p, raw, w.now, w.now); why != dropNone || w.a.rotation != nil || w.a.auth.rcvSeq != known+1 || w.a.auth.xmitSeq != sent {
		t.Errorf("a packet with the new key: %q, sequence numbers %d and %d", why.words(), w.a.auth.rcvSeq-known, w.a.auth.xmitSeq-sent)
	}
}
