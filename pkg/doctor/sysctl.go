package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctlOf is a setting of one interface, or of the host.
type sysctlOf struct {
	path      string // below /proc/sys, with slashes
	now, want int
}

// String is the setting as sysctl(8) writes it: with slashes where the name of
// an interface has a dot.
func (s *sysctlOf) String() string {
	if strings.Contains(s.path, ".") {
		return s.path
	}
	return strings.ReplaceAll(s.path, "/", ".")
}

func conf(family, name, key string) string { return "net/" + family + "/conf/" + name + "/" + key }

func readSysctl(path string) (int, error) {
	data, err := os.ReadFile("/proc/sys/" + path) //nolint:gosec // named by us
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// effective is the value that counts for an interface where the kernel takes the
// larger one of it and of all.
func effective(family, name, key string) (int, error) {
	own, err := readSysctl(conf(family, name, key))
	if err != nil {
		return 0, err
	}
	all, err := readSysctl(conf(family, "all", key))
	return max(own, all), err
}

// perInterface finds the listed interfaces whose setting is wrong. wrong is told
// the value that counts; with larger that of all counts too, but not for IPv6, which
// looks at the interface's own alone.
func (e *exam) perInterface(key string, want int, families []string, larger bool, wrong func(now int) bool) {
	if !e.looksAtSysctls() || e.in.Inside && e.in.Sysctls == SysctlSet {
		return // the daemon sets it, or says that it cannot
	}
	var list []sysctlOf
	for i := range e.in.Interfaces {
		for _, family := range families {
			name := e.in.Interfaces[i].Name
			now, err := readSysctl(conf(family, name, key))
			if larger && family == "ipv4" && err == nil {
				now, err = effective(family, name, key)
			}
			if err == nil && wrong(now) { // else no such interface, or no IPv6
				list = append(list, sysctlOf{conf(family, name, key), now, want})
			}
		}
	}
	e.findSysctls(list, e.set())
}

// set tells whether the daemon is to set the interfaces' settings and does not
// run now.
func (e *exam) set() bool { return e.in.Sysctls == SysctlSet && e.in.Daemon == nil }

func (e *exam) looksAtSysctls() bool {
	if e.in.Sysctls == SysctlOff {
		e.cannot("host.sysctls is off")
		return false
	}
	return true
}

// findSysctls reports settings that are wrong for one reason. later tells that
// run sets them by itself.
func (e *exam) findSysctls(list []sysctlOf, later bool) {
	if len(list) == 0 {
		return
	}
	f := &Finding{
		Subject: join(list, func(s sysctlOf) string { return s.String() }),
		Found:   join(list, func(s sysctlOf) string { return fmt.Sprintf("%s is %d", s.String(), s.now) }),
		fix:     func(context.Context) ([]string, error) { return writeSysctls(list) },
	}
	do, undo := []string{"sysctl -w"}, []string{"sysctl -w"}
	for _, s := range list {
		do = append(do, fmt.Sprintf("%s=%d", s.String(), s.want))
		if old, err := readSysctl(s.path); err == nil {
			undo = append(undo, fmt.Sprintf("%s=%d", s.String(), old))
		}
	}
	f.Command, f.Undo = strings.Join(do, " "), strings.Join(undo, " ")
	switch {
	case later:
		f.Severity = Note
		f.Why = e.now.Effect + "; 'vipspeaker run' sets it while it runs"
	case e.in.Sysctls == SysctlCheck:
		f.Remedy, f.Why = ByHand, e.now.Effect+"; host.sysctls is check, so it is left alone"
	}
	e.find(f)
}

func writeSysctls(list []sysctlOf) (did []string, err error) {
	for _, s := range list {
		if err := os.WriteFile("/proc/sys/"+s.path, []byte(strconv.Itoa(s.want)), 0o600); err != nil {
			return did, fmt.Errorf("set %s to %d: %w", s.String(), s.want, err)
		}
		did = append(did, fmt.Sprintf("set %s to %d", s.String(), s.want))
	}
	return did, nil
}

func lookReversePath(e *exam) {
	e.perInterface("rp_filter", 2, []string{"ipv4"}, true, func(now int) bool { return now == 1 })
}

func lookARPAnnounce(e *exam) {
	e.perInterface("arp_announce", 2, []string{"ipv4"}, true, func(now int) bool { return now == 0 })
}

func lookLinkdown(e *exam) {
	if len(e.in.Interfaces) > 1 {
		e.perInterface("ignore_routes_with_linkdown", 1, []string{"ipv4", "ipv6"}, true, func(now int) bool { return now == 0 })
	}
}

func lookHashPolicy(e *exam) {
	if len(e.in.Interfaces) < 2 || !e.looksAtSysctls() {
		return
	}
	var list []sysctlOf
	for _, family := range []string{"ipv4", "ipv6"} {
		path := "net/" + family + "/fib_multipath_hash_policy"
		if now, err := readSysctl(path); err == nil && now == 0 {
			list = append(list, sysctlOf{path, now, 1})
		}
	}
	e.findSysctls(list, false)
}

// lookNoWayBack looks for a reverse path filter of either kind where no route
// leads back to clients: then even the loose one drops what they send.
func lookNoWayBack(e *exam) {
	if !e.looksAtSysctls() || !e.hasFamily(true) {
		return
	}
	routes, ok := e.routes()
	if !ok {
		return
	}
	for i := range routes {
		if routes[i].Family == unix.AF_INET && isDefault(&routes[i]) && routes[i].Type == unix.RTN_UNICAST {
			return
		}
	}
	for i := range e.in.Interfaces {
		n := &e.in.Interfaces[i]
		if e.in.Daemon == nil && n.nextHop(true).IsValid() {
			return // run makes a default route by it
		}
		value, err := effective("ipv4", n.Name, "rp_filter")
		if err != nil || value == 0 {
			continue
		}
		f := &Finding{
			Subject: n.Name,
			Found:   fmt.Sprintf("net.ipv4.conf.%s.rp_filter is %d, and no default route leads back to clients", n.Name, value),
			Command: "# give interface " + n.Name + " a gateway in the configuration, and 'vipspeaker reload'",
		}
		if hop := n.nextHop(true); hop.IsValid() {
			f.Command = fmt.Sprintf("ip route add default via %s dev %s", hop, n.Name)
			f.Undo = fmt.Sprintf("ip route del default via %s dev %s", hop, n.Name)
		}
		e.find(f)
	}
}

// nextHop is a gateway of the interface, else a router on it.
func (n *Interface) nextHop(ipv4 bool) netip.Addr {
	for _, g := range n.Gateways {
		if g.Is4() == ipv4 {
			return g
		}
	}
	for i := range n.Peers {
		if a := n.Peers[i].Address; a.IsValid() && a.Is4() == ipv4 {
			return a
		}
	}
	return netip.Addr{}
}

// lookAcceptLocal looks for another host that announces a VIP of ours: the main
// table then has a route to it that is not ours.
func lookAcceptLocal(e *exam) {
	h, ok := e.network()
	routes, read := e.routes()
	if !ok || !read || !e.looksAtSysctls() {
		return
	}
	for i := range routes {
		r := &routes[i]
		to := prefixOf(r.Dst)
		if r.Family != unix.AF_INET || !to.IsValid() || !to.IsSingleIP() || e.ours(r) || r.Type != unix.RTN_UNICAST || !e.isVIP(to.Addr()) {
			continue
		}
		var list []sysctlOf
		for j := range e.in.Interfaces {
			name := e.in.Interfaces[j].Name
			if now, err := effective("ipv4", name, "accept_local"); err == nil && now == 0 {
				list = append(list, sysctlOf{conf("ipv4", name, "accept_local"), now, 1})
			}
		}
		if len(list) > 0 {
			hop := legs(r)[0]
			e.now.Effect = fmt.Sprintf("another host has %s too (route by %s dev %s); %s", to.Addr(), addrOf(hop.Gw), h.linkName(hop.LinkIndex), e.now.Effect)
			e.findSysctls(list, false)
		}
		return
	}
}
