package speaker

import (
	"net/netip"

	"vipspeaker/pkg/bgp"
)

// takesAway tells whether next lacks a leg, a session or a path that prev has.
func takesAway(prev, next *Desired) bool {
	for i := range prev.Kernel.Interfaces {
		n := &prev.Kernel.Interfaces[i]
		if !n.Leg() {
			continue
		}
		if i >= len(next.Kernel.Interfaces) || next.Kernel.Interfaces[i].Name != n.Name {
			return true
		}
		if o := &next.Kernel.Interfaces[i]; !o.Leg() || o.Silent4 && !n.Silent4 || o.Silent6 && !n.Silent6 {
			return true
		}
	}
	for i := range prev.Kernel.Learned {
		if lacks(next.Kernel.Learned, &prev.Kernel.Learned[i]) {
			return true
		}
	}
	for i, s := range prev.BGP.Speakers {
		if i >= len(next.BGP.Speakers) || next.BGP.Speakers[i].Name != s.Name {
			return true
		}
		t := next.BGP.Speakers[i]
		if missing(s.Peers, t.Peers, func(p bgp.Peer) netip.Addr { return p.Address }) ||
			missing(s.Paths, t.Paths, func(p bgp.Path) pathKey { return pathKey{p.Prefix, p.ID} }) {
			return true
		}
	}
	return false
}

// pathKey is what a speaker has at most one path of.
type pathKey struct {
	prefix netip.Prefix
	id     uint32
}

// missing tells whether an element of prev is not in next, where both have the
// same order. It may be wrong when the order changed, which costs one pass.
func missing[T any, K comparable](prev, next []T, key func(T) K) bool {
	j := 0
	for i := range prev {
		for j < len(next) && key(next[j]) != key(prev[i]) {
			j++
		}
		if j == len(next) {
			return true
		}
	}
	return false
}
