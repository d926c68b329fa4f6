package bfd

import (
	"bytes"
	"encoding/hex"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPacketOnTheWire(t *testing.T) {
	p := packet{
		diag: diagNeighborDown, state: stateInit, poll: true, mult: 3, my: 0x01020304, your: 0xa0b0c0d0,
		minTx: 1_000_000, minRx: 50_000,
	}
	var b [headerLen]byte
	p.encode(b[:], 0)
	const want = "23a0031801020304a0b0c0d0000f42400000c35000000000"
	if got := hex.EncodeToString(b[:]); got != want {
		t.Errorf("encoded\n%s, want\n%s", got, want)
	}
	got, raw, why := decode(append(b[:], 1, 2, 3)) // padding is not ours
	if d := cmp.Diff(p, got, cmp.AllowUnexported(packet{})); d != "" || why != dropNone || len(raw) != headerLen {
		t.Errorf("decoded (-want +got):\n%s%s, %d bytes", d, why.words(), len(raw))
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := func() []byte {
		p := packet{state: stateDown, mult: 3, my: 1}
		b := make([]byte, headerLen)
		p.encode(b, 0)
		return b
	}
	set := func(i int, v byte) []byte {
		b := good()
		b[i] = v
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want drop
	}{
		"good":                      {good(), dropNone},
		"empty":                     {nil, dropShort},
		"23 bytes":                  {good()[:23], dropShort},
		"version 0":                 {set(0, 0), dropVersion},
		"version 2":                 {set(0, 2<<5), dropVersion},
		"length below header":       {set(3, 23), dropLength},
		"length beyond payload":     {set(3, 25), dropLength},
		"no room for auth":          {set(1, byte(stateDown)<<6|bitAuth), dropLength},
		"multiplier 0":              {set(2, 0), dropMult},
		"multipoint":                {set(1, byte(stateDown)<<6|bitMultipoint), dropMultipoint},
		"my discriminator 0":        {set(7, 0), dropMyDiscr},
		"your discriminator 0, up":  {set(1, byte(stateUp)<<6), dropYourZero},
		"your discriminator 0,init": {set(1, byte(stateInit)<<6), dropYourZero},
		"admin down":                {set(1, byte(stateAdminDown)<<6), dropNone},
	} {
		if _, _, why := decode(c.b); why != c.want {
			t.Errorf("%s: %q, want %q", name, why.words(), c.want.words())
		}
	}
}

func TestDiagnosticWords(t *testing.T) {
	seen := map[string]bool{}
	for d := range diagnostic(10) {
		if w := d.words(); seen[w] || d > 0 && w == "" {
			t.Errorf("diagnostic %d is %q", d, w)
		} else {
			seen[w] = true
		}
	}
	for d := dropShort; d <= dropAuthDigest; d++ {
		if w := d.words(); seen[w] || w == "unknown reason" || w == "" {
			t.Errorf("drop %d is %q", d, w)
		} else {
			seen[w] = true
		}
	}
}

// seeds are packets of every kind, for the corpora.
func seeds() [][]byte {
	out := [][]byte{nil, {0x20}, bytes.Repeat([]byte{0xff}, 60), make([]byte, 24)}
	for _, kind := range append(authTypes(), "") {
		c := testConfig()
		if kind != "" {
			c = authConfig(kind, 5, "secret")
		}
		for st := range state(4) {
			s := newSession(c, 9, fixedRand(), epoch())
			s.state = st
			s.remoteDiscr = 7
			out = append(out, signed(s))
			s.sendFinal = true
			out = append(out, signed(s))
		}
	}
	return out
}

func FuzzDecode(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, raw, why := decode(b)
		if why != dropNone {
			return
		}
		if len(raw) < headerLen || len(raw) > len(b) {
			t.Fatalf("%d bytes of %d", len(raw), len(b))
		}
		again := make([]byte, headerLen)
		p.encode(again, 0)
		again[1] |= b[1] & (bitAuth | 1<<3) // the C bit is not kept
		again[3] = b[3]
		if !bytes.Equal(again, raw[:headerLen]) {
			t.Fatalf("%x becomes %x", raw[:headerLen], again)
		}
	})
}

// Whatever comes, in whatever order: no crash, no state that the machine does
// not have, no timer that is due for ever, and a packet that was dropped changes
// nothing.
func FuzzSession(f *testing.F) {
	for _, s := range seeds() {
		for kind := range uint8(6) {
			f.Add(append(append([]byte{}, s...), s...), kind, uint16(30))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, kind uint8, step uint16) {
		cfg := testConfig()
		if kinds := authTypes(); int(kind) < len(kinds) {
			cfg = authConfig(kinds[kind], 5, "secret")
		}
		now := epoch()
		s := newSession(cfg, 7, fixedRand(), now)
		var out [maxPacketLen]byte
		for range 16 {
			p, raw, why := decode(b)
			if why == dropNone {
				before := s.shown()
				if why = s.take(&p, raw, now, now); why != dropNone {
					if after := s.shown(); before != after {
						t.Fatalf("dropped for %s and yet %+v became %+v", why.words(), before, after)
					}
				}
			}
			s.advance(now, now)
			for i := 0; ; i++ {
				n := s.output(out[:], now)
				if n == 0 {
					break
				}
				if _, _, bad := decode(out[:n]); bad != dropNone || i > 2 {
					t.Fatalf("sends %x, number %d", out[:n], i)
				}
			}
			s.advance(now, now)
			if at := s.next(now); !at.IsZero() && !at.After(now) && s.suspectUntil.IsZero() && s.detection > 0 {
				t.Fatalf("due %s ago after all was done: %+v", now.Sub(at), s)
			}
			now = now.Add(ms * time.Duration(step))
			if len(b) > headerLen {
				b = b[headerLen:]
			}
		}
	})
}
