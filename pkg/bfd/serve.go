package bfd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"vipspeaker/internal/privilege"
)

// InheritedFD is the file descriptor of the connection to the daemon in a BFD
// process.
const InheritedFD = 3

const (
	// silenceMax is how long the process stays without a word of the daemon,
	// which speaks every pingEvery.
	silenceMax = 15 * time.Second
	// aftermath is how long sessions go on when the daemon has died without an
	// order. The BGP sessions of the host die at the same time, and routers must
	// hear of that first: one that hears AdminDown of an established neighbour
	// drops the routes that graceful restart would keep (seen with FRR 8.4).
	aftermath = 300 * time.Millisecond
	// exitMax bounds the goodbye of the process.
	exitMax = time.Second
	// reportShare is the part of a processor's time that making reports may take.
	reportShare = 5
)

// ServeInherited is the whole BFD process: it takes the connection from file
// descriptor InheritedFD, gives up all privileges once its threads have their
// priority, logs JSON lines to stderr for the Manager to forward, and ends when
// the daemon says so, is gone or is frozen. It tells the other ends then that
// the session is not wanted (AdminDown).
func ServeInherited(ctx context.Context) error {
	// Whoever stops the daemon may signal the whole group. The daemon decides.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	gone, stop := signal.NotifyContext(ctx, parentGone)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(gone, func() { outlive(ctx, cancel) })()
	level := new(slog.LevelVar)
	logger := newProcessLog(os.Stderr, level)
	able, err := confinement().Enter(logger)
	if err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	f := os.NewFile(InheritedFD, "daemon")
	if f == nil {
		return fmt.Errorf("file descriptor %d is not open", InheritedFD)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("file descriptor %d is no connection to the daemon: %w", InheritedFD, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close inherited file: %w", err)
	}
	s := &server{conn: conn, level: level, out: make(chan struct{}, 1), clock: newClock()}
	s.m = New(Options{Log: logger, Poke: func() { poke(s.out) }, Dedicated: true})
	s.m.prompted = func(realTime bool) error {
		if !realTime {
			logger.Info("BFD has ordinary priority: short sessions may go down while the host is busy",
				"remedy", "CAP_SYS_NICE, or a resource limit RTPRIO of 2 or more")
		}
		if !able {
			return nil
		}
		return privilege.DropAll()
	}
	return s.serve(ctx)
}

// newProcessLog writes JSON lines for the Manager to forward. Durations are texts
// in them, because JSON would make numbers of nanoseconds of them.
func newProcessLog(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}))
}

// server is the process's end of the conversation.
type server struct {
	conn  net.Conn
	level *slog.LevelVar
	m     *Manager
	out   chan struct{} // cap 1: something is to be reported
	clock clock

	mu       sync.Mutex
	revision uint64 // of the list that m has
}

// serve runs sessions until the daemon wants none, is gone or frozen, or until
// ctx ends.
func (s *server) serve(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	received := make(chan error, 1)
	go func() {
		err := s.receive()
		if errors.Is(err, io.EOF) { // no order: it died
			err = nil
			outlive(ctx, stop)
		}
		received <- err
		stop()
	}()
	go s.send(ctx)
	// What hangs must not keep the process: its ports are the next one's.
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(exitMax, func() { os.Exit(1) })
	})()
	if err := s.m.Run(ctx); err != nil {
		return err
	}
	s.m.log.Debug("BFD process ends", "packets_late_by_at_most", s.m.late.String())
	select {
	case err := <-received:
		return err
	default:
		return nil
	}
}

// outlive calls stop when the aftermath of the daemon is over, or at the end of
// ctx.
func outlive(ctx context.Context, stop func()) {
	timer := time.NewTimer(aftermath)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	stop()
}

// receive takes the daemon's messages until it is to end.
func (s *server) receive() error {
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(silenceMax)); err != nil {
			return fmt.Errorf("wait for the daemon: %w", err)
		}
		o, err := readFrame[order](s.conn)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("the daemon says nothing for %s", silenceMax)
		case err != nil:
			return err
		case o.Version != protocolVersion:
			return fmt.Errorf("the daemon speaks version %d, not %d", o.Version, protocolVersion)
		case o.Stop:
			return nil
		}
		s.level.Set(slog.LevelInfo)
		if o.Debug {
			s.level.Set(slog.LevelDebug)
		}
		if o.Set != nil {
			s.mu.Lock()
			s.revision = o.Set.Revision
			s.m.Set(o.Set.configs())
			s.mu.Unlock()
			poke(s.out)
		}
		if o.Ping != 0 {
			s.m.ask(o.Ping)
		}
	}
}

// send reports when something changed or an answer is due. A long list of
// sessions is not reported all the time: making a report takes the processor
// from others.
func (s *server) send(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-s.out:
		}
		began := time.Now()
		if err := writeFrame(s.conn, s.report()); err != nil {
			return // receive sees the end of the connection too
		}
		timer.Reset((reportShare - 1) * time.Since(began))
	}
}

func (s *server) report() *report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &report{
		Version: protocolVersion, Pong: s.m.answered.Load(),
		Revision: s.revision, Sessions: newWireStates(s.m.State().Sessions, s.clock),
	}
}

// poke sends a wake-up, unless one waits already.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
