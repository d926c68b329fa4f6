package bgp

// GoBGP clears the restart flag of all its peers when the first one is in sync. A
// peer that is not up yet is added anew with its flag then, but it may connect
// before that: an OPEN without the flag would have the router drop our routes
// (RFC 4724 section 4.2). GoBGP tells its logger that a connection is there before
// it sends the OPEN on it, so this is where it is hung up.

// willRestart notes that the peer is to be told of the restart by the OPEN of its
// next session; hangUp ends its connections. It is nil when there is no restart.
func (l *logAdapter) willRestart(peer string, hangUp func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.lost, peer)
	delete(l.restarts, peer)
	if hangUp != nil {
		l.restarts[peer] = hangUp
	}
}

// loseRestarts notes that the restart flag of all peers is cleared.
func (l *logAdapter) loseRestarts() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for peer := range l.restarts {
		l.lost[peer] = true
	}
	poke(l.wake)
}

// keepSilent ends a connection whose OPEN would lack the restart flag, before it is
// sent. It is called with GoBGP's locks held.
func (l *logAdapter) keepSilent(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost[peer] {
		l.restarts[peer]()
	}
}
