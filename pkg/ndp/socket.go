package ndp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// receiveBytes holds any advertisement that is not a jumbogram.
const receiveBytes = 64 << 10

// rawPort is the socket of one link. It is bound to its number, by the scope of
// its own address: package net would remember the number of a name for a minute,
// also when the interface has been made anew.
type rawPort struct {
	file   *os.File // so that the runtime waits, and a close ends that
	conn   syscall.RawConn
	index  uint32
	number uint64
	out    chan<- packet
	stop   chan struct{}
	reader sync.WaitGroup
}

// openPort opens the socket of a link and begins to receive.
func openPort(number uint64, l *link, local netip.Addr, out chan<- packet) (*rawPort, error) {
	fd, err := rawSocket()
	if err != nil {
		return nil, err
	}
	p := &rawPort{index: uint32(l.index), number: number, out: out, stop: make(chan struct{})} //nolint:gosec // an index is positive
	if err = p.prepare(fd, local); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	p.file = os.NewFile(uintptr(fd), "icmp6")
	if p.conn, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("open ICMPv6 socket: %w", err)
	}
	p.reader.Go(p.receive)
	return p, nil
}

// prepare lets in what is wanted, and gives what leaves the form that receivers
// check.
func (p *rawPort) prepare(fd int, local netip.Addr) error {
	if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, onlyRouters()); err != nil {
		return fmt.Errorf("set ICMPv6 filter: %w", err)
	}
	for _, o := range []struct {
		name          string
		option, value int
	}{
		{"receive hop limits", unix.IPV6_RECVHOPLIMIT, 1},
		{"hop limit", unix.IPV6_UNICAST_HOPS, hopLimit},
		{"multicast hop limit", unix.IPV6_MULTICAST_HOPS, hopLimit},
		{"multicast loop", unix.IPV6_MULTICAST_LOOP, 0},
		{"multicast interface", unix.IPV6_MULTICAST_IF, int(p.index)},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, o.option, o.value); err != nil {
			return fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	if err := unix.Bind(fd, p.sockaddr(local)); err != nil {
		return fmt.Errorf("bind ICMPv6 socket to %s: %w", local, err)
	}
	for _, group := range []netip.Addr{allNodes(), allRouters()} {
		if err := unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: p.index}); err != nil {
			return fmt.Errorf("join group %s: %w", group, err)
		}
	}
	return nil
}

// onlyRouters keeps the host's other ICMP traffic from waking us.
func onlyRouters() *unix.ICMPv6Filter {
	var blocked unix.ICMPv6Filter
	for i := range blocked.Data {
		blocked.Data[i] = ^uint32(0)
	}
	for _, kind := range []int{kindSolicitation, kindAdvertisement} {
		blocked.Data[kind/32] &^= 1 << (kind % 32)
	}
	return &blocked
}

func (p *rawPort) sockaddr(a netip.Addr) *unix.SockaddrInet6 {
	return &unix.SockaddrInet6{Addr: a.As16(), ZoneId: p.index}
}

func (p *rawPort) send(to netip.Addr, b []byte) error {
	var err error
	if e := p.conn.Control(func(fd uintptr) {
		err = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, p.sockaddr(to))
	}); e != nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("send to %s: %w", to, err)
	}
	return nil
}

func (p *rawPort) close() {
	close(p.stop)
	_ = p.file.Close()
	p.reader.Wait()
}

// receive passes on what is valid in its form until the socket is closed or
// fails.
func (p *rawPort) receive() {
	buffer, control := make([]byte, receiveBytes), make([]byte, unix.CmsgSpace(4))
	for {
		var n, controlled int
		var from unix.Sockaddr
		var err error
		if e := p.conn.Read(func(fd uintptr) bool {
			n, controlled, _, from, err = unix.Recvmsg(int(fd), buffer, control, 0)
			return !errors.Is(err, unix.EAGAIN)
		}); e != nil {
			err = e
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		out := packet{socket: p.number}
		if err != nil {
			out.err = fmt.Errorf("receive from ICMPv6 socket: %w", err)
		} else {
			sender, ok := from.(*unix.SockaddrInet6)
			if !ok {
				continue
			}
			if out.message, ok = parse(buffer[:n]); !ok {
				continue
			}
			out.from = netip.AddrFrom16(sender.Addr)
			out.hopLimit = hopLimitOf(control[:controlled])
		}
		select {
		case p.out <- out:
		case <-p.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// hopLimitOf reads the hop limit from the control message beside a packet; -1
// if there is none.
func hopLimitOf(control []byte) int {
	if len(control) < unix.SizeofCmsghdr {
		return -1
	}
	h, data, _, err := unix.ParseOneSocketControlMessage(control)
	if err != nil || h.Level != unix.SOL_IPV6 || h.Type != unix.IPV6_HOPLIMIT || len(data) < 4 {
		return -1
	}
	return int(binary.NativeEndian.Uint32(data))
}
