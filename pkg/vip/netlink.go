package vip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// socketTimeout bounds each wait for the kernel on the netlink socket.
	socketTimeout = 2 * time.Second
	// batchSize is how many messages go out in one system call. Each failed one
	// is answered by a message of its own, and 100 of these fit the default
	// receive buffer.
	batchSize = 100
	// dumpTries bounds the repetition of dumps that a change interrupted.
	dumpTries = 8
	// receiveSize holds the largest dump message (the kernel makes up to 32 KiB).
	receiveSize = 64 << 10
)

// errDumpInterrupted tells that the table kept changing while it was read.
var errDumpInterrupted = errors.New("table changes faster than it can be read")

// conn is a route netlink socket for dumps and batched writes. The socket stays
// in the network namespace in which it was opened. Not for concurrent use.
//
// A codec of our own instead of a library's, because copies of others' routes
// must keep attributes that no library knows, and because a thousand addresses
// must go out in ten system calls.
type conn struct {
	fd  int
	seq uint32
	buf []byte
	out []byte
	// broken tells that an answer is still on its way: the kernel refuses another
	// dump until it is fetched, so a new socket is simpler.
	broken bool
	// gate, if set, is asked how many of n writes may still be done; tests use it
	// to stop a process at any moment. It covers netlink, sysctls and files.
	gate func(n int) int
}

// errStopped is the error of writes that the gate refuses.
var errStopped = errors.New("writer stopped")

func (c *conn) allow(n int) int {
	if c.gate == nil {
		return n
	}
	return c.gate(n)
}

// dial opens a socket of NETLINK_ROUTE or another protocol.
func dial(protocol int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket of protocol %d: %w", protocol, err)
	}
	c := &conn{fd: fd, buf: make([]byte, receiveSize)}
	if err := c.setup(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// renew replaces a broken socket.
func (c *conn) renew() error {
	if !c.broken {
		return nil
	}
	fresh, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	c.close()
	c.fd, c.broken = fresh.fd, false
	return nil
}

func (c *conn) setup() error {
	tv := unix.NsecToTimeval(socketTimeout.Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, opt, &tv); err != nil {
			return fmt.Errorf("set netlink socket timeout: %w", err)
		}
	}
	// Filters of dumps by table, protocol and device (Linux 4.20), texts of
	// errors, short acknowledgements: all optional, every answer is checked.
	for _, opt := range []int{unix.NETLINK_GET_STRICT_CHK, unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, opt, 1)
	}
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	return nil
}

// close may be called again; calls after it fail.
func (c *conn) close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
	c.fd = -1
}

// message is a part of a received datagram; data is valid until the next read.
type message struct {
	kind, flags uint16
	seq         uint32
	data        []byte
}

// receive reads one datagram and gives its messages to visit until that returns
// true (finished) or an error.
func (c *conn) receive(visit func(message) (bool, error)) (bool, error) {
	n, err := unix.Read(c.fd, c.buf)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(c.fd, c.buf)
	}
	c.broken = err != nil
	if errors.Is(err, unix.EAGAIN) {
		return false, fmt.Errorf("no answer from the kernel within %s: %w", socketTimeout, os.ErrDeadlineExceeded)
	}
	if err != nil {
		return false, fmt.Errorf("read netlink socket: %w", err)
	}
	for b := c.buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false, fmt.Errorf("netlink message of %d bytes in a datagram of %d", size, n)
		}
		m := message{
			kind: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), data: b[unix.SizeofNlMsghdr:size],
		}
		if done, err := visit(m); done || err != nil {
			return done, err
		}
		b = b[min(align(size), len(b)):]
	}
	return false, nil
}

// dump reads a kernel table: every message of the answer is decoded; decode
// returns false for what is not wanted.
func dump[T any](ctx context.Context, c *conn, kind uint16, request []byte, decode func([]byte) (T, bool)) ([]T, error) {
	var out []T
	for range dumpTries {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read kernel table: %w", err)
		}
		out = out[:0]
		interrupted, err := c.dumpOnce(kind, request, func(b []byte) {
			if v, ok := decode(b); ok {
				out = append(out, v)
			}
		})
		if err != nil {
			return nil, err
		}
		if !interrupted {
			return out, nil
		}
	}
	return nil, errDumpInterrupted
}

func (c *conn) dumpOnce(kind uint16, request []byte, visit func([]byte)) (interrupted bool, err error) {
	c.seq++
	seq := c.seq
	c.out = appendHeader(c.out[:0], kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq, request)
	if err := c.send(c.out); err != nil {
		return false, err
	}
	for {
		done, err := c.receive(func(m message) (bool, error) {
			if m.seq != seq { // answer to a request that timed out
				return false, nil
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_DONE:
				return true, emptyTable(answerError(m))
			case unix.NLMSG_ERROR:
				return true, emptyTable(answerError(m))
			default:
				visit(m.data)
				return false, nil
			}
		})
		if done || err != nil {
			return interrupted, err
		}
	}
}

// emptyTable takes the errors by which the kernel says that a table, or the
// whole address family, does not exist.
func emptyTable(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

func (c *conn) send(b []byte) error {
	for {
		_, err := unix.Write(c.fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			c.broken = true
			return fmt.Errorf("write netlink socket: %w", err)
		}
		return nil
	}
}

// operation is one change of the kernel's state.
type operation struct {
	kind  uint16
	flags uint16
	body  []byte
}

// execute does the operations in their order, many per system call, and returns
// one error per operation. A failed one does not stop the later ones.
func (c *conn) execute(ctx context.Context, ops []operation) []error {
	errs := make([]error, len(ops))
	for start := 0; start < len(ops); start += batchSize {
		if err := ctx.Err(); err != nil {
			return fill(errs, start, err)
		}
		size := min(batchSize, len(ops)-start)
		allowed := c.allow(size)
		if allowed > 0 {
			if err := c.batch(ops[start:start+allowed], errs[start:start+allowed]); err != nil {
				return fill(errs, start, err)
			}
		}
		if allowed < size {
			return fill(errs, start+allowed, errStopped)
		}
	}
	return errs
}

// fill gives err to every operation from start on that has none.
func fill(errs []error, start int, err error) []error {
	for i := start; i < len(errs); i++ {
		if errs[i] == nil {
			errs[i] = err
		}
	}
	return errs
}

func (c *conn) batch(ops []operation, errs []error) error {
	first := c.seq + 1
	c.out = c.out[:0]
	for i, op := range ops {
		c.seq++
		flags := op.flags | unix.NLM_F_REQUEST
		if i == len(ops)-1 {
			flags |= unix.NLM_F_ACK
		}
		c.out = appendHeader(c.out, op.kind, flags, c.seq, op.body)
	}
	last := c.seq
	if err := c.send(c.out); err != nil {
		return err
	}
	for {
		done, err := c.receive(func(m message) (bool, error) {
			if m.kind != unix.NLMSG_ERROR || m.seq-first > last-first {
				return false, nil
			}
			errs[m.seq-first] = answerError(m)
			return m.seq == last, nil
		})
		if done || err != nil {
			return err
		}
	}
}

// appendHeader appends a whole netlink message.
func appendHeader(b []byte, kind, flags uint16, seq uint32, body []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, u32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return pad(append(b, body...))
}

// kernelError is an error number with the kernel's own explanation.
type kernelError struct {
	errno unix.Errno
	text  string
}

func (e *kernelError) Error() string {
	if e.text == "" {
		return e.errno.Error()
	}
	return e.errno.Error() + " (" + e.text + ")"
}

func (e *kernelError) Unwrap() error { return e.errno }

// answerError is the error that an acknowledgement or the end of a dump carries.
func answerError(m message) error {
	if len(m.data) < 4 {
		return nil
	}
	code := i32(m.data)
	if code >= 0 {
		return nil
	}
	err := &kernelError{errno: unix.Errno(-code)}
	if m.kind == unix.NLMSG_ERROR && m.flags&unix.NLM_F_ACK_TLVS != 0 {
		skip := 4 + unix.SizeofNlMsghdr
		if m.flags&unix.NLM_F_CAPPED == 0 && len(m.data) >= 8 {
			skip = 4 + int(binary.NativeEndian.Uint32(m.data[4:]))
		}
		if skip <= len(m.data) {
			for t, v := range attributes(m.data[skip:]) {
				if t == unix.NLMSGERR_ATTR_MSG {
					err.text = text(v)
				}
			}
		}
	}
	return err
}
