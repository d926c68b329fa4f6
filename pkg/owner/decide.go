package owner

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// hold is a key of a host that announces a VIP, or is to stop.
type hold struct {
	Role Role `json:"role"`
	// To is the host that the owner hands over to; empty for nobody.
	To string `json:"to,omitempty"`
	ID string `json:"id,omitempty"`

	host     string
	lease    int64
	modified int64 // revision of the last change
	created  int64
}

// ask is a key of a host that could announce a VIP.
type ask struct {
	Rank     int  `json:"rank"`
	Failback bool `json:"failback,omitempty"`

	host  string
	lease int64
}

// entry is all that etcd has about one VIP at one revision.
type entry struct {
	holds []hold
	asks  []ask // the preferred host first
}

func (e *entry) owner() *hold {
	for i := range e.holds {
		if e.holds[i].Role == Owner {
			return &e.holds[i]
		}
	}
	return nil
}

func (e *entry) asked(host string) bool {
	return slices.ContainsFunc(e.asks, func(a ask) bool { return a.host == host })
}

// sorted puts the asks into the order of preference.
func (e *entry) sorted() {
	slices.SortFunc(e.asks, func(a, b ask) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.host, b.host))
	})
}

// step is one thing to do in etcd.
type step int

const (
	nothing  step = iota
	acquire       // take a VIP that nobody holds
	join          // become Next of the owner that asks for it
	takeOver      // as Next become the owner, and the owner Former
	inherit       // as Next become the owner, for the owner's hold has ended
	release       // give the own hold up
	offer         // as owner ask another host to take over
	recall        // as owner take that back
)

const (
	// grace is how long a host lets each one that is preferred go first.
	grace = 300 * time.Millisecond
	// settled is how long a preferred host must have been ready before a VIP goes
	// back to it.
	settled = 3 * time.Second
	// moving is how long both announce in a handover, for routers to move over.
	moving = 300 * time.Millisecond
	// clear is how long nothing must have been carried before a hold is given up:
	// the last withdraw may still be under way.
	clear = 200 * time.Millisecond
)

// memory is what one VIP looked like before.
type memory struct {
	// vacant is since when nobody holds it, better since when a preferred host is
	// ready, bare since when no router has it from this host; zero if it is not so.
	vacant, better, bare time.Duration
	// announced is since when a session of this host has carried it.
	announced time.Duration
	// hidden is since when the hold is about to be given up: the caller is told that
	// it has none any more, before that is so. Zero if it is not.
	hidden time.Duration
}

// since keeps the first time of a condition that lasts.
func since(at *time.Duration, is bool, now time.Duration) time.Duration {
	switch {
	case !is:
		*at = 0
	case *at == 0:
		*at = now
	}
	return *at
}

// decide tells what is next to do about one VIP, for which host, and when to look
// again if that is later; zero for when something changes.
func (m *memory) decide(host string, lease int64, w Want, e *entry, now time.Duration) (do step, to string, again time.Duration) {
	var mine *hold
	for i := range e.holds {
		if e.holds[i].host == host && e.holds[i].lease == lease {
			mine = &e.holds[i]
		}
	}
	vacant := since(&m.vacant, len(e.holds) == 0, now)
	bare := since(&m.bare, !w.Carried, now)
	announced := since(&m.announced, w.Announced, now)
	owner := e.owner()
	hidden := m.hidden
	m.hidden = 0
	switch {
	case mine == nil && len(e.holds) == 0 && w.Ready:
		first := slices.IndexFunc(e.asks, func(a ask) bool { return a.host == host && a.lease == lease })
		if first < 0 {
			return nothing, "", 0 // the own ask is on its way
		}
		if turn := vacant + time.Duration(first)*grace; turn > now {
			return nothing, "", turn
		}
		return acquire, "", 0
	case mine == nil && owner != nil && owner.To == host && w.Ready && len(e.holds) == 1:
		return join, "", 0
	case mine == nil:
		return nothing, "", 0
	case mine.Role == Next && w.Ready && owner == nil && len(e.holds) == 1:
		return inherit, "", 0
	case mine.Role == Next && w.Ready && w.Announced && owner != nil:
		if end := announced + moving; end > now {
			return nothing, "", end
		}
		return takeOver, "", 0
	case mine.Role == Former || !w.Ready:
		if w.Carried {
			return nothing, "", 0
		}
		// Until it was hidden the caller could still begin to announce it, however long
		// nobody had it before.
		m.hidden = cmp.Or(hidden, now)
		if end := max(bare, m.hidden) + clear; end > now {
			return nothing, "", end
		}
		return release, "", 0
	case mine.Role == Owner:
		return m.own(w, mine, e, now)
	}
	return nothing, "", 0
}

// own tells what the owner does about others that would like to be it.
func (m *memory) own(w Want, mine *hold, e *entry, now time.Duration) (step, string, time.Duration) {
	better := len(e.asks) > 0 && e.asks[0].Rank < w.Rank && e.asks[0].Failback
	ready := since(&m.better, better, now)
	switch {
	case mine.To != "" && !e.asked(mine.To) && len(e.holds) == 1:
		return recall, "", 0
	case mine.To != "" || !better || len(e.holds) > 1:
		return nothing, "", 0
	case ready+settled > now:
		return nothing, "", ready + settled
	}
	return offer, e.asks[0].host, 0
}

// show is what the caller is told about a VIP.
func (e *entry) show(host string, lease int64) VIPState {
	var s VIPState
	for i := range e.holds {
		h := &e.holds[i]
		if h.host == host && h.lease == lease {
			s.Role = h.Role
		}
		switch h.Role {
		case Owner:
			s.Owner, s.Epoch = h.host, h.modified
			s.ID, _ = netip.ParseAddr(h.ID) // zero for what is not known
			if h.To != "" {
				s.Next, s.Epoch = h.To, h.created
			}
		case Next:
			s.Next, s.Joined = h.host, true
		case Former, None:
		}
	}
	for _, a := range e.asks {
		s.Ready = append(s.Ready, a.host)
	}
	return s
}
