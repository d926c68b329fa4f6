package demo

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is no terminal gets plain lines, and never two empty ones in a row.
func TestScreen(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) { // no time passes but what is waited for
		s := newScreen(&out, nil, false)
		s.print("title\n")
		s.chapter(t.Context(), "first")
		s.block("a\n\nb\n")
		time.Sleep(90 * time.Second)
		s.chapter(t.Context(), "second")
		s.measured("gap %d", 1)
	})
	want := "title\n\n1. first\n\n    a\n\n    b\n\n2. second\n\n   90.0 s  gap 1\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// The demo ends when its output cannot be written.
func TestScreenNotWritten(t *testing.T) {
	t.Parallel()
	in, out := io.Pipe()
	s := newScreen(out, nil, false)
	ctx, cancel := context.WithCancel(t.Context())
	s.end = cancel
	_ = in.Close()
	s.print("title\n")
	s.print("more\n")
	if ctx.Err() == nil || s.failed == nil {
		t.Errorf("the demo goes on: %v, %v", ctx.Err(), s.failed)
	}
}

// With pause each chapter but the first waits for Enter, and for no longer than
// the demo runs.
func TestScreenPause(t *testing.T) {
	t.Parallel()
	in, enter := io.Pipe()
	s := newScreen(io.Discard, in, true)
	s.chapter(t.Context(), "first")

	shown := make(chan struct{})
	go func() {
		defer close(shown)
		s.chapter(t.Context(), "second")
	}()
	if _, err := enter.Write([]byte("\n")); err != nil { // returns when it was read
		t.Fatal(err)
	}
	<-shown
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.chapter(ctx, "third")
	if s.chapters != 3 {
		t.Errorf("%d chapters, want 3", s.chapters)
	}
}
