package bfd

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"
	"time"
)

func authTypes() []AuthType {
	return []AuthType{SimplePassword, KeyedMD5, MeticulousKeyedMD5, KeyedSHA1, MeticulousKeyedSHA1}
}

func authConfig(kind AuthType, id uint8, key string) *SessionConfig {
	c := testConfig()
	c.Auth = &Auth{Type: kind, KeyID: id, Key: Secret(key)}
	return c
}

// signed is a packet of s as it is sent.
func signed(s *session) []byte {
	b := make([]byte, maxPacketLen)
	s.sendNow = true
	return b[:s.output(b, s.lastTx.Add(time.Second))]
}

func TestAuthenticatedSessions(t *testing.T) {
	for _, kind := range authTypes() {
		t.Run(string(kind), func(t *testing.T) {
			w := newWire(t, authConfig(kind, 5, "secret"), authConfig(kind, 5, "secret"))
			w.run(5 * time.Second)
			w.want("same key", Up, Up)
			w.cut = true
			w.run(time.Second)
			w.cut = false
			w.run(3 * time.Second)
			w.want("after a silence", Up, Up)
		})
	}
}

func TestAuthMismatch(t *testing.T) {
	for _, kind := range authTypes() {
		for _, c := range []struct {
			name  string
			other *Auth
			want  drop
		}{
			{"key", &Auth{kind, 5, "Secret"}, dropAuthDigest},
			{"longer key", &Auth{kind, 5, "secrets"}, dropAuthDigest},
			{"key id", &Auth{kind, 6, "secret"}, dropAuthKeyID},
			{"type", &Auth{map[bool]AuthType{true: KeyedSHA1, false: KeyedMD5}[kind == KeyedMD5], 5, "secret"}, dropAuthType},
			{"none", nil, dropAuthMissing},
		} {
			if c.other != nil && c.other.Type == kind && c.name == "type" {
				continue
			}
			now := epoch()
			to := newSession(authConfig(kind, 5, "secret"), 7, fixedRand(), now)
			cfg := testConfig()
			cfg.Auth = c.other
			p, raw, _ := decode(signed(newSession(cfg, 9, fixedRand(), now)))
			if why := to.take(&p, raw, now, now); why != c.want || to.state != stateDown || to.alive {
				t.Errorf("%s, other %s: %q, want %q", kind, c.name, why.words(), c.want.words())
			}
		}
	}
	now := epoch()
	open := newSession(testConfig(), 7, fixedRand(), now)
	p, raw, _ := decode(signed(newSession(authConfig(KeyedSHA1, 5, "x"), 9, fixedRand(), now)))
	if why := open.take(&p, raw, now, now); why != dropAuthUnexpected {
		t.Errorf("authenticated packet for a session without: %q", why.words())
	}
}

// Any changed byte is seen, and a wrong packet does not move the window.
func TestAuthTampering(t *testing.T) {
	now := epoch()
	for _, kind := range []AuthType{KeyedMD5, MeticulousKeyedSHA1} {
		good := signed(newSession(authConfig(kind, 5, "secret"), 9, fixedRand(), now))
		for i := range good {
			to := newSession(authConfig(kind, 5, "secret"), 7, fixedRand(), now)
			bad := bytes.Clone(good)
			bad[i] ^= 4
			p, raw, why := decode(bad)
			if why == dropNone {
				why = to.take(&p, raw, now, now)
			}
			if why == dropNone || to.auth.seqKnown || to.alive {
				t.Errorf("%s: byte %d changed: %q, sequence known %t", kind, i, why.words(), to.auth.seqKnown)
			}
		}
	}
}

func TestReplayWindow(t *testing.T) {
	for _, c := range []struct {
		kind  AuthType
		ahead int32 // of the last accepted number
		want  drop
	}{
		{KeyedMD5, 0, dropNone},
		{KeyedMD5, 1, dropNone},
		{KeyedMD5, 9, dropNone},
		{KeyedMD5, 10, dropAuthSeq},
		{KeyedMD5, -1, dropAuthSeq},
		{MeticulousKeyedSHA1, 0, dropAuthSeq},
		{MeticulousKeyedSHA1, 1, dropNone},
		{MeticulousKeyedSHA1, 9, dropNone},
		{MeticulousKeyedSHA1, 10, dropAuthSeq},
		{MeticulousKeyedSHA1, -1, dropAuthSeq},
	} {
		for _, known := range []uint32{1000, 0xfffffffc, 0} {
			t.Run(fmt.Sprintf("%s/%d%+d", c.kind, known, c.ahead), func(t *testing.T) {
				now := epoch()
				from := newSession(authConfig(c.kind, 5, "secret"), 9, fixedRand(), now)
				to := newSession(authConfig(c.kind, 5, "secret"), 7, fixedRand(), now)
				send := func(seq uint32, at time.Time) drop {
					from.auth.xmitSeq = seq - 1
					p, raw, _ := decode(signed(from))
					return to.take(&p, raw, at, at)
				}
				if why := send(known, now); why != dropNone {
					t.Fatal(why.words())
				}
				if why := send(known+uint32(c.ahead), now); why != c.want {
					t.Errorf("%q, want %q", why.words(), c.want.words())
				}
				// After twice the detection time any number will do.
				later := now.Add(2*to.detection + ms)
				to.advance(later, later)
				if why := send(known-77, later); why != dropNone {
					t.Errorf("after a silence: %q", why.words())
				}
			})
		}
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	a := Auth{Type: KeyedMD5, Key: "hush"}
	var text bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "auth", a, "key", a.Key)
	if s := fmt.Sprintf("%v %+v %#v %s", a, a, a, text.String()); bytes.Contains([]byte(s), []byte("hush")) {
		t.Error(s)
	}
}
