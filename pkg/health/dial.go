package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dial connects by TCP to the one address, in its family, from the source if one
// is given and else from the address of the kernel's choice. The end of the
// context ends the attempt, not the connection.
func dial(ctx context.Context, source netip.Addr, a netip.AddrPort) (net.Conn, error) {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	d := net.Dialer{KeepAlive: -1}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source.Unmap(), 0))
		d.ControlContext = portAtConnect
	}
	network := "tcp6"
	if a.Addr().Is4() {
		network = "tcp4"
	}
	conn, err := d.DialContext(ctx, network, a.String())
	return conn, sourceError(source, err)
}

// portAtConnect leaves the choice of the port to connect, which knows the peer:
// bind would take a port that no other socket of that address has, so many
// checks from one address could use them up (ip(7), IP_BIND_ADDRESS_NO_PORT).
func portAtConnect(_ context.Context, _, _ string, raw syscall.RawConn) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
	}); e != nil {
		return e
	}
	return err
}

// sourceError is the error of a dial, in words of its own where the host does not
// have the source: the bare error of the kernel reads as if it were the target's.
func sourceError(source netip.Addr, err error) error {
	call, ok := errors.AsType[*os.SyscallError](err)
	if source.IsValid() && ok && call.Syscall == "bind" && errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("source %s is no address of this host", source)
	}
	return err
}

// checkSource is an error unless the source is none or a usable one for the target.
func checkSource(source, target netip.Addr) error {
	switch {
	case !source.IsValid():
		return nil
	case source.Unmap().Is4() != target.Unmap().Is4():
		return fmt.Errorf("source %s and target %s are of two families", source, target)
	case source.IsUnspecified() || source.IsMulticast():
		return fmt.Errorf("source %s is no address to send from", source)
	}
	return nil
}
