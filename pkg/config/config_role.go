package config

// Role is the place of this host among those that announce the same VIP.
type Role struct {
	// Rank is 1 to 254; the lowest is preferred.
	Rank int
	// Failback is immediate, idle or manual: when a host that comes back takes over
	// again.
	Failback string
	// Tag adds a large community that tells rank and host.
	Tag bool
	// MED, LocalPref and Prepend take the place of what follows from the rank; nil
	// for that. LocalPref is at least 1. Prepend is added to those of Announce and
	// Degrade.
	MED, LocalPref *uint32
	Prepend        *int
	// The communities come on top of those of Announce.
	Communities         []uint32
	LargeCommunities    []LargeCommunity
	ExtendedCommunities []ExtendedCommunity
}
