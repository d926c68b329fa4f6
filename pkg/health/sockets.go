package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// diagRequestBytes is the size of struct inet_diag_req_v2, diagAnswerBytes that
	// of struct inet_diag_msg (linux/inet_diag.h).
	diagRequestBytes = 56
	diagAnswerBytes  = 72
	// diagBytes holds what the kernel says of one socket, some 500 bytes.
	diagBytes = 4 << 10
	// sockDiagByFamily is SOCK_DIAG_BY_FAMILY (linux/sock_diag.h).
	sockDiagByFamily = 20
	// tcpListen is TCP_LISTEN (net/tcp_states.h).
	tcpListen = 10
	// filterPorts bounds the ports that the filter compares: a program has at most
	// 4096 instructions. With more, the deaths of all listeners are let in.
	filterPorts = 1000
	// readRetry is the wait after a read that failed for want of memory.
	readRetry = 100 * time.Millisecond
)

// Sockets asks the kernel which sockets listen, and hears of their ends. It is
// shared by all listen checks, and needs no privilege, in the host's first user
// namespace or any other.
//
// The kernel tells the end of every socket of the host to whoever asked for any.
// It makes no message unless someone did: so Sockets subscribes only to the protocols
// and families that are watched. A filter in the kernel lets in the ends of
// listeners on watched ports only; those of connections, thousands a second
// perhaps, wake nobody.
type Sockets struct {
	mu     sync.Mutex
	ears   map[*ear]bool // guarded by mu
	deaths *deaths       // open while there are ears; guarded by mu
	// present tells of which protocols, by number, the kernel has shown that it can
	// answer; guarded by mu.
	present map[uint8]bool
}

// deaths is the socket on which the ends of sockets are told, and its reader.
type deaths struct {
	*netlinkSocket
	groups []int // it has joined
	closed chan struct{}
	done   chan struct{} // closed by the reader when it is gone
}

// ear is one Watch.
type ear struct {
	target socketTarget
	again  func()
}

// socketTarget is where somebody should listen.
type socketTarget struct {
	address  netip.Addr // unmapped, without zone
	port     uint16
	protocol uint8 // IPPROTO_TCP or IPPROTO_UDP
}

// NewSockets returns the Sockets of the network namespace in which its checks run.
// It holds nothing open until the first of them watches.
func NewSockets() *Sockets {
	return &Sockets{ears: map[*ear]bool{}, present: map[uint8]bool{}}
}

// serving tells whether the kernel has a socket that takes what comes to the
// target. It is the kernel's own look-up, the one for incoming packets, so
// wildcards, IPV6_V6ONLY, SO_REUSEPORT, devices and programs that steer sockets
// count as they do there, and its cost does not grow with the connections of the
// host.
func (s *Sockets) serving(ctx context.Context, t socketTarget) (bool, error) {
	sock, err := openNetlink(unix.NETLINK_SOCK_DIAG, diagBytes)
	if err != nil {
		return false, err
	}
	defer sock.close()
	if err = sock.bound(ctx); err != nil {
		return false, err
	}
	answer, err := sock.ask(sockDiagByFamily, 0, t.request(0), nil)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, s.probe(sock, t)
	case err != nil:
		return false, err
	case len(answer) < diagAnswerBytes:
		return false, fmt.Errorf("answer of %d bytes about sockets", len(answer))
	}
	s.mu.Lock()
	s.present[t.protocol] = true
	s.mu.Unlock()
	return t.protocol != unix.IPPROTO_TCP || answer[1] == tcpListen, nil
}

// probe is an error if the kernel cannot tell of sockets of the target's protocol
// at all: it says ENOENT then, too. A dump of no state shows which it is.
func (s *Sockets) probe(sock *netlinkSocket, t socketTarget) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.present[t.protocol] {
		return nil
	}
	if _, err := sock.ask(sockDiagByFamily, unix.NLM_F_DUMP, t.request(0), nil); err != nil {
		return fmt.Errorf("the kernel cannot list sockets (no module inet_diag, tcp_diag or udp_diag): %w", err)
	}
	s.present[t.protocol] = true
	return nil
}

// request is the body of a question for the socket that serves the target.
func (t socketTarget) request(states uint32) []byte {
	b := make([]byte, diagRequestBytes)
	b[0], b[1] = t.family(), t.protocol
	binary.NativeEndian.PutUint32(b[4:], states)
	// The identity: two ports, two addresses, a device (0 for any), a cookie.
	// UDP takes the ends the other way round, "for historical reasons"
	// (net/ipv4/udp_diag.c).
	id := b[8:]
	port, address := id[0:], id[4:]
	if t.protocol == unix.IPPROTO_UDP {
		port, address = id[2:], id[20:]
	}
	binary.BigEndian.PutUint16(port, t.port)
	copy(address, t.address.AsSlice())
	binary.NativeEndian.PutUint64(id[40:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}

func (t socketTarget) family() uint8 {
	if t.address.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// deaths are the groups in which the kernel tells the ends of sockets that can
// serve the target. IPv6 sockets serve IPv4 addresses, too.
func (t socketTarget) deaths() []int {
	four, six := unix.SKNLGRP_INET_TCP_DESTROY, unix.SKNLGRP_INET6_TCP_DESTROY
	if t.protocol == unix.IPPROTO_UDP {
		four, six = unix.SKNLGRP_INET_UDP_DESTROY, unix.SKNLGRP_INET6_UDP_DESTROY
	}
	if t.address.Is4() {
		return []int{four, six}
	}
	return []int{six}
}

// add begins to call e.again.
func (s *Sockets) add(e *ear) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ears[e] = true
	d := s.deaths
	if d == nil {
		sock, err := openNetlink(unix.NETLINK_SOCK_DIAG, diagBytes)
		if err != nil {
			delete(s.ears, e)
			return err
		}
		d = &deaths{netlinkSocket: sock, closed: make(chan struct{}), done: make(chan struct{})}
	}
	if err := d.tune(s.ears); err != nil {
		delete(s.ears, e)
		if s.deaths == nil {
			d.close()
		}
		return err
	}
	if s.deaths == nil {
		s.deaths = d
		go s.read(d)
	}
	return nil
}

// remove ends what add began. With the last ear the socket goes, and its reader
// is gone when remove returns.
func (s *Sockets) remove(e *ear) {
	s.mu.Lock()
	delete(s.ears, e)
	d := s.deaths
	if len(s.ears) > 0 {
		// A filter that is too wide costs a little, and no more.
		_ = d.tune(s.ears)
		s.mu.Unlock()
		return
	}
	s.deaths = nil
	d.close()
	close(d.closed)
	s.mu.Unlock()
	<-d.done
}

// tune makes filter and groups those of the ears. The filter comes first, so that
// a busy host's connections do not get in.
func (d *deaths) tune(ears map[*ear]bool) error {
	var ports []uint16
	var groups []int
	for e := range ears {
		ports = append(ports, e.target.port)
		groups = append(groups, e.target.deaths()...)
	}
	slices.Sort(ports)
	slices.Sort(groups)
	groups = slices.Compact(groups)
	if err := d.filter(deathFilter(slices.Compact(ports))); err != nil {
		return err
	}
	for _, g := range groups {
		if !slices.Contains(d.groups, g) {
			if err := d.join(g); err != nil {
				return err
			}
			d.groups = append(d.groups, g)
		}
	}
	d.groups = slices.DeleteFunc(d.groups, func(g int) bool {
		return !slices.Contains(groups, g) && d.leave(g) == nil
	})
	return nil
}

// deathFilter lets in messages of sockets on the ports that had no peer: listeners
// and unconnected UDP sockets.
func deathFilter(ports []uint16) []unix.SockFilter {
	const (
		loadHalf = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
		equals   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret      = unix.BPF_RET | unix.BPF_K
		all      = 1<<32 - 1
		local    = unix.SizeofNlMsghdr + 4 // where inet_diag_msg has the port, and then the peer's
	)
	p := []unix.SockFilter{{Code: loadHalf, K: local + 2}, {Code: equals, Jt: 1}, {Code: ret}}
	if len(ports) > filterPorts {
		return append(p, unix.SockFilter{Code: ret, K: all})
	}
	p = append(p, unix.SockFilter{Code: loadHalf, K: local})
	for _, port := range ports {
		p = append(p, unix.SockFilter{Code: equals, Jf: 1, K: uint32(port)}, unix.SockFilter{Code: ret, K: all})
	}
	return append(p, unix.SockFilter{Code: ret})
}

// read tells the ears what dies until the socket is closed. What it cannot read
// (ENOBUFS: more than the socket holds) may have been any death, so all look again.
func (s *Sockets) read(d *deaths) {
	defer close(d.done)
	for {
		b, err := d.read()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		s.mu.Lock()
		for e := range s.ears {
			if err != nil || names(b, e.target.port) {
				e.again()
			}
		}
		s.mu.Unlock()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			select {
			case <-d.closed:
			case <-time.After(readRetry):
			}
		}
	}
}

// names tells whether a datagram is of the end of a socket on the port. What it
// says of the address is not compared: a look at a listener too many is cheap.
func names(b []byte, port uint16) bool {
	for m := range netlinkMessages(b) {
		if len(m.body) < diagAnswerBytes || binary.BigEndian.Uint16(m.body[4:]) == port {
			return true
		}
	}
	return false
}
