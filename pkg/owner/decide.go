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
	// Epoch is since which revision an owner has been it that has changed this since; 0
	// for that of the last change.
	Epoch int64 `json:"epoch,omitempty"`

	host     string
	lease    int64
	modified int64 // revision of the last change
}

// epoch is the revision at which an owner became that.
func (h *hold) epoch() int64 { return cmp.Or(h.Epoch, h.modified) }

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
	inherit       // become the owner as the only one that has a hold
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
	// moving is how long Next has announced a VIP before it becomes the owner, for the
	// routers that are nearest to it to move over.
	moving = 500 * time.Millisecond
	// clear is how long nothing must have been carried before a hold is given up:
	// the last withdraw may still be under way.
	clear = 200 * time.Millisecond
)

// memory is what one VIP looked like before.
type memory struct {
	// vacant is since when nobody holds it, better since when a preferred host is
	// ready, bare since when no router has it from this host; zero if it is not so.
	vacant, better, bare time.Duration
	// announced is since when a session of this host has carried it, former since when
	// this host is Former.
	announced, former time.Duration
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

// self is the host that decides.
type self struct {
	host     string
	lease    int64
	handover time.Duration // Config.Handover
}

// decide tells what is next to do about one VIP, for which host, and when to look
// again if that is later; zero for when something changes.
func (m *memory) decide(me self, w Want, e *entry, now time.Duration) (do step, to string, again time.Duration) {
	var mine *hold
	for i := range e.holds {
		if e.holds[i].host == me.host && e.holds[i].lease == me.lease {
			mine = &e.holds[i]
		}
	}
	vacant := since(&m.vacant, len(e.holds) == 0, now)
	bare := since(&m.bare, !w.Carried, now)
	announced := since(&m.announced, w.Announced, now)
	former := since(&m.former, mine != nil && mine.Role == Former, now)
	owner := e.owner()
	hidden := m.hidden
	m.hidden = 0
	alone := owner == nil && len(e.holds) == 1
	switch {
	case mine == nil && len(e.holds) == 0 && w.Ready && !w.Leaving:
		first := slices.IndexFunc(e.asks, func(a ask) bool { return a.host == me.host && a.lease == me.lease })
		if first < 0 {
			return nothing, "", 0 // the own ask is on its way
		}
		if turn := vacant + time.Duration(first)*grace; turn > now {
			return nothing, "", turn
		}
		return acquire, "", 0
	case mine == nil && owner != nil && owner.To == me.host && w.Ready && !w.Leaving && len(e.holds) == 1:
		return join, "", 0
	case mine == nil:
		return nothing, "", 0
	case mine.Role == Next && w.Ready && alone:
		return inherit, "", 0
	case mine.Role == Former && w.Ready && !w.Leaving && alone && hidden == 0:
		return inherit, "", 0 // the one that took it over is gone
	case mine.Role == Next && w.Ready && w.Announced && owner != nil:
		if end := announced + moving; end > now {
			return nothing, "", end
		}
		return takeOver, "", 0
	case mine.Role == Former && w.Ready && hidden == 0 && former+me.handover > now:
		return nothing, "", former + me.handover
	case mine.Role == Former || !w.Ready:
		return m.part(mine, w.Carried, hidden, bare, now)
	case mine.Role == Owner:
		return m.own(me, w, mine, e, now)
	}
	return nothing, "", 0
}

// part gives a hold up once no router has the VIP. Until it was hidden the caller
// could still begin to announce it, however long nobody had it before. That of Former
// is hidden so that the caller withdraws, any other once it has: who cannot announce
// withdraws by itself, and may be well again before it has to be given up.
func (m *memory) part(mine *hold, carried bool, hidden, bare, now time.Duration) (step, string, time.Duration) {
	if mine.Role == Former || !carried {
		m.hidden = cmp.Or(hidden, now)
	}
	if carried {
		return nothing, "", 0
	}
	if end := max(bare, m.hidden) + clear; end > now {
		return nothing, "", end
	}
	return release, "", 0
}

// own tells what the owner does about others that would like to be it.
func (m *memory) own(me self, w Want, mine *hold, e *entry, now time.Duration) (step, string, time.Duration) {
	var best ask // of another host; without a name if there is none
	if at := slices.IndexFunc(e.asks, func(a ask) bool { return a.host != me.host }); at >= 0 {
		best = e.asks[at]
	}
	better := best.host != "" && (w.Leaving || best.Rank < w.Rank && best.Failback)
	ready := since(&m.better, better, now)
	switch {
	case mine.To != "" && !e.asked(mine.To) && len(e.holds) == 1:
		return recall, "", 0
	case mine.To != "" || !better || len(e.holds) > 1:
		return nothing, "", 0
	case !w.Leaving && ready+settled > now:
		return nothing, "", ready + settled
	}
	return offer, best.host, 0
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
			s.Owner, s.Epoch, s.Revision, s.Next = h.host, h.epoch(), h.modified, cmp.Or(h.To, s.Next)
			s.ID, _ = netip.ParseAddr(h.ID) // zero for what is not known
		case Next:
			s.Next, s.Joined = h.host, true
		case Former:
			s.Former = h.host
		case None:
		}
	}
	for _, a := range e.asks {
		s.Ready = append(s.Ready, a.host)
	}
	return s
}
