package health

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// heldHTTP is an http check that keeps its connection.
type heldHTTP struct {
	holder[*httpLine]
	*httpCheck
}

// Check implements Checker. It asks on the connection that is held. If that brings no
// whole answer it asks on another, whatever the reason: a server may end a connection
// at any time.
func (h *heldHTTP) Check(ctx context.Context) error {
	start := time.Now()
	line, held := h.held()
	if held {
		again, err := line.ask(ctx)
		if !again {
			h.drop(line)
		}
		if again || ctx.Err() != nil {
			return h.verdict(ctx, start, err)
		}
	}
	line, err := h.open(ctx)
	if err != nil {
		return h.verdict(ctx, start, err)
	}
	again, err := line.ask(ctx)
	if again {
		if tuned := line.tune(); tuned == nil {
			h.keep(line)
			return h.verdict(ctx, start, err)
		} else if err == nil {
			err = tuned
		}
	}
	line.close()
	return h.verdict(ctx, start, err)
}

// verdict is the error in the words of the check.
func (h *heldHTTP) verdict(ctx context.Context, start time.Time, err error) error {
	if err == nil {
		return nil
	}
	return failure(ctx, start, h.target, err)
}

// httpLine is one connection to a server, for one question after the other.
type httpLine struct {
	check *httpCheck
	end   *os.File // becomes readable with the end of the connection; nil if not tuned

	mu   sync.Mutex // held while a run asks: another that reads would take its answer
	conn *stream    // guarded by mu
	in   *bufio.Reader
	most *io.LimitedReader // what may be read for one answer
	// idle tells that all that was asked has been answered, and asked that there was
	// something. Without the first the next answer may be that to the last question.
	idle, asked bool // guarded by mu
}

func (h *heldHTTP) open(ctx context.Context) (*httpLine, error) {
	conn, err := openStream(ctx, h.config.Source, h.address, h.tls, &h.pace)
	if err != nil {
		return nil, err
	}
	l := &httpLine{check: h.httpCheck, conn: conn, most: &io.LimitedReader{R: conn}, idle: true}
	l.in = bufio.NewReaderSize(l.most, answerBytes)
	return l, nil
}

// errNotIdle is the error of a question that cannot be asked.
var errNotIdle = errors.New("connection has ended or is out of step")

// ask asks and says what is wrong with the answer, and whether the connection can be
// asked again.
func (l *httpLine) ask(ctx context.Context) (again bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.idle {
		return false, errNotIdle
	}
	l.idle = false
	l.conn.wire.serve(ctx)
	if l.asked && !l.silent() {
		return false, errNotIdle
	}
	l.asked = true
	l.most.N = headerBytes + bodyBytes
	l.in.Reset(l.most)
	answer, err := l.check.ask(l.conn, l.in) //nolint:bodyclose // that would wait for the rest, and frees nothing
	if err != nil {
		return false, err
	}
	wrong, err := l.check.judge(answer)
	if err != nil {
		return false, err
	}
	l.idle = l.whole(ctx, answer)
	return l.idle, wrong
}

// silent tells whether the server has said nothing since its last answer, not even
// goodbye.
func (l *httpLine) silent() bool {
	l.conn.wire.hasty = true
	defer func() { l.conn.wire.hasty = false }()
	n, err := l.conn.Read(make([]byte, 1))
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// whole reads what is left of the answer, and tells whether another can follow it. A
// server may hold the rest back: the verdict, which is there, is not to be late for it.
func (l *httpLine) whole(ctx context.Context, answer *http.Response) bool {
	if answer.Close || answer.StatusCode == http.StatusSwitchingProtocols {
		return false
	}
	if at, ok := ctx.Deadline(); ok {
		now := time.Now()
		rest := &deadline{parent: ctx, at: now.Add(at.Sub(now) / 2)}
		defer rest.end()
		l.conn.wire.serve(rest) //nolint:contextcheck // rest derives from ctx
	}
	_, err := io.Copy(io.Discard, answer.Body)
	return err == nil && l.in.Buffered() == 0
}

// tune prepares the connection for being held. Its end is heard of by a poller of its
// own (epoll(7)) that asks for nothing else: that of the runtime would wake somebody
// with each answer, which cost as much as the question.
func (l *httpLine) tune() error {
	fd := l.conn.wire.fd
	if err := tuneAlive(fd); err != nil {
		return err
	}
	poller, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	err = unix.EpollCtl(poller, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLRDHUP})
	if err == nil {
		err = unix.SetNonblock(poller, true) // so that the runtime's poller takes it
	}
	if err != nil {
		_ = unix.Close(poller)
		return os.NewSyscallError("epoll_ctl", err)
	}
	l.end = os.NewFile(uintptr(poller), "end of connection")
	return nil
}

// follow implements holdable.
func (l *httpLine) follow(ctx context.Context, _ func()) {
	defer context.AfterFunc(ctx, func() { _ = l.end.SetDeadline(time.Unix(1, 0)) })()
	poller, err := l.end.SyscallConn()
	if err != nil {
		return // a run has closed it
	}
	_ = poller.Read(func(fd uintptr) bool {
		n, err := unix.EpollWait(int(fd), make([]unix.EpollEvent, 1), 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}

// close ends the connection when no run asks on it.
func (l *httpLine) close() {
	if l.end != nil {
		_ = l.end.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = false
	_ = l.conn.Close()
}
