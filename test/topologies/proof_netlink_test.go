package topologies

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vipspeaker/test/topologies/lab"
)

// netlinkWatch collects what the kernel multicasts about a node's network: every
// group of rtnetlink(7), so every change of links, addresses, routes, rules,
// neighbours and whatever else there is.
type netlinkWatch struct {
	t  *testing.T
	fd int
}

// watchNetlink starts to collect.
func watchNetlink(t *testing.T, n *lab.Node) *netlinkWatch {
	t.Helper()
	w := &netlinkWatch{t: t}
	if err := n.Do(w.open); err != nil {
		t.Fatalf("watch netlink of %s: %v", n.Name, err)
	}
	t.Cleanup(func() {
		if err := unix.Close(w.fd); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *netlinkWatch) open() (err error) {
	if w.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if err := errors.Join(
		unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.Bind(w.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	); err != nil {
		return err
	}
	joined := 0
	for group := 1; group <= 64; group++ {
		err := unix.SetsockoptInt(w.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
		if err == nil {
			joined++
		} else if !errors.Is(err, unix.EINVAL) { // there are no more groups
			return fmt.Errorf("group %d: %w", group, err)
		}
	}
	if joined < unix.RTNLGRP_NEXTHOP {
		return fmt.Errorf("joined only %d groups", joined)
	}
	return nil
}

// take returns the changes since the last call, in words and in order, without
// those of neighbours, which traffic causes and probes of the gateways ask for.
func (w *netlinkWatch) take() (list []string) {
	w.t.Helper()
	buf := make([]byte, 1<<17)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			slices.Sort(list)
			return list
		}
		if err != nil {
			w.t.Fatalf("watch netlink: %v", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			w.t.Fatalf("watch netlink: %v", err)
		}
		for i := range messages {
			m := &messages[i]
			if m.Header.Type != unix.RTM_NEWNEIGH && m.Header.Type != unix.RTM_DELNEIGH {
				list = append(list, describe(m))
			}
		}
	}
}

// describe tells what a message is about, as far as these tests need.
func describe(m *syscall.NetlinkMessage) string {
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return fmt.Sprintf("%s address %v", verb(m.Header.Type), attribute(m, unix.SizeofIfAddrmsg, unix.IFA_ADDRESS, m.Data[1]))
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		by := "" // of IPv6 addresses the kernel does not tell, of routes it does
		if m.Header.Pid == 0 {
			by = ", by the kernel"
		}
		return fmt.Sprintf("%s route %v in table %d%s", verb(m.Header.Type), attribute(m, unix.SizeofRtMsg, unix.RTA_DST, m.Data[1]), table(m), by)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return fmt.Sprintf("%s rule from %v lookup %d", verb(m.Header.Type), attribute(m, unix.SizeofRtMsg, nl.FRA_SRC, m.Data[2]), table(m))
	default:
		return fmt.Sprintf("%s message of type %d", verb(m.Header.Type), m.Header.Type)
	}
}

// verb knows that types come in fours: new, del, get, set.
func verb(kind uint16) string { return []string{"new", "del", "get", "set"}[kind%4] }

// attribute returns an address among the attributes behind a header, with the
// length that the header gives.
func attribute(m *syscall.NetlinkMessage, header int, kind uint16, bits uint8) netip.Prefix {
	attributes, _ := nl.ParseRouteAttr(m.Data[header:])
	for i := range attributes {
		if attributes[i].Attr.Type == kind {
			ip, _ := netip.AddrFromSlice(attributes[i].Value)
			return netip.PrefixFrom(ip, int(bits))
		}
	}
	return netip.Prefix{}
}

func table(m *syscall.NetlinkMessage) uint32 {
	attributes, _ := nl.ParseRouteAttr(m.Data[unix.SizeofRtMsg:])
	for i := range attributes {
		if attributes[i].Attr.Type == unix.RTA_TABLE {
			return nl.NativeEndian().Uint32(attributes[i].Value)
		}
	}
	return uint32(m.Data[4])
}
