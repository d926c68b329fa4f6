package demo

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// newPlay builds the machines, without a daemon, for the tests of claims that
// must not hold then.
func newPlay(t *testing.T) *play {
	t.Helper()
	p := &play{screen: newScreen(io.Discard, strings.NewReader(""), false)}
	if err := p.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// wantError fails the test if err does not say all of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v, want one with %q", err, w)
		}
	}
}

// A host without the daemon does not pass for one with it.
func TestClaimsNeedTheDaemon(t *testing.T) {
	t.Parallel()
	netnstest.Run(t, func(t *testing.T, _ netnstest.NS) {
		t.Helper()
		p := newPlay(t)
		wantError(t, p.source(t.Context(), clientAddress, vipAddress, 1, "%s"), "came from 10.68.0.1, not from 10.68.6.1")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p.daemon = &daemon{exited: make(chan struct{})}
		wantError(t, p.paths(ctx, 0, 1), "deadline")
	})
}

// Whatever the daemon would leave behind is found.
func TestSnapshotSeesWhatIsLeft(t *testing.T) {
	t.Parallel()
	netnstest.Run(t, func(t *testing.T, _ netnstest.NS) {
		t.Helper()
		p := newPlay(t)
		host := p.lab.host
		for name, change := range map[string]func() error{
			"address": func() error { return host.address("lo", vipAddress+"/32") },
			"route": func() error {
				return host.nl.RouteAdd(multipath(netip.MustParsePrefix("10.99.0.0/16"), []netip.Addr{netip.MustParseAddr("10.68.1.2")}))
			},
			"setting": func() error { return host.sysctl([2]string{"ipv4/conf/en1/arp_announce", "2"}) },
			"link":    func() error { return host.down("en0") },
		} {
			before, err := host.snapshot()
			if err == nil {
				err = change()
			}
			after, err2 := host.snapshot()
			if err = errors.Join(err, err2); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := difference(before, after); !strings.Contains(diff, name+" ") {
				t.Errorf("%s: difference %q", name, diff)
			}
		}
	})
}

// A gap that is too long, and a session that broke, end the demo.
func TestMeasureFails(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	p := &play{
		screen:  newScreen(io.Discard, strings.NewReader(""), false),
		traffic: &traffic{arrivals: &arrivals{}, flows: []*flow{{}}, sessions: []*session{{name: "to test", conn: near}}},
	}
	p.traffic.begin()
	p.traffic.flows[0].last.Add(-int64(maxGap))
	wantError(t, p.measure(t.Context(), 0, "test"), "stood still", "more than 2s")

	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	p.traffic.sessions[0].run(t.Context()) // until it is broken
	p.traffic.begin()
	wantError(t, p.measure(t.Context(), 0, "test"), "the TCP session to test broke")
}

// The log of a process is cut into lines wherever it was written in pieces.
func TestTail(t *testing.T) {
	t.Parallel()
	var l tail
	logger := slog.New(slog.NewTextHandler(&l, nil))
	for i := range tailLines + 5 {
		logger.Info("line", "number", i)
	}
	if _, err := l.Write([]byte("first ha")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("lf\nrest")); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(l.String(), "\n")
	if len(lines) != tailLines || lines[len(lines)-1] != "first half" || !strings.HasSuffix(lines[0], "number=6") {
		t.Errorf("%d lines from %q to %q", len(lines), lines[0], lines[len(lines)-1])
	}
}
