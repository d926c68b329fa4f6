package bgp

import (
	"encoding/binary"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
)

// GoBGP's RIB holds some things that no peer gets to see.
//
// Which of several paths of a prefix is the best, GoBGP decides by LOCAL_PREF
// before anything else that differs between them; with all attributes equal its
// choice would change at every update. So a path with an ID has a LOCAL_PREF that
// falls with the ID, and the one that internal peers are to get stands in a large
// community until the export policy puts it in its place. GoBGP takes LOCAL_PREF
// off for external peers.
//
// A path also has an ORIGINATOR_ID, which GoBGP sends to clients of a route
// reflector only, and never to our peers. It divides paths with the same
// attributes into bundles, which GoBGP does not put into one UPDATE. A bundle
// does not fill an UPDATE, because GoBGP takes attributes that a policy has
// lengthened for shorter than they are, and drops an UPDATE that becomes longer
// than 4096 octets with all its routes.

const (
	// hiddenGlobal and hiddenPref mark the large community; the first is reserved
	// (RFC 8092 section 5) and therefore nobody's.
	hiddenGlobal = 0xffffffff
	hiddenPref   = 0x4c505246
	defaultPref  = 100
)

// hide returns the attributes as the RIB has them.
func hide(p Path) Path {
	if p.ID == 0 {
		return p
	}
	rank := ^p.ID
	p.LargeCommunities = append(slices.Clone(p.LargeCommunities), LargeCommunity{hiddenGlobal, hiddenPref, rankedPref(p)})
	p.LocalPref = &rank
	return p
}

// rankedPref is the LOCAL_PREF that internal peers get of a path with an ID. A
// policy of GoBGP cannot set 0.
func rankedPref(p Path) uint32 {
	if p.LocalPref == nil {
		return defaultPref
	}
	return max(*p.LocalPref, 1)
}

// reveal is the reverse of hide.
func reveal(p Path) Path {
	at := slices.IndexFunc(p.LargeCommunities, isHidden)
	if at < 0 {
		return p
	}
	pref := p.LargeCommunities[at].Local2
	p.LocalPref = &pref
	if pref == defaultPref {
		p.LocalPref = nil
	}
	p.LargeCommunities = slices.DeleteFunc(p.LargeCommunities, isHidden)
	return p
}

func isHidden(c LargeCommunity) bool { return c.Global == hiddenGlobal && c.Local1 == hiddenPref }

// settle makes LOCAL_PREF of a path with an ID what it will be read back as.
func settle(p Path) Path {
	if p.ID == 0 || p.LocalPref == nil {
		return p
	}
	pref := rankedPref(p)
	p.LocalPref = &pref
	if pref == defaultPref {
		p.LocalPref = nil
	}
	return p
}

// Sizes that decide how many paths go into a bundle (RFC 4271 section 4.3).
const (
	updateRoom = 4096 - 23 // of an UPDATE, for attributes and prefixes
	peerRoom   = 1000      // at most for what the attributes of a peer add
	prefixRoom = 9         // a prefix of 32 bits with its path identifier
)

// bundles gives each path that is added its bundle.
type bundles struct {
	number uint32
	filled float64 // 1 for full
}

// next returns the bundle of the next path.
func (b *bundles) next(p Path) uint32 {
	share := 1 / float64(max(1, (updateRoom-peerRoom-attributesSize(p))/prefixRoom))
	if b.number == 0 || b.filled+share > 1 {
		b.number++
		b.filled = 0
	}
	b.filled += share
	return b.number
}

// attributesSize is the most that the attributes of a path take in an UPDATE.
func attributesSize(p Path) int {
	const others = 3 * 16 // ORIGIN, NEXT_HOP, MED, LOCAL_PREF, and the heads of the rest
	return others + 4*(p.Prepend+1) + 4*len(p.Communities) + 12*len(p.LargeCommunities) + 8*len(p.ExtendedCommunities)
}

func bundleToAPI(n uint32) *api.OriginatorIdAttribute {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], n)
	return &api.OriginatorIdAttribute{Id: netip.AddrFrom4(a).String()}
}
