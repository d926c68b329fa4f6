package netmon

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// pollInterval is how often each watched link is asked for. The kernel
	// reports carrier changes of real cards at most once a second; a question
	// about the one device makes it look (a dump of all links does not).
	pollInterval = 50 * time.Millisecond
	// resyncInterval is the time between full re-reads without any cause.
	resyncInterval = 30 * time.Second
	// eventBuffer is the wanted receive buffer of the subscription, in bytes.
	eventBuffer = 8 << 20
	// retryWait is the pause after a dump that failed.
	retryWait = 250 * time.Millisecond
)

// Options are what a Monitor needs.
type Options struct {
	// Log is required.
	Log *slog.Logger
	// Poke is called, without any lock held, after a State was published that a
	// decision may depend on. It must not block. May be nil.
	//
	// It is called for every change of links, addresses and rules, for routes
	// that vanished and for routes of others that appeared, and when an entry of
	// a watched link appeared, vanished, or changed between resolved and
	// unresolved. It is not called for added or altered routes and added rules of
	// protocol 68, our own, so that our writes do not wake us again.
	Poke func()
}

// Monitor reads the network configuration of the process's namespace and keeps
// a State. Make it with New, then call Run once.
type Monitor struct {
	log       *slog.Logger
	poke      func()
	subscribe func() (*os.File, error)

	state atomic.Pointer[State]
	ready chan struct{}
	names atomic.Pointer[map[string]bool] // watched, replaced as a whole
	in    *inbox

	mu      sync.Mutex // guards resyncs
	resyncs map[string]uint64

	tables // owned by the goroutine of Run
}

// New returns a Monitor that watches no link yet.
func New(o Options) *Monitor {
	m := &Monitor{
		log:       o.Log,
		poke:      o.Poke,
		subscribe: func() (*os.File, error) { return subscribe(eventBuffer) },
		ready:     make(chan struct{}),
		in:        newInbox(),
		resyncs:   map[string]uint64{},
	}
	m.names.Store(&map[string]bool{})
	m.broken = map[int]bool{}
	return m
}

// Watch replaces the names of the listed links: those are polled every 50 ms
// and have their neighbours in the State. A name that no link bears is good.
// It may be called at any time from any goroutine.
func (m *Monitor) Watch(names []string) {
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	m.names.Store(&set)
	m.in.ring()
}

// State returns the newest picture, nil before the first complete one.
func (m *Monitor) State() *State { return m.state.Load() }

// Ready is closed when State has become non-nil.
func (m *Monitor) Ready() <-chan struct{} { return m.ready }

// Resyncs returns how often events were lost or dumps failed, by cause:
// overflow (receive buffer), truncated (event), read_error (subscription),
// dump_error, dump_interrupted; and interval for the regular re-reads.
func (m *Monitor) Resyncs() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.resyncs)
}

// count adds one to the cause and returns the sum.
func (m *Monitor) count(cause string) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resyncs[cause]++
	return m.resyncs[cause]
}

// Run keeps the State until the context ends, then returns nil. It ends for no
// other reason: what fails is logged, counted and tried again.
func (m *Monitor) Run(ctx context.Context) error {
	var listener sync.WaitGroup
	defer listener.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	listener.Go(func() { m.listen(ctx) })
	defer m.closeSockets()

	m.nextPoll = time.Now()
	resync := time.NewTicker(resyncInterval)
	defer resync.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.in.wake:
		case <-timer.C:
		case <-resync.C:
			m.count("interval")
			m.in.all()
		}
		m.turn(kinds)
		timer.Reset(time.Until(m.nextTurn()))
	}
}

// turn does what is due: new marks from events, the poll, and dumps of the
// kinds below limit. A dump calls it again after each part of a long answer
// with itself as the limit: so 100,000 routes do not hold up a link.
func (m *Monitor) turn(limit kind) {
	for i := range m.in.take(&m.touched, &m.removed) {
		m.broken[i] = true
	}
	m.rewatch()
	if now := time.Now(); limit > links && !now.Before(m.nextPoll) {
		m.nextPoll = now.Add(pollInterval)
		m.pollLinks()
	}
	for k := range limit {
		if m.touched[k] && m.paces[k].due(time.Now()) {
			m.read(k)
		}
	}
}

// nextTurn is when something is due without a wake-up.
func (m *Monitor) nextTurn() time.Time {
	next := m.nextPoll
	for k, touched := range m.touched {
		if touched && m.paces[k].free.Before(next) {
			next = m.paces[k].free
		}
	}
	return next
}

// rewatch follows changes of the wanted names and of the links that bear them.
func (m *Monitor) rewatch() {
	names := *m.names.Load()
	indexes := make(map[int]bool, len(names))
	for i := range m.links {
		if names[m.links[i].Name] {
			indexes[m.links[i].Index] = true
		}
	}
	if !maps.Equal(indexes, m.watched) {
		m.watched = indexes
		m.in.watch(maps.Clone(indexes))
		m.touched[neighbours] = true
	}
}

// pollLinks asks for each watched link by itself and publishes what it shows.
func (m *Monitor) pollLinks() {
	for _, index := range slices.Sorted(maps.Keys(m.watched)) {
		l, err := m.askLink(index)
		if err != nil {
			m.touched[links] = true // gone, or the question failed: the dump tells
			continue
		}
		old, known := find(m.links, index)
		if l.HealthySince = old.HealthySince; !known || l.same(old) {
			continue
		}
		fresh := slices.Clone(m.links)
		for i := range fresh {
			if fresh[i].Index == index {
				fresh[i] = l
			}
		}
		m.setLinks(fresh, nil)
	}
}

// pace spaces the dumps of one kind. The first ones follow an event at once;
// when they keep coming, dumps take at most a fifth of the time and come at
// most every 5 ms, however many events there are.
type pace struct{ free time.Time }

const (
	paceStep  = 5 * time.Millisecond  // least cost of a dump
	paceBurst = 50 * time.Millisecond // cost that may be owed: ten quick dumps in a row
	paceShare = 5                     // cost of a dump, in its durations
)

func (p *pace) due(now time.Time) bool { return !now.Before(p.free) }

func (p *pace) spend(now time.Time, took time.Duration) {
	if floor := now.Add(-paceBurst); p.free.Before(floor) {
		p.free = floor
	}
	p.free = p.free.Add(max(paceStep, paceShare*took))
}
