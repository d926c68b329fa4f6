package bgp

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// GoBGP clears the restart flag of all its peers when the first one is in sync. A
// peer that is not up yet is added anew with its flag then, but it may connect
// before that: an OPEN without the flag would have the router drop our routes
// (RFC 4724 section 4.2). GoBGP tells its logger that a connection is there before
// it sends the OPEN on it, and that a peer is up or in sync before it clears the
// flags. So the logger knows which OPENs may lack it, and hangs up.

// restart is a peer that is to be told of the restart by the OPEN of its next
// session.
type restart struct {
	local, remote netip.Addr
	connected     bool // GoBGP has a connection for the OPEN
	told          bool // the OPEN was sent on it before the flags were cleared
	lost          bool // the flag is cleared
}

// willRestart notes that the peer is to be told of the restart, or not any more.
func (l *logAdapter) willRestart(p Peer, restarting bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.restarts, p.Address.String())
	if restarting {
		l.restarts[p.Address.String()] = &restart{local: p.LocalAddress, remote: p.Address}
	}
}

// connection notes that a peer has a connection for our OPEN or has it no more, and
// hangs up if the OPEN would lack the flag. It is called with GoBGP's locks held.
func (l *logAdapter) connection(peer string, there bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.restarts[peer]; r != nil {
		r.connected, r.told = there, false
		if there && r.lost {
			_ = hangUp(r.local, r.remote)
		}
	}
}

// beforeSync notes whose OPEN is on its way. The flags may be cleared next.
func (l *logAdapter) beforeSync() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.restarts {
		if r.connected && !r.told && !r.lost {
			r.told = hasSent(r.local, r.remote)
		}
	}
}

// loseRestarts notes that the restart flag of all peers is cleared.
func (l *logAdapter) loseRestarts() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.restarts {
		if r.connected && !r.told && !r.lost {
			_ = hangUp(r.local, r.remote)
		}
		r.lost = true
	}
	poke(l.wake)
}

// hasSent tells whether something was sent between two addresses.
func hasSent(local, remote netip.Addr) bool {
	sent := false
	_ = eachConnection(local, remote, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		sent = sent || err == nil && info.Bytes_sent > 0
	})
	return sent
}
