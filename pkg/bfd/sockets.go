package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bounds of the receiving side.
const (
	// burst is how many packets one socket hands over in a turn.
	burst = 128
	// floodPause is how long packets wait after a burst, so that a flood of them
	// cannot take a processor from everybody else.
	floodPause = 500 * time.Microsecond
	// receiveBuffer is the kernel's queue of one socket in bytes. Without
	// CAP_NET_ADMIN, net.core.rmem_max is the most.
	receiveBuffer = 4 << 20
	// datagramLen is more than any control packet has: the rest is cut off.
	datagramLen = 256
)

// sockets is the transport over UDP sockets of the network namespace in which
// its methods are called. One socket per port and family receives for all
// sessions; interfaces may come and go without it noticing.
type sockets struct {
	wakeFd    int
	receivers []*receiver
	fds       []unix.PollFd // wakeFd and the receivers
	ports     map[uint16]bool
	in        datagram
	flooded   bool // a socket has more than a burst
}

// receiver is one receiving socket with the memory that recvmsg needs.
type receiver struct {
	fd       int
	v6       bool
	multihop bool
	msg      unix.Msghdr
	iov      unix.Iovec
	name     unix.RawSockaddrInet6 // the larger one
	data     [datagramLen]byte
	control  [256]byte
	// emptied is a time after which everything that is read has come.
	emptied time.Time
	// newest is when the last packet came that was read.
	newest time.Time
}

// newSockets returns one that receives nothing yet. Close it.
func newSockets() (*sockets, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &sockets{
		wakeFd: fd, ports: map[uint16]bool{},
		fds: []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, //nolint:gosec // a file descriptor fits
	}, nil
}

// wait returns when a socket has a packet, after wake, or after d. Its errors
// are interruptions by signals, after which there is nothing to do but look.
func (t *sockets) wait(d time.Duration) {
	fds := t.fds
	if t.flooded {
		fds, d = fds[:1], min(d, floodPause)
	}
	ts := unix.NsecToTimespec(int64(d))
	n, err := unix.Ppoll(fds, &ts, nil)
	if err == nil && n > 0 && t.fds[0].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(t.wakeFd, b[:]) // EAGAIN: read already
	}
}

func (t *sockets) wake() {
	// EAGAIN: 2^64-2 wake-ups are waiting.
	_, _ = unix.Write(t.wakeFd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (t *sockets) close() {
	for _, r := range t.receivers {
		_ = unix.Close(r.fd)
	}
	t.receivers = nil
	_ = unix.Close(t.wakeFd)
}

// listen opens the receiving socket of a kind unless it is open.
func (t *sockets) listen(v6, multihop bool) error {
	for _, r := range t.receivers {
		if r.v6 == v6 && r.multihop == multihop {
			return nil
		}
	}
	port := singleHopPort
	if multihop {
		port = multihopPort
	}
	fd, err := openReceiver(v6, multihop, port)
	if err != nil {
		return fmt.Errorf("receive on UDP port %d: %w", port, err)
	}
	r := &receiver{fd: fd, v6: v6, multihop: multihop}
	r.iov.Base = &r.data[0]
	r.iov.SetLen(len(r.data))
	r.msg.Name = (*byte)(unsafe.Pointer(&r.name)) //nolint:gosec // recvmsg(2) wants it so
	r.msg.Iov = &r.iov
	r.msg.SetIovlen(1)
	r.msg.Control = &r.control[0]
	t.receivers = append(t.receivers, r)
	t.fds = append(t.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}) //nolint:gosec // a file descriptor fits
	return nil
}

// option is an integer socket option.
type option struct{ level, name, value int }

func setOptions(fd int, opts []option) error {
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("socket option %d/%d: %w", o.level, o.name, err)
		}
	}
	return nil
}

func openReceiver(v6, multihop bool, port int) (fd int, err error) {
	family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: port})
	opts := []option{
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer},
	}
	if v6 {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: port}
		opts = append(opts,
			option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			option{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
			option{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1})
	} else {
		opts = append(opts,
			option{unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
			option{unix.IPPROTO_IP, unix.IP_PKTINFO, 1})
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err = setOptions(fd, opts); err == nil && !multihop {
		err = neighboursOnly(fd, v6) // before the first packet can come
	}
	if err == nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) // without privilege it stays as it is
		err = unix.Bind(fd, addr)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// neighboursOnly has the kernel drop what a router has forwarded before it takes
// room in the socket's queue (RFC 5881 section 5): nobody who is not on the link
// can push out the packets of sessions. IP_MINTTL and IPV6_MINHOPCOUNT would say
// the same, but do nothing for UDP.
func neighboursOnly(fd int, v6 bool) error {
	ttl := -0x100000 + 8 // SKF_NET_OFF: from the start of the IP header
	if v6 {
		ttl = -0x100000 + 7 // the hop limit
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: uint32(int32(ttl))}, //nolint:gosec // a negative offset, as the kernel wants it
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 255, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: math.MaxUint32}, // all of it
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}) //nolint:gosec // four
	if err != nil {
		return fmt.Errorf("attach socket filter: %w", err)
	}
	return nil
}

// receive reads every socket until it is empty or has handed over a burst.
func (t *sockets) receive(deliver func(*datagram)) (behind time.Time) {
	t.flooded = false
	for _, r := range t.receivers {
		if r.drain(&t.in, deliver) {
			continue
		}
		t.flooded = true
		if behind.IsZero() || r.newest.Before(behind) {
			behind = r.newest
		}
	}
	return behind
}

// drain tells whether the socket is empty now.
func (r *receiver) drain(in *datagram, deliver func(*datagram)) bool {
	start := time.Now()
	for range burst {
		ok, err := r.read(in)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			r.emptied = start // EAGAIN; what else there is comes again or does not matter
			return true
		case ok:
			deliver(in)
		}
	}
	return false
}

// read reads one datagram; false if the kernel did not say all about it.
func (r *receiver) read(in *datagram) (bool, error) {
	r.msg.Namelen = uint32(unsafe.Sizeof(r.name))
	r.msg.SetControllen(len(r.control))
	r.msg.Flags = 0
	// Raw: it does not wait, and unix.Recvmsg allocates the address.
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(r.fd),
		uintptr(unsafe.Pointer(&r.msg)), unix.MSG_DONTWAIT) //nolint:gosec // a pointer for the kernel
	if errno != 0 {
		return false, errno
	}
	if r.msg.Flags&unix.MSG_CTRUNC != 0 {
		return false, nil
	}
	*in = datagram{data: r.data[:n], multihop: r.multihop, ttl: -1, ifindex: -1}
	if r.v6 {
		in.src = netip.AddrFrom16(r.name.Addr)
	} else {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.name)) //nolint:gosec // the kernel wrote one
		in.src = netip.AddrFrom4(v4.Addr)
	}
	in.at = time.Now()
	r.parseControl(in, r.control[:r.msg.Controllen], in.at)
	r.newest = in.at
	return in.ttl >= 0 && in.ifindex >= 0 && in.dst.IsValid(), nil
}

// parseControl reads TTL, destination, interface and time of arrival from the
// control messages. They are walked here because unix.ParseSocketControlMessage
// allocates.
func (r *receiver) parseControl(in *datagram, b []byte, now time.Time) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0])) //nolint:gosec // the kernel aligns them
		size := int(h.Len)                          //nolint:gosec // checked below
		if size < unix.SizeofCmsghdr || size > len(b) {
			return
		}
		data := b[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= 16:
			in.at = arrival(data, now, r.emptied)
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TTL && len(data) >= 4,
			h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
			in.ttl = int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// struct in_pktinfo: index, specific destination, destination.
			in.ifindex = int(binary.NativeEndian.Uint32(data))
			in.dst = netip.AddrFrom4([4]byte(data[8:12]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			in.dst = netip.AddrFrom16([16]byte(data[:16]))
			in.ifindex = int(binary.NativeEndian.Uint32(data[16:]))
		}
		next := unix.CmsgSpace(size - unix.CmsgLen(0))
		if next >= len(b) {
			return
		}
		b = b[next:]
	}
}

// arrival is when a packet with that kernel timestamp came. The timestamp is of
// the wall clock, which may be set at any time, so it counts only as far as it
// can be true: not before the socket was last empty, not after now.
func arrival(data []byte, now, emptied time.Time) time.Time {
	sec := int64(binary.NativeEndian.Uint64(data))      //nolint:gosec // a time_t
	nsec := int64(binary.NativeEndian.Uint64(data[8:])) //nolint:gosec // below 10^9
	at := now.Add(-time.Duration(max(now.UnixNano()-sec*int64(time.Second)-nsec, 0)))
	if at.Before(emptied) {
		return emptied
	}
	return at
}
