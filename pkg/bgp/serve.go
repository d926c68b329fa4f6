package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// InheritedFD is the file descriptor of the connection to the daemon in a
// speaker process.
const InheritedFD = 3

const (
	pingTimeout   = 15 * time.Second // without a ping for this long the daemon counts as frozen
	resyncEvery   = 30 * time.Second // how often the RIB is read and repaired unasked
	retryEvery    = 5 * time.Second  // the same after an error
	listenRecheck = 2 * time.Second  // how often it is asked whether a missing listener could be opened
)

// errStopped ends a speaker process in good order.
var errStopped = errors.New("stopped")

// ServeInherited is the whole speaker process: it takes the connection from
// file descriptor InheritedFD, logs JSON lines to stderr for the Manager to
// forward, and ends when the daemon says so or is gone.
func ServeInherited(ctx context.Context) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
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
	return Serve(ctx, conn, log)
}

// Serve is the body of a speaker process. It first gives all privileges up but
// binding to a low port, so it belongs into a process of its own. It returns
// without a word to any peer when the connection closes, because then the
// daemon has died and graceful restart keeps the routes; and after a Cease to
// all when the daemon lives but is frozen.
func Serve(ctx context.Context, conn net.Conn, log *slog.Logger) error {
	// Whoever stops the daemon may signal the whole group. The daemon decides.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if _, err := confinement().Enter(log); err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	return serve(ctx, conn, log)
}

// worker is a speaker with the daemon's wishes for it.
type worker struct {
	conn    net.Conn
	log     *slog.Logger
	speaker *Speaker
	timeout time.Duration

	changed chan struct{} // the wishes changed
	out     chan struct{} // something is to be sent
	pings   chan uint64   // cap 1: the last ping, to be asked of GoBGP
	pinged  chan struct{} // cap 1: a ping came
	fenced  chan struct{} // cap 1: the fence has moved
	die     func(error)   // ends the process

	mu      sync.Mutex
	cfg     SpeakerConfig // empty name before the first
	paths   map[pathKey]Path
	seq     uint64
	applied uint64
	cancel  context.CancelFunc // ends the Apply that runs
	restart bool
	pong    uint64
	fence   time.Duration // see SpeakerConfig.Fence
	swept   time.Duration // the fence, if it was over when an Apply began that has ended well
}

func serve(ctx context.Context, conn net.Conn, log *slog.Logger) error {
	defer conn.Close() //nolint:errcheck // the process ends
	first, err := readMessage(conn)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	case first.Hello == nil || first.Hello.Version != protocolVersion:
		return fmt.Errorf("daemon does not speak version %d", protocolVersion)
	}
	w := &worker{
		conn: conn, log: log, timeout: pingTimeout, paths: map[pathKey]Path{},
		changed: make(chan struct{}, 1), out: make(chan struct{}, 1), pings: make(chan uint64, 1), pinged: make(chan struct{}, 1),
		fenced: make(chan struct{}, 1),
	}
	w.die = w.dieNow
	if first.Hello.PingTimeout > 0 {
		w.timeout = first.Hello.PingTimeout
	}
	w.speaker = NewSpeaker(SpeakerOptions{Log: log, Restarting: first.Hello.Restarting, Poke: func() { poke(w.out) }})
	w.speaker.SetDebug(first.Hello.Debug)
	if err := writeMessage(conn, message{Hello: &helloMessage{Version: protocolVersion}}); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.speaker.Run(ctx) })
	group.Go(func() error { return w.apply(ctx) })
	group.Go(func() error { return w.send(ctx) })
	group.Go(func() error { return w.answer(ctx) })
	group.Go(func() error { return w.watch(ctx) })
	group.Go(func() error { return w.guard(ctx) })
	received := make(chan error, 1)
	go func() { received <- w.receive(ctx) }() // not in the group: a read ends only when the daemon closes
	group.Go(func() error {
		select {
		case err := <-received:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	if err := group.Wait(); !errors.Is(err, errStopped) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	return nil
}

// receive takes the daemon's messages. It never waits for GoBGP, but at a stop.
func (w *worker) receive(ctx context.Context) error {
	for {
		m, err := readMessage(w.conn)
		if err != nil {
			return err
		}
		switch {
		case m.Sessions != nil:
			cfg, err := m.Sessions.config()
			if err != nil {
				return err
			}
			w.setSessions(m.Sessions.Seq, cfg)
		case m.Paths != nil:
			w.setPaths(m.Paths)
		case m.Fence != nil:
			w.setFence(m.Fence.Until)
		case m.Ping != nil:
			poke(w.pinged)
			select { // the newest ping replaces one that still waits
			case <-w.pings:
			default:
			}
			w.pings <- m.Ping.ID
		case m.Stop != nil:
			return w.stop(ctx, m.Stop.Mode, m.Stop.Text)
		}
	}
}

// setSessions takes new wishes. If a peer has to go, an Apply that runs is cut
// short: it may be adding ten thousand paths.
func (w *worker) setSessions(seq uint64, cfg SpeakerConfig) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.cfg.Peers {
		if !slices.ContainsFunc(cfg.Peers, func(q Peer) bool { return q.Address == p.Address }) {
			w.interrupt()
			break
		}
	}
	w.cfg, w.seq = cfg, seq
	poke(w.changed)
}

func (w *worker) setPaths(m *pathsMessage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(m.Delete) > 0 {
		w.interrupt()
	}
	for _, p := range m.Delete {
		delete(w.paths, p)
	}
	for _, p := range m.Set {
		w.paths[p.key()] = p
	}
	w.seq = m.Seq
	poke(w.changed)
}

// interrupt ends the Apply that runs. The caller holds mu.
func (w *worker) interrupt() {
	if w.cancel != nil {
		w.cancel()
	}
}

// apply makes the speaker equal to the newest wishes, again and again.
func (w *worker) apply(ctx context.Context) error {
	timer := time.NewTimer(resyncEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		case <-timer.C:
		}
		err := w.applyOnce(ctx)
		w.recheck(ctx)
		poke(w.out)
		if err != nil {
			timer.Reset(retryEvery)
			continue
		}
		timer.Reset(resyncEvery)
	}
}

func (w *worker) applyOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.cancel = cancel
	cfg, seq := w.cfg, w.seq
	var over time.Duration
	cfg.Paths, over = w.standing(bootTime())
	w.mu.Unlock()
	if cfg.Name == "" {
		return nil // paths come before the rest
	}
	err := w.speaker.Apply(ctx, cfg)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel = nil
	if ctx.Err() == nil {
		w.applied = seq
		if over == w.fence && (err == nil || !w.holdsFenced()) {
			w.swept = over
		}
	}
	return err
}

// answer asks GoBGP for each ping, so that the daemon sees a GoBGP that hangs.
func (w *worker) answer(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-w.pings:
			if err := w.speaker.Ping(ctx); err != nil {
				return err
			}
			w.mu.Lock()
			w.pong = id
			w.mu.Unlock()
			poke(w.out)
		}
	}
}

// send writes the newest state whenever there is something new. What the daemon
// did not take in time is replaced, so nothing queues.
func (w *worker) send(ctx context.Context) error {
	var sent reportMessage
	var list []netip.Prefix
	var pong uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.out:
		}
		st := *w.speaker.State()
		announced := st.Announced
		st.Announced = nil
		w.mu.Lock()
		report := reportMessage{Seq: w.applied, State: st, NeedsRestart: w.restart}
		id := w.pong
		w.mu.Unlock()
		var queue []message
		if id != pong {
			queue = append(queue, message{Pong: &pingMessage{ID: id}})
		}
		if !slices.Equal(announced, list) {
			queue = append(queue, message{Announced: &announcedMessage{Prefixes: announced}})
		}
		if report.Seq != sent.Seq || report.NeedsRestart != sent.NeedsRestart || !sameState(&report.State, &sent.State) {
			queue = append(queue, message{Report: &report})
		}
		sent, list, pong = report, announced, id
		for _, m := range queue {
			if err := writeMessage(w.conn, m); err != nil {
				return err
			}
		}
	}
}

// watch withdraws all when the daemon is frozen, and tells the daemon when a
// fresh process would serve it better.
func (w *worker) watch(ctx context.Context) error {
	frozen := time.NewTimer(w.timeout)
	defer frozen.Stop()
	tick := time.NewTicker(listenRecheck)
	defer tick.Stop()
	looked := time.Now()
	// Without a look for this long the process itself did not run, as when it was
	// frozen with its whole container: that is no silence of the daemon.
	stood := func() bool { return time.Since(looked) > 2*listenRecheck }
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.pinged:
			frozen.Reset(w.timeout)
		case <-frozen.C:
			if stood() {
				looked = time.Now()
				frozen.Reset(w.timeout)
				continue
			}
			w.log.Error("daemon is frozen, all is withdrawn", "timeout", w.timeout)
			return w.stop(ctx, StopDrain, "announcing daemon does not answer")
		case <-tick.C:
			if stood() {
				frozen.Reset(w.timeout)
			}
			w.recheck(ctx)
			looked = time.Now()
		}
	}
}

// recheck finds out whether a fresh process would serve the daemon better. Also
// asked at once when peers come, before one is up that a restart would cost.
func (w *worker) recheck(ctx context.Context) {
	need := w.speaker.NeedsRestart(ctx)
	w.mu.Lock()
	changed := w.restart != need
	w.restart = need
	w.mu.Unlock()
	if changed {
		poke(w.out)
	}
}

func (w *worker) stop(ctx context.Context, mode StopMode, text string) error {
	w.mu.Lock()
	w.interrupt()
	w.mu.Unlock()
	if err := w.speaker.Close(ctx, mode, text); err != nil {
		return err
	}
	return errStopped
}

// poke wakes whoever waits on a channel of capacity one.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
