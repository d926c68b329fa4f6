package health

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// icmpSocket is a connected socket for the echo requests of one run: the
// unprivileged kind, to which the kernel passes only its own replies, else a raw
// one.
type icmpSocket struct {
	file *os.File // so that the runtime waits, and a close ends that
	conn syscall.RawConn
	raw4 bool   // what is read begins with an IPv4 header
	id   uint16 // of its requests
}

// ICMPPermitted is an error unless the process may send echo requests. It opens
// and closes the sockets that a check would use.
func ICMPPermitted() error {
	for _, six := range []bool{false, true} {
		fd, _, err := socketICMP(six)
		switch {
		case err == nil:
			_ = unix.Close(fd)
		case !errors.Is(err, unix.EAFNOSUPPORT): // no check of that family can be wanted
			return err
		}
	}
	return nil
}

// socketICMP makes a socket of the kind that is permitted.
func socketICMP(six bool) (fd int, raw bool, err error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if six {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_RAW} {
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		if err == nil {
			return fd, kind == unix.SOCK_RAW, nil
		}
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return 0, false, errors.New("not permitted: needs CAP_NET_RAW, or a group of the process in net.ipv4.ping_group_range")
	}
	return 0, false, os.NewSyscallError("socket", err)
}

// openICMP makes a socket to send echo requests from.
func openICMP(c ICMPConfig) (*icmpSocket, error) {
	six := c.Address.Is6()
	fd, raw, err := socketICMP(six)
	if err != nil {
		return nil, err
	}
	s := &icmpSocket{raw4: raw && !six}
	if err = s.prepare(fd, raw, c); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	s.file = os.NewFile(uintptr(fd), "icmp")
	if s.conn, err = s.file.SyscallConn(); err != nil {
		_ = s.file.Close()
		return nil, err
	}
	return s, nil
}

// prepare pins the socket to its device, source and target.
func (s *icmpSocket) prepare(fd int, raw bool, c ICMPConfig) error {
	six := c.Address.Is6()
	if c.Device != "" {
		if err := unix.BindToDevice(fd, c.Device); err != nil {
			return deviceError(c.Device, err)
		}
	}
	level, option := unix.SOL_IP, unix.IP_RECVERR
	if six {
		level, option = unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if raw {
		if err := onlyReplies(fd, six); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if c.Source.IsValid() {
		from, err := sockaddr(c.Source, c.Device)
		if err != nil {
			return err
		}
		if err = unix.Bind(fd, from); err != nil {
			return sourceError(c.Source, os.NewSyscallError("bind", err))
		}
	}
	to, err := sockaddr(c.Address, c.Device)
	if err != nil {
		return err
	}
	if err = unix.Connect(fd, to); err != nil {
		return os.NewSyscallError("connect", err)
	}
	return s.number(fd, raw)
}

// number sets the id of the requests: the kernel's choice, which it makes unique
// and keeps as a port, or for a raw socket any.
func (s *icmpSocket) number(fd int, raw bool) error {
	if raw {
		s.id = randomID()
		return nil
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	switch own := own.(type) {
	case *unix.SockaddrInet4:
		s.id = uint16(own.Port) //nolint:gosec // a port
	case *unix.SockaddrInet6:
		s.id = uint16(own.Port) //nolint:gosec // a port
	}
	return nil
}

// onlyReplies keeps the host's other ICMP traffic from waking a raw socket.
func onlyReplies(fd int, six bool) error {
	const echoReply4, echoReply6 = 0, 129
	if !six {
		return unix.SetsockoptInt(fd, unix.SOL_RAW, unix.ICMP_FILTER, ^(1 << echoReply4))
	}
	var blocked unix.ICMPv6Filter
	for i := range blocked.Data {
		blocked.Data[i] = ^uint32(0)
	}
	blocked.Data[echoReply6/32] &^= 1 << (echoReply6 % 32)
	return unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &blocked)
}

func deviceError(device string, err error) error {
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("device %s does not exist", device)
	}
	return os.NewSyscallError("setsockopt", err)
}

// sockaddr is the address in the kernel's form; the zone of a link-local one is
// its own, else the device.
func sockaddr(a netip.Addr, device string) (unix.Sockaddr, error) {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Addr: a.As16()}
	zone := a.Zone()
	if zone == "" && a.IsLinkLocalUnicast() {
		zone = device
	}
	if zone == "" {
		return sa, nil
	}
	link, err := net.InterfaceByName(zone)
	if err != nil {
		return nil, fmt.Errorf("device %s does not exist", zone)
	}
	sa.ZoneId = uint32(link.Index) //nolint:gosec // an index is positive
	return sa, nil
}

func (s *icmpSocket) send(b []byte) error {
	var err error
	if e := s.conn.Write(func(fd uintptr) bool {
		_, err = unix.Write(int(fd), b)
		return !errors.Is(err, unix.EAGAIN)
	}); e != nil {
		return e
	}
	return err
}

// receive waits for a message and returns it from its ICMP header on.
func (s *icmpSocket) receive(buffer []byte) ([]byte, netip.Addr, error) {
	var n int
	var from unix.Sockaddr
	var err error
	if e := s.conn.Read(func(fd uintptr) bool {
		n, from, err = unix.Recvfrom(int(fd), buffer, 0)
		return !errors.Is(err, unix.EAGAIN)
	}); e != nil {
		return nil, netip.Addr{}, e
	}
	if err != nil {
		return nil, netip.Addr{}, err
	}
	b := buffer[:n]
	if s.raw4 {
		if len(b) == 0 || len(b) < int(b[0]&0xf)*4 {
			return nil, netip.Addr{}, nil
		}
		b = b[int(b[0]&0xf)*4:]
	}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		return b, netip.AddrFrom4(from.Addr), nil
	case *unix.SockaddrInet6:
		return b, netip.AddrFrom16(from.Addr), nil
	}
	return b, netip.Addr{}, nil
}

// icmpReport is an ICMP error that the host got or made for a request.
type icmpReport struct {
	quoted     []byte // of the request, from its ICMP header on
	icmp       bool   // it came by ICMP, else the host could not send
	six        bool
	kind, code uint8 // of the ICMP message
	errno      unix.Errno
	router     netip.Addr // who says so; zero if the kernel does not tell
}

// report takes one error from the socket's queue.
func (s *icmpSocket) report() (icmpReport, bool) {
	quoted, control := make([]byte, 64), make([]byte, 256)
	var n, controlled int
	var err error
	if e := s.conn.Control(func(fd uintptr) {
		n, controlled, _, _, err = unix.Recvmsg(int(fd), quoted, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	}); e != nil || err != nil {
		return icmpReport{}, false
	}
	r := icmpReport{quoted: quoted[:n]}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil {
		return r, true
	}
	for _, m := range messages {
		four := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		six := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if four || six {
			r.read(m.Data, six)
		}
	}
	return r, true
}

// read takes over a struct sock_extended_err and the address after it.
func (r *icmpReport) read(b []byte, six bool) {
	const errorBytes, family4At, family6At = 16, 4, 8 // of the address in a sockaddr
	if len(b) < errorBytes {
		return
	}
	r.errno = unix.Errno(binary.NativeEndian.Uint32(b))
	r.six, r.kind, r.code = six, b[5], b[6]
	r.icmp = b[4] == unix.SO_EE_ORIGIN_ICMP || b[4] == unix.SO_EE_ORIGIN_ICMP6
	at, length := errorBytes+family4At, 4
	if six {
		at, length = errorBytes+family6At, 16
	}
	if len(b) >= at+length {
		if a, ok := netip.AddrFromSlice(b[at : at+length]); ok && !a.IsUnspecified() {
			r.router = a
		}
	}
}

// fatal tells whether the request was lost: a redirect only tells a better way.
func (r *icmpReport) fatal() bool {
	if r.six {
		return r.icmp && (r.kind == 1 || r.kind == 3 || r.kind == 4) // RFC 4443 section 3
	}
	return r.icmp && (r.kind == 3 || r.kind == 11 || r.kind == 12) // RFC 792
}

// err is the error in words.
func (r *icmpReport) err() error {
	text := r.errno.Error()
	switch {
	case !r.six && r.kind == 11, r.six && r.kind == 3:
		text = "time exceeded on the way"
	case !r.six && r.kind == 3: // RFC 1812 section 5.2.7.1
		text = unreachable(r.code, []uint8{9, 10, 13}, []uint8{0, 6, 11}, []uint8{1, 7, 12})
	case r.six && r.kind == 1: // RFC 4443 section 3.1
		text = unreachable(r.code, []uint8{1, 5, 6}, []uint8{0}, []uint8{3})
	}
	if r.router.IsValid() {
		text += ", says " + r.router.String()
	}
	return errors.New(text)
}

// unreachable is the code of a destination-unreachable message in words.
func unreachable(code uint8, prohibited, network, host []uint8) string {
	switch {
	case slices.Contains(prohibited, code):
		return "administratively prohibited"
	case slices.Contains(network, code):
		return "network unreachable"
	case slices.Contains(host, code):
		return "host unreachable"
	}
	return fmt.Sprintf("destination unreachable (code %d)", code)
}

// randomID is an id that others of this host hardly have; the nonce tells the
// replies apart if they do.
func randomID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.NativeEndian.Uint16(b[:])
}
