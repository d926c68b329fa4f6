package vip

import (
	"fmt"
	"net/netip"
	"slices"
)

// obstacle is an address that the host needs as it is.
type obstacle struct {
	address netip.Addr
	what    string // "an address of en1"
}

// obstacles are what a VIP that is not bound yet must not take away. What is
// bound already stays, so that a change elsewhere never costs a VIP.
func (p *pass) obstacles() []obstacle {
	var out []obstacle
	current, former := p.devices()
	forVIPs := slices.Concat(current, former)
	for _, a := range p.s.addresses {
		if a.ours() || slices.ContainsFunc(forVIPs, func(l link) bool { return l.index == a.index }) {
			continue
		}
		if name := p.s.linkName(a.index); name != loopback { // where VIPs often were before
			out = append(out, obstacle{a.prefix.Addr(), "an address of " + name})
		}
	}
	return out
}

// refused tells whether the VIP must not be bound, and keeps the reason.
func (p *pass) refused(v netip.Prefix, obstacles []obstacle) bool {
	for _, o := range obstacles {
		switch {
		case !v.Contains(o.address):
		case v.IsSingleIP():
			p.fail(fmt.Errorf("vip %s is not bound: it is %s", v.Addr(), o.what))
			return true
		default:
			p.fail(fmt.Errorf("vip %s is not bound: it holds %s, %s", v, o.address, o.what))
			return true
		}
	}
	return false
}
