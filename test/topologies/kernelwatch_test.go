package topologies

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vipspeaker/test/topologies/lab"
)

// addressEvent is a message of the kernel about an address of a node: it was
// sent after After and not later than By.
type addressEvent struct {
	After, By time.Time
	New       bool // RTM_NEWADDR, else RTM_DELADDR
	Prefix    netip.Prefix
	// Usable tells that the address is neither tentative nor a duplicate.
	Usable bool
}

func (e addressEvent) String() string {
	kind := "RTM_DELADDR"
	if e.New {
		kind = "RTM_NEWADDR"
	}
	return fmt.Sprintf("%s %v usable=%t between %s and %s", kind, e.Prefix, e.Usable, e.After.Format("05.000000"), e.By.Format("05.000000"))
}

// addressWatch records the kernel's messages about addresses.
type addressWatch struct {
	t    *testing.T
	fd   int
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	events []addressEvent
}

// watchAddresses starts to record. The kernel gives these messages no time, so
// they are fetched every millisecond.
func watchAddresses(t *testing.T, n *lab.Node) *addressWatch {
	t.Helper()
	w := &addressWatch{t: t, stop: make(chan struct{}), done: make(chan struct{})}
	if err := n.Do(w.open); err != nil {
		t.Fatalf("watch addresses of %s: %v", n.Name, err)
	}
	t.Cleanup(func() {
		close(w.stop)
		<-w.done
		if err := unix.Close(w.fd); err != nil {
			t.Error(err)
		}
	})
	go w.run()
	return w
}

func (w *addressWatch) open() (err error) {
	if w.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.Bind(w.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR}),
	)
}

func (w *addressWatch) run() {
	defer close(w.done)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 1<<16)
	for last := time.Now(); ; {
		began := time.Now()
		for {
			n, _, err := unix.Recvfrom(w.fd, buf, 0)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				w.t.Errorf("watch addresses: %v", err)
				return
			}
			w.record(buf[:n], last, time.Now())
		}
		last = began
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
	}
}

// record reads the messages of a datagram (rtnetlink(7)).
func (w *addressWatch) record(b []byte, after, by time.Time) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		w.t.Errorf("watch addresses: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWADDR && m.Header.Type != unix.RTM_DELADDR {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			w.t.Errorf("watch addresses: %v", err)
		}
		e := addressEvent{After: after, By: by, New: m.Header.Type == unix.RTM_NEWADDR}
		flags := uint32(m.Data[2])
		for _, a := range attributes {
			switch a.Attr.Type {
			case unix.IFA_ADDRESS:
				ip, _ := netip.AddrFromSlice(a.Value)
				e.Prefix = netip.PrefixFrom(ip, int(m.Data[1]))
			case unix.IFA_FLAGS:
				flags = nl.NativeEndian().Uint32(a.Value)
			}
		}
		e.Usable = flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
		w.events = append(w.events, e)
	}
}

// of returns the messages about an address so far that came after since.
func (w *addressWatch) of(p netip.Prefix, since time.Time) []addressEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []addressEvent
	for _, e := range w.events {
		if e.Prefix == p && e.By.After(since) {
			list = append(list, e)
		}
	}
	return list
}

// wait returns the first message about the address after since that is as
// wanted.
func (w *addressWatch) wait(d time.Duration, p netip.Prefix, since time.Time, what string, ok func(addressEvent) bool) addressEvent {
	w.t.Helper()
	var found addressEvent
	lab.Eventually(w.t, d, fmt.Sprintf("kernel: %v: %s", p, what), func() error {
		list := w.of(p, since)
		i := slices.IndexFunc(list, ok)
		if i < 0 {
			return fmt.Errorf("not among %v", list)
		}
		found = list[i]
		return nil
	})
	return found
}

func added(e addressEvent) bool   { return e.New && e.Usable }
func deleted(e addressEvent) bool { return !e.New }
