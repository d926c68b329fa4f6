package health

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A VIP is an address of this host, and so are most targets of checks: by the
// time that connect(2) returns, the loopback interface has carried the handshake to
// its end. So one look at the socket saves the poller, a goroutine and a timer,
// which net.Dialer needs for each connection; a target that takes its time is
// waited for as there.

// touch connects by TCP and closes in order. The address and the source, if one
// is given, are of one family.
func touch(ctx context.Context, source netip.Addr, a netip.AddrPort) error {
	fd, connected, err := startConnect(ctx, source, a)
	if err != nil {
		return err
	}
	if connected {
		_ = unix.Close(fd) // the connection was made, which is all that was asked
		return nil
	}
	f, err := awaitConnect(ctx, fd)
	if err == nil {
		_ = f.Close()
	}
	return err
}

// connect connects by TCP. The address and the source, if one is given, are of
// one family.
func connect(ctx context.Context, source netip.Addr, a netip.AddrPort) (*os.File, error) {
	fd, connected, err := startConnect(ctx, source, a)
	switch {
	case err != nil:
		return nil, err
	case !connected:
		return awaitConnect(ctx, fd)
	}
	return os.NewFile(uintptr(fd), "tcp"), nil
}

// startConnect returns a socket whose connection is made or on its way. It never
// waits.
func startConnect(ctx context.Context, source netip.Addr, a netip.AddrPort) (fd int, connected bool, err error) {
	if err = ctx.Err(); err != nil {
		return 0, false, err
	}
	to, family, err := tcpAddress(a)
	if err != nil {
		return 0, false, err
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return 0, false, os.NewSyscallError("socket", err)
	}
	if err = bindSource(fd, source); err == nil {
		err = unix.Connect(fd, to)
		if err == nil || errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) { // a signal does not stop it
			connected, err = isConnected(fd)
		} else {
			err = os.NewSyscallError("connect", err)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, false, err
	}
	return fd, connected, nil
}

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

// awaitConnect waits for an attempt that is on its way. It owns the socket.
func awaitConnect(ctx context.Context, fd int) (*os.File, error) {
	f := os.NewFile(uintptr(fd), "tcp")
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	raw, err := f.SyscallConn()
	if err == nil {
		var outcome error
		err = raw.Write(func(uintptr) (done bool) {
			done, outcome = isConnected(fd)
			return done || outcome != nil
		})
		if err == nil {
			err = outcome
		}
	}
	if !stop() && err == nil {
		err = ctx.Err() // or the connection would be one that cannot be used
	}
	if err != nil {
		_ = f.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return f, nil
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
	from, _, err := tcpAddress(netip.AddrPortFrom(source, 0))
	if err != nil {
		return err
	}
	return sourceError(source, os.NewSyscallError("bind", unix.Bind(fd, from)))
}

// tcpAddress is the address for the kernel.
func tcpAddress(a netip.AddrPort) (sa unix.Sockaddr, family int, err error) {
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
