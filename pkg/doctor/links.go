package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lookUnusable looks for VIPs that are there and do not work.
func lookUnusable(e *exam) {
	h, ok := e.network()
	if !ok {
		return
	}
	if l := h.link(e.in.Device); l != nil && l.Attrs().Flags&net.FlagUp == 0 {
		e.find(&Finding{
			Subject: e.in.Device,
			Found:   fmt.Sprintf("the virtual interface %s is down", e.in.Device),
			Why:     "the kernel has no IPv6 VIP on it, and what leaves for one that was has a source that nobody answers",
			Command: "ip link set dev " + e.in.Device + " up", Undo: "ip link set dev " + e.in.Device + " down",
			fix: func(context.Context) ([]string, error) {
				return []string{"set " + e.in.Device + " up"}, netlink.LinkSetUp(l)
			},
		})
	}
	e.lookDisabledIPv6(h)
	for _, v := range e.in.VIPs {
		for _, a := range h.has(v.Prefix.Addr()) {
			if !v.Prefix.IsSingleIP() || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
				continue
			}
			name := h.linkName(a.LinkIndex)
			e.find(&Finding{
				Subject: v.Name,
				Found:   fmt.Sprintf("%s on %s is tentative or failed duplicate address detection", v.Prefix.Addr(), name),
				Command: fmt.Sprintf("ip -6 addr del %s dev %s && ip -6 addr add %s dev %s nodad noprefixroute",
					v.Prefix, name, v.Prefix, name),
			})
		}
	}
}

// lookDisabledIPv6 looks whether the virtual interface takes IPv6, or will when
// it is made.
func (e *exam) lookDisabledIPv6(h *host) {
	if !e.hasFamily(false) {
		return
	}
	name := e.in.Device
	if h.link(name) == nil {
		name = "default"
	}
	path := conf("ipv6", name, "disable_ipv6")
	now, err := readSysctl(path)
	if err == nil && now == 0 {
		return
	}
	if err != nil {
		e.find(&Finding{Subject: "IPv6", Found: "the kernel has no IPv6", Command: "# boot without ipv6.disable=1, or take the IPv6 VIPs out of the configuration"})
		return
	}
	list := []sysctlOf{{path, now, 0}}
	e.find(&Finding{
		Subject: name, Found: list[0].String() + " is 1", Command: "sysctl -w " + list[0].String() + "=0",
		Undo: "sysctl -w " + list[0].String() + "=1",
		fix:  func(context.Context) ([]string, error) { return writeSysctls(list) },
	})
}

// loopback is the device by which the host talks with itself: the kernel sends what
// is for any local address through it, whatever device has that address.
const loopback = "lo"

// lookLoopback looks whether the host can talk with its own addresses.
func lookLoopback(e *exam) {
	h, ok := e.network()
	if !ok {
		return
	}
	l := h.link(loopback)
	if l == nil || l.Attrs().Flags&net.FlagUp != 0 {
		return
	}
	set := "ip link set dev " + loopback
	e.find(&Finding{
		Subject: loopback, Found: loopback + " is down",
		Command: set + " up", Undo: set + " down",
		fix: func(context.Context) ([]string, error) {
			return []string{"set " + loopback + " up"}, netlink.LinkSetUp(l)
		},
	})
}

// lookElsewhere looks for VIPs on devices that are not for them.
func lookElsewhere(e *exam) {
	h, ok := e.network()
	if !ok {
		return
	}
	for _, v := range e.in.VIPs {
		if !v.Prefix.IsSingleIP() {
			continue
		}
		for _, a := range h.has(v.Prefix.Addr()) {
			name := h.linkName(a.LinkIndex)
			if e.ourDevice(name) {
				continue
			}
			command := func(verb string) string { return fmt.Sprintf("ip addr %s %s dev %s", verb, a.IPNet, name) }
			f := &Finding{
				Subject: v.Name, Found: fmt.Sprintf("vip %s is on %s too", v.Prefix.Addr(), name),
				Command: command("del"), Undo: command("add"),
				fix: func(context.Context) ([]string, error) {
					err := netlink.AddrDel(h.link(name), &netlink.Addr{IPNet: a.IPNet})
					return []string{fmt.Sprintf("removed %s from %s", a.IPNet, name)}, err
				},
			}
			if name != "lo" && !e.bound(h, v.Prefix.Addr()) {
				f.Severity, f.Found = Bad, fmt.Sprintf("vip %s is an address of %s", v.Prefix.Addr(), name)
				f.Why = "the daemon does not bind what is an address of another device, so the VIP is not announced"
			}
			e.find(f)
		}
	}
}

// lookInSubnet looks for VIPs within a network of an interface.
func lookInSubnet(e *exam) {
	h, ok := e.network()
	routes, read := e.routes()
	if !ok || !read {
		return
	}
	for i := range routes {
		r := &routes[i]
		to := prefixOf(r.Dst)
		if r.Type != unix.RTN_UNICAST || r.Table != unix.RT_TABLE_MAIN || isDefault(r) || to.IsSingleIP() || legs(r)[0].Gw != nil || r.Via != nil {
			continue
		}
		name := h.linkName(legs(r)[0].LinkIndex)
		for _, v := range e.in.VIPs {
			if !to.Overlaps(v.Prefix) || e.ourDevice(name) {
				continue
			}
			e.find(&Finding{
				Subject: v.Name,
				Found:   fmt.Sprintf("vip %s is inside the network %s of %s", v.Prefix, to, name),
				Command: fmt.Sprintf("# give %s an address outside %s in the configuration, and: vipspeaker reload", v.Name, to),
			})
		}
	}
}

// lookUnboundLoop looks for VIPs that are not bound on a host that forwards: it
// sends back what routers send.
func lookUnboundLoop(e *exam) {
	for _, v := range e.unbound() {
		a := v.Prefix.Addr()
		hop, name := e.leadsBack(a)
		if name == "" || !e.forwards(a.Is4(), name) {
			continue
		}
		route := fmt.Sprintf("blackhole %s metric 4294967295 proto static", v.Prefix)
		f := &Finding{
			Subject: v.Name,
			Found:   fmt.Sprintf("vip %s is not bound, the host forwards, and its route to it leads by %s dev %s", a, hop, name),
			Command: ip(a.Is4()) + " route add " + route, Undo: ip(a.Is4()) + " route del " + route,
			fix: func(context.Context) ([]string, error) {
				err := netlink.RouteAdd(&netlink.Route{
					Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Type: unix.RTN_BLACKHOLE,
					Priority: int(^uint32(0)), Protocol: unix.RTPROT_STATIC,
				})
				return []string{"added route " + route}, err
			},
		}
		if e.in.Daemon == nil {
			f.Severity = Note
		}
		e.find(f)
	}
}

// lookUnboundSilent looks for VIPs that are not bound though a daemon runs, on a
// host that does not forward.
func lookUnboundSilent(e *exam) {
	if e.in.Daemon == nil {
		return
	}
	for _, v := range e.unbound() {
		a := v.Prefix.Addr()
		if _, name := e.leadsBack(a); name != "" && e.forwards(a.Is4(), name) {
			continue
		}
		e.find(&Finding{
			Subject: v.Name, Found: fmt.Sprintf("vip %s is not bound, and the host does not forward", a),
			Command: fmt.Sprintf("ip addr add %s dev %s noprefixroute  # the daemon tells why it does not: vipspeaker status %s", v.Prefix, e.in.Device, v.Name),
		})
	}
}

// unbound are the VIPs that no device has, and one should.
func (e *exam) unbound() []VIP {
	h, ok := e.network()
	if !ok {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.in.VIPs), func(v VIP) bool { return v.Away || !v.Prefix.IsSingleIP() || len(h.has(v.Prefix.Addr())) > 0 })
}

// leadsBack is the next hop and the listed interface by which the host would
// forward to the address, empty if it would not.
func (e *exam) leadsBack(a netip.Addr) (hop netip.Addr, name string) {
	h, ok := e.network()
	if !ok {
		return hop, ""
	}
	found, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(found) == 0 || found[0].Type != unix.RTN_UNICAST || found[0].Gw == nil {
		return hop, ""
	}
	name = h.linkName(found[0].LinkIndex)
	if !slices.ContainsFunc(e.in.Interfaces, func(n Interface) bool { return n.Name == name }) {
		return hop, ""
	}
	return addrOf(found[0].Gw), name
}

func (*exam) forwards(ipv4 bool, name string) bool {
	path := conf("ipv4", name, "forwarding")
	if !ipv4 {
		path = conf("ipv6", "all", "forwarding")
	}
	now, err := readSysctl(path)
	return err == nil && now == 1
}

// lookDevice looks whether the kernel can make the virtual interface, in a
// network namespace of its own.
func lookDevice(e *exam) {
	kinds := map[string][]netlink.Link{
		"dummy":  {&netlink.Dummy{}},
		"bridge": {&netlink.Bridge{}},
		"auto":   {&netlink.Dummy{}, &netlink.Bridge{}, &netlink.Ifb{}},
	}[e.in.DeviceKind]
	if h, ok := e.network(); !ok || len(kinds) == 0 || e.in.Device == "lo" || h.link(e.in.Device) != nil {
		return // it is there
	}
	var last error
	for _, l := range kinds {
		last = try(l)
		if last == nil {
			return
		}
		if !errors.Is(last, unix.EOPNOTSUPP) {
			e.cannot("make a device for a trial: %v", last)
			return
		}
	}
	f := &Finding{
		Subject: e.in.Device, Found: fmt.Sprintf("the kernel cannot make a device of kind %s (%v)", kinds[0].Type(), last),
		Command: "modprobe " + kinds[0].Type() + "  # or, where the kernel has none, virtual_interface: {kind: auto} in the configuration",
	}
	if e.in.DeviceKind == "auto" {
		f.Severity, f.Why = Warning, "the VIPs go to lo, where they cannot be told from those of others"
		f.Command = "modprobe dummy"
	}
	e.find(f)
}

// try makes a device in a network namespace that nobody sees.
func try(l netlink.Link) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		l.Attrs().Name = "trial"
		result <- netlink.LinkAdd(l)
	}()
	return <-result
}

// lookDefaultMetric looks for a default route that no other can win over.
func lookDefaultMetric(e *exam) {
	if !e.in.InstallMain {
		return
	}
	h, ok := e.network()
	routes, read := e.routes()
	if !ok || !read {
		return
	}
	for i := range routes {
		r := &routes[i]
		hop := legs(r)[0]
		if r.Table != unix.RT_TABLE_MAIN || r.Family != unix.AF_INET || !isDefault(r) || r.Priority != 0 || int(r.Protocol) == e.in.Protocol {
			continue
		}
		to := fmt.Sprintf("default via %s dev %s", addrOf(hop.Gw), h.linkName(hop.LinkIndex))
		f := &Finding{
			Subject: to, Found: fmt.Sprintf("the main table has %s with metric 0", to),
			Command: fmt.Sprintf("ip route add %s metric %d && ip route del %s metric 0", to, e.in.MainMetric+1000, to),
			Undo:    fmt.Sprintf("ip route add %s && ip route del %s metric %d", to, to, e.in.MainMetric+1000),
		}
		if len(r.MultiPath) > 0 || hop.Gw == nil {
			f.Command, f.Undo = "ip route show default  # give it a metric above "+fmt.Sprint(e.in.MainMetric), ""
		}
		e.find(f)
	}
}
