package ndp

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// Ours say nothing by which a host would change anything: lifetime 0, no flags,
// no times, no prefix.
func TestOurPackets(t *testing.T) {
	want := []byte{134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1}
	if got := advertisement(mac); !bytes.Equal(got, want) {
		t.Errorf("advertisement is % x, want % x", got, want)
	}
	want = []byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1}
	if got := solicitation(mac); !bytes.Equal(got, want) {
		t.Errorf("solicitation is % x, want % x", got, want)
	}
	for _, length := range []int{0, 8, 20, 33} { // none, EUI-64, InfiniBand, impossible
		m, ok := parse(advertisement(make(net.HardwareAddr, length)))
		if want := (message{kind: kindAdvertisement, sourced: length > 0 && length < 33}); !ok || m != want {
			t.Errorf("with an address of %d bytes: %+v, %t, want %+v", length, m, ok, want)
		}
	}
}

func TestParse(t *testing.T) {
	advert := func(lifetime uint16, options ...byte) []byte {
		b := make([]byte, advertisementBytes)
		b[0] = kindAdvertisement
		binary.BigEndian.PutUint16(b[6:], lifetime)
		return append(b, options...)
	}
	for name, c := range map[string]struct {
		in   []byte
		want message
		bad  bool
	}{
		"advertisement":      {in: advert(1800), want: message{kind: 134, lifetime: 1800 * time.Second}},
		"lifetime 0":         {in: advert(0), want: message{kind: 134}},
		"interval":           {in: advert(30, 7, 1, 0, 0, 0, 0, 0x27, 0x10), want: message{kind: 134, lifetime: 30 * time.Second, interval: 10 * time.Second}},
		"odd interval":       {in: advert(30, append([]byte{7, 2}, make([]byte, 14)...)...), want: message{kind: 134, lifetime: 30 * time.Second}},
		"unknown options":    {in: advert(30, 31, 1, 0, 0, 255, 255, 255, 255, 1, 1, 2, 0, 0, 0, 0, 1), want: message{kind: 134, sourced: true, lifetime: 30 * time.Second}},
		"solicitation":       {in: solicitation(mac), want: message{kind: 133, sourced: true}},
		"option of length 0": {in: advert(30, 1, 0, 0, 0, 0, 0, 0, 0), bad: true},
		"option cut short":   {in: advert(30, 1, 2, 0, 0, 0, 0, 0, 0), bad: true},
		"half an option":     {in: advert(30, 1, 1, 0), bad: true},
		"short":              {in: advert(30)[:15], bad: true},
		"empty":              {bad: true},
		"code":               {in: append([]byte{134, 1}, advert(30)[2:]...), bad: true},
		"another kind":       {in: append([]byte{135, 0}, advert(30)[2:]...), bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := parse(c.in)
			if ok == c.bad {
				t.Fatalf("accepted: %t", ok)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(message{})); !c.bad && diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestValid(t *testing.T) {
	local, global, none := netip.MustParseAddr("fe80::2"), netip.MustParseAddr("2001:db8::2"), netip.IPv6Unspecified()
	for _, c := range []struct {
		p    packet
		want bool
	}{
		{packet{from: local, hopLimit: 255, message: message{kind: kindAdvertisement}}, true},
		{packet{from: local, hopLimit: 254, message: message{kind: kindAdvertisement}}, false},
		{packet{from: local, hopLimit: -1, message: message{kind: kindAdvertisement}}, false},
		{packet{from: global, hopLimit: 255, message: message{kind: kindAdvertisement}}, false},
		{packet{from: none, hopLimit: 255, message: message{kind: kindSolicitation}}, true},
		{packet{from: none, hopLimit: 255, message: message{kind: kindSolicitation, sourced: true}}, false},
		{packet{from: global, hopLimit: 255, message: message{kind: kindSolicitation, sourced: true}}, true},
	} {
		if got := c.p.valid(); got != c.want {
			t.Errorf("%+v: valid is %t", c.p, got)
		}
	}
}

func TestHold(t *testing.T) {
	for _, c := range []struct{ lifetime, interval, want time.Duration }{
		{0, 0, 90 * time.Second},
		{30 * time.Second, 0, 35 * time.Second},
		{60 * time.Second, 0, time.Minute},
		{1800 * time.Second, 0, 90 * time.Second},
		{0, 20 * time.Second, time.Minute},
		{0, 70 * time.Millisecond, 35 * time.Second},
		{9000 * time.Second, (1<<32 - 1) * time.Millisecond, 90 * time.Second},
	} {
		m := message{lifetime: c.lifetime, interval: c.interval}
		if got := m.hold(); got != c.want {
			t.Errorf("lifetime %s, interval %s: hold is %s, want %s", c.lifetime, c.interval, got, c.want)
		}
	}
}

// Whatever arrives: no panic, bounded times, and what is accepted is accepted
// with any valid option behind it.
func FuzzParse(f *testing.F) {
	f.Add(advertisement(mac))
	f.Add(solicitation(mac))
	f.Add([]byte{134, 0, 0, 0, 64, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 0, 0, 0, 0x27, 0x10})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parse(b)
		if !ok {
			if m != (message{}) {
				t.Fatalf("refused and yet %+v", m)
			}
			return
		}
		if h := m.hold(); h < minHold || h > maxHold {
			t.Fatalf("%+v holds %s", m, h)
		}
		again, ok := parse(append(bytes.Clone(b), 200, 1, 0, 0, 0, 0, 0, 0))
		if !ok || again != m {
			t.Fatalf("with another option %+v, %t, without it %+v", again, ok, m)
		}
	})
}

// The control messages are the kernel's, but their form is still checked.
func FuzzHopLimit(f *testing.F) {
	f.Add([]byte{20, 0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 52, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) { hopLimitOf(b) })
}
