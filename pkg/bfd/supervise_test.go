package bfd

import (
	"context"
	"log/slog"
	"net"
	"os/exec"
	"strings"
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
