package ndp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// answerTime bounds the wait for an answer of the kernel, which comes within
	// the call unless it is out of memory.
	answerTime = 2 * time.Second
	// clockTick is the unit of times in the neighbour table (USER_HZ).
	clockTick = 10 * time.Millisecond
	// live and stale are the states of entries that can be used.
	live  = unix.NUD_REACHABLE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT
	stale = unix.NUD_STALE
)

// kernel is the network of the namespace in which it was made.
type kernel struct {
	questions *netlink.Handle
	watch     *watcher
}

func newKernel() (*kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	if err = h.SetSocketTimeout(answerTime); err != nil {
		h.Close()
		return nil, fmt.Errorf("bound rtnetlink answers: %w", err)
	}
	w, err := newWatcher()
	if err != nil {
		h.Close()
		return nil, err
	}
	return &kernel{questions: h, watch: w}, nil
}

func (k *kernel) close() {
	k.watch.close()
	k.questions.Close()
}

func (k *kernel) changed() <-chan struct{} { return k.watch.changed }

func (k *kernel) open(number uint64, l *link, local netip.Addr, out chan<- packet) (socket, error) {
	p, err := openPort(number, l, local, out)
	if err != nil {
		return nil, err // and no typed nil
	}
	return p, nil
}

// look reads links, addresses and neighbours.
func (k *kernel) look(names []string) ([]link, error) {
	links := make([]link, len(names))
	at := make(map[int]*link, len(names))
	for n, name := range names {
		found, err := k.questions.LinkByName(name)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read link %s: %w", name, err)
		}
		a := found.Attrs()
		if a.Name != name { // it has the name as a second one only
			continue
		}
		l := &links[n]
		l.index, l.mac = a.Index, a.HardwareAddr
		l.running = a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0
		at[l.index] = l
	}
	k.watch.follow(names, at)
	if len(at) == 0 {
		return links, nil
	}
	if err := k.addresses(at); err != nil {
		return nil, err
	}
	if err := k.neighbours(at); err != nil {
		return nil, err
	}
	for n, name := range names {
		if l := &links[n]; l.index != 0 && len(l.locals) == 0 && l.why == "" {
			l.why = whyNone(name)
		}
	}
	return links, nil
}

// addresses reads the links' own link-local addresses.
func (k *kernel) addresses(at map[int]*link) error {
	all, err := k.questions.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return fmt.Errorf("read addresses: %w", err)
	}
	for _, a := range all {
		l := at[a.LinkIndex]
		if l == nil || a.IPNet == nil {
			continue
		}
		ip, ok := netip.AddrFromSlice(a.IP)
		switch {
		case !ok || !ip.IsLinkLocalUnicast() || !ip.Is6():
		case a.Flags&unix.IFA_F_DADFAILED != 0:
			l.why = fmt.Sprintf("another host has our link-local address %s", ip)
		case a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0:
			l.why = fmt.Sprintf("link-local address %s is still being checked for duplicates", ip)
		default:
			l.locals = append(l.locals, ip)
		}
	}
	return nil
}

// neighbours reads the links' neighbour tables.
func (k *kernel) neighbours(at map[int]*link) error {
	all, err := k.questions.NeighList(0, netlink.FAMILY_V6)
	if err != nil {
		return fmt.Errorf("read neighbours: %w", err)
	}
	for _, n := range all {
		l := at[n.LinkIndex]
		ip, ok := netip.AddrFromSlice(n.IP)
		if l == nil || !ok || !ip.IsLinkLocalUnicast() || !ip.Is6() ||
			n.State&(live|stale) == 0 || n.Flags&unix.NTF_PROXY != 0 {
			continue
		}
		l.neighbours = append(l.neighbours, neighbour{
			address: ip,
			flagged: n.Flags&unix.NTF_ROUTER != 0,
			live:    n.State&live != 0,
			quiet:   time.Duration(min(n.Confirmed, n.Updated)) * clockTick,
		})
	}
	return nil
}

// whyNone says why an interface has no link-local address.
func whyNone(name string) string {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", filepath.Base(name), "disable_ipv6"))
	if err == nil && strings.TrimSpace(string(b)) == "1" {
		return "IPv6 is disabled on the interface"
	}
	return "no link-local address"
}
