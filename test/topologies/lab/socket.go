package lab

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// freebind lets a socket bind an address that the node does not have yet
// (ip(7), IP_FREEBIND), so that servers of a VIP run before and after it.
func freebind(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1); err == nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
	}); cerr != nil {
		return cerr
	}
	return err
}

// Listen listens on a TCP address of the node, which it need not have yet.
func (n *Node) Listen(address netip.AddrPort) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		c := net.ListenConfig{Control: freebind}
		l, err = c.Listen(context.WithoutCancel(n.lab.ctx), "tcp", address.String())
		return err
	})
	return l, err
}

// ListenUDP is Listen for UDP.
func (n *Node) ListenUDP(address netip.AddrPort) (*net.UDPConn, error) {
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		c := net.ListenConfig{Control: freebind}
		conn, err = c.ListenPacket(context.WithoutCancel(n.lab.ctx), "udp", address.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil //nolint:forcetypeassert // the network is udp
}

// Dial connects from the node. Without a local address the kernel chooses the
// source, as for most programs.
func (n *Node) Dial(ctx context.Context, network string, local netip.AddrPort, remote netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		var d net.Dialer
		if local.IsValid() {
			if network == "udp" {
				d.LocalAddr = net.UDPAddrFromAddrPort(local)
			} else {
				d.LocalAddr = net.TCPAddrFromAddrPort(local)
			}
		}
		conn, err = d.DialContext(ctx, network, remote.String())
		return err
	})
	return conn, err
}
