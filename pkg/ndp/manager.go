package ndp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
)

// Manager looks for routers. Its methods may be called from any goroutine.
type Manager struct {
	log     *slog.Logger
	poke    func()
	wanted  atomic.Pointer[[]string]
	state   atomic.Pointer[State]
	wake    chan struct{} // capacity 1: look at wanted again
	running atomic.Bool
}

// New returns a Manager without interfaces. Run runs it.
func New(o Options) *Manager {
	m := &Manager{log: o.Log, poke: o.Poke, wake: make(chan struct{}, 1)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.poke == nil {
		m.poke = func() {}
	}
	m.wanted.Store(&[]string{})
	m.state.Store(&State{})
	return m
}

// Set makes the interfaces the wanted ones; repetitions count once. What is
// known of those that were wanted already stays. An interface that does not
// exist is waited for. Set never blocks and may be called before Run.
func (m *Manager) Set(interfaces []string) {
	names := make([]string, 0, len(interfaces))
	for _, name := range interfaces {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if old := m.wanted.Swap(&names); slices.Equal(*old, names) {
		return
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// State returns what is known now. It is empty before Run and after it.
func (m *Manager) State() *State { return m.state.Load() }

// Run looks for routers in the network namespace of the calling thread until
// ctx ends, then returns nil. It returns an error if it cannot begin: not for
// lack of permissions, which is an Error of the interfaces. Not two at a time.
func (m *Manager) Run(ctx context.Context) error {
	k, err := newKernel()
	if err != nil {
		return fmt.Errorf("ndp: %w", err)
	}
	return m.run(ctx, k)
}

// run is Run with a network, which it closes.
func (m *Manager) run(ctx context.Context, n network) error {
	defer n.close()
	if !m.running.CompareAndSwap(false, true) {
		return errors.New("ndp: it runs already")
	}
	defer m.running.Store(false)
	e := newEngine(m, n)
	e.run(ctx)
	m.state.Store(&State{})
	return nil
}
