package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Session is a long-lived TCP connection that carries numbered messages and
// their echoes all the time.
type Session struct {
	// Local and Remote are the ends as the connecting side sees them.
	Local, Remote netip.AddrPort

	node     *Node
	conn     net.Conn
	listener net.Listener
	stop     chan struct{}
	once     sync.Once
	wg       sync.WaitGroup

	mu     sync.Mutex
	sent   []time.Time
	echoed []time.Time // in order, as TCP delivers
	err    error
}

// messageInterval is the pace of a session; maxMessages bounds it to minutes.
const (
	messageInterval = 5 * time.Millisecond
	maxMessages     = 120_000
)

// StartSession connects from one node to server on another and keeps data
// flowing both ways. local binds the connecting side; its zero value lets the
// kernel choose the source.
func StartSession(from *Node, local netip.AddrPort, to *Node, server netip.AddrPort) *Session {
	t := from.lab.t
	t.Helper()
	l, err := to.Listen(server)
	if err != nil {
		t.Fatalf("session: listen: %v", err)
	}
	s := &Session{node: from, listener: l, stop: make(chan struct{})}
	s.wg.Go(s.echo)
	ctx, cancel := context.WithTimeout(from.lab.ctx, 30*time.Second)
	defer cancel()
	if s.conn, err = from.Dial(ctx, "tcp", local, server); err != nil {
		_ = l.Close()
		t.Fatalf("session: %s cannot connect to %v: %v", from.Name, server, err)
	}
	s.Local = s.conn.LocalAddr().(*net.TCPAddr).AddrPort()   //nolint:forcetypeassert // it is TCP
	s.Remote = s.conn.RemoteAddr().(*net.TCPAddr).AddrPort() //nolint:forcetypeassert // it is TCP
	t.Cleanup(func() { s.Stop() })
	s.wg.Go(s.send)
	s.wg.Go(s.receive)
	return s
}

// echo serves the one connection. Stop ends it even if the path is broken.
func (s *Session) echo() {
	c, err := s.listener.Accept()
	if err != nil {
		return
	}
	s.wg.Go(func() {
		<-s.stop
		_ = c.Close()
	})
	_, _ = io.Copy(c, c)
	_ = c.Close()
}

func (s *Session) send() {
	tick := time.NewTicker(messageInterval)
	defer tick.Stop()
	var buf [8]byte
	for i := range uint64(maxMessages) {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint64(buf[:], i)
		s.mu.Lock()
		s.sent = append(s.sent, time.Now())
		s.mu.Unlock()
		if _, err := s.conn.Write(buf[:]); err != nil {
			s.fail(err)
			return
		}
	}
}

func (s *Session) receive() {
	var buf [8]byte
	for i := uint64(0); ; i++ {
		if _, err := io.ReadFull(s.conn, buf[:]); err != nil {
			s.fail(err)
			return
		}
		if got := binary.BigEndian.Uint64(buf[:]); got != i {
			s.fail(fmt.Errorf("message %d came back as %d", i, got))
			return
		}
		s.mu.Lock()
		s.echoed = append(s.echoed, time.Now())
		s.mu.Unlock()
	}
}

func (s *Session) fail(err error) {
	select {
	case <-s.stop:
		return // ended by Stop
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// WaitAlive waits until a message that is sent from now on has come back. The
// test fails when the session has ended, or after d.
func (s *Session) WaitAlive(d time.Duration) {
	s.node.lab.t.Helper()
	s.mu.Lock()
	from := len(s.sent)
	s.mu.Unlock()
	Eventually(s.node.lab.t, d, fmt.Sprintf("session %v to %v lives", s.Local, s.Remote), func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err != nil {
			s.node.lab.t.Fatalf("session %v to %v: %v", s.Local, s.Remote, s.err)
		}
		return That(len(s.echoed) > from, "%d messages sent, %d back", len(s.sent), len(s.echoed))
	})
}

// silence is for how long nothing has come back.
func (s *Session) silence() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.echoed[len(s.echoed)-1])
}

// Gap is the longest time after since in which nothing came back.
func (s *Session) Gap(since time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var d time.Duration
	for i, at := range s.echoed {
		if i > 0 && at.After(since) {
			d = max(d, at.Sub(s.echoed[i-1]))
		}
	}
	return d
}

// Err returns why the session has ended, nil while it lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stop ends the session from the connecting side.
func (s *Session) Stop() {
	s.once.Do(func() {
		close(s.stop)
		_ = s.conn.Close()
		_ = s.listener.Close()
		s.wg.Wait()
	})
}
