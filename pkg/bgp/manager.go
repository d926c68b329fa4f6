package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what a Manager needs.
type Options struct {
	Log *slog.Logger
	// Poke is called after State changed. It must not block.
	Poke func()
	// Command makes the command of a speaker process, whose body is
	// ServeInherited. The Manager sets its files and attributes. It is run as
	// another user where possible, so its path must be one that anybody may
	// execute, such as /proc/self/exe.
	Command func(name string) *exec.Cmd
	// Restarting says that a former daemon did not end in good order, so that
	// peers may still hold its routes (RFC 4724).
	Restarting bool
}

// Manager runs one speaker process for each wanted speaker: it starts them,
// tells them what is wanted, watches them, and starts them again when they die
// or hang. What one process does or fails to do never holds up another.
//
// A new ASN or router id replaces the process, with a Cease to its peers. New
// listen addresses replace it only while none of its sessions is established;
// until then it dials only.
type Manager struct {
	opt     Options
	log     *slog.Logger
	timing  managerTiming
	started time.Time
	wake    chan struct{}
	state   atomic.Pointer[State]
	publish sync.Mutex // orders the writes of state

	mu       sync.Mutex
	want     map[string]SpeakerConfig
	runners  map[string]*runner
	stopping *stopOrder
}

// managerTiming are the intervals that tests shorten.
type managerTiming struct {
	ping        time.Duration // between two pings
	misses      int           // pings without an answer after which a process is killed
	firstRetry  time.Duration // pause after the second crash in a row
	longRetry   time.Duration // longest pause
	goodLife    time.Duration // a process that lived this long crashed for a new reason
	drain       time.Duration // longest time for a process to withdraw and end
	pingTimeout time.Duration // what the process waits for pings
}

func defaultManagerTiming() managerTiming {
	return managerTiming{
		ping: time.Second, misses: 3, firstRetry: 100 * time.Millisecond, longRetry: 30 * time.Second,
		goodLife: time.Minute, drain: 5 * time.Second, pingTimeout: pingTimeout,
	}
}

// stopOrder says how a speaker process has to end.
type stopOrder struct {
	mode StopMode
	text string
}

// NewManager returns a manager that does nothing before Run.
func NewManager(o Options) *Manager {
	m := &Manager{
		opt: o, log: o.Log, timing: defaultManagerTiming(), started: time.Now(), wake: make(chan struct{}, 1),
		want: map[string]SpeakerConfig{}, runners: map[string]*runner{},
	}
	m.state.Store(&State{})
	return m
}

// State returns the picture of all speakers; never nil, never changed later.
func (m *Manager) State() *State { return m.state.Load() }

// Withdraw stops the peers and deletes the paths that are not in d, and ends the
// speakers that are not. It adds and changes nothing else, and never blocks.
func (m *Manager) Withdraw(d Desired) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keep := byName(d)
	for name, have := range m.want {
		want, ok := keep[name]
		if !ok {
			m.drop(name)
			continue
		}
		m.set(name, intersect(have, want))
	}
	poke(m.wake)
}

// Announce makes all speakers equal to d. It never blocks; a later call
// replaces what has not been carried out.
func (m *Manager) Announce(d Desired) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := byName(d)
	for name := range m.want {
		if _, ok := wanted[name]; !ok {
			m.drop(name)
		}
	}
	for name, cfg := range wanted {
		m.set(name, cfg)
	}
	poke(m.wake)
}

func (m *Manager) set(name string, cfg SpeakerConfig) {
	m.want[name] = cfg
	if r := m.runners[name]; r != nil {
		r.setTarget(cfg)
	}
}

func (m *Manager) drop(name string) {
	text := m.want[name].DownReason
	if text == "" {
		text = "interface " + name + " is not configured any more"
	}
	delete(m.want, name)
	if r := m.runners[name]; r != nil {
		r.order(stopOrder{StopDrain, text})
	}
}

func byName(d Desired) map[string]SpeakerConfig {
	out := make(map[string]SpeakerConfig, len(d.Speakers))
	for _, s := range d.Speakers {
		out[s.Name] = s
	}
	return out
}

// intersect returns have without the peers and paths that want has not.
func intersect(have, want SpeakerConfig) SpeakerConfig {
	peers := make(map[netip.Addr]bool, len(want.Peers))
	for _, p := range want.Peers {
		peers[p.Address] = true
	}
	paths := make(map[pathKey]bool, len(want.Paths))
	for _, p := range want.Paths {
		paths[p.key()] = true
	}
	have.Peers = slices.DeleteFunc(slices.Clone(have.Peers), func(p Peer) bool { return !peers[p.Address] })
	have.Paths = slices.DeleteFunc(slices.Clone(have.Paths), func(p Path) bool { return !paths[p.key()] })
	have.Watch, have.Fence = want.Watch, want.Fence
	have.DownReason, have.DownReasons = want.DownReason, want.DownReasons
	return have
}

// Run starts and supervises the processes until ctx ends; then it kills those
// that Stop has not ended. Peers keep the routes of a killed process by
// graceful restart.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ended := make(chan *runner)
	for {
		for _, r := range m.missing() {
			wg.Go(func() {
				r.run(ctx)
				select {
				case ended <- r:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case r := <-ended:
			m.remove(r)
		}
	}
}

// missing makes a runner for each wanted speaker without one.
func (m *Manager) missing() []*runner {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping != nil {
		return nil
	}
	var out []*runner
	for _, name := range sortedKeys(m.want) {
		if m.runners[name] != nil {
			continue
		}
		cfg := m.want[name]
		r := newRunner(m, cfg)
		r.restarting = m.opt.Restarting && time.Since(m.started) < cfg.GracefulRestart.RestartTime
		m.runners[name] = r
		out = append(out, r)
	}
	return out
}

// remove forgets a runner that ended, and shows its end while the daemon stops.
func (m *Manager) remove(r *runner) {
	m.mu.Lock()
	if m.stopping == nil {
		delete(m.runners, r.name)
	}
	m.mu.Unlock()
	m.show()
}

// show publishes the state of all runners.
func (m *Manager) show() {
	m.publish.Lock()
	m.mu.Lock()
	next := &State{}
	for _, r := range m.runners {
		next.Speakers = append(next.Speakers, *r.state.Load())
	}
	m.mu.Unlock()
	slices.SortFunc(next.Speakers, func(a, b SpeakerState) int { return strings.Compare(a.Name, b.Name) })
	m.state.Store(next)
	m.publish.Unlock()
	if m.opt.Poke != nil {
		m.opt.Poke()
	}
}

// Stop ends all speaker processes and returns when they have ended. StopDrain
// withdraws all paths, then sends Cease with the text; StopRestart leaves
// without a word, so that peers keep the routes. What has not ended when ctx
// does, or after its own bound of 5 s, is killed and reported. Nothing is
// started after Stop.
func (m *Manager) Stop(ctx context.Context, mode StopMode, text string) error {
	m.mu.Lock()
	order := stopOrder{mode, text}
	m.stopping = &order
	runners := slices.Collect(maps.Values(m.runners))
	for _, r := range runners {
		r.order(order)
	}
	m.mu.Unlock()
	var errs []error
	for _, r := range runners {
		select {
		case <-r.done:
		case <-ctx.Done():
			select {
			case <-r.done: // in time, while another was waited for
			default:
				r.abort()
				<-r.done
			}
		}
		if r.killed.Load() {
			errs = append(errs, fmt.Errorf("speaker %s did not end in time and was killed", r.name))
		}
	}
	return errors.Join(errs...)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
