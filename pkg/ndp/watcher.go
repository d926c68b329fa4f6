package ndp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchAgain bounds how often a socket is read that gives only errors.
const watchAgain = 100 * time.Millisecond

// watcher tells when something that is looked at may have changed. A lost event
// is one that says: look.
type watcher struct {
	socket  *nl.NetlinkSocket
	changed chan struct{} // capacity 1
	stop    chan struct{}
	reader  sync.WaitGroup

	mu      sync.Mutex
	names   map[string]bool
	indexes map[int]bool
}

func newWatcher() (*watcher, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to rtnetlink: %w", err)
	}
	w := &watcher{socket: s, changed: make(chan struct{}, 1), stop: make(chan struct{})}
	w.reader.Go(w.read)
	return w, nil
}

func (w *watcher) close() {
	close(w.stop)
	w.socket.Close()
	w.reader.Wait()
}

// follow makes the links the ones whose events count.
func (w *watcher) follow(names []string, at map[int]*link) {
	known := make(map[string]bool, len(names))
	for _, n := range names {
		known[n] = true
	}
	indexes := make(map[int]bool, len(at))
	for index := range at {
		indexes[index] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names, w.indexes = known, indexes
}

func (w *watcher) read() {
	for {
		messages, _, err := w.socket.Receive()
		counts := err != nil // what was lost may have counted
		for n := range messages {
			counts = counts || w.counts(&messages[n])
		}
		if counts {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err == nil || errors.Is(err, unix.ENOBUFS) {
			continue
		}
		pause := time.NewTimer(watchAgain)
		select {
		case <-w.stop:
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// counts tells whether an event is about one of the links.
func (w *watcher) counts(m *syscall.NetlinkMessage) bool {
	// Where the index stands in struct ifinfomsg, ifaddrmsg and ndmsg.
	const indexAt, bytes = 4, 8
	if len(m.Data) < bytes {
		return false
	}
	index := int(binary.NativeEndian.Uint32(m.Data[indexAt:]))
	w.mu.Lock()
	defer w.mu.Unlock()
	switch m.Header.Type {
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return m.Data[0] == unix.AF_INET6 && w.indexes[index]
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return w.indexes[index]
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return w.indexes[index] || w.names[linkName(m.Data)]
	}
	return false
}

// linkName is the name in a message about a link; empty if it has none.
func linkName(b []byte) string {
	if len(b) < unix.SizeofIfInfomsg {
		return ""
	}
	attributes, err := nl.ParseRouteAttr(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return ""
	}
	for _, a := range attributes {
		if a.Attr.Type == unix.IFLA_IFNAME {
			return unix.ByteSliceToString(a.Value)
		}
	}
	return ""
}
