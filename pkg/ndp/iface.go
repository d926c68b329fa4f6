package ndp

import (
	"bytes"
	"net/netip"
	"slices"
	"time"
)

const (
	// The first advertisements come fast, so that a router that waits for one
	// begins at once; then as FRR's for unnumbered sessions.
	fastAdvertisements       = 4
	fastInterval             = time.Second
	minInterval, maxInterval = 7500 * time.Millisecond, 10 * time.Second
	answerDelay              = 500 * time.Millisecond // MAX_RA_DELAY_TIME, RFC 4861 section 10
	answerPause              = 3 * time.Second        // MIN_DELAY_BETWEEN_RAS
	solicitations            = 3                      // MAX_RTR_SOLICITATIONS
	solicitInterval          = 4 * time.Second        // RTR_SOLICITATION_INTERVAL
	firstDelay               = 100 * time.Millisecond // the most before the first packet on a link
	minReopen, maxReopen     = 250 * time.Millisecond, 15 * time.Second
	neighbourHold            = maxHold // of entries that are stale
	floodHold                = minHold // how long a flood is told after its last packet
	startingGap              = 2500 * time.Millisecond
)

// iface is a wanted interface.
type iface struct {
	e       *engine
	name    string
	link    link
	local   netip.Addr // the own address of the socket, without zone
	socket  socket     // nil: not open
	number  uint64     // of the socket
	routers map[netip.Addr]*router

	openAt     time.Time     // not before; zero: at once
	reopen     time.Duration // the last wait after an error
	openError  string
	sendError  string
	advertised int // since the socket was opened
	solicited  int
	// when the next packet is due, and when the last one left
	advertiseAt, advertisedAt time.Time
	solicitAt, solicitedAt    time.Time
	refusedAt                 time.Time // an advertisement for lack of room
}

// router is a neighbour that may be a router.
type router struct {
	first time.Time // when it appeared
	// advertised tells that it counts by its advertisements: the last one, and
	// when that grows old.
	advertised     bool
	heard, expires time.Time
	// neighbour tells that it counts by the neighbour table.
	neighbour, flagged bool
	confirmed, until   time.Time
}

// update takes over what the interface is now.
func (i *iface) update(l *link, now time.Time) {
	if l.index != i.link.index || !l.running {
		clear(i.routers) // the link is another one, or gone
		i.refusedAt = time.Time{}
	}
	local := i.local
	if !slices.Contains(l.locals, local) {
		local = netip.Addr{}
		if len(l.locals) > 0 {
			local = slices.MinFunc(l.locals, netip.Addr.Compare)
		}
	}
	same := l.index == i.link.index && l.running == i.link.running && local == i.local && bytes.Equal(l.mac, i.link.mac)
	i.link, i.local = *l, local
	if !same {
		i.close()
	}
	for _, own := range l.locals {
		delete(i.routers, own)
	}
	i.takeNeighbours(l.neighbours, now)
}

// takeNeighbours makes the neighbours those of the table, up to a bound; those
// that are known already have precedence, then those that are routers.
func (i *iface) takeNeighbours(table []neighbour, now time.Time) {
	for _, r := range i.routers {
		r.neighbour, r.flagged = false, false
	}
	if !i.link.running {
		return
	}
	rank := func(n *neighbour) int {
		switch {
		case i.routers[n.address] != nil:
			return 0
		case n.flagged:
			return 1
		}
		return 2
	}
	slices.SortFunc(table, func(a, b neighbour) int {
		if d := rank(&a) - rank(&b); d != 0 {
			return d
		}
		return a.address.Compare(b.address)
	})
	only := 0 // those that do not advertise themselves
	for _, n := range table {
		until := now.Add(neighbourHold)
		if !n.live {
			until = until.Add(-n.quiet)
		}
		r := i.routers[n.address]
		if !until.After(now) || slices.Contains(i.link.locals, n.address) {
			continue
		}
		if r == nil || !r.advertised {
			if only == maxRouters {
				continue
			}
			only++
		}
		if r == nil {
			r = i.add(n.address, now)
		}
		r.neighbour, r.flagged = true, n.flagged
		r.confirmed, r.until = now.Add(-n.quiet), until
	}
}

func (i *iface) add(address netip.Addr, now time.Time) *router {
	r := &router{first: now}
	i.routers[address] = r
	i.e.log.Debug("router appeared", "interface", i.name, "address", address)
	return r
}

// receive handles a packet.
func (i *iface) receive(p *packet, now time.Time) {
	switch {
	case p.err != nil:
		i.close()
		i.failed(p.err, now)
	case !p.valid() || slices.Contains(i.link.locals, p.from):
	case p.kind == kindSolicitation:
		i.answer(now)
	default:
		i.hear(p, now)
	}
}

// hear takes an advertisement.
func (i *iface) hear(p *packet, now time.Time) {
	r := i.routers[p.from]
	if r == nil || !r.advertised {
		if i.count() == maxRouters {
			if i.refusedAt.IsZero() {
				i.e.log.Debug("too many routers advertise themselves", "interface", i.name, "ignored", p.from)
			}
			i.refusedAt = now
			return
		}
		if r == nil {
			r = i.add(p.from, now)
		}
		r.advertised = true
		i.answer(now)
	} else if now.Sub(r.heard) < startingGap {
		// It begins anew, or still does, and may not know us: FRR that has been
		// started again asks nobody. Ours in return are farther apart, so two of
		// us do not excite each other.
		i.answer(now)
	}
	r.heard, r.expires = now, now.Add(p.hold())
}

// count is how many routers advertise themselves.
func (i *iface) count() int {
	n := 0
	for _, r := range i.routers {
		if r.advertised {
			n++
		}
	}
	return n
}

// answer advances the next advertisement, not so much that many questions make
// many answers (RFC 4861 section 6.2.6).
func (i *iface) answer(now time.Time) {
	at := now.Add(between(0, answerDelay))
	if least := i.advertisedAt.Add(answerPause); at.Before(least) {
		at = least
	}
	i.advertiseAt = earlier(i.advertiseAt, at)
}

// turn does what is due.
func (i *iface) turn(now time.Time) {
	if i.socket == nil && i.link.running && i.local.IsValid() && !now.Before(i.openAt) {
		i.open(now)
	}
	i.expire(now)
	if i.socket == nil {
		return
	}
	if !now.Before(i.advertiseAt) {
		i.advertise(now)
	}
	if at := i.askAt(); !at.IsZero() && !now.Before(at) {
		i.solicited++
		i.solicitedAt, i.solicitAt = now, now.Add(solicitInterval)
		i.send(allRouters(), solicitation(i.link.mac))
	}
}

// askAt is when to ask who is there: some times at first, until a router is
// known, and whenever one has been silent for half of its time.
func (i *iface) askAt() time.Time {
	var at time.Time
	known := false
	for _, r := range i.routers {
		if r.advertised {
			known = true
			at = earlier(at, r.heard.Add(r.expires.Sub(r.heard)/2))
		}
	}
	if !known && i.solicited < solicitations {
		return i.solicitAt
	}
	if !at.IsZero() && at.Before(i.solicitAt) {
		return i.solicitAt
	}
	return at
}

func (i *iface) advertise(now time.Time) {
	i.advertised++
	i.advertisedAt = now
	wait := between(minInterval, maxInterval)
	if i.advertised < fastAdvertisements {
		wait = fastInterval - between(0, fastInterval/10)
	}
	i.advertiseAt = now.Add(wait)
	i.send(allNodes(), advertisement(i.link.mac))
}

// send sends a packet; one that cannot be sent is sent anew when the next is
// due, because the socket still hears.
func (i *iface) send(to netip.Addr, b []byte) {
	i.sendError = ""
	if err := i.socket.send(to, b); err != nil {
		i.sendError = err.Error()
	}
}

// expire forgets routers of which nothing has been heard for too long.
func (i *iface) expire(now time.Time) {
	for address, r := range i.routers {
		r.advertised = r.advertised && now.Before(r.expires)
		r.neighbour = r.neighbour && now.Before(r.until)
		if !r.advertised && !r.neighbour {
			delete(i.routers, address)
			i.e.log.Debug("router vanished", "interface", i.name, "address", address)
		}
	}
	if !i.refusedAt.IsZero() && !now.Before(i.refusedAt.Add(floodHold)) {
		i.refusedAt = time.Time{}
	}
}

// next is when something is due; zero for never.
func (i *iface) next() time.Time {
	var at time.Time
	if i.socket != nil {
		at = earlier(i.advertiseAt, i.askAt())
	} else if i.link.running && i.local.IsValid() {
		at = i.openAt
	}
	for _, r := range i.routers {
		if r.advertised {
			at = earlier(at, r.expires)
		}
		if r.neighbour {
			at = earlier(at, r.until)
		}
	}
	if !i.refusedAt.IsZero() {
		at = earlier(at, i.refusedAt.Add(floodHold))
	}
	return at
}

// open opens the socket and begins to send.
func (i *iface) open(now time.Time) {
	i.e.sockets++
	s, err := i.e.net.open(i.e.sockets, &i.link, i.local, i.e.packets)
	if err != nil {
		i.failed(err, now)
		return
	}
	i.socket, i.number = s, i.e.sockets
	i.reopen, i.openError, i.sendError = 0, "", ""
	i.advertised, i.solicited = 0, 0
	i.advertiseAt, i.solicitAt = now.Add(between(0, firstDelay)), now.Add(between(0, firstDelay))
}

// failed waits before the socket is opened again.
func (i *iface) failed(err error, now time.Time) {
	i.reopen = min(max(2*i.reopen, minReopen), maxReopen)
	i.openAt = now.Add(i.reopen)
	i.openError = err.Error()
}

// close closes the socket; it may be opened again at once.
func (i *iface) close() {
	if i.socket != nil {
		i.socket.close()
		i.socket = nil
	}
	i.openAt, i.openError, i.sendError = time.Time{}, "", ""
}

func allNodes() netip.Addr   { return netip.MustParseAddr("ff02::1") }
func allRouters() netip.Addr { return netip.MustParseAddr("ff02::2") }
