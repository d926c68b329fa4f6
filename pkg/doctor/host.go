package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host is what rtnetlink tells of the host.
type host struct {
	links     []netlink.Link
	addresses []netlink.Addr
	rules     []rule
}

// routeList are the routes that matter.
type routeList struct {
	// list are those of the main table and of ours that matter: routes without a
	// gateway, default routes, those that VIPs are in, and all of ours.
	list []netlink.Route
	err  error
}

// network reads the host once; ok is false, and it is said, if that fails.
func (e *exam) network() (*host, bool) {
	if e.host == nil && e.hostErr == nil {
		e.host, e.hostErr = e.readHost()
	}
	if e.hostErr != nil {
		e.cannot("%v", e.hostErr)
		return nil, false
	}
	return e.host, true
}

func (e *exam) readHost() (*host, error) {
	h := &host{}
	var err error
	if h.links, err = again(netlink.LinkList); err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	if h.addresses, err = again(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_UNSPEC) }); err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := again(func() ([]rule, error) { return readRules(family) })
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		h.rules = append(h.rules, rules...)
	}
	return h, nil
}

// routes reads the routes once; ok is false, and it is said, if that fails.
func (e *exam) routes() (list []netlink.Route, ok bool) {
	if e.routed == nil {
		e.routed = &routeList{}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := again(func() ([]netlink.Route, error) { return e.readRoutes(family) })
			if err != nil {
				e.routed.err = fmt.Errorf("list routes: %w", err)
			}
			e.routed.list = append(e.routed.list, routes...)
		}
	}
	if e.routed.err != nil {
		e.cannot("%v", e.routed.err)
		return nil, false
	}
	return e.routed.list, true
}

func (e *exam) readRoutes(family int) ([]netlink.Route, error) {
	var list []netlink.Route
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	err := netlink.RouteListFilteredIter(family, all, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
		ours := e.ours(&r)
		if ours || r.Table == unix.RT_TABLE_MAIN && e.matters(&r) {
			r.Family = family
			list = append(list, r)
		}
		return true
	})
	return list, err
}

// ours tells whether a route is in a table of ours and marked.
func (e *exam) ours(r *netlink.Route) bool {
	return r.Table >= e.in.Table && r.Table < e.in.Table+1000 && int(r.Protocol) == e.in.Protocol
}

func (e *exam) matters(r *netlink.Route) bool {
	to := prefixOf(r.Dst)
	return !to.IsValid() || to.Bits() == 0 || r.Gw == nil && len(r.MultiPath) == 0 ||
		slices.ContainsFunc(e.in.VIPs, func(v VIP) bool { return to.Overlaps(v.Prefix) })
}

// again repeats a dump that was interrupted by a change.
func again[T any](dump func() ([]T, error)) (list []T, err error) {
	for range 5 {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return list, err
}

func (h *host) link(name string) netlink.Link {
	for _, l := range h.links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

func (h *host) linkName(index int) string {
	for _, l := range h.links {
		if l.Attrs().Index == index {
			return l.Attrs().Name
		}
	}
	return fmt.Sprintf("interface %d", index)
}

// has are the addresses that equal a.
func (h *host) has(a netip.Addr) []netlink.Addr {
	var list []netlink.Addr
	for _, o := range h.addresses {
		if addrOf(o.IP) == a {
			list = append(list, o)
		}
	}
	return list
}

// bound tells whether a VIP is on the virtual interface, or on what stands in for it.
func (e *exam) bound(h *host, a netip.Addr) bool {
	return slices.ContainsFunc(h.has(a), func(o netlink.Addr) bool { return e.ourDevice(h.linkName(o.LinkIndex)) })
}

// legs are the ways of a route.
func legs(r *netlink.Route) []netlink.NexthopInfo {
	if len(r.MultiPath) == 0 {
		return []netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	list := make([]netlink.NexthopInfo, len(r.MultiPath))
	for i, n := range r.MultiPath {
		list[i] = *n
	}
	return list
}

func isDefault(r *netlink.Route) bool {
	to := prefixOf(r.Dst)
	return !to.IsValid() || to.Bits() == 0
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// prefixOf is the network as a prefix, invalid for nil.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}

func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "IPv6"
	}
	return "IPv4"
}

// ip is the ip(8) command for the family.
func ip(ipv4 bool) string {
	if ipv4 {
		return "ip"
	}
	return "ip -6"
}

// ourDevice tells whether a device is the virtual interface or a shard of it, or lo,
// which takes its place where the kernel can make none.
func (e *exam) ourDevice(name string) bool {
	if name == "lo" && e.in.DeviceKind == "auto" && e.in.Daemon != nil {
		h, ok := e.network()
		return ok && h.link(e.in.Device) == nil
	}
	return name == e.in.Device || strings.HasPrefix(name, e.in.Device+".")
}

// file is the place of a file of the host.
func (e *exam) file(path string) string { return filepath.Join("/", e.in.Root, path) }

func (e *exam) exists(path string) bool {
	_, err := os.Stat(e.file(path))
	return err == nil
}

func join[T any](list []T, text func(T) string) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = text(v)
	}
	return strings.Join(words, ", ")
}

func (e *exam) isVIP(a netip.Addr) bool {
	return slices.ContainsFunc(e.in.VIPs, func(v VIP) bool { return v.Prefix.Contains(a) })
}

// hasFamily tells whether there is a VIP of the family.
func (e *exam) hasFamily(ipv4 bool) bool {
	return slices.ContainsFunc(e.in.VIPs, func(v VIP) bool { return v.Prefix.Addr().Is4() == ipv4 })
}

// own is an address of the link in the family, not a link-local one unless there
// is no other.
func (h *host) own(index int, ipv4 bool) netip.Addr {
	var best netip.Addr
	for _, o := range h.addresses {
		a := addrOf(o.IP)
		if o.LinkIndex != index || a.Is4() != ipv4 || o.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		if !a.IsLinkLocalUnicast() {
			return a
		}
		best = a
	}
	return best
}
