package bgp

import (
	"cmp"
	"net/netip"
	"slices"
)

// pathKey is what a speaker has at most one path of.
type pathKey struct {
	Prefix netip.Prefix `json:"prefix"`
	ID     uint32       `json:"id,omitempty"`
}

func (p *Path) key() pathKey { return pathKey{p.Prefix, p.ID} }

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func comparePath(a, b Path) int {
	return cmp.Or(comparePrefix(a.Prefix, b.Prefix), cmp.Compare(a.ID, b.ID))
}

// canonical sorts what has no order, so that equal paths compare equal.
func canonical(p Path) Path {
	p.Communities = sortedSet(p.Communities, cmp.Compare[uint32])
	p.LargeCommunities = sortedSet(p.LargeCommunities, compareLarge)
	p.ExtendedCommunities = sortedSet(p.ExtendedCommunities, compareExtended)
	return p
}

func sortedSet[T comparable](in []T, compare func(a, b T) int) []T {
	out := slices.Clone(in)
	slices.SortFunc(out, compare)
	return slices.Compact(out)
}

func compareLarge(a, b LargeCommunity) int {
	return cmp.Or(cmp.Compare(a.Global, b.Global), cmp.Compare(a.Local1, b.Local1), cmp.Compare(a.Local2, b.Local2))
}

func compareExtended(a, b ExtendedCommunity) int { return slices.Compare(a[:], b[:]) }

// samePath tells whether two canonical paths are equal in all attributes.
func samePath(a, b Path) bool {
	return a.Prefix == b.Prefix && a.ID == b.ID && a.NextHop == b.NextHop && a.Prepend == b.Prepend && a.Origin == b.Origin &&
		sameOptional(a.MED, b.MED) && sameOptional(a.LocalPref, b.LocalPref) && slices.Equal(a.Communities, b.Communities) &&
		slices.Equal(a.LargeCommunities, b.LargeCommunities) && slices.Equal(a.ExtendedCommunities, b.ExtendedCommunities)
}

func sameOptional[T comparable](a, b *T) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

// samePeer tells whether two peers are equal in all parameters.
func samePeer(a, b Peer) bool {
	attrs := sameAttributes(a.Attributes, b.Attributes)
	a.Attributes, b.Attributes = nil, nil
	return attrs && a == b
}

func sameAttributes(a, b *Attributes) bool {
	if a == nil || b == nil {
		return a == b
	}
	return sameOptional(a.MED, b.MED) && sameOptional(a.LocalPref, b.LocalPref) && sameOptional(a.Origin, b.Origin) && a.Prepend == b.Prepend &&
		slices.Equal(a.Communities, b.Communities) && slices.Equal(a.LargeCommunities, b.LargeCommunities) &&
		slices.Equal(a.ExtendedCommunities, b.ExtendedCommunities)
}
