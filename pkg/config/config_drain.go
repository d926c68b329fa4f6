package config

import "time"

// Drain says how a VIP is taken out of use by an operator's order.
type Drain struct {
	// Time is how long it is announced as about to go before it is withdrawn, 0 s
	// to 24 h.
	Time time.Duration
	// ConnectionsTimeout is how long after the withdraw connections may live
	// before they are reset, 0 s to 30 days.
	ConnectionsTimeout time.Duration
	// Unbind removes the address when the connections have ended.
	Unbind bool
	// MED takes the place of that of Announce while the VIP is about to go; nil for
	// none. LocalPref always does, for internal peers.
	MED       *uint32
	LocalPref uint32
	// Prepend is added to those of Announce and Degrade; the sum is at most 10.
	Prepend int
	// Communities come on top of those of Announce and of GRACEFUL_SHUTDOWN
	// (RFC 8326).
	Communities []uint32
}
