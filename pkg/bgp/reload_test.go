package bgp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// syncBuffer is a log that a test reads.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// What a change of each parameter does to the session that it belongs to, and
// to another one of the same speaker.
func TestWhatResetsASession(t *testing.T) {
	seven := uint32(7)
	for name, tt := range map[string]struct {
		change func(*SpeakerConfig)
		reset  string // why the first peer is told to be reset; empty if it is not
		other  bool   // the other peer is reset too
		sent   string // what the first peer gets instead
	}{
		"nothing":             {change: func(*SpeakerConfig) {}},
		"ASN":                 {change: func(c *SpeakerConfig) { c.Peers[0].ASN = 65009 }, reset: "remote AS"},
		"External":            {change: func(c *SpeakerConfig) { c.Peers[0].ASN, c.Peers[0].External = 0, true }, reset: "remote AS"},
		"LocalAddress":        {change: func(c *SpeakerConfig) { c.Peers[0].LocalAddress = c.ListenAddresses[1] }, reset: "local address"},
		"Interface, pinned":   {change: func(c *SpeakerConfig) { c.Peers[0].Interface = "lo" }},
		"Port":                {change: func(c *SpeakerConfig) { c.Peers[0].Port = 1179 }},
		"Password":            {change: func(c *SpeakerConfig) { c.Peers[0].Password = "new" }, reset: "password"},
		"TTLSecurity":         {change: func(c *SpeakerConfig) { c.Peers[0].TTLSecurity = true }},
		"HoldTime":            {change: func(c *SpeakerConfig) { c.Peers[0].HoldTime = 30 * time.Second }},
		"Keepalive":           {change: func(c *SpeakerConfig) { c.Peers[0].Keepalive = 2 * time.Second }},
		"ConnectRetry":        {change: func(c *SpeakerConfig) { c.Peers[0].ConnectRetry = 5 * time.Second }},
		"MaxPrefixes":         {change: func(c *SpeakerConfig) { c.Peers[0].MaxPrefixes = 5 }},
		"Passive":             {change: func(c *SpeakerConfig) { c.Peers[0].Passive = true }},
		"RouterID, the right": {change: func(c *SpeakerConfig) { c.Peers[0].RouterID = c.Peers[0].Address }},
		"MultihopTTL":         {change: func(c *SpeakerConfig) { c.Peers[0].MultihopTTL = 5 }},
		"Families":            {change: func(c *SpeakerConfig) { c.Peers[0].Families = Families{IPv4: true} }, reset: "address families"},
		"Families, the same":  {change: func(c *SpeakerConfig) { c.Peers[0].Families = Families{IPv4: true, IPv6: true} }},
		"AddPath":             {change: func(c *SpeakerConfig) { c.Peers[0].AddPath = true }, reset: "ADD-PATH"},
		"Attributes": {
			change: func(c *SpeakerConfig) { c.Peers[0].Attributes = &Attributes{MED: &seven} }, sent: "{Med: 7}",
		},
		"two of a peer": {
			change: func(c *SpeakerConfig) { c.Peers[0].Password, c.Peers[0].AddPath = "new", true }, reset: "password, ADD-PATH",
		},
		"Paths": {change: func(c *SpeakerConfig) { c.Paths[0].MED = &seven }, sent: "{Med: 7}", other: true},
		"GracefulRestart": {
			change: func(c *SpeakerConfig) { c.GracefulRestart = GracefulRestart{Enabled: true, RestartTime: time.Minute} },
			reset:  "graceful restart", other: true,
		},
		"DownReason":      {change: func(c *SpeakerConfig) { c.DownReason = "never said" }},
		"ListenAddresses": {change: func(c *SpeakerConfig) { c.ListenAddresses = c.ListenAddresses[:1] }},
		"ListenPort":      {change: func(c *SpeakerConfig) { c.ListenPort = testPort + 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			host, second, one, two := addr(t), addr(t), addr(t), addr(t)
			var logged syncBuffer
			s := startSpeaker(t, SpeakerOptions{Log: slog.New(slog.NewTextHandler(&logged, nil))})
			cfg := conf("en1", 65010, host, peer(one, 65001), peer(two, 65002))
			cfg.ListenAddresses = append(cfg.ListenAddresses, second)
			cfg.Paths = []Path{path4(1)}
			apply(t, s, cfg)
			p1, p2 := dialRaw(t, one, host, 65001, rawOptions{}), dialRaw(t, two, host, 65002, rawOptions{})
			p1.await(patience, hasPrefix("[+"))
			p2.await(patience, hasPrefix("[+"))
			awaitEstablished(t, s, one)
			awaitEstablished(t, s, two)
			tt.change(&cfg)
			apply(t, s, cfg)
			apply(t, s, cfg)
			var want, wantOther []string
			if tt.reset != "" {
				want = []string{"notification 6/4 configuration: " + tt.reset + " changed"}
			}
			if tt.other {
				wantOther = want
			}
			gets := func(p *rawPeer, something bool) []string {
				if something {
					return p.gets(1, 150*time.Millisecond)
				}
				return p.seen()
			}
			got := gets(p1, tt.sent != "" || tt.reset != "")
			switch {
			case tt.sent != "":
				if len(got) != 1 || !strings.Contains(got[0], tt.sent) {
					t.Errorf("messages %q, want one with %s", got, tt.sent)
				}
			default:
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("messages (-want +got):\n%s", diff)
				}
			}
			gotOther := gets(p2, tt.other)
			if tt.sent != "" && tt.other {
				wantOther = got
			}
			if diff := cmp.Diff(wantOther, gotOther); diff != "" {
				t.Errorf("messages to the other (-want +got):\n%s", diff)
			}
			var wantLog []string
			for i, told := range [][]string{want, wantOther} {
				if len(told) > 0 && tt.reset != "" {
					wantLog = append(wantLog, fmt.Sprintf("peer=%s reason=%q", cfg.Peers[i].Address, tt.reset+" changed"))
				}
			}
			if n := strings.Count(logged.String(), "msg=\"peer reset\""); n != len(wantLog) {
				t.Errorf("%d resets are logged, want %d", n, len(wantLog))
			}
			for _, line := range wantLog {
				if !strings.Contains(logged.String(), line) {
					t.Errorf("not logged: %s in\n%s", line, logged.String())
				}
			}
			if e := s.State().Error; e != "" {
				t.Errorf("error: %s", e)
			}
		})
	}
}

// What is changed in place has effect: TTLs at once, the rest with the next
// session.
func TestChangesInPlaceHaveEffect(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{control: setTTL(255)})
	awaitEstablished(t, s, router)
	for _, step := range []struct {
		security bool
		multihop uint8
		ttl, min int
	}{{true, 0, 255, 255}, {false, 0, 1, 0}, {false, 7, 7, 0}, {true, 0, 255, 255}, {false, 9, 9, 0}, {false, 0, 1, 0}} {
		cfg.Peers[0].TTLSecurity, cfg.Peers[0].MultihopTTL = step.security, step.multihop
		apply(t, s, cfg)
		if ttl, least, _ := socketTo(t, host, router); ttl != step.ttl || least != step.min {
			t.Errorf("%+v: TTL %d, at least %d", step, ttl, least)
		}
	}
	cfg.Peers[0].Passive = true
	apply(t, s, cfg)
	cfg.Peers[0].HoldTime, cfg.Peers[0].MaxPrefixes = 30*time.Second, 9
	apply(t, s, cfg)
	if got := peerState(s.State(), router); got.HoldTime != 9*time.Second || got.Transitions != 1 || got.RouterID != router {
		t.Errorf("state %+v", got)
	}
	_ = p.conn.Close()
	eventually(t, patience, func() string { return "end" }, func() bool { return peerState(s.State(), router).State != Established })
	dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State().Peers) },
		func() bool { return peerState(s.State(), router).HoldTime == 30*time.Second })
	peers, err := s.listPeers(t.Context(), s.server.Load())
	if err != nil || !peers[router].GetTransport().GetPassiveMode() {
		t.Errorf("peer is %v, %v, want a passive one", peers[router], err)
	}
}

// The key is changed by a reload: only its session is reset, and comes back with
// the new key, whoever changes first.
func TestMD5KeyRotation(t *testing.T) {
	for _, passive := range []bool{true, false} {
		t.Run(fmt.Sprintf("router dials %t", passive), func(t *testing.T) {
			host, router, other := addr(t), addr(t), addr(t)
			s := startSpeaker(t, SpeakerOptions{})
			p := peer(router, 65001)
			p.Password = "first"
			cfg := conf("en1", 65010, host, p, peer(other, 65002))
			if !passive {
				cfg.ListenPort = 0
			}
			apply(t, s, cfg)
			meet := func(key string) *rawPeer {
				if passive {
					return dialRaw(t, router, host, 65001, rawOptions{control: setKey(host, key)})
				}
				return acceptRaw(t, router, 65001, rawOptions{control: setKey(host, key)})
			}
			raw := meet("first")
			awaitEstablished(t, s, router)
			if passive {
				dialRaw(t, other, host, 65002, rawOptions{})
			} else {
				acceptRaw(t, other, 65002, rawOptions{})
			}
			awaitEstablished(t, s, other)
			for _, key := range []string{"second", "a third and longer one"} {
				cfg.Peers[0].Password = Secret(key)
				apply(t, s, cfg)
				raw.await(patience, hasPrefix("notification 6/4 configuration: password changed"))
				raw = meet(key)
				awaitEstablished(t, s, router)
			}
			if got := peerState(s.State(), other); got.Transitions != 1 {
				t.Errorf("the other session flapped: %+v", got)
			}
			if e := s.State().Error; e != "" {
				t.Errorf("error: %s", e)
			}
		})
	}
}

// A key is taken off every listener that GoBGP put it on, for both families.
func TestMD5KeyIsDeleted(t *testing.T) {
	host, router := netip.MustParseAddr("::1"), addr(t)
	local := addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	six := peer(netip.MustParseAddr("fd00::2"), 65001)
	six.Password, six.Families = "six", Families{IPv6: true}
	four := peer(router, 65002)
	four.Password = "four"
	cfg := conf("en1", 65010, local, four)
	six.LocalAddress = host
	cfg.Peers = append(cfg.Peers, six)
	cfg.ListenAddresses = append(cfg.ListenAddresses, host)
	apply(t, s, cfg)
	cfg.Peers = nil
	apply(t, s, cfg)
	for _, a := range []netip.Addr{router, six.Address} {
		fds, err := listeners(s.listening)
		if err != nil || len(fds) != 2 {
			t.Fatalf("listeners %v, %v", fds, err)
		}
		for fd, at := range fds {
			if err := setAnyKey(fd, a, ""); at.Addr().Is4() == a.Is4() && !errors.Is(err, unix.ENOENT) {
				t.Errorf("the key of %s is still there: %v", a, err)
			}
		}
	}
	if e := s.State().Error; e != "" {
		t.Errorf("error: %s", e)
	}
}

// VIPs that come and go change the limit of prefixes all the time. That keeps no
// session from coming up, for which this end may have to dial: it then waits for a
// second or two, and must not begin to do so again.
func TestLimitsWhileConnecting(t *testing.T) {
	host, router := addr(t), addr(t)
	r := startSpeaker(t, SpeakerOptions{})
	waits := peer(host, 65010)
	waits.Passive = true
	apply(t, r, conf("r1", 65001, router, waits))
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Peers[0].MaxPrefixes = 16
	changed := time.NewTicker(100 * time.Millisecond)
	defer changed.Stop()
	for end := time.Now().Add(patience); peerState(s.State(), router).State != Established; <-changed.C {
		if time.Now().After(end) {
			t.Fatalf("not up after %d changes: %+v", cfg.Reflected, s.State())
		}
		cfg.Reflected++
		apply(t, s, cfg)
	}
	have, err := s.listPeers(t.Context(), s.server.Load())
	if err != nil {
		t.Fatal(err)
	}
	for _, af := range have[router].GetAfiSafis() {
		if got := af.GetPrefixLimits().GetMaxPrefixes(); got != 16+cfg.Reflected {
			t.Errorf("limit is %d, want %d", got, 16+cfg.Reflected)
		}
	}
}

// What has to go cuts an Apply short, and may do so each time: what has to come
// still comes, the paths before the peers. Only paths whose time may be over do not.
func TestCutShortEachTime(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host)
	apply(t, s, cfg)
	cfg.Peers = conf("en1", 65010, host, peer(router, 65001)).Peers
	for i := range 2*addAnyway + 1 {
		cfg.Paths = append(cfg.Paths, path4(i))
	}
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	for _, want := range []struct{ paths, peers int }{{addAnyway, 0}, {2 * addAnyway, 0}, {2*addAnyway + 1, 1}} {
		err := s.Apply(cut, cfg)
		st := s.State()
		if len(st.Announced) != want.paths || len(st.Peers) != want.peers || (err == nil) != (want.peers > 0) {
			t.Errorf("%d paths and %d peers, %v, want %d and %d", len(st.Announced), len(st.Peers), err, want.paths, want.peers)
		}
	}
	fenced := path4(3 * addAnyway)
	fenced.Fenced = true
	cfg.Paths = append(cfg.Paths, fenced, path4(4*addAnyway))
	if err := s.Apply(cut, cfg); !errors.Is(err, context.Canceled) || len(s.State().Announced) != 2*addAnyway+2 {
		t.Errorf("with a fenced path: %d paths, %v", len(s.State().Announced), err)
	}
}
