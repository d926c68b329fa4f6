package owner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// errNotConnected is the error of an order that needs etcd before it was reached.
var errNotConnected = errors.New("etcd has not been reached yet")

// Manager keeps this host's lease and holds. Set and State never block.
type Manager struct {
	opt   Options
	wake  chan struct{}
	state atomic.Pointer[State]
	store atomic.Pointer[store] // for Move; the lease in it belongs to Run

	mu    sync.Mutex
	wants []Want
	sets  uint64 // calls of Set

	// What follows belongs to Run.

	memory   map[netip.Prefix]*remembered
	renewed  time.Duration // when the last renewal was sent that had an answer
	until    time.Duration
	troubled bool
	refused  string // see State
}

// New returns a manager that does nothing before Run.
func New(o Options) *Manager {
	m := &Manager{opt: o, wake: make(chan struct{}, 1), memory: map[netip.Prefix]*remembered{}}
	m.state.Store(&State{})
	return m
}

// State returns the newest picture; never nil.
func (m *Manager) State() *State { return m.state.Load() }

// Set says what the host is ready for. What is not in the list is given up.
func (m *Manager) Set(wants []Want) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sets++
	if !slices.Equal(m.wants, wants) {
		m.wants = slices.Clone(wants)
		poke(m.wake)
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (m *Manager) wanted() []Want {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wants
}

// Move asks the owner of a VIP to hand it over to a host that is ready. It
// returns when the order is in etcd, or why it cannot be. The order is in force while
// VIPState.Revision is the one that it returns; with a greater one it has been carried
// out, taken back, or replaced by another.
func (m *Manager) Move(ctx context.Context, vip netip.Prefix, to string) (revision int64, err error) {
	s := m.store.Load()
	if s == nil {
		return 0, errNotConnected
	}
	ctx, cancel := context.WithTimeout(ctx, m.opt.Config.Lease)
	defer cancel()
	c := &store{client: s.client, prefix: s.prefix, names: s.names, host: s.host}
	return c.move(ctx, vip, to)
}

// every is the time between two renewals.
func (m *Manager) every() time.Duration { return m.opt.Config.Lease / 3 }

// bound is how long one request may take: an endpoint that does not answer must
// leave time for others.
func (m *Manager) bound() time.Duration { return m.opt.Config.Lease / 6 }

// Run keeps the lease until ctx ends. Then it gives up everything that no router
// has any more, at once; the rest ends with the lease.
func (m *Manager) Run(ctx context.Context) error {
	var s *store
	for s == nil {
		var err error
		if s, err = dial(ctx, m.opt.Config, m.opt.Host); err != nil {
			m.trouble(err)
			if !pause(ctx, time.Second) {
				return nil
			}
		}
	}
	defer s.client.Close() //nolint:errcheck // nothing is left to say
	m.store.Store(s)
	events := make(chan struct{}, 1)
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { watch(watching, s.client, s.prefix, events) })
	defer wg.Wait()
	defer stop()
	for ctx.Err() == nil {
		wait := m.turn(ctx, s)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-m.wake:
		case <-events:
		}
		timer.Stop()
	}
	m.leave(context.WithoutCancel(ctx), s)
	return nil
}

// watch tells of every change below a prefix. It says nothing but that there was
// one; what it misses is found with the next renewal.
func watch(ctx context.Context, client *clientv3.Client, prefix string, events chan struct{}) {
	for ctx.Err() == nil {
		for r := range client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix()) {
			poke(events)
			if r.Err() != nil {
				break
			}
		}
		poke(events)
		pause(ctx, 100*time.Millisecond)
	}
}

// turn renews if that is due, reads, and does what is next. It returns when to do
// so again.
func (m *Manager) turn(ctx context.Context, s *store) time.Duration {
	did, err := m.step(ctx, s)
	m.trouble(err)
	switch {
	case err != nil:
		return m.bound() / 4
	case did:
		return breath // what was done is to be read
	}
	next := m.again(m.renewed + m.every())
	if m.refused != "" {
		next = min(next, Now()+askAgain)
	}
	return max(next-Now(), breath)
}

// askAgain is how often a host asks whether its name is free.
const askAgain = time.Second

// breath is the least time between two turns that nothing wakes.
const breath = 5 * time.Millisecond

// again is when a decision may change by itself, at the latest by the given time.
func (m *Manager) again(next time.Duration) time.Duration {
	for _, k := range m.memory {
		if k.again > 0 {
			next = min(next, k.again)
		}
	}
	return next
}

// step renews if that is due, reads, shows, and does what is next. It tells
// whether it did anything.
func (m *Manager) step(ctx context.Context, s *store) (bool, error) {
	sent := Now()
	due := sent >= m.renewed+m.every() || s.lease == 0
	var ttl time.Duration
	if due {
		c, cancel := context.WithTimeout(ctx, m.bound())
		defer cancel()
		var err error
		if ttl, err = s.renew(c, m.opt.Config.Lease); err != nil {
			return false, m.judge(err)
		}
	}
	refused, err := m.name(ctx, s)
	if err != nil {
		return false, m.judge(err)
	}
	m.refused = refused
	c, cancel := context.WithTimeout(ctx, m.bound())
	defer cancel()
	entries, err := s.read(c)
	if err != nil {
		return false, err
	}
	if due {
		// Only now, when it has been read after the renewal who the owner is: else one
		// who is no longer that could go on renewing.
		m.renewed, m.until = sent, sent+ttl-margin(ttl)
	}
	m.publish(s, entries)
	if refused != "" {
		return false, nil
	}
	did, err := m.act(ctx, s, entries)
	return did, m.judge(err)
}

// judge notes what an error means for the holds.
func (m *Manager) judge(err error) error {
	if errors.Is(err, errNoLease) {
		m.lost()
	}
	return err
}

// lost notes that the lease has ended.
func (m *Manager) lost() {
	m.until, m.renewed = 0, 0
	old := m.state.Load()
	next := &State{Error: old.Error, Refused: old.Refused, VIPs: make(map[netip.Prefix]VIPState, len(old.VIPs))}
	for vip, v := range old.VIPs {
		v.Role = None
		next.VIPs[vip] = v
	}
	m.cease(next, LeaseEnded)
	m.show(next)
}

// cease completes a picture: it tells why this host is not the owner any more of
// what it was in the one before, for which the reason is given if its hold is gone.
func (m *Manager) cease(next *State, why Ceased) {
	old := m.state.Load()
	for vip, k := range m.memory {
		v := next.VIPs[vip]
		switch {
		case v.Role == Owner:
			k.ceased = ""
		case old.VIPs[vip].Role != Owner:
		case v.Role == Former:
			k.ceased = HandedOver
		default:
			k.ceased = why
		}
		if v.Ceased = k.ceased; v.Ceased != "" {
			next.VIPs[vip] = v
		}
	}
}

func (m *Manager) publish(s *store, entries map[netip.Prefix]*entry) {
	// What went wrong is shown until a turn has ended without.
	next := &State{Until: m.until, Error: m.state.Load().Error, Refused: m.refused, VIPs: make(map[netip.Prefix]VIPState, len(entries))}
	if m.refused != "" {
		next.Until = 0
	}
	for vip, e := range entries {
		v := e.show(m.opt.Host, int64(s.lease))
		if k := m.memory[vip]; k != nil && k.hidden > 0 {
			v.Role = None
		}
		next.VIPs[vip] = v
	}
	why := HoldGone
	if !s.hasName() {
		why = LeaseEnded // all keys of it are gone
	}
	m.cease(next, why)
	m.show(next)
}

func (m *Manager) show(next *State) {
	old := m.state.Swap(next)
	if m.opt.Poke != nil && (old.Until != next.Until || old.Error != next.Error || old.Refused != next.Refused || !maps.EqualFunc(old.VIPs, next.VIPs, sameVIP)) {
		m.opt.Poke()
	}
}

func sameVIP(a, b VIPState) bool {
	return a.Role == b.Role && a.Ceased == b.Ceased && a.Owner == b.Owner && a.ID == b.ID && a.Next == b.Next && a.Joined == b.Joined && a.Former == b.Former && a.Epoch == b.Epoch && a.Revision == b.Revision && slices.Equal(a.Ready, b.Ready)
}

// trouble notes whether etcd could be asked. What was known stays in force until
// its time has come.
func (m *Manager) trouble(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case err != nil && !m.troubled:
		m.opt.Log.Warn("etcd cannot be asked", "error", err)
	case err == nil && m.troubled:
		m.opt.Log.Info("etcd answers again")
	}
	m.troubled = err != nil
	old := m.state.Load()
	if old.Error == text {
		return
	}
	next := *old
	next.Error = text
	m.show(&next)
}

// leave gives up at once what no router has, so that others need not wait for the
// end of the lease.
func (m *Manager) leave(ctx context.Context, s *store) {
	ctx, cancel := context.WithTimeout(ctx, m.bound())
	defer cancel()
	if slices.ContainsFunc(m.wanted(), func(w Want) bool { return w.Carried }) || s.lease == 0 {
		return
	}
	m.lost()
	if _, err := s.client.Revoke(ctx, s.lease); err != nil {
		m.opt.Log.Warn("lease not given back, it ends by itself", "error", fmt.Errorf("revoke: %w", err))
	}
}

// pause waits, and tells whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
