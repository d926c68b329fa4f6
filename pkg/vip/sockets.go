package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Sizes and offsets of inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).
const (
	diagRequestSize = 56
	diagMessageSize = 72
	diagIDSize      = 48
	diagInode       = 68
)

// The states of a socket (include/net/tcp_states.h) in which it holds a
// connection; those in which only the kernel still waits are not among them.
const (
	tcpFinWait2    = 5
	connectedState = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_SENT | 1<<unix.BPF_TCP_SYN_RECV | 1<<unix.BPF_TCP_FIN_WAIT1 |
		1<<unix.BPF_TCP_FIN_WAIT2 | 1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING | 1<<unix.BPF_TCP_NEW_SYN_RECV
)

// tcpSocket is a TCP connection of this host.
type tcpSocket struct {
	family byte
	// id is inet_diag_sockid as the kernel gave it, with the cookie.
	id            [diagIDSize]byte
	local, remote netip.Addr
}

// connections are those of the host whose local address is in a VIP and whose
// other end is not on this host: it is of no concern to these where routers send
// the VIP. Each family has its own dump; a socket of IPv6 may have an IPv4-mapped
// address.
func (p *pass) connections(of []Drained) (map[netip.Prefix][]tcpSocket, error) {
	diag, err := dial(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	defer diag.close()
	here := map[netip.Addr]bool{}
	for _, a := range p.s.addresses {
		here[a.prefix.Addr()] = true
	}
	out := make(map[netip.Prefix][]tcpSocket, len(of))
	var nets []netip.Prefix
	for _, d := range of {
		out[d.Prefix] = nil
		if !d.Prefix.IsSingleIP() {
			nets = append(nets, d.Prefix)
		}
	}
	for _, family := range families() {
		list, err := dump(p.ctx, diag, unix.SOCK_DIAG_BY_FAMILY, diagRequest(family, connectedState, nil), decodeSocket)
		if err != nil {
			return nil, fmt.Errorf("read the connections of the host: %w", err)
		}
		for i := range list {
			s := &list[i]
			if here[s.remote] || s.remote.IsLoopback() {
				continue
			}
			if _, one := out[host(s.local)]; one {
				out[host(s.local)] = append(out[host(s.local)], *s)
			}
			for _, n := range nets {
				if n.Contains(s.local) && !n.Contains(s.remote) {
					out[n] = append(out[n], *s)
				}
			}
		}
	}
	return out, nil
}

// diagRequest asks for the TCP sockets of a family in some states, or for one of
// them.
func diagRequest(family byte, states uint32, id *[diagIDSize]byte) []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], states)
	if id != nil {
		copy(b[8:], id[:])
	}
	return b
}

// decodeSocket decodes inet_diag_msg. One that the application has closed and
// that only waits for the other end to do so is none.
func decodeSocket(b []byte) (tcpSocket, bool) {
	if len(b) < diagMessageSize {
		return tcpSocket{}, false
	}
	s := tcpSocket{family: b[0]}
	copy(s.id[:], b[4:])
	switch s.family {
	case unix.AF_INET:
		s.local, s.remote = netip.AddrFrom4([4]byte(b[8:])), netip.AddrFrom4([4]byte(b[24:]))
	case unix.AF_INET6:
		s.local, s.remote = netip.AddrFrom16([16]byte(b[8:])).Unmap(), netip.AddrFrom16([16]byte(b[24:])).Unmap()
	default:
		return tcpSocket{}, false
	}
	return s, b[1] != tcpFinWait2 || binary.NativeEndian.Uint32(b[diagInode:]) != 0
}

// reset ends connections: the other end gets an RST at once, and the program
// here ECONNABORTED. A VIP must still be bound then, for else the RST has no
// address to be sent from.
func (p *pass) reset(list []tcpSocket) error {
	if len(list) == 0 {
		return nil
	}
	diag, err := dial(unix.NETLINK_INET_DIAG)
	if err != nil {
		return err
	}
	defer diag.close()
	diag.gate = p.m.conn.gate
	ops := make([]operation, len(list))
	for i := range list {
		ops[i] = operation{kind: unix.SOCK_DESTROY, body: diagRequest(list[i].family, connectedState, &list[i].id)}
	}
	var failed []error
	for _, err := range diag.execute(p.ctx, ops) {
		if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) { // it has ended by itself
			continue
		}
		failed = append(failed, err)
	}
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("reset %d of %d connections: %w", len(failed), len(list), failed[0])
}

// drained counts the connections of the VIPs that are being drained, and resets
// those that are due.
func (p *pass) drained(closing bool) {
	if len(p.d.Drained) == 0 {
		p.m.connections = nil
		return
	}
	found, err := p.connections(p.d.Drained)
	if err != nil {
		p.m.connections = nil
		p.fail(err)
		return
	}
	due := 0
	for _, d := range p.d.Drained {
		if list := found[d.Prefix]; closing && d.Close && len(list) > 0 {
			due += len(list)
			if err = p.reset(list); err != nil {
				p.fail(fmt.Errorf("vip %s: %w", d.Prefix, err))
			} else {
				p.m.log.Info("connections of a drained vip reset", "prefix", d.Prefix, "connections", len(list))
			}
		}
	}
	if due > 0 {
		if found, err = p.connections(p.d.Drained); err != nil {
			p.fail(err)
			return
		}
	}
	count := make(map[netip.Prefix]int, len(found))
	for prefix, list := range found {
		count[prefix] = len(list)
	}
	p.m.connections = count
}
