package bfd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A process that hangs and cannot be killed does not hold up the daemon for ever.
func TestProcessThatDoesNotDie(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for name, stop := range map[string]bool{"to stop": true, "hangs": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, other := net.Pipe()
				defer other.Close() //nolint:errcheck // nothing was written
				defer conn.Close()  //nolint:errcheck // nothing was written
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if stop {
					cancel()
				}
				talk := &talk{
					supervisor: &supervisor{m: New(Options{}), wake: make(chan struct{}, 1)},
					c:          &child{conn: conn, cmd: gone, exited: make(chan struct{})},
					in:         make(chan *report), broken: make(chan error, 1), left: make(chan struct{}),
					deadline: time.NewTimer(time.Hour), idle: time.NewTimer(time.Hour),
				}
				began := time.Now()
				if talk.follow(ctx) || talk.reason == "" {
					t.Errorf("it has ended: %q", talk.reason)
				}
				if took := time.Since(began); took > writeMax+endMax+killMax {
					t.Errorf("given up after %s", took)
				}
			})
		})
	}
}

// A process has the time to answer after the machine stood still: it stands still
// itself.
func TestStandstillIsNoSilence(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		const still, slow = 2*pingEvery - 10*time.Millisecond, pingEvery / 4
		conn, other := net.Pipe()
		poked := make(chan struct{})
		once := sync.OnceFunc(func() {
			close(poked)
			time.Sleep(still)
		})
		m := New(Options{Poke: once})
		m.Set([]SessionConfig{netConfig()})
		talk := &talk{
			supervisor: &supervisor{m: m, wake: make(chan struct{}, 1)},
			c:          &child{conn: conn, cmd: gone, exited: make(chan struct{})},
			in:         make(chan *report), broken: make(chan error, 1), left: make(chan struct{}),
			deadline: time.NewTimer(time.Hour), idle: time.NewTimer(time.Hour),
		}
		talk.take()
		pings := make(chan uint64, 100)
		go func() {
			defer close(pings)
			for o, err := readFrame[order](other); err == nil; o, err = readFrame[order](other) {
				if o.Ping > 0 {
					pings <- o.Ping
				}
			}
		}()
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			for ping := range pings {
				r := &report{Version: protocolVersion, Revision: 1, Sessions: newWireStates(m.State().Sessions, newClock())}
				if ping == 1 { // a report that stops all for a while
					r.Sessions[0].Error = "changed"
					talk.in <- r
					<-poked
					time.Sleep(still)
				}
				time.Sleep(slow)
				r.Pong = ping
				select {
				case talk.in <- r:
				case <-talk.left:
				}
			}
		}()
		time.AfterFunc(20*pingEvery, func() { close(talk.c.exited) })
		if !talk.follow(t.Context()) || talk.reason != "" || talk.pong < 10 {
			t.Errorf("after %d answers: %s", talk.pong, talk.reason)
		}
		close(talk.left)
		if err := errors.Join(conn.Close(), other.Close()); err != nil {
			t.Error(err)
		}
		<-answered
	})
}

// Lines of the process keep their durations and numbers when they are forwarded.
func TestForwardedLines(t *testing.T) {
	var in, out strings.Builder
	newProcessLog(&in, slog.LevelInfo).Info("said", "timeout", 15*time.Second, "count", 15_000_000_000, "share", 0.5)
	text := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	(&childLog{log: text}).forward(t.Context(), []byte(in.String()))
	if d := cmp.Diff("level=INFO msg=said count=15000000000 share=0.5 timeout=15s\n", out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
