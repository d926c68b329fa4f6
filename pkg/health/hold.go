package health

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// holdAlive is after what silence the kernel asks the peer of a held connection
	// whether it is there, and how long it waits for the answer (keepalive, whole
	// seconds). A lost question costs a connection, not a verdict: another is made.
	holdAlive = time.Second
	// holdEvery and holdBurst bound how often the ends of connections ask for
	// another one: some at once, then one in a time. A server that closes each at
	// once is not to be stormed.
	holdEvery = time.Second
	holdBurst = 3
	// drainBytes and drainEvery bound what is read from a server that talks.
	drainBytes = 64 << 10
	drainEvery = 100 * time.Millisecond
)

// holdable is a connection that can be held.
type holdable interface {
	comparable
	// follow returns when the connection has ended, or the context has. It calls
	// again for other news.
	follow(ctx context.Context, again func())
	close()
}

// holder holds the connection of a check between its runs.
type holder[C holdable] struct {
	fresh chan struct{} // cap 1: there is another connection

	mu       sync.Mutex
	watching bool // guarded by mu
	conn     C    // not seen to have ended, zero if none; guarded by mu
}

func newHolder[C holdable]() holder[C] { return holder[C]{fresh: make(chan struct{}, 1)} }

// Watch implements Watcher. The connection is closed when it returns.
func (h *holder[C]) Watch(ctx context.Context, again func()) {
	h.mu.Lock()
	if h.watching {
		h.mu.Unlock()
		return
	}
	h.watching = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.watching = false
		h.mu.Unlock()
		if conn, ok := h.held(); ok {
			h.drop(conn)
		}
	}()
	again() // the runs before now held nothing
	var pace holdPace
	timer := time.NewTimer(0)
	defer timer.Stop()
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			again()
			continue
		case <-h.fresh:
		}
		timer.Stop() // a scheduled run was quicker
		conn, ok := h.held()
		if !ok {
			continue
		}
		conn.follow(ctx, again)
		if !h.drop(conn) {
			continue // a run has seen it first, and its result counts
		}
		if wait := pace.next(time.Now()); wait > 0 {
			timer.Reset(wait)
		} else {
			again()
		}
	}
}

// keep holds the connection, unless nobody would see its end or another run was
// quicker: then it is closed.
func (h *holder[C]) keep(conn C) {
	h.mu.Lock()
	var none C
	held := h.watching && h.conn == none
	if held {
		h.conn = conn
	}
	h.mu.Unlock()
	if !held {
		conn.close()
		return
	}
	select {
	case h.fresh <- struct{}{}:
	default:
	}
}

func (h *holder[C]) held() (conn C, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var none C
	return h.conn, h.conn != none
}

// drop closes the connection and tells whether it was still held.
func (h *holder[C]) drop(conn C) bool {
	h.mu.Lock()
	was := h.conn == conn
	if was {
		var none C
		h.conn = none
	}
	h.mu.Unlock()
	if was {
		conn.close()
	}
	return was
}

// heldTCP is a tcp check that keeps its connection.
type heldTCP struct {
	holder[*heldSocket]

	config TCPConfig
}

func newHeldTCP(c TCPConfig) *heldTCP {
	return &heldTCP{holder: newHolder[*heldSocket](), config: c}
}

// Check implements Checker. It passes while the connection is there, else if
// another can be made.
func (h *heldTCP) Check(ctx context.Context) error {
	if _, ok := h.held(); ok {
		return nil
	}
	start := time.Now()
	conn, err := dial(ctx, h.config.Source, h.config.Address)
	if err != nil {
		return failure(ctx, start, "tcp "+h.config.Address.String(), err)
	}
	if err := tuneHeld(conn, drainBytes/2); err != nil {
		_ = conn.Close()
		return failure(ctx, start, "tcp "+h.config.Address.String(), err)
	}
	h.keep(&heldSocket{conn})
	return nil
}

// tuneHeld makes the kernel find a peer that is gone, and hold back one that talks.
func tuneHeld(conn net.Conn, buffer int) error {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("connection of type %T", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) { err = tuneAlive(int(fd)) }); e != nil {
		return e
	}
	if err != nil {
		return err
	}
	return c.SetReadBuffer(buffer)
}

// tuneAlive makes the kernel find a peer that is gone (tcp(7)).
func tuneAlive(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	for _, o := range []struct{ option, value int }{
		{unix.TCP_KEEPIDLE, int(holdAlive.Seconds())},
		{unix.TCP_KEEPINTVL, int(holdAlive.Seconds())},
		{unix.TCP_KEEPCNT, 1},
		// The kernel asks nothing while something that was sent is not acknowledged, but
		// sends it again for a quarter of an hour. With this limit it also looks at the
		// time, and not at the count, of questions: it is over before the second.
		{unix.TCP_USER_TIMEOUT, int((holdAlive * 3 / 2).Milliseconds())},
	} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, o.option, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

// heldSocket is a connection on which nothing is said.
type heldSocket struct{ net.Conn }

func (s *heldSocket) follow(ctx context.Context, _ func()) { drain(ctx, s.Conn) }

func (s *heldSocket) close() { _ = s.Close() }

// drain reads from the connection until that or the context ends.
func drain(ctx context.Context, conn net.Conn) {
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 4<<10)
	for {
		for read := 0; read < drainBytes; {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			read += n
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(drainEvery):
		}
	}
}

// holdPace says how long the next end of a connection has to wait for its turn.
type holdPace struct{ due time.Time }

func (p *holdPace) next(now time.Time) time.Duration {
	if earliest := now.Add(-(holdBurst - 1) * holdEvery); p.due.Before(earliest) {
		p.due = earliest
	}
	wait := max(0, p.due.Sub(now))
	p.due = p.due.Add(holdEvery)
	return wait
}
