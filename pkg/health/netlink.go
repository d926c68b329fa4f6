package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// netlinkTimeout bounds the wait for an answer of the kernel, which comes
	// within the call unless it is out of memory.
	netlinkTimeout = time.Second
	// attributeMask takes the flags (nested, byte order) off an attribute's type.
	attributeMask = 0x3fff
)

// netlinkSocket carries questions, their answers and the events of groups in the
// order in which the kernel made them: an event that is read after the answer
// came of what was asked, or later. A library's sockets carry either questions
// or events. It stays in the network namespace in which it was opened.
type netlinkSocket struct {
	file *os.File
	fd   int
	seq  uint32
	buf  []byte
}

// openNetlink opens a socket of the protocol, for messages of at most size bytes.
// It does not block: its reads end with the deadline, or when it is closed.
func openNetlink(protocol, size int) (*netlinkSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	s := &netlinkSocket{file: os.NewFile(uintptr(fd), "netlink"), fd: fd, buf: make([]byte, size)}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.close()
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	return s, nil
}

func (s *netlinkSocket) close() { _ = s.file.Close() }

// join subscribes to the events of a group.
func (s *netlinkSocket) join(group int) error {
	return os.NewSyscallError("join netlink group", unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group))
}

// leave ends what join began.
func (s *netlinkSocket) leave(group int) error {
	return os.NewSyscallError("leave netlink group", unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_DROP_MEMBERSHIP, group))
}

// filter lets in only what the classic BPF program accepts, answers included.
func (s *netlinkSocket) filter(program []unix.SockFilter) error {
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]} //nolint:gosec // bounded by its makers
	return os.NewSyscallError("attach filter", unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &p))
}

// send sends one request and returns the number that its answer bears.
func (s *netlinkSocket) send(kind, flags uint16, body []byte) (uint32, error) {
	s.seq++
	b := make([]byte, 0, unix.SizeofNlMsghdr+len(body))
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(body))) //nolint:gosec // a few dozen bytes
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	if _, err := s.file.Write(append(b, body...)); err != nil {
		return 0, fmt.Errorf("write netlink socket: %w", innermost(err))
	}
	return s.seq, nil
}

// read returns the next datagram; it is valid until the next call.
func (s *netlinkSocket) read() ([]byte, error) {
	n, err := s.file.Read(s.buf)
	if err != nil {
		return nil, fmt.Errorf("read netlink socket: %w", innermost(err))
	}
	return s.buf[:n], nil
}

// innermost takes the names of system call and file off an error.
func innermost(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// ask sends a question for one thing and returns the body of the answer, which is
// valid until the next call: empty for a bare acknowledgement, or the kernel's
// error as a unix.Errno. Events that come before the answer are given to event,
// unless that is nil.
func (s *netlinkSocket) ask(kind, flags uint16, body []byte, event func(netlinkMessage)) ([]byte, error) {
	seq, err := s.send(kind, flags, body)
	if err != nil {
		return nil, err
	}
	for {
		b, err := s.read()
		if err != nil {
			return nil, err
		}
		for m := range netlinkMessages(b) {
			switch {
			case m.seq != seq: // events bear the number 0
				if event != nil {
					event(m)
				}
			case m.kind != unix.NLMSG_ERROR && m.kind != unix.NLMSG_DONE:
				return m.body, nil
			case m.errno() != 0:
				return nil, m.errno()
			default:
				return nil, nil
			}
		}
	}
}

// netlinkMessage is one message of a datagram.
type netlinkMessage struct {
	kind uint16
	seq  uint32
	body []byte
}

// errno is the error number of an NLMSG_ERROR or NLMSG_DONE message, 0 for none.
func (m netlinkMessage) errno() unix.Errno {
	if len(m.body) < 4 {
		return 0
	}
	//nolint:gosec // the kernel sends a negative error number in 32 bits
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.body)))
}

// netlinkMessages yields the messages of a datagram, up to the first that is cut short.
func netlinkMessages(b []byte) iter.Seq[netlinkMessage] {
	return func(yield func(netlinkMessage) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			n := binary.NativeEndian.Uint32(b)
			if n < unix.SizeofNlMsghdr || uint64(n) > uint64(len(b)) {
				return
			}
			m := netlinkMessage{
				kind: binary.NativeEndian.Uint16(b[4:]),
				seq:  binary.NativeEndian.Uint32(b[8:]),
				body: b[unix.SizeofNlMsghdr:n],
			}
			if !yield(m) {
				return
			}
			b = b[min(netlinkAlign(int(n)), len(b)):]
		}
	}
}

// netlinkAttributes yields the attributes of a message, up to the first that is
// cut short.
func netlinkAttributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&attributeMask, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min(netlinkAlign(n), len(b)):]
		}
	}
}

// appendAttribute appends one attribute to the body of a request.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value))) //nolint:gosec // a few bytes
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, netlinkAlign(len(value))-len(value))...)
}

// netlinkAlign rounds up to the alignment of messages and attributes.
func netlinkAlign(n int) int { return (n + 3) &^ 3 }

// bound ends reads and writes with the deadline of the context.
func (s *netlinkSocket) bound(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if most := time.Now().Add(netlinkTimeout); !ok || deadline.After(most) {
		deadline = most
	}
	return s.file.SetDeadline(deadline)
}
