package health

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
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

// heldTCP is a tcp check that keeps its connection.
type heldTCP struct {
	tcpCheck
	fresh chan struct{} // cap 1: there is another connection

	mu       sync.Mutex
	watching bool     // guarded by mu
	conn     net.Conn // not seen to have ended, nil if none; guarded by mu
}

func newHeldTCP(c tcpCheck) *heldTCP {
	return &heldTCP{tcpCheck: c, fresh: make(chan struct{}, 1)}
}

// Check implements Checker. It passes while the connection is there, else if
// another can be made.
func (h *heldTCP) Check(ctx context.Context) error {
	if h.held() != nil {
		return nil
	}
	start := time.Now()
	conn, err := dial(ctx, h.config.Source, h.config.Address)
	if err != nil {
		return failure(ctx, start, "tcp "+h.config.Address.String(), err)
	}
	if err := tuneHeld(conn); err != nil {
		_ = conn.Close()
		return failure(ctx, start, "tcp "+h.config.Address.String(), err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.watching || h.conn != nil {
		_ = conn.Close() // nobody would see its end, or another run was quicker
		return nil
	}
	h.conn = conn
	select {
	case h.fresh <- struct{}{}:
	default:
	}
	return nil
}

// tuneHeld makes the kernel find a peer that is gone, and hold back one that talks.
func tuneHeld(conn net.Conn) error {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("connection of type %T", conn)
	}
	if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: holdAlive, Interval: holdAlive, Count: 1}); err != nil {
		return err
	}
	return c.SetReadBuffer(drainBytes / 2)
}

// Watch implements Watcher. The connection is closed when it returns.
func (h *heldTCP) Watch(ctx context.Context, again func()) {
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
		h.drop()
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
		conn := h.held()
		if conn == nil {
			continue
		}
		drain(ctx, conn)
		h.drop()
		if wait := pace.next(time.Now()); wait > 0 {
			timer.Reset(wait)
		} else {
			again()
		}
	}
}

func (h *heldTCP) held() net.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn
}

func (h *heldTCP) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil {
		_ = h.conn.Close()
	}
	h.conn = nil
}

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
