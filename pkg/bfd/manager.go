package bfd

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// Options is what a Manager needs of its surroundings.
type Options struct {
	// Log gets debug lines, and what there is to say about the BFD process; nil
	// for none. The caller logs transitions.
	Log *slog.Logger
	// Poke is called when a Status, RemoteStatus or Error changed, without locks
	// held. It must not block: it runs between two packets. Nil for none.
	Poke func()
	// Dedicated tells that the process runs BFD and nothing that takes much
	// processor time. Then all its threads get the lowest real-time priority
	// where that is permitted (CAP_SYS_NICE), and sessions of 10 ms × 3 stay up
	// on an overloaded host. Otherwise only the thread that sends gets it.
	Dedicated bool
	// Command makes the command of a process that calls ServeInherited. Then the
	// sessions run there, where nothing else can make their packets late, and Run
	// starts it again when it ends. Nil runs them in this process.
	Command func() *exec.Cmd
}

// Manager runs BFD sessions. Its methods may be called from any goroutine.
type Manager struct {
	log       *slog.Logger
	poke      func()
	dedicated bool
	command   func() *exec.Cmd
	// prompted is called by the thread that sends, before it does: have the
	// threads real-time priority? Its error ends Run. Nil for nothing.
	prompted func(realTime bool) error
	// asked is a question whether the engine turns, answered the last one that it
	// found.
	asked, answered atomic.Uint64
	// slots are those of the last Set, wanted its valid sessions as long as the
	// engine has not taken them. Both are the only things shared with the
	// engine, which so never waits for a lock.
	slots  atomic.Pointer[[]*slot]
	wanted atomic.Pointer[[]wanted]

	mu   sync.Mutex // of Set and the ends of Run
	last []wanted
	wake func() // tells Run of a Set, nil outside Run
	// late is the most by which a turn of the last Run came too late.
	late time.Duration
}

// wanted is a valid session of a Set.
type wanted struct {
	cfg  SessionConfig
	slot *slot
}

// New returns a Manager without sessions. Run runs it.
func New(o Options) *Manager {
	m := &Manager{log: o.Log, poke: o.Poke, dedicated: o.Dedicated, command: o.Command}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.poke == nil {
		m.poke = func() {}
	}
	m.slots.Store(&[]*slot{})
	return m
}

// Set makes the sessions the wanted ones. A session that is wanted already goes
// on; timers and multiplier change without leaving Up. So does the authentication,
// if the other end's does within five minutes: until then both count, and what is
// sent has the former. One that is no longer wanted tells the other end so
// (AdminDown) and goes. A session that is invalid, or equal to one before it,
// does not run and has an Error. Set never waits for the network and may be
// called before Run.
func (m *Manager) Set(sessions []SessionConfig) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := make(map[sessionKey]*slot, len(m.last))
	for i := range m.last {
		old[m.last[i].slot.key] = m.last[i].slot
	}
	taken := make(map[sessionKey]bool, len(sessions))
	slots := make([]*slot, 0, len(sessions))
	valid := make([]wanted, 0, len(sessions))
	for i := range sessions {
		c := sessions[i]
		if c.Auth != nil {
			auth := *c.Auth // the caller's may change
			c.Auth = &auth
		}
		key := keyOf(&c)
		err := validate(&c)
		if err == nil && taken[key] {
			err = errors.New("the same session is wanted twice")
		}
		if err != nil {
			slots = append(slots, newSlot(key, &c, err))
			continue
		}
		if m.command != nil && len(valid) == maxSessions {
			err := fmt.Errorf("more than %d sessions are wanted", maxSessions)
			slots = append(slots, newSlot(key, &c, err))
			continue
		}
		taken[key] = true
		s := old[key]
		if s == nil {
			s = newSlot(key, &c, nil)
			s.remote = m.command != nil
		}
		slots = append(slots, s)
		valid = append(valid, wanted{cfg: c, slot: s})
	}
	m.last = valid
	m.slots.Store(&slots)
	m.wanted.Store(&valid)
	if m.wake != nil {
		m.wake()
	}
}

// ask has the engine answer and poke at its next turn, which comes now.
func (m *Manager) ask(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked.Store(id)
	if m.wake != nil {
		m.wake()
	}
}

// State returns what the sessions of the last Set are now. It is the caller's.
func (m *Manager) State() *State {
	slots := *m.slots.Load()
	out := &State{Sessions: make([]SessionState, len(slots))}
	for i, s := range slots {
		out.Sessions[i] = s.state()
	}
	return out
}

// Run runs the sessions in the network namespace of the calling thread until
// ctx ends. Then it tells the other ends (AdminDown), which takes up to 200 ms,
// 500 ms in a process of their own, and returns nil. It returns an error if it
// cannot begin. Not two at a time.
func (m *Manager) Run(ctx context.Context) error {
	if m.command != nil {
		return m.supervise(ctx)
	}
	net, err := newSockets()
	if err != nil {
		return fmt.Errorf("bfd: %w", err)
	}
	return m.run(ctx, net)
}

// run is Run with a network, which it closes.
func (m *Manager) run(ctx context.Context, net transport) error {
	var seed [32]byte
	if _, err := crand.Read(seed[:]); err != nil {
		net.close()
		return fmt.Errorf("bfd: random numbers: %w", err)
	}
	if err := m.begin(net.wake); err != nil {
		net.close()
		return err
	}
	stopWaking := context.AfterFunc(ctx, net.wake)
	tracer := newTracer(ctx, m.log)
	var background sync.WaitGroup
	background.Go(tracer.run)
	rnd := rand.New(rand.NewChaCha8(seed)) //nolint:gosec // a strong generator with a secret seed
	e := newEngine(net, rnd, tracer, m)
	realTime, release := promptThread(m.dedicated)
	var err error
	if m.prompted != nil {
		err = m.prompted(realTime)
	}
	if err == nil {
		e.run(ctx, &m.wanted)
	}
	release()
	close(tracer.events)
	background.Wait()
	stopWaking()
	m.finish(e.late)
	net.close()
	return err
}

// begin makes wake what tells of a Set, and all sessions new ones.
func (m *Manager) begin(wake func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wake != nil {
		return errors.New("bfd: it runs already")
	}
	m.wake = wake
	last := m.last // Set replaces the field
	m.wanted.Store(&last)
	return nil
}

func (m *Manager) finish(late time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wake, m.late = nil, late
}
