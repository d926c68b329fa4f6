package owner

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// remembered is the memory of a VIP, and when to look at it again.
type remembered struct {
	memory
	again time.Duration
	told  uint64 // the calls of Set when the hold was hidden, and one; 0 if it is not
	// ceased is that of the VIP's state.
	ceased Ceased
}

// act does what is next about each VIP, at most one step for each. It leaves the
// rest for later when the lease is to be renewed, or has ended: without one, what
// it writes would stay for ever.
func (m *Manager) act(ctx context.Context, s *store, entries map[netip.Prefix]*entry) (did bool, err error) {
	var errs []error
	asked := false // whether etcd was
	for _, w := range m.plan(s, entries) {
		if asked && Now() >= m.renewed+m.every() {
			did = true // not all that is to be done
			break
		}
		e := entries[w.VIP]
		if e == nil {
			e = &entry{}
		}
		k := m.memory[w.VIP]
		if k == nil {
			k = &remembered{}
			m.memory[w.VIP] = k
		}
		one, err := m.one(ctx, s, k, w, e)
		did, asked = did || one, asked || one || err != nil
		errs = append(errs, err)
		if errors.Is(err, errNoLease) || errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break // nor would it be better with the next one
		}
	}
	m.hide()
	return did, errors.Join(errs...)
}

// plan is what is wanted, and what is held and no longer wanted at all.
func (m *Manager) plan(s *store, entries map[netip.Prefix]*entry) []Want {
	wants := slices.Clone(m.wanted())
	known := map[netip.Prefix]bool{}
	for _, w := range wants {
		known[w.VIP] = true
	}
	for vip, e := range entries {
		if !known[vip] && slices.ContainsFunc(e.holds, func(h hold) bool { return h.host == s.host && h.lease == int64(s.lease) }) {
			wants = append(wants, Want{VIP: vip, Rank: lastRank})
			known[vip] = true
		}
	}
	maps.DeleteFunc(m.memory, func(vip netip.Prefix, _ *remembered) bool { return !known[vip] })
	return wants
}

// one does what is next about one VIP.
func (m *Manager) one(ctx context.Context, s *store, k *remembered, w Want, e *entry) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, m.bound())
	defer cancel()
	asked, err := s.asking(ctx, w, e)
	if err != nil {
		return false, err
	}
	do, to, again := k.decide(self{s.host, int64(s.lease), m.opt.Config.Handover}, w, e, Now())
	k.again = again
	if k.hidden == 0 {
		k.told = 0
	}
	if do == release && !m.heard(k) {
		k.again = Now() + breath
		return asked, nil
	}
	if do == nothing {
		return asked, nil
	}
	done, err := s.do(ctx, do, to, w, e)
	if err != nil {
		return false, err
	}
	if done {
		m.opt.Log.Info("ownership", "vip", w.VIP, "step", do.String(), "to", to)
	}
	return true, nil
}

// sure is after how many calls of Set the caller knows what it was told: the first
// may come from a decision that was made before, and what that ordered is seen by
// the one after the next.
const sure = 3

// hide takes the holds out of the picture that are about to be given up.
func (m *Manager) hide() {
	old := m.state.Load()
	next := *old
	var fresh []*remembered
	for vip, k := range m.memory {
		if k.hidden == 0 || k.told > 0 {
			continue
		}
		if len(fresh) == 0 {
			next.VIPs = maps.Clone(old.VIPs)
		}
		fresh = append(fresh, k)
		v := next.VIPs[vip]
		v.Role = None
		next.VIPs[vip] = v
	}
	if len(fresh) == 0 {
		return
	}
	m.cease(&next, GivenUp)
	m.show(&next)
	m.mu.Lock()
	sets := m.sets
	m.mu.Unlock()
	// From now on nobody starts to announce them, and who just did has withdrawn
	// soon.
	for now := Now(); len(fresh) > 0; fresh = fresh[1:] {
		fresh[0].told, fresh[0].hidden = sets+1, now
	}
}

// heard tells whether the caller knows that a hold is not there any more. It asks
// for another decision if not.
func (m *Manager) heard(k *remembered) bool {
	if k.told == 0 {
		return false // it is told at the end of this turn
	}
	m.mu.Lock()
	sets := m.sets
	m.mu.Unlock()
	if sets+1 >= k.told+sure {
		return true
	}
	if m.opt.Poke != nil {
		m.opt.Poke()
	}
	return false
}
