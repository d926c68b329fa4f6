package ndp

import (
	"fmt"
	"net/netip"
	"slices"
)

// fault is why not all is well.
func (i *iface) fault() string {
	switch {
	case i.e.lookError != "":
		return i.e.lookError
	case i.link.index == 0:
		return "there is no such interface"
	case !i.link.running:
		return "the link is down"
	case !i.local.IsValid():
		return i.link.why
	case i.openError != "":
		return i.openError
	case i.sendError != "":
		return i.sendError
	case !i.refusedAt.IsZero():
		return fmt.Sprintf("more than %d routers advertise themselves; the others are ignored", maxRouters)
	}
	return ""
}

// state is the picture of the interface.
func (i *iface) state() Interface {
	s := Interface{Name: i.name, Index: i.link.index, Error: i.fault()}
	addresses := make([]netip.Addr, 0, len(i.routers))
	for a := range i.routers {
		addresses = append(addresses, a)
	}
	slices.SortFunc(addresses, i.compare)
	for _, a := range addresses {
		r := i.routers[a]
		s.Routers = append(s.Routers, r.state(a.WithZone(i.name)))
	}
	return s
}

func (r *router) state(address netip.Addr) Router {
	s := Router{Address: address, ByAdvertisement: r.advertised, Flagged: r.flagged}
	if r.advertised {
		s.Flagged = true
		s.Heard, s.Expires = r.heard, r.expires
	}
	if r.neighbour && r.confirmed.After(s.Heard) {
		s.Heard = r.confirmed
	}
	if r.neighbour && r.until.After(s.Expires) {
		s.Expires = r.until
	}
	return s
}

// compare puts the better candidate first. Nothing that changes while routers
// stay takes part.
func (i *iface) compare(a, b netip.Addr) int {
	rank := func(r *router) int {
		switch {
		case r.advertised:
			return 0
		case r.flagged:
			return 1
		}
		return 2
	}
	x, y := i.routers[a], i.routers[b]
	if d := rank(x) - rank(y); d != 0 {
		return d
	}
	if d := y.first.Compare(x.first); d != 0 {
		return d
	}
	return a.Compare(b)
}
