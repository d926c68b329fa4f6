package netmon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// receiveSize holds the largest part of a dump (32 KiB) and any event.
	receiveSize = 64 << 10
	// answerSeconds bounds the wait for one part of an answer. The kernel
	// answers within the call, so this is met only when it is out of memory.
	answerSeconds = 5
	// typeMask takes the flags (nested, byte order) off an attribute's type.
	typeMask = 0x3fff
)

// errInterrupted says that a table changed while it was dumped: entries may be
// missing or doubled.
var errInterrupted = errors.New("dump interrupted by a change")

// request is an rtnetlink socket for questions. It blocks in the system call:
// the kernel answers at once, and a detour over the poller would cost more.
type request struct {
	fd  int
	seq uint32
	buf []byte
}

func openRequest() (*request, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerSeconds}); err != nil {
		return nil, errors.Join(fmt.Errorf("bound rtnetlink answers: %w", err), unix.Close(fd))
	}
	return &request{fd: fd, buf: make([]byte, receiveSize)}, nil
}

func (r *request) close() error { return unix.Close(r.fd) }

// do sends one question and gives each message of the answer to fn; its body
// is valid until fn returns. after, if any, is called after each part of a long
// answer. A kernel error is returned as unix.Errno. After any error but
// errInterrupted and a kernel error the socket must be closed: its state is
// unknown.
func (r *request) do(typ, flags uint16, body []byte, fn func(body []byte), after func()) error {
	r.seq++
	msg := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(msg[0:], uint32(unix.SizeofNlMsghdr+len(body))) //nolint:gosec // a few dozen bytes
	binary.NativeEndian.PutUint16(msg[4:], typ)
	binary.NativeEndian.PutUint16(msg[6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(msg[8:], r.seq)
	if err := unix.Sendto(r.fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send rtnetlink request %d: %w", typ, err)
	}
	interrupted := false
	for {
		part, err := r.receive()
		if err != nil {
			return fmt.Errorf("receive answer to rtnetlink request %d: %w", typ, err)
		}
		for h, body := range messages(part) {
			if h.Seq != r.seq {
				continue // the rest of an answer that was given up
			}
			interrupted = interrupted || h.Flags&unix.NLM_F_DUMP_INTR != 0
			switch h.Type {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				if errno := answerError(body); errno != 0 {
					return errno
				}
				if interrupted {
					return errInterrupted
				}
				return nil
			default:
				fn(body)
			}
			if h.Flags&unix.NLM_F_MULTI == 0 {
				return nil
			}
		}
		if after != nil {
			after()
		}
	}
}

// receive returns the next datagram; it is valid until the next call.
func (r *request) receive() ([]byte, error) {
	for {
		n, from, err := unix.Recvfrom(r.fd, r.buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, os.NewSyscallError("recvfrom", err)
		case n > len(r.buf):
			return nil, fmt.Errorf("message of %d bytes exceeds the buffer of %d", n, len(r.buf))
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 {
			return r.buf[:n], nil
		}
	}
}

// answerError is the error number of an NLMSG_ERROR or NLMSG_DONE body.
func answerError(body []byte) unix.Errno {
	if len(body) < 4 {
		return 0
	}
	//nolint:gosec // the kernel sends a negative error number in 32 bits
	return unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
}

// messages yields the netlink messages of a datagram, up to the first one that
// is cut short.
func messages(b []byte) iter.Seq2[unix.NlMsghdr, []byte] {
	return func(yield func(unix.NlMsghdr, []byte) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			h := unix.NlMsghdr{
				Len:   binary.NativeEndian.Uint32(b[0:]),
				Type:  binary.NativeEndian.Uint16(b[4:]),
				Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq:   binary.NativeEndian.Uint32(b[8:]),
			}
			if h.Len < unix.SizeofNlMsghdr || int64(h.Len) > int64(len(b)) {
				return
			}
			if !yield(h, b[unix.SizeofNlMsghdr:h.Len]) {
				return
			}
			b = b[min(align(int(h.Len)), len(b)):]
		}
	}
}

// attributes yields the type and value of each route attribute, up to the first
// one that is cut short.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b[0:]))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&typeMask, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

// attribute appends one attribute to a request body.
func attribute(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value))) //nolint:gosec // a few bytes
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	return append(b, make([]byte, align(len(value))-len(value))...)
}

// align rounds up to the alignment of messages and attributes, 4 bytes.
func align(n int) int { return (n + 3) &^ 3 }
