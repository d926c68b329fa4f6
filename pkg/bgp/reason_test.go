package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

func awaitError(t *testing.T, s *Speaker, a netip.Addr, within time.Duration, want string) {
	t.Helper()
	get := func() string { return peerState(s.State(), a).LastError }
	eventually(t, within, func() string { return fmt.Sprintf("last error %q, have %q", want, get()) },
		func() bool { return strings.Contains(get(), want) })
}

// What ended a session, or keeps it from coming up, is told in words.
func TestLastError(t *testing.T) {
	t.Run("shutdown text", func(t *testing.T) {
		host, router := addr(t), addr(t)
		s := startSpeaker(t, SpeakerOptions{})
		apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
		p := dialRaw(t, router, host, 65001, rawOptions{})
		awaitEstablished(t, s, router)
		text := "maintenance \x07"
		if err := p.write(bgp.NewBGPNotificationMessage(6, 2, append([]byte{byte(len(text))}, text...))); err != nil {
			t.Fatal(err)
		}
		awaitError(t, s, router, patience, `received Cease/Administrative Shutdown: "maintenance \a"`)
	})
	t.Run("wrong AS of the peer", func(t *testing.T) {
		host, router := addr(t), addr(t)
		s := startSpeaker(t, SpeakerOptions{})
		apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
		awaitListening(t, s, router)
		_, err := tryRaw(context.Background(), t, router, host, 65009, rawOptions{})
		if err == nil {
			t.Fatal("session with the wrong AS")
		}
		awaitError(t, s, router, patience, "sent OPEN Message Error/Bad Peer AS (as number mismatch expected 65001, received 65009)")
	})
	t.Run("peer refuses our OPEN", func(t *testing.T) {
		host, router := addr(t), addr(t)
		s := startSpeaker(t, SpeakerOptions{})
		apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
		awaitListening(t, s, router)
		refuse(t, router, host)
		awaitError(t, s, router, patience, "peer refused our OPEN with a NOTIFICATION")
	})
	t.Run("nobody listens", func(t *testing.T) {
		host, router := addr(t), addr(t)
		s := startSpeaker(t, SpeakerOptions{})
		apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
		awaitError(t, s, router, patience, "connect: connection refused")
	})
	t.Run("hold time 0", func(t *testing.T) {
		host, router := addr(t), addr(t)
		s := startSpeaker(t, SpeakerOptions{})
		s.timing.limitRetry = time.Second
		cfg := conf("en1", 65010, host, peer(router, 65001))
		cfg.Paths = []Path{path4(1)}
		apply(t, s, cfg)
		dialRaw(t, router, host, 65001, rawOptions{noHold: true})
		awaitError(t, s, router, patience, "router offers hold time 0; set 3 s or more")
		var first PeerState
		eventually(t, patience, func() string { return fmt.Sprintf("idle: %+v", first) }, func() bool {
			first = peerState(s.State(), router)
			return first.State == Idle
		})
		// It is left alone for a while, and asked again then.
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			<-tick.C
			now := peerState(s.State(), router)
			if time.Since(first.Since) >= s.timing.limitRetry {
				break // it may have been asked when that was read
			}
			if now.State != Idle || now.Transitions != first.Transitions {
				t.Fatalf("%s after the end: %+v, want it left alone", time.Since(first.Since), now)
			}
		}
		dialRaw(t, router, host, 65001, rawOptions{})
		awaitEstablished(t, s, router)
	})
	t.Run("wrong AS of a peer that closes then", func(t *testing.T) {
		host, router := addr(t), addr(t)
		s := startSpeaker(t, SpeakerOptions{})
		apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
		awaitListening(t, s, router)
		_, err := tryRaw(context.Background(), t, router, host, 65009, rawOptions{})
		if err == nil {
			t.Fatal("session with the wrong AS")
		}
		awaitError(t, s, router, patience, "Bad Peer AS")
		awaitListening(t, s, router)
		before := s.State()
		_ = connectSoon(t, router, host).Close()
		eventually(t, patience, func() string { return "the end of the second connection" },
			func() bool {
				p := peerState(s.State(), router)
				return p.State == Active && p.Since.After(peerState(before, router).Since)
			})
		awaitError(t, s, router, 0, "Bad Peer AS (as number mismatch expected 65001, received 65009)")
		// What kept it from coming up is of no interest once it is up.
		dialRaw(t, router, host, 65001, rawOptions{})
		awaitEstablished(t, s, router)
		eventually(t, patience, func() string { return "no error: " + peerState(s.State(), router).LastError },
			func() bool { return peerState(s.State(), router).LastError == "" })
	})
	t.Run("the end before", func(t *testing.T) {
		host, router := addr(t), addr(t)
		s := startSpeaker(t, SpeakerOptions{})
		apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
		p := dialRaw(t, router, host, 65001, rawOptions{})
		awaitEstablished(t, s, router)
		if err := p.write(bgp.NewBGPNotificationMessage(6, 4, nil)); err != nil {
			t.Fatal(err)
		}
		awaitError(t, s, router, patience, "Administrative Reset")
		ended := func(want bool) {
			t.Helper()
			if got := peerState(s.State(), router); got.PeerEnded != want {
				t.Errorf("ended by the peer: %t in %+v", got.PeerEnded, got)
			}
		}
		eventually(t, patience, func() string { return "idle" }, func() bool { return peerState(s.State(), router).State != Established })
		ended(true)
		awaitListening(t, s, router)
		_ = connectSoon(t, router, host).Close()
		awaitError(t, s, router, patience, "connection closed by the peer during OPEN")
		ended(true)
		p = dialRaw(t, router, host, 65001, rawOptions{})
		awaitEstablished(t, s, router)
		awaitError(t, s, router, patience, "Administrative Reset")
		ended(false)
		// A connection that only ends leaves the router what it has.
		_ = p.conn.Close()
		eventually(t, patience, func() string { return "idle" }, func() bool { return peerState(s.State(), router).State != Established })
		ended(false)
	})
	t.Run("peer closes", func(t *testing.T) {
		host, router := addr(t), addr(t)
		s := startSpeaker(t, SpeakerOptions{})
		apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
		awaitListening(t, s, router)
		conn := connectSoon(t, router, host)
		_ = conn.Close()
		awaitError(t, s, router, patience, "connection closed by the peer during OPEN")
	})
}

// refuse answers our OPEN as a router does that expects another AS.
func refuse(t *testing.T, router, host netip.Addr) {
	t.Helper()
	conn := connectSoon(t, router, host)
	defer func() { _ = conn.Close() }()
	p := &rawPeer{t: t, conn: conn}
	if _, err := p.read(); err != nil {
		t.Fatal(err)
	}
	if err := p.write(bgp.NewBGPNotificationMessage(2, 2, nil)); err != nil {
		t.Fatal(err)
	}
	// Closed at once, with octets unread, the connection would be reset, and what
	// GoBGP has not read of it lost.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open")
	}
}

func connectSoon(t *testing.T, from, to netip.Addr) net.Conn {
	t.Helper()
	var conn net.Conn
	eventually(t, patience, func() string { return "a connection" }, func() bool {
		c, err := connect(context.Background(), from, to, nil)
		conn = c
		return err == nil
	})
	return conn
}

func TestNotificationText(t *testing.T) {
	tests := []struct {
		code, sub uint8
		text      string
		want      string
	}{
		{6, 2, "maintenance", `Cease/Administrative Shutdown: "maintenance"`},
		{6, 1, "", "Cease/Maximum Number of Prefixes Reached"},
		{6, 99, "", "Cease/subcode 99"},
		{6, 0, "", "Cease"},
		{4, 0, "", "Hold Timer Expired"},
		{2, 2, "", "OPEN Message Error/Bad Peer AS"},
		{2, 5, "", "OPEN Message Error/subcode 5"},
		{3, 11, "", "UPDATE Message Error/Malformed AS_PATH"},
		{1, 3, "", "Message Header Error/Bad Message Type"},
		{5, 1, "", "Finite State Machine Error/Unexpected Message in OpenSent"},
		{200, 1, "\xff", `code 200/subcode 1: "?"`},
	}
	for _, tt := range tests {
		if got := notificationText(tt.code, tt.sub, tt.text); got != tt.want {
			t.Errorf("notificationText(%d, %d, %q) = %q, want %q", tt.code, tt.sub, tt.text, got, tt.want)
		}
	}
}

// A silence is told with what may be behind it.
func TestHint(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name  string
		state PeerState
		want  Peer
		text  string
	}{
		{"no password", PeerState{State: Active, LastError: "connect: no answer"}, Peer{}, "connect: no answer, or it wants a password"},
		{"password", PeerState{State: Active, LastError: "connect: no answer"}, Peer{Password: "x"}, "connect: no answer, or its password differs"},
		{
			"password and GTSM",
			PeerState{State: Active, LastError: "connect: no answer"},
			Peer{Password: "x", TTLSecurity: true},
			"connect: no answer, or its password differs, or it does not use TTL security",
		},
		{"refused", PeerState{State: Active, LastError: "connect: connection refused"}, Peer{Password: "x"}, "connect: connection refused"},
		{"OPEN just sent", PeerState{State: OpenSent, Since: now.Add(-9 * time.Second)}, Peer{TTLSecurity: true}, ""},
		{"OPEN not answered", PeerState{State: OpenSent, Since: now.Add(-10 * time.Second)}, Peer{}, "no answer to OPEN"},
		{
			"OPEN not answered with GTSM",
			PeerState{State: OpenSent, Since: now.Add(-10 * time.Second), LastError: "connect: no answer", LastErrorAt: now.Add(-time.Minute)},
			Peer{TTLSecurity: true},
			"no answer to OPEN; does the peer use TTL security too?",
		},
		{"established", PeerState{State: Established, Since: now.Add(-time.Hour)}, Peer{TTLSecurity: true}, ""},
	}
	for _, tt := range tests {
		if hint(&tt.state, &tt.want, now); tt.state.LastError != tt.text {
			t.Errorf("%s: %q, want %q", tt.name, tt.state.LastError, tt.text)
		}
	}
}

func TestCeaseText(t *testing.T) {
	long := strings.Repeat("ä", 100)
	if got := ceaseText(long); len(got) != 128 || got != strings.Repeat("ä", 64) {
		t.Errorf("ceaseText cuts to %d octets: %q", len(got), got)
	}
	if got := ceaseText("x" + long); len(got) != 127 {
		t.Errorf("ceaseText cuts inside a character: %d octets", len(got))
	}
	if got := ceaseText("short"); got != "short" {
		t.Errorf("ceaseText(short) = %q", got)
	}
}
