package demo

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serve answers TCP connections on the address in the namespace until ctx
// ends: first one line that tells whom it sees, then an echo.
func (n *namespace) serve(ctx context.Context, addr string) error {
	var ln net.Listener
	err := n.do(func() (err error) {
		ln, err = new(net.ListenConfig).Listen(ctx, "tcp4", addr)
		return err
	})
	if err != nil {
		return fmt.Errorf("serve in namespace %s: %w", n.name, err)
	}
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return nil
}

func answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintln(conn, conn.RemoteAddr()); err == nil {
		_, _ = io.Copy(conn, conn) // ends when the other side does
	}
}

// dialLimit bounds what takes a moment, unless the machine stands still.
const dialLimit = 10 * time.Second

// dial connects to addr from the namespace as any program does that does not
// care about its source, and returns the connection, positioned after the
// greeting, and the source that the other end sees.
func (n *namespace) dial(ctx context.Context, addr string) (net.Conn, netip.Addr, error) {
	var conn net.Conn
	err := n.do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "tcp4", addr)
		return err
	})
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("connect from the %s: %w", n.name, err)
	}
	source, err := greeting(conn)
	if err != nil {
		return nil, netip.Addr{}, errors.Join(fmt.Errorf("greeting of %s: %w", addr, err), conn.Close())
	}
	return conn, source, nil
}

// greeting reads the first line. Nothing follows it before we write, so the
// reader's buffer swallows nothing.
func greeting(conn net.Conn) (netip.Addr, error) {
	if err := conn.SetReadDeadline(time.Now().Add(dialLimit)); err != nil {
		return netip.Addr{}, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return netip.Addr{}, err
	}
	seen, err := netip.ParseAddrPort(strings.TrimSpace(line))
	return seen.Addr(), err
}

// probeReply is the length of an answer to a probe: the number of the probe
// and the index of the interface by which it came in.
const probeReply = 12

// arrivals counts probes by the host's interface on which they came in.
type arrivals struct {
	index [2]uint32
	count [2]atomic.Uint64
}

// reflect answers UDP probes to the VIP in the namespace until ctx ends. The
// socket is bound before the address exists (IP_FREEBIND, ip(7)).
func (n *namespace) reflect(ctx context.Context, addr string, seen *arrivals) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		control := func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1))
		}
		return errors.Join(c.Control(control), err)
	}}
	var pc net.PacketConn
	err := n.do(func() (err error) {
		pc, err = lc.ListenPacket(ctx, "udp4", addr)
		return err
	})
	if err != nil {
		return fmt.Errorf("answer probes in namespace %s: %w", n.name, err)
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		return fmt.Errorf("answer probes in namespace %s: unexpected %T", n.name, pc)
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	go seen.reflect(conn)
	return nil
}

// reflect answers until the socket is closed.
func (a *arrivals) reflect(conn *net.UDPConn) {
	buf, oob := make([]byte, 64), make([]byte, 128)
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue
		}
		index := arrivalIndex(oob[:oobn])
		for i := range a.index {
			if a.index[i] == index {
				a.count[i].Add(1)
			}
		}
		reply := binary.BigEndian.AppendUint32(buf[:8], index)
		_, _ = conn.WriteToUDPAddrPort(reply, from) // a lost answer is what the client measures
	}
}

// arrivalIndex returns ipi_ifindex of IP_PKTINFO, the first word of it; 0 if
// the message has none.
func arrivalIndex(oob []byte) uint32 {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo {
			return binary.NativeEndian.Uint32(m.Data)
		}
	}
	return 0
}
