package netmon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reopenWait is the time between attempts to open the subscription anew.
const reopenWait = 250 * time.Millisecond

// kind is one kind of table. The order is that of urgency: a long dump is
// paused for the smaller kinds.
type kind int

const (
	links kind = iota
	addresses
	neighbours
	rules
	routes
	kinds // how many there are
)

func (k kind) String() string {
	return [...]string{"links", "addresses", "neighbours", "rules", "routes"}[k]
}

// inbox collects what events said since the last look. Its fields are guarded
// by mu: the reader of events writes, the monitor takes.
type inbox struct {
	mu      sync.Mutex
	touched [kinds]bool
	// removed tells that entries went away that may have been ours. If they were
	// written after the last dump, no comparison of dumps shows it.
	removed [kinds]bool
	// broken are the indexes of links that an event showed unhealthy or gone. A
	// link may be well again when it is dumped; that it was not still counts.
	broken  map[int]bool
	watched map[int]bool // indexes of watched links, set by the monitor
	wake    chan struct{}
}

func newInbox() *inbox {
	return &inbox{broken: map[int]bool{}, wake: make(chan struct{}, 1)}
}

// ring wakes the monitor.
func (in *inbox) ring() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// all says that anything may have changed.
func (in *inbox) all() {
	in.mu.Lock()
	for k := range in.touched {
		in.touched[k], in.removed[k] = true, true
	}
	in.mu.Unlock()
	in.ring()
}

// put notes what the messages of one datagram touch.
func (in *inbox) put(datagram []byte) {
	in.mu.Lock()
	any := false
	for h, body := range messages(datagram) {
		any = in.note(h.Type, body) || any
	}
	in.mu.Unlock()
	if any {
		in.ring()
	}
}

// note marks the tables that one event touches and tells whether there is any.
// Its caller holds mu.
func (in *inbox) note(typ uint16, body []byte) bool {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// A bridge tells of its ports as AF_BRIDGE. Leaving it is a DELLINK of
		// that family for a link that lives on.
		if len(body) < unix.SizeofIfInfomsg || body[0] != unix.AF_UNSPEC {
			return false
		}
		if up, running := linkFlags(body); typ == unix.RTM_DELLINK || !up || !running {
			in.broken[linkIndex(body)] = true
			in.touched[routes] = true // IPv4 routes go with it, without an event
		}
		in.touched[links] = true
	case unix.RTM_DELADDR:
		in.touched[addresses], in.removed[addresses] = true, true
		in.touched[routes] = true // the last IPv4 address takes its routes along, silently
	case unix.RTM_NEWADDR:
		in.touched[addresses] = true
	case unix.RTM_DELROUTE:
		in.touched[routes] = true
		if len(body) >= unix.SizeofRtMsg && body[5] == ownProtocol {
			in.removed[routes] = true
		}
	case unix.RTM_NEWROUTE:
		in.touched[routes] = true
	case unix.RTM_DELRULE:
		in.touched[rules], in.removed[rules] = true, true
	case unix.RTM_NEWRULE:
		in.touched[rules] = true
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if len(body) < unix.SizeofNdMsg || !in.watched[neighbourIndex(body)] {
			return false
		}
		in.touched[neighbours] = true
	default:
		return false
	}
	return true
}

// take moves the marks into touched and removed and returns the broken links.
func (in *inbox) take(touched, removed *[kinds]bool) map[int]bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for k := range in.touched {
		touched[k], removed[k] = touched[k] || in.touched[k], removed[k] || in.removed[k]
		in.touched[k], in.removed[k] = false, false
	}
	if len(in.broken) == 0 {
		return nil
	}
	broken := in.broken
	in.broken = map[int]bool{}
	return broken
}

// watch replaces the set of watched indexes.
func (in *inbox) watch(indexes map[int]bool) {
	in.mu.Lock()
	in.watched = indexes
	in.mu.Unlock()
}

// subscribe opens the one ordered stream of events of all kinds.
func subscribe(receiveBuffer int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink event socket: %w", err)
	}
	// Beyond the limit of the host if we may, else up to it.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err == nil {
		sa := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
		for _, group := range []int{
			unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		} {
			sa.Groups |= 1 << (group - 1)
		}
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to rtnetlink events: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "rtnetlink events"), nil
}

// listen reads events into the inbox until the context ends. Whatever is lost
// or fails costs a full re-read, never the stream.
func (m *Monitor) listen(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		f, err := m.subscribe()
		if err == nil {
			failing = false
			m.in.all() // only what is read from now on can be kept up to date
			stop := context.AfterFunc(ctx, func() { _ = f.Close() })
			err = m.receive(f)
			stop()
			err = errors.Join(err, f.Close())
			if ctx.Err() != nil {
				return
			}
			m.count("read_error")
		}
		if !failing {
			m.log.Warn("netlink events interrupted, opening them again", "error", err)
			failing = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(reopenWait):
		}
	}
}

// receive puts events into the inbox until the socket fails.
func (m *Monitor) receive(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("rtnetlink event socket: %w", err)
	}
	buf := make([]byte, receiveSize)
	for {
		var n int
		var from unix.Sockaddr
		var got error
		err := raw.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), buf, unix.MSG_TRUNC)
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return fmt.Errorf("wait for rtnetlink events: %w", err)
		case errors.Is(got, unix.EINTR):
		case errors.Is(got, unix.ENOBUFS): // events were dropped; the socket works on
			m.lost("overflow")
		case got != nil:
			return fmt.Errorf("receive rtnetlink events: %w", got)
		case n > len(buf):
			m.lost("truncated")
		default:
			// Only the kernel (port 0) is believed.
			if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 {
				m.in.put(buf[:n])
			}
		}
	}
}

// lost notes that events are missing.
func (m *Monitor) lost(cause string) {
	if m.count(cause) == 1 {
		m.log.Warn("netlink events lost, reading everything again", "cause", cause)
	} else {
		m.log.Debug("netlink events lost, reading everything again", "cause", cause)
	}
	m.in.all()
}
