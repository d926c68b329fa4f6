package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Source ports (RFC 5881 section 4).
const (
	firstPort = 49152
	lastPort  = 65535
	portTries = 64
)

// Marks of our packets: DSCP CS6 (RFC 4594, network control) and the highest
// queueing priority that needs no privilege.
const (
	tosCS6       = 0xc0
	sendPriority = 6
)

// sender is the path of one session: a socket bound to its local address, a
// port of its own and its interface.
type sender struct {
	net     *sockets
	fd      int
	port    uint16
	iface   string
	ifindex int
	local   netip.Addr
	to      unix.RawSockaddrInet6 // or the smaller one in its memory
	toLen   uintptr
}

// dial opens a session's sending socket and the receiving one of its kind.
func (t *sockets) dial(cfg *SessionConfig) (path, error) {
	key := keyOf(cfg)
	if err := t.listen(key.peer.Is6(), cfg.Multihop); err != nil {
		return nil, err
	}
	s := &sender{net: t, fd: -1, iface: cfg.Interface, local: key.local}
	if err := s.open(key.peer, cfg.Multihop); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *sender) open(peer netip.Addr, multihop bool) error {
	var err error
	if s.ifindex, err = s.lookup(); err != nil {
		return err
	}
	if s.fd, err = newSender(s.local.Is6()); err != nil {
		return err
	}
	if s.iface != "" {
		if err = unix.BindToDevice(s.fd, s.iface); err != nil {
			return fmt.Errorf("bind to interface %s: %w", s.iface, err)
		}
	}
	if err = s.bind(); err != nil {
		return err
	}
	port := uint16(singleHopPort)
	if multihop {
		port = multihopPort
	}
	s.toLen = s.raw(peer, port)
	return nil
}

// newSender opens a socket whose packets have the TTL and the marks of BFD.
func newSender(v6 bool) (int, error) {
	family := unix.AF_INET
	opts := []option{{unix.IPPROTO_IP, unix.IP_TTL, 255}, {unix.IPPROTO_IP, unix.IP_TOS, tosCS6}}
	if v6 {
		family = unix.AF_INET6
		opts = []option{
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255},
			{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tosCS6},
		}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	// After TOS, which sets the priority too.
	opts = append(opts, option{unix.SOL_SOCKET, unix.SO_PRIORITY, sendPriority})
	if err := setOptions(fd, opts); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bind takes a source port that no other session and no other program has.
func (s *sender) bind() error {
	var err error
	for range portTries {
		port := uint16(firstPort + rand.IntN(lastPort-firstPort+1)) //nolint:gosec // not a secret; it fits
		if s.net.ports[port] {
			continue
		}
		if err = unix.Bind(s.fd, s.sockaddr(port)); err == nil {
			s.port = port
			s.net.ports[port] = true
			return nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("bind to address %s: %w", s.local, err)
		}
	}
	return fmt.Errorf("no free source port at %s: %w", s.local, err)
}

// sockaddr is the local address with a port, for system calls that are rare.
func (s *sender) sockaddr(port uint16) unix.Sockaddr {
	if s.local.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: s.local.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: s.local.As16(), ZoneId: s.zone(s.local)}
}

// zone is the interface for a link-local address.
func (s *sender) zone(a netip.Addr) uint32 {
	if a.IsLinkLocalUnicast() {
		return uint32(s.ifindex) //nolint:gosec // never negative
	}
	return 0
}

// raw prepares the destination as the kernel wants it and returns its length.
func (s *sender) raw(peer netip.Addr, port uint16) uintptr {
	swapped := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
	if peer.Is6() {
		s.to = unix.RawSockaddrInet6{
			Family: unix.AF_INET6, Port: swapped, Addr: peer.As16(), Scope_id: s.zone(peer),
		}
		return unsafe.Sizeof(s.to)
	}
	v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.to)) //nolint:gosec // the smaller one in the larger one's memory
	*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: swapped, Addr: peer.As4()}
	return unsafe.Sizeof(*v4)
}

// send sends one packet and does not wait. A full queue is a lost packet and no
// error: the next one tells.
func (s *sender) send(b []byte) error {
	// Raw: it does not wait, and unix.Sendto takes the scheduler along.
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, //nolint:gosec // a pointer for the kernel
		uintptr(unsafe.Pointer(&s.to)), s.toLen) //nolint:gosec // a pointer for the kernel
	switch errno {
	case 0, unix.EAGAIN, unix.ENOBUFS, unix.EINTR:
		return nil
	case unix.EPERM:
		return fmt.Errorf("send: %w (a packet filter?)", errno)
	default:
		return fmt.Errorf("send: %w", errno)
	}
}

func (s *sender) index() int { return s.ifindex }

// check tells whether the interface is still the one that the socket is bound
// to, is up and has the address.
func (s *sender) check() (stale bool, err error) {
	index, err := s.lookup()
	if err != nil || index != s.ifindex {
		return true, err
	}
	if s.iface != "" {
		if err = s.running(); err != nil {
			return false, err
		}
	}
	fd, err := newSender(s.local.Is6())
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err = unix.Bind(fd, s.sockaddr(0)); err != nil {
		return false, fmt.Errorf("bind to address %s: %w", s.local, err)
	}
	return false, nil
}

// lookup finds the interface by its name, 0 without one.
func (s *sender) lookup() (int, error) {
	if s.iface == "" {
		return 0, nil
	}
	req, err := s.ioctl(unix.SIOCGIFINDEX)
	if err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

// running tells why the interface carries nothing.
func (s *sender) running() error {
	req, err := s.ioctl(unix.SIOCGIFFLAGS)
	if err != nil {
		return err
	}
	switch flags := req.Uint16(); {
	case flags&unix.IFF_UP == 0:
		return fmt.Errorf("interface %s is down", s.iface)
	case flags&unix.IFF_RUNNING == 0:
		return fmt.Errorf("interface %s has no carrier", s.iface)
	}
	return nil
}

func (s *sender) ioctl(request uint) (*unix.Ifreq, error) {
	req, err := unix.NewIfreq(s.iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", s.iface, err)
	}
	// Any socket will do.
	fd := s.fd
	if fd < 0 {
		if fd, err = newSender(s.local.Is6()); err != nil {
			return nil, err
		}
		defer func() { _ = unix.Close(fd) }()
	}
	if err := unix.IoctlIfreq(fd, request, req); err != nil {
		return nil, fmt.Errorf("interface %s: %w", s.iface, err)
	}
	return req, nil
}

func (s *sender) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
	if s.port != 0 {
		delete(s.net.ports, s.port)
		s.port = 0
	}
}
