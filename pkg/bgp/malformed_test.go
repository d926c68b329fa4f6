package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// frame makes a message of the type with a right length.
func frame(kind byte, body ...byte) []byte {
	out := slices.Repeat([]byte{0xff}, 16)
	size := 19 + len(body)
	return append(append(out, byte(size>>8), byte(size), kind), body...)
}

func mustSerialize(t *testing.T, m *bgp.BGPMessage) []byte {
	t.Helper()
	b, err := m.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openWith is an OPEN with any parameters.
func openWith(t *testing.T, asn uint16, hold uint16, id string, caps ...bgp.ParameterCapabilityInterface) []byte {
	t.Helper()
	return mustSerialize(t, bgp.NewBGPOpenMessage(asn, hold, id, []bgp.OptionParameterInterface{bgp.NewOptionParameterCapability(caps)}))
}

// hostileInputs are what a peer sends as its first octets, or in a session.
func hostileInputs(t *testing.T) (first, later map[string][]byte) {
	t.Helper()
	four := bgp.NewCapFourOctetASNumber(65001)
	good := openWith(t, 65001, 90, "10.0.0.9", four)
	version := slices.Clone(good)
	version[19] = 5
	cut := slices.Clone(good)
	cut[17] = 200
	noise := make([]byte, 8192)
	for i := range noise {
		noise[i] = byte(i*131 + i>>3)
	}
	first = map[string][]byte{
		"wrong AS":                openWith(t, 65099, 90, "10.0.0.9", bgp.NewCapFourOctetASNumber(65099)),
		"hold time 1":             openWith(t, 65001, 1, "10.0.0.9", four),
		"router id 0":             openWith(t, 65001, 90, "0.0.0.0", four),
		"version 5":               version,
		"cut OPEN":                cut[:len(cut)-3],
		"OPEN twice":              append(slices.Clone(good), good...),
		"unknown type":            frame(9),
		"KEEPALIVE first":         frame(4),
		"UPDATE first":            frame(2, 0, 0, 0, 0),
		"NOTIFICATION first":      frame(3, 6, 2),
		"oversized":               append(slices.Repeat([]byte{0xff}, 16), 0xff, 0xff, 2),
		"undersized":              append(slices.Repeat([]byte{0xff}, 16), 0, 5, 1),
		"no marker":               noise,
		"parameters beyond OPEN":  frame(1, 4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 9, 255, 2, 250, 65, 4),
		"capability beyond OPEN":  frame(1, 4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 9, 4, 2, 2, 65, 200),
		"unknown parameter":       frame(1, 4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 9, 4, 99, 2, 1, 2),
		"short graceful restart":  frame(1, 4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 9, 4, 2, 2, 64, 0),
		"short ADD-PATH":          frame(1, 4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 9, 5, 2, 3, 69, 1, 0),
		"short extended next hop": frame(1, 4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 9, 5, 2, 3, 5, 1, 0),
	}
	later = map[string][]byte{
		"OPEN again":              good,
		"unknown type":            frame(9),
		"oversized":               append(slices.Repeat([]byte{0xff}, 16), 0xff, 0xff, 2),
		"noise":                   noise,
		"withdrawn beyond UPDATE": frame(2, 0xff, 0xff, 0, 0),
		"attributes beyond":       frame(2, 0, 0, 0xff, 0xff),
		"short MP_REACH":          frame(2, 0, 0, 0, 6, 0x80, 14, 3, 0, 1, 1),
		"MP_REACH of nothing":     frame(2, 0, 0, 0, 3, 0x80, 14, 0),
		"unknown family":          frame(2, 0, 0, 0, 8, 0x80, 15, 5, 0x40, 4, 200, 1, 2),
		"prefix of 33 bits":       frame(2, 0, 0, 0, 4, 0x40, 1, 1, 0, 33, 10, 0, 0, 0, 0),
		"short AS_PATH":           frame(2, 0, 0, 0, 8, 0x40, 1, 1, 0, 0x40, 2, 1, 2, 24, 20, 0, 0),
		"short REFRESH":           frame(5, 0, 1),
		"REFRESH of unknown":      frame(5, 0x40, 4, 0, 200),
		"long NOTIFICATION":       frame(3, append([]byte{6, 2, 255}, noise[:300]...)...),
	}
	return first, later
}

// hostileLab is a manager with peers that send anything, a good one of the same
// speaker, and one of another speaker.
type hostileLab struct {
	t                       *testing.T
	m                       *Manager
	host                    netip.Addr
	hostile                 []netip.Addr
	sameAddr, elsewhereAddr netip.Addr
	same, elsewhere         *rawPeer
	want                    Desired
}

func newHostileLab(t *testing.T, hostile int) *hostileLab {
	t.Helper()
	l := &hostileLab{t: t, host: addr(t), sameAddr: addr(t), elsewhereAddr: addr(t)}
	host5 := addr(t)
	l.m = startManager(t, Options{}, func(mt *managerTiming) { mt.goodLife, mt.longRetry = time.Millisecond, 100*time.Millisecond })
	one := conf("en1", 65010, l.host, peer(l.sameAddr, 65002))
	for range hostile {
		p := peer(addr(t), 65001)
		p.LocalAddress = l.host
		one.Peers = append(one.Peers, p)
		l.hostile = append(l.hostile, p.Address)
	}
	two := conf("en5", 65010, host5, peer(l.elsewhereAddr, 65003))
	one.Paths, two.Paths = []Path{path4(1)}, []Path{path4(1)}
	l.want = Desired{Speakers: []SpeakerConfig{one, two}}
	l.m.Announce(l.want)
	l.elsewhere = dialRaw(t, l.elsewhereAddr, host5, 65003, rawOptions{})
	l.elsewhere.await(patience, hasPrefix("[+"))
	l.same = dialRaw(t, l.sameAddr, l.host, 65002, rawOptions{})
	l.same.await(patience, hasPrefix("[+"))
	return l
}

// check wants the session elsewhere undisturbed, the one of the same speaker too
// if its process lives, and both it and the hostile peer to be served.
func (l *hostileLab) check(t *testing.T, hostile netip.Addr, restarts int) {
	t.Helper()
	good := dialRaw(t, hostile, l.host, 65001, rawOptions{})
	good.await(patience, hasPrefix("[+"))
	_ = good.conn.Close()
	if st := speakerState(l.m, "en1"); st.Restarts != restarts {
		_ = l.same.conn.Close()
		l.same = dialRaw(l.t, l.sameAddr, l.host, 65002, rawOptions{}) // lives longer than this input
		l.same.await(patience, hasPrefix("[+"))
		t.Logf("speaker ended: %.100s", st.LastExit)
	} else if got := l.same.seen(); got != nil || l.same.ended() != nil {
		t.Errorf("the session of the same speaker got %q, %v", got, l.same.ended())
	}
	if got := l.elsewhere.seen(); got != nil || l.elsewhere.ended() != nil {
		t.Errorf("the session of the other speaker got %q, %v", got, l.elsewhere.ended())
	}
	if st := speakerState(l.m, "en5"); st.Restarts != 0 || peerState(&st, l.elsewhereAddr).Transitions != 1 {
		t.Errorf("the other speaker is disturbed: %+v", st)
	}
}

// Whatever a peer sends costs at most its own speaker's process, which comes back.
func TestHostileInput(t *testing.T) {
	first, later := hostileInputs(t)
	l := newHostileLab(t, len(first)+len(later))
	next := 0
	for when, inputs := range map[string]map[string][]byte{"first": first, "later": later} {
		for name, octets := range inputs {
			hostile := l.hostile[next]
			next++
			t.Run(when+": "+name, func(t *testing.T) {
				restarts := speakerState(l.m, "en1").Restarts
				if when == "first" {
					send(t, hostile, l.host, octets)
				} else {
					p := dialRaw(t, hostile, l.host, 65001, rawOptions{})
					if _, err := p.conn.Write(octets); err != nil {
						t.Logf("write: %v", err)
					}
					<-time.After(20 * time.Millisecond)
					_ = p.conn.Close()
				}
				l.check(t, hostile, restarts)
			})
		}
	}
}

// send connects, sends octets and reads for a moment.
func send(t *testing.T, from, to netip.Addr, octets []byte) {
	t.Helper()
	var conn net.Conn
	eventually(t, patience, func() string { return "connection" }, func() (ok bool) {
		var err error
		conn, err = connect(t.Context(), from, to, nil)
		return err == nil
	})
	if _, err := conn.Write(octets); err != nil {
		t.Logf("write: %v", err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn) // until the other end or the deadline
	_ = conn.Close()
}

// Capabilities that nobody knows, and paths that nobody asked for, are no reason
// to end a session; nor do they change what is announced.
func TestStrangeButHarmless(t *testing.T) {
	host, router, other := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001), peer(other, 65002))
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	var caps []bgp.ParameterCapabilityInterface
	for code := range 12 {
		caps = append(caps, bgp.NewCapUnknown(bgp.BGPCapabilityCode(200+code), make([]byte, code)))
	}
	p, q := dialRaw(t, router, host, 65001, rawOptions{caps: caps}), dialRaw(t, other, host, 65002, rawOptions{})
	p.await(patience, hasPrefix("[+"))
	q.await(patience, hasPrefix("[+"))
	push(t, p, router, 65001, 0, 1000) // with our own VIP among them
	push(t, p, router, 65010, 0, 10)   // and with our own AS in the path
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State().Peers) },
		func() bool { s.signal(); return peerState(s.State(), router).Received >= 1000 })
	for name, raw := range map[string]*rawPeer{"router": p, "other": q} {
		if got := raw.quiet(50 * time.Millisecond); got != nil {
			t.Errorf("%s got %q", name, got)
		}
	}
	if st := s.State(); len(st.Announced) != 1 || peerState(st, router).Transitions != 1 || peerState(st, other).Transitions != 1 {
		t.Errorf("state %+v", st)
	}
}

// flood opens a thousand connections, of a peer and of a stranger by turns.
func (l *hostileLab) flood(t *testing.T) []net.Conn {
	t.Helper()
	stranger := addr(t)
	var open []net.Conn
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range 1000 {
		from := l.hostile[0]
		if i%2 == 0 {
			from = stranger
		}
		if conn, err := connect(ctx, from, l.host, nil); err == nil {
			open = append(open, conn)
		}
	}
	if len(open) < 500 {
		t.Errorf("%d connections were made", len(open))
	}
	return open
}

// A thousand connections, of the peer and of strangers, disturb nobody, and the
// peer is served afterwards.
func TestManyConnections(t *testing.T) {
	l := newHostileLab(t, 1)
	open := l.flood(t)
	for _, conn := range open {
		_ = conn.Close()
	}
	l.check(t, l.hostile[0], 0)
	st := speakerState(l.m, "en1")
	if st.Restarts != 0 || peerState(&st, l.sameAddr).Transitions != 1 {
		t.Errorf("the speaker is disturbed: %+v", st)
	}
}

// A connection that says nothing keeps the peer out for a while, and not for the
// four minutes that GoBGP waits.
func TestSilentConnectionIsGivenUp(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	s.timing.openWait = 300 * time.Millisecond
	p := peer(router, 65001)
	p.Passive = true
	apply(t, s, conf("en1", 65010, host, p))
	awaitListening(t, s, router)
	conn, err := connect(t.Context(), router, host, nil)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State().Peers) },
		func() bool { return peerState(s.State(), router).LastError == noOpen })
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the silent connection is still open")
	}
	dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
}
