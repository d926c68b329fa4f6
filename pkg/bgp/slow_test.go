package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"golang.org/x/sys/unix"

	"vipspeaker/test/stopwatch"
)

// Who is not configured gets nothing, whatever it says: its connection is closed
// without a word.
func TestStrangerGetsNothing(t *testing.T) {
	host, router, stranger := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	good := dialRaw(t, router, host, 65001, rawOptions{})
	good.await(patience, hasPrefix("[+"))
	awaitEstablished(t, s, router) // the picture comes after the routes
	conn, err := connect(t.Context(), stranger, host, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the other end has closed it
	open, err := bgp.NewBGPOpenMessage(65001, 90, stranger.String(), nil).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = conn.Write(open); err != nil {
		t.Logf("write: %v", err)
	}
	if err = conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stranger got % x, %v", got, err)
	}
	if st := s.State(); len(st.Peers) != 1 || st.Peers[0].Transitions != 1 || good.ended() != nil {
		t.Errorf("state %+v, %v", st, good.ended())
	}
}

// A peer that says its OPEN one octet at a time is given up like one that says
// nothing, and keeps itself out no longer than that.
func TestDribbledOpenIsGivenUp(t *testing.T) {
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
	open, err := bgp.NewBGPOpenMessage(65001, 90, router.String(), nil).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	tick := time.NewTicker(200 * time.Millisecond) // the whole OPEN would take 6 s
	defer tick.Stop()
	given := false
	for i := range open {
		if _, err := conn.Write(open[i : i+1]); err != nil {
			given = true
			break
		}
		<-tick.C
	}
	if !given {
		t.Errorf("%d octets in %s were all taken", len(open), time.Since(began))
	}
	dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
}

// A peer that stops reading, with its window closed and much to tell it, delays
// neither the withdraw to the others nor the end of the speaker.
func TestPeerThatStopsReading(t *testing.T) {
	l := newHostileLab(t, 1)
	deaf := dialRaw(t, l.hostile[0], l.host, 65001, rawOptions{control: smallWindow})
	deaf.await(patience, hasPrefix("[+"))
	if err := deaf.conn.SetReadDeadline(time.Unix(1, 0)); err != nil { // its reader gives up, its connection lives
		t.Fatal(err)
	}
	l.same.seen()
	const many = 20_000
	var paths []Path
	for i := range many {
		paths = append(paths, path4(i+1))
	}
	l.announce(paths)
	last := fmt.Sprintf("+%v", path4(many).Prefix)
	l.same.await(patience, contains(last))
	began := time.Now()
	l.announce(paths[:1])
	l.same.await(patience, contains(fmt.Sprintf("-%v", path4(many).Prefix)))
	took := time.Since(began)
	t.Logf("%d paths were withdrawn from the others within %s", many-1, took.Round(time.Millisecond))
	if got := l.elsewhere.ended(); got != nil {
		t.Errorf("the other speaker's session ended: %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watch := stopwatch.Start(t)
	if err := l.m.Stop(ctx, StopDrain, "bye"); err != nil {
		t.Logf("stop: %v", err)
	}
	if took := watch.Elapsed(); took > 10*time.Second {
		t.Errorf("the stop took %s", took)
	}
}

// contains is a condition for await: what came says so somewhere.
func contains(text string) func([]string) bool {
	return func(msgs []string) bool {
		return slices.ContainsFunc(msgs, func(m string) bool { return strings.Contains(m, text) })
	}
}

// smallWindow lets a connection take little.
func smallWindow(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) }

// A thousand connections that stay open, of the peer and of strangers, delay
// nothing for the others: a withdraw reaches them while they are there.
func TestConnectionsHeldOpen(t *testing.T) {
	l := newHostileLab(t, 1)
	open := l.flood(t)
	defer func() {
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	l.same.seen()
	l.announce(nil)
	l.same.await(patience, contains(fmt.Sprintf("-%v", path4(1).Prefix)))
	for name, p := range map[string]*rawPeer{"same speaker": l.same, "other speaker": l.elsewhere} {
		if err := p.ended(); err != nil {
			t.Errorf("%s: the session ended: %v", name, err)
		}
	}
}

// announce gives en1 other paths.
func (l *hostileLab) announce(paths []Path) {
	want := l.want
	want.Speakers = append([]SpeakerConfig(nil), l.want.Speakers...)
	want.Speakers[0].Paths = paths
	l.m.Withdraw(want)
	l.m.Announce(want)
}
