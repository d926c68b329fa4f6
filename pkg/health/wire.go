package health

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// atOnce is how long an answer is waited for in the kernel before the socket goes
// into the runtime's poller.
const atOnce = time.Millisecond

// wire is a connected socket for one run, or for one at a time. A VIP is an address of this host, and
// so are most targets of checks: their answers are there by the time that the other
// checks of this moment have asked. So who has to wait lets those go first, then
// sleeps in the kernel for a moment. Only if that is too short the run pays for the
// poller, a timer and what wakes a goroutine, as net.Dialer does for each
// connection: a quarter of all that an http check costs. The end of the context
// ends all waiting.
type wire struct {
	ctx       context.Context //nolint:containedctx // of the run
	fd        int             // -1 when closed
	datagrams bool            // a read of nothing is not the end
	pace      *pace
	late      bool // something did not come at once
	hasty     bool // nothing is to be waited for

	file *os.File // owns fd; nil until it is in the poller
	raw  syscall.RawConn
}

// pace remembers from one run to the next whether a target answers at once. A
// thread sleeps while it is waited for, which is not to be in vain each time.
type pace struct{ slow atomic.Bool }

// Read implements io.Reader.
func (w *wire) Read(b []byte) (int, error) {
	for {
		switch n, err := unix.Read(w.fd, b); {
		case err == nil && n == 0 && len(b) > 0 && !w.datagrams:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			if err = w.wait(unix.POLLIN); err != nil {
				return 0, err
			}
		case !errors.Is(err, unix.EINTR):
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// Write implements io.Writer. It waits for the connection, if need be.
func (w *wire) Write(b []byte) (written int, err error) {
	for {
		n, err := unix.Write(w.fd, b[written:])
		written += max(n, 0)
		switch {
		case err == nil && written == len(b):
			return written, nil
		case errors.Is(err, unix.EAGAIN):
			if err = w.wait(unix.POLLOUT); err != nil {
				return written, err
			}
		case err != nil && !errors.Is(err, unix.EINTR):
			return written, os.NewSyscallError("write", err)
		}
	}
}

// Close implements io.Closer.
func (w *wire) Close() error {
	fd := w.fd
	w.fd = -1 // the number may soon be that of another
	if w.file == nil {
		return unix.Close(fd)
	}
	return w.file.Close()
}

// wait returns when the socket is ready for what events, POLLIN or POLLOUT, stand
// for, or has an error to tell.
func (w *wire) wait(events int16) error {
	if err := w.ctx.Err(); err != nil {
		return err // else who says a little each moment is heard for ever
	}
	if w.hasty {
		return os.ErrDeadlineExceeded
	}
	poll := []unix.PollFd{{Fd: int32(w.fd), Events: events}} //nolint:gosec // a descriptor
	ready := func(limit time.Duration) bool {
		n, err := unix.Poll(poll, int(limit.Milliseconds()))
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	}
	began := time.Now()
	defer func() {
		w.late = w.late || time.Since(began) >= atOnce
		w.pace.slow.Store(w.late)
	}()
	if !w.pace.slow.Load() {
		runtime.Gosched()
		if ready(atOnce) {
			return nil
		}
	}
	if w.file == nil {
		if err := w.register(); err != nil {
			return err
		}
	}
	until := w.raw.Read
	if events == unix.POLLOUT {
		until = w.raw.Write
	}
	defer context.AfterFunc(w.ctx, func() { _ = w.file.SetDeadline(time.Unix(1, 0)) })()
	err := until(func(uintptr) bool { return ready(0) })
	if ended := w.ctx.Err(); ended != nil {
		return ended
	}
	return err
}

// register hands the socket to the runtime's poller.
func (w *wire) register() (err error) {
	w.file = os.NewFile(uintptr(w.fd), "socket")
	w.raw, err = w.file.SyscallConn()
	return err
}

// serve gives the wire to another run, or another part of one.
func (w *wire) serve(ctx context.Context) { w.ctx, w.late = ctx, false }
