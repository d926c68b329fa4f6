package netmon

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ownProtocol marks the routes and rules that this program writes.
const ownProtocol = 68

// dumpTries bounds how often an interrupted dump is tried again at once. The
// last try is taken as it is, and repeated as soon as the pace allows: under
// permanent change an old picture would be worse than one with a gap.
const dumpTries = 5

// tables is the work of Run's goroutine: what was read, and what is to be read.
// The slices are never altered once they are published.
type tables struct {
	links      []Link // without addresses
	addresses  map[int][]Address
	neighbours []Neighbour
	rules      []Rule
	routes     []Route
	generation uint64

	complete bool        // every kind was read
	seen     [kinds]bool // was read once
	touched  [kinds]bool // is to be read
	removed  [kinds]bool // the next dump is news, whatever it shows
	failing  [kinds]bool // the last dump failed
	paces    [kinds]pace
	sockets  [kinds]*request // one each: a dump may be paused for another kind
	broken   map[int]bool    // links an event showed broken since the last dump
	watched  map[int]bool    // indexes
	nextPoll time.Time
}

func (m *Monitor) closeSockets() {
	for k, s := range m.sockets {
		if s != nil {
			_ = s.close()
			m.sockets[k] = nil
		}
	}
}

// read dumps one kind and publishes what changed.
func (m *Monitor) read(k kind) {
	removed := m.removed[k]
	m.touched[k], m.removed[k] = false, false
	start := time.Now()
	apply, err := m.dump(k)
	for try := 1; try < dumpTries && errors.Is(err, errInterrupted); try++ {
		m.count("dump_interrupted")
		apply, err = m.dump(k)
	}
	end := time.Now()
	m.paces[k].spend(end, end.Sub(start))
	if err != nil && !errors.Is(err, errInterrupted) {
		m.count("dump_error")
		if !m.failing[k] {
			m.log.Warn("netlink dump failed, trying again", "table", k.String(), "error", err)
		}
		m.failing[k], m.touched[k] = true, true
		m.removed[k] = m.removed[k] || removed
		m.paces[k].free = end.Add(retryWait)
		return
	}
	if err != nil {
		m.count("dump_interrupted")
		m.touched[k] = true
	}
	if m.failing[k] {
		m.log.Info("netlink dump works again", "table", k.String())
	}
	m.failing[k] = false
	apply()
	if removed && m.complete && m.poke != nil {
		m.poke()
	}
}

// setLinks takes over links as they were just read, in order of index. broken
// are those that were unhealthy at some moment since the last time.
func (m *Monitor) setLinks(fresh []Link, broken map[int]bool) {
	now := time.Now()
	for i := range fresh {
		f := &fresh[i]
		old, known := find(m.links, f.Index)
		switch {
		case !f.Healthy() || !m.seen[links]:
			f.HealthySince = time.Time{}
		case known && old.Healthy() && !broken[f.Index]:
			f.HealthySince = old.HealthySince
		default:
			f.HealthySince = now
		}
	}
	changed := !slices.EqualFunc(fresh, m.links, Link.same)
	if changed {
		// IPv4 routes vanish with a link, and get their flags, without an event.
		m.touched[routes] = true
		m.logLinks(fresh)
	}
	m.links = fresh
	m.publish(links, changed, changed)
	m.rewatch()
}

// logLinks tells what became of the watched links.
func (m *Monitor) logLinks(fresh []Link) {
	names := *m.names.Load()
	for _, f := range fresh {
		old, known := find(m.links, f.Index)
		if names[f.Name] && (!known || old.Healthy() != f.Healthy()) {
			m.log.Debug("link changed", "link", f.Name, "index", f.Index, "up", f.Up, "running", f.Running, "oper_state", f.OperState)
		}
	}
}

// find returns the link with the index; ls is in order of index.
func find(ls []Link, index int) (Link, bool) {
	i, ok := slices.BinarySearchFunc(ls, index, func(l Link, index int) int { return l.Index - index })
	if !ok {
		return Link{}, false
	}
	return ls[i], true
}

// publish makes a new State if a kind changed, and pokes if that may matter.
// Before every kind was read once there is nothing to show.
func (m *Monitor) publish(k kind, changed, poke bool) {
	m.seen[k] = true
	first := !m.complete
	if first {
		if slices.Contains(m.seen[:], false) {
			return
		}
		m.complete, changed, poke = true, true, true
	}
	if !changed {
		return
	}
	m.generation++
	s := &State{
		Links:      slices.Clone(m.links),
		Routes:     m.routes,
		Rules:      m.rules,
		Neighbours: m.neighbours,
		Generation: m.generation,
	}
	for i := range s.Links {
		s.Links[i].Addresses = m.addresses[s.Links[i].Index]
	}
	m.state.Store(s)
	if first {
		close(m.ready)
	}
	if poke && m.poke != nil {
		m.poke()
	}
}

// same compares all but Addresses, which are kept apart.
func (l Link) same(o Link) bool {
	return l.Index == o.Index && l.Name == o.Name && l.Alias == o.Alias && l.Kind == o.Kind &&
		l.MasterIndex == o.MasterIndex && l.MTU == o.MTU && l.Up == o.Up && l.Running == o.Running &&
		l.OperState == o.OperState && l.HealthySince.Equal(o.HealthySince)
}

func (r Route) same(o Route) bool {
	return r.Table == o.Table && r.Prefix == o.Prefix && r.Type == o.Type && r.Protocol == o.Protocol &&
		r.Metric == o.Metric && r.Source == o.Source && slices.Equal(r.NextHops, o.NextHops)
}

// own and alters tell our own routes and rules from those of others, and a
// route of ours that only got new next hops or another source.
func (r Route) own() bool { return r.Protocol == ownProtocol }

func (r Route) alters(o Route) bool {
	return r.own() && o.own() && r.Table == o.Table && r.Prefix == o.Prefix && r.Metric == o.Metric
}

func (r Rule) same(o Rule) bool { return r == o }

func (r Rule) own() bool { return r.Protocol == ownProtocol }

// foreign tells whether fresh differs from old by more than what we write
// ourselves: entries of ours added or altered. An entry of ours that is gone
// counts: somebody else may have taken it. Both are in the kernel's order, which
// adding and removing does not alter.
func foreign[T any](old, fresh []T, same func(T, T) bool, own func(T) bool, alters func(T, T) bool) bool {
	i := 0
	for _, f := range fresh {
		switch {
		case i < len(old) && same(old[i], f):
			i++
		case !own(f):
			return true
		case i < len(old) && alters(f, old[i]):
			i++
		}
	}
	return i < len(old)
}

// resolved tells whether packets for the neighbour can be sent.
func (n Neighbour) resolved() bool {
	return n.State != unix.NUD_NONE && n.State&(unix.NUD_INCOMPLETE|unix.NUD_FAILED) == 0
}
