package doctor

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lookOneInterface looks for services on a VIP that new connections reach by one
// interface and not by another.
func lookOneInterface(e *exam) {
	fw, ok := e.ruleset()
	if !ok {
		return
	}
	for _, v := range e.in.VIPs {
		a := v.Prefix.Addr()
		var ports []int
		for _, port := range v.Ports {
			ports = append(ports, int(port))
		}
		level := Warning
		if len(ports) == 0 { // what it serves is not known, so it may be meant
			ports, level = append(fw.ports(50), anyPort), Note
		}
		var list []asked
		for _, port := range ports {
			var open, closed []asked
			for _, name := range v.Interfaces {
				q := asked{packet{in: name, src: stranger(a.Is4()), dst: a, proto: "tcp", sport: anyPort, dport: port, state: "new", missing: no}, "", true}
				q.what = fmt.Sprintf("connections to %s port %d by %s", a, port, name)
				if port == anyPort {
					q.what = fmt.Sprintf("connections to %s by %s", a, name)
				}
				certain, _, _, unsure := fw.passing(&q)
				switch {
				case certain:
					closed = append(closed, q)
				case !unsure:
					open = append(open, q)
				}
			}
			if len(open) > 0 {
				list = append(list, closed...)
			}
		}
		e.dropsOf(fw, list, func(*asked) Severity { return level })
	}
}

// lookFIBFilter looks for rules that drop what comes by an interface by which no
// route leads back, where ours does not.
func lookFIBFilter(e *exam) {
	fw, ok := e.ruleset()
	if !ok {
		return
	}
	for _, v := range e.in.VIPs {
		a := v.Prefix.Addr()
		var list []asked
		for _, name := range v.Interfaces {
			q := asked{packet{in: name, src: stranger(a.Is4()), dst: a, proto: "tcp", sport: anyPort, dport: anyPort, state: "new", missing: sure}, "", true}
			q.what = fmt.Sprintf("what comes for %s by %s, by which no route leads back", a, name)
			open := q
			open.missing = no
			strict, _, _, _ := fw.passing(&q)
			closed, _, _, _ := fw.passing(&open)
			if strict && !closed && e.noLeg(a.Is4(), name) {
				list = append(list, q)
			}
		}
		e.dropsOf(fw, list, func(*asked) Severity { return Bad })
	}
}

// noLeg tells whether the default route for what leaves from VIPs does not use
// the interface.
func (e *exam) noLeg(ipv4 bool, name string) bool {
	h, ok := e.network()
	routes, read := e.routes()
	if !ok || !read {
		return false
	}
	family := unix.AF_INET6
	if ipv4 {
		family = unix.AF_INET
	}
	i := slices.IndexFunc(routes, func(r netlink.Route) bool {
		return e.ours(&r) && r.Table == e.in.Table && r.Family == family && isDefault(&r)
	})
	if i < 0 {
		n := slices.IndexFunc(e.in.Interfaces, func(n Interface) bool { return n.Name == name })
		return n >= 0 && !e.in.Interfaces[n].nextHop(ipv4).IsValid() // run makes one by that
	}
	return !slices.ContainsFunc(legs(&routes[i]), func(l netlink.NexthopInfo) bool { return h.linkName(l.LinkIndex) == name })
}
