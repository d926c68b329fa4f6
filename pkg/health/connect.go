package health

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// touch connects by TCP and closes in order. The address and the source, if one
// is given, are of one family.
func touch(ctx context.Context, source netip.Addr, a netip.AddrPort, p *pace) error {
	w, err := open(ctx, unix.SOCK_STREAM, source, a, p)
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	connected, err := isConnected(w.fd)
	for err == nil && !connected {
		if err = w.wait(unix.POLLOUT); err == nil {
			connected, err = isConnected(w.fd)
		}
	}
	return err
}

// open returns a socket of a kind, SOCK_STREAM for TCP or SOCK_DGRAM for UDP, whose
// connection is made or on its way: who writes waits for it. The address and the
// source, if one is given, are of one family.
func open(ctx context.Context, kind int, source netip.Addr, a netip.AddrPort, p *pace) (*wire, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	to, family, err := socketAddress(a)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if kind == unix.SOCK_STREAM {
		// What we say first, or the end, carries the last packet of the handshake
		// along: one packet less, and the server wakes once (tcp(7)).
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
	}
	if err = bindSource(fd, source); err == nil {
		err = unix.Connect(fd, to)
		if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) { // a signal does not stop it
			err = nil
		}
		err = os.NewSyscallError("connect", err)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &wire{ctx: ctx, fd: fd, datagrams: kind == unix.SOCK_DGRAM, pace: p}, nil
}

// stream is a connection by TCP for a conversation, by TLS if that is configured.
// Its end waits for nobody.
type stream struct {
	io.ReadWriter

	wire *wire
}

// openStream opens a stream. The end of the context ends all waiting on it.
func openStream(ctx context.Context, source netip.Addr, a netip.AddrPort, secure *tls.Config, p *pace) (*stream, error) {
	w, err := open(ctx, unix.SOCK_STREAM, source, a, p)
	if err != nil {
		return nil, err
	}
	if secure == nil {
		return &stream{w, w}, nil
	}
	conn := tls.Client(tlsWire{wire: w}, secure)
	// Of another context it would wait in a goroutine of its own.
	if err = conn.HandshakeContext(context.WithoutCancel(ctx)); err != nil {
		_ = w.Close()
		return nil, err
	}
	return &stream{conn, w}, nil
}

// Close implements io.Closer.
func (s *stream) Close() error { return s.wire.Close() }

// tlsWire is a wire with what package tls uses of a net.Conn.
type tlsWire struct {
	net.Conn

	wire *wire
}

// Read implements net.Conn.
func (t tlsWire) Read(b []byte) (int, error) { return t.wire.Read(b) }

// Write implements net.Conn.
func (t tlsWire) Write(b []byte) (int, error) { return t.wire.Write(b) }

// Close implements net.Conn.
func (t tlsWire) Close() error { return t.wire.Close() }

// isConnected tells whether the attempt has come to its end, and to which.
func isConnected(fd int) (bool, error) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // a descriptor
	n, err := unix.Poll(poll, 0)
	switch {
	case err != nil && !errors.Is(err, unix.EINTR):
		return false, os.NewSyscallError("poll", err)
	case err != nil || n == 0:
		return false, nil
	case poll[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0:
		return true, nil
	}
	number, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && number != 0 {
		err = unix.Errno(number)
	}
	// Without an error, the peer has taken the connection and closed it since.
	return err == nil, os.NewSyscallError("connect", err)
}

// bindSource binds to the source if one is given. The port is chosen by connect,
// which knows the peer: bind would take one that no other socket of that address
// has, so many checks could use them up (ip(7), IP_BIND_ADDRESS_NO_PORT).
func bindSource(fd int, source netip.Addr) error {
	if !source.IsValid() {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	from, _, err := socketAddress(netip.AddrPortFrom(source, 0))
	if err != nil {
		return err
	}
	return sourceError(source, os.NewSyscallError("bind", unix.Bind(fd, from)))
}

// socketAddress is the address for the kernel.
func socketAddress(a netip.AddrPort) (sa unix.Sockaddr, family int, err error) {
	address := a.Addr().Unmap()
	if address.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: address.As4()}, unix.AF_INET, nil
	}
	six := &unix.SockaddrInet6{Port: int(a.Port()), Addr: address.As16()}
	if zone := address.Zone(); zone != "" {
		index, err := strconv.ParseUint(zone, 10, 32)
		if err != nil {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return nil, 0, err
			}
			index = uint64(link.Index) //nolint:gosec // not negative
		}
		six.ZoneId = uint32(index)
	}
	return six, unix.AF_INET6, nil
}
