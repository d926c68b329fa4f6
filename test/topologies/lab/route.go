package lab

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hop is one leg of a route.
type Hop struct {
	Dev string
	Via netip.Addr // invalid for a connected route
	// Dead tells that the kernel does not use the leg: its interface is down,
	// or has no carrier and ignore_routes_with_linkdown is set.
	Dead bool
}

// String returns "10.68.1.1@e1", with "!" behind it for a dead leg.
func (h Hop) String() string {
	s := "@" + h.Dev
	if h.Via.IsValid() {
		s = h.Via.String() + s
	}
	if h.Dead {
		s += "!"
	}
	return s
}

// Live returns the legs that carry packets, as strings in order.
func Live(hops []Hop) []string {
	live := []string{}
	for _, h := range hops {
		if !h.Dead {
			live = append(live, h.String())
		}
	}
	slices.Sort(live)
	return live
}

// LiveDevs returns the interfaces of the legs that carry packets, in order.
func LiveDevs(hops []Hop) []string {
	devs := []string{}
	for _, h := range hops {
		if !h.Dead {
			devs = append(devs, h.Dev)
		}
	}
	slices.Sort(devs)
	return devs
}

// RouteEvent says how a route was from Time on. No legs mean no route.
type RouteEvent struct {
	Time time.Time
	Hops []Hop
}

// Route returns the legs of the node's route for exactly prefix in the main
// table, in a fixed order; none without such a route.
func (n *Node) Route(prefix netip.Prefix) ([]Hop, error) {
	family := unix.AF_INET6
	if prefix.Addr().Is4() {
		family = unix.AF_INET
	}
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN, Dst: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}}
	routes, err := n.nl.RouteListFiltered(family, filter, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("node %s: routes: %w", n.Name, err)
	}
	var hops []Hop
	for _, r := range routes {
		if len(r.MultiPath) == 0 {
			hops = append(hops, n.hop(r.LinkIndex, r.Gw, r.Via, r.Flags))
		}
		for _, leg := range r.MultiPath {
			hops = append(hops, n.hop(leg.LinkIndex, leg.Gw, leg.Via, leg.Flags))
		}
	}
	slices.SortFunc(hops, func(a, b Hop) int { return cmp.Compare(a.String(), b.String()) })
	return hops, nil
}

func (n *Node) hop(index int, gw net.IP, via netlink.Destination, flags int) Hop {
	h := Hop{Dev: n.linkName(index), Dead: flags&unix.RTNH_F_DEAD != 0}
	if v, ok := via.(*netlink.Via); ok {
		gw = v.Addr
	}
	if a, ok := netip.AddrFromSlice(gw); ok {
		h.Via = a.Unmap()
	}
	return h
}

// linkName remembers names: the lab's links are not renamed.
func (n *Node) linkName(index int) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names == nil {
		n.names = map[int]string{}
	}
	if n.names[index] == "" {
		if l, err := n.nl.LinkByIndex(index); err == nil {
			n.names[index] = l.Attrs().Name
		}
	}
	return n.names[index]
}

// RouteWatch records how a route changes, read every millisecond: some changes
// of the kernel send no message.
type RouteWatch struct {
	node   *Node
	prefix netip.Prefix
	stop   chan struct{}
	done   chan struct{}

	mu     sync.Mutex
	events []RouteEvent
	err    error
}

// WatchRoute starts to record the node's route for exactly prefix.
func (n *Node) WatchRoute(prefix netip.Prefix) *RouteWatch {
	n.lab.t.Helper()
	w := &RouteWatch{node: n, prefix: prefix, stop: make(chan struct{}), done: make(chan struct{})}
	n.lab.t.Cleanup(w.Stop)
	go w.run()
	return w
}

func (w *RouteWatch) run() {
	defer close(w.done)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		hops, err := w.node.Route(w.prefix)
		now := time.Now()
		w.mu.Lock()
		w.err = err
		if err == nil && (len(w.events) == 0 || !slices.Equal(w.events[len(w.events)-1].Hops, hops)) {
			w.events = append(w.events, RouteEvent{Time: now, Hops: hops})
		}
		w.mu.Unlock()
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
	}
}

// Stop ends the recording.
func (w *RouteWatch) Stop() {
	select {
	case <-w.done:
	default:
		close(w.stop)
		<-w.done
	}
}

// Events returns what was recorded, the state at the start first.
func (w *RouteWatch) Events() []RouteEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// Wait returns the first event after since, or the state at that time, that is
// as wanted. The test fails when none is within d from now.
func (w *RouteWatch) Wait(d time.Duration, since time.Time, what string, ok func([]Hop) bool) RouteEvent {
	w.node.lab.t.Helper()
	var found RouteEvent
	Eventually(w.node.lab.t, d, fmt.Sprintf("node %s: route %v: %s", w.node.Name, w.prefix, what), func() error {
		events := w.Events()
		for i, e := range events {
			if (i+1 == len(events) || events[i+1].Time.After(since)) && ok(e.Hops) {
				found = e
				return nil
			}
		}
		if w.err != nil {
			return w.err
		}
		return fmt.Errorf("it is %s", w)
	})
	return found
}

// String tells the recorded changes.
func (w *RouteWatch) String() string {
	var b strings.Builder
	events := w.Events()
	for i, e := range events {
		if i > 0 {
			fmt.Fprintf(&b, ", %v later ", e.Time.Sub(events[i-1].Time).Round(100*time.Microsecond))
		}
		fmt.Fprint(&b, e.Hops)
	}
	return b.String()
}
