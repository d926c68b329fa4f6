package bfd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"syscall"
	"time"
)

const (
	// pingEvery is how often the process is asked whether its engine turns, which
	// brings the counters along; missedMax is how many answers may be missing.
	pingEvery = time.Second
	missedMax = 2
	// endMax bounds the end of a process on our order, writeMax a message to it,
	// and killMax its end once it was killed.
	endMax   = 500 * time.Millisecond
	writeMax = 2 * time.Second
	killMax  = 2 * time.Second
	// idleMax is how long a process stays without sessions: those of a link that
	// flaps come back soon.
	idleMax = 10 * time.Second
	// A process that has lived for goodLife is started again at once. Others wait,
	// firstPause and twice as long each time, at most longPause.
	goodLife   = 10 * time.Second
	firstPause = 100 * time.Millisecond
	longPause  = 10 * time.Second
)

// supervisor keeps a BFD process running while sessions are wanted.
type supervisor struct {
	m        *Manager
	wake     chan struct{} // cap 1: there is a new list
	list     []wanted      // the newest one that was taken
	revision uint64        // of list
}

// supervise runs the sessions in processes, until ctx ends. It keeps its thread,
// whose network namespace the processes get and whose end they hear of.
func (m *Manager) supervise(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := &supervisor{m: m, wake: make(chan struct{}, 1)}
	if err := m.begin(func() { poke(s.wake) }); err != nil {
		return err
	}
	defer m.finish(0)
	poke(s.wake)
	crashes := 0
	for s.needed(ctx) {
		began := time.Now()
		reason := s.live(ctx)
		if reason == "" {
			crashes = 0
			continue
		}
		if time.Since(began) >= goodLife {
			crashes = 0
		}
		pause := backoff(crashes)
		crashes++
		m.log.Error("BFD process ended", "reason", reason, "restart_in", pause)
		s.pause(ctx, pause, "BFD process ended: "+reason+", started again")
	}
	return nil
}

func backoff(crashes int) time.Duration {
	if crashes == 0 {
		return 0
	}
	return min(firstPause<<min(crashes-1, 10), longPause)
}

// take looks for a new list and tells whether there is one.
func (s *supervisor) take() bool {
	next := s.m.wanted.Swap(nil)
	if next == nil {
		return false
	}
	s.list = *next
	s.revision++
	return true
}

// needed waits until there are sessions; false when ctx ended.
func (s *supervisor) needed(ctx context.Context) bool {
	for {
		s.take()
		if ctx.Err() != nil || len(s.list) > 0 {
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
	}
}

// pause shows all sessions as down because of text, and waits.
func (s *supervisor) pause(ctx context.Context, d time.Duration, text string) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		changed := false
		for i := range s.list {
			changed = s.list[i].slot.lose(text) || changed
		}
		if changed {
			s.m.poke()
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-s.wake:
			s.take()
		}
	}
}

// talk is the conversation with one process.
type talk struct {
	*supervisor
	c        *child
	in       chan *report
	broken   chan error // cap 1: nothing more can be read
	told     uint64     // the revision that the process has
	ping     uint64
	pong     uint64
	missed   int
	ending   bool          // on our order
	reason   string        // why it was killed
	left     chan struct{} // closed when nobody takes reports any more
	deadline *time.Timer
	idle     *time.Timer
}

// live runs one process to its end and says why it ended, nothing if it was on
// our order.
func (s *supervisor) live(ctx context.Context) (reason string) {
	c, err := startChild(ctx, s.m.command(), s.m.log)
	if err != nil {
		return err.Error()
	}
	t := &talk{
		supervisor: s, c: c, in: make(chan *report), broken: make(chan error, 1),
		deadline: time.NewTimer(0), idle: time.NewTimer(idleMax), left: make(chan struct{}),
	}
	t.deadline.Stop()
	t.idle.Stop()
	read := make(chan struct{})
	go func() {
		defer close(read)
		t.receive()
	}()
	ended := t.follow(ctx)
	close(t.left)
	_ = c.conn.Close() // the process is gone
	<-read
	switch {
	case !ended:
		return t.reason + ", and does not die"
	case t.ending:
		return ""
	case t.reason != "":
		return t.reason
	}
	return c.reason
}

// receive reads until the connection or the process ends.
func (t *talk) receive() {
	for {
		r, err := readFrame[report](t.c.conn)
		if err != nil {
			t.broken <- err
			return
		}
		select {
		case t.in <- r:
		case <-t.left:
			return
		}
	}
}

// follow leads the conversation until the process has ended. It is false for one
// that was killed and is still there.
func (t *talk) follow(ctx context.Context) (ended bool) {
	// Not a ticker: after a standstill its next ticks may come at once, and an answer
	// would be missed that nobody had the time to give.
	tick := time.NewTimer(pingEvery)
	defer tick.Stop()
	done := ctx.Done()
	t.tell(ctx)
	for {
		select {
		case <-t.c.exited:
			return true
		case <-done:
			done = nil
			t.finish(ctx)
		case <-t.idle.C:
			t.finish(ctx)
		case <-t.deadline.C:
			if t.reason != "" {
				return false
			}
			t.fail("it did not end in time")
		case <-t.wake:
			if t.take() {
				t.tell(ctx)
			}
		case <-tick.C:
			t.check(ctx)
			tick.Reset(pingEvery)
		case r := <-t.in:
			t.accept(r)
		case err := <-t.broken:
			// Its last words are worth waiting for, a breach of the protocol is not.
			// It may take exitMax to say goodbye, and as long to read its log.
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
				t.deadline.Reset(2 * exitMax)
			} else {
				t.fail(err.Error())
			}
		}
	}
}

// fail ends the process at once.
func (t *talk) fail(reason string) {
	if t.reason != "" {
		return
	}
	t.reason = reason
	if err := t.c.kill(); err != nil {
		t.reason += ": " + err.Error()
	}
	t.deadline.Reset(killMax)
}

// finish has the process say goodbye and end.
func (t *talk) finish(ctx context.Context) {
	if !t.ending {
		t.ending = true
		t.deadline.Reset(endMax)
		t.write(ctx, &order{Stop: true}, endMax)
	}
}

// tell gives the process the newest list. One that is ending does not get it:
// the next one does.
func (t *talk) tell(ctx context.Context) {
	if t.ending {
		return
	}
	t.idle.Stop()
	if len(t.list) == 0 {
		t.idle.Reset(idleMax)
	}
	t.told = t.revision
	t.write(ctx, &order{Set: newWireSet(t.revision, t.list)}, writeMax)
}

// check asks whether the engine turns.
func (t *talk) check(ctx context.Context) {
	if t.ending {
		return
	}
	if t.missed++; t.pong == t.ping {
		t.missed = 0
	}
	if t.missed >= missedMax {
		t.fail(fmt.Sprintf("it did not answer for %s", missedMax*pingEvery))
		return
	}
	t.ping++
	t.write(ctx, &order{Ping: t.ping}, writeMax)
}

// write writes within a bound. That a process does not read is found by then;
// that it has gone, by reading.
func (t *talk) write(ctx context.Context, o *order, within time.Duration) {
	if t.reason != "" {
		return // nobody listens
	}
	o.Version, o.Debug = protocolVersion, t.m.log.Enabled(ctx, slog.LevelDebug)
	err := t.c.conn.SetWriteDeadline(time.Now().Add(within))
	if err == nil {
		err = writeFrame(t.c.conn, o)
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.fail(err.Error())
	}
}

// accept shows what the process reports.
func (t *talk) accept(r *report) {
	switch {
	case r.Version != protocolVersion:
		t.fail(fmt.Sprintf("it speaks version %d, not %d", r.Version, protocolVersion))
		return
	case r.Pong > t.ping || r.Revision > t.told || r.Revision == t.told && len(r.Sessions) != len(t.list):
		t.fail("it reports what it was not asked for")
		return
	}
	t.pong = r.Pong
	if r.Revision != t.revision || t.told != t.revision {
		return // of a former list
	}
	changed, c := false, newClock()
	for i := range r.Sessions {
		changed = t.list[i].slot.accept(&r.Sessions[i], c) || changed
	}
	if changed {
		t.m.poke()
	}
}
