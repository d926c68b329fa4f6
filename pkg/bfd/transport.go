package bfd

import (
	"net/netip"
	"time"
)

// Ports of RFC 5881 section 4 and RFC 5883 section 5.
const (
	singleHopPort = 3784
	multihopPort  = 4784
)

// transport is the network as the engine sees it. Only the engine's goroutine
// calls it, wake excepted.
type transport interface {
	// dial opens the sending side of a session and makes sure that packets of
	// its kind are received.
	dial(cfg *SessionConfig) (path, error)
	// wait returns after d, when a packet may have come, or when wake was called.
	wait(d time.Duration)
	// wake ends a wait, from any goroutine.
	wake()
	// receive hands over the packets that have come and not many more, and does
	// not wait for any. The datagram and its data are valid during the call only.
	// behind is zero if nothing is left; otherwise what came until then has been
	// handed over.
	receive(deliver func(*datagram)) (behind time.Time)
	close()
}

// path sends the packets of one session.
type path interface {
	send(b []byte) error
	// index is the kernel's number of the interface, 0 for any.
	index() int
	// check tells why packets cannot go or come although sending may not fail,
	// and whether the path must be opened anew.
	check() (stale bool, err error)
	close()
}

// datagram is a received one.
type datagram struct {
	data     []byte
	src, dst netip.Addr // without zones
	ifindex  int
	ttl      int
	multihop bool
	at       time.Time // when the kernel got it
}
