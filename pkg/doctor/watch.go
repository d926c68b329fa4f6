package doctor

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// watchEvery is the time between two looks of a Watch, and watchHeavy how many of
// them pass until it looks for what takes long again.
const (
	watchEvery = 30 * time.Second
	watchHeavy = 20
	// watchBegin is when the first of them comes: a daemon that starts has more
	// urgent things to do than to wait for programs that list firewall rules.
	watchBegin = 3 * time.Second
)

// Watch looks again and again, for the daemon.
type Watch struct {
	input func() *Input
	poke  func()
	again chan struct{}
	// problems are what was found, in words.
	problems atomic.Pointer[[]string]
	found    map[string][]string // by condition; belongs to the one who looks
}

// NewWatch returns a watch that asks input for what to examine and calls poke
// when what it finds has changed.
func NewWatch(input func() *Input, poke func()) *Watch {
	w := &Watch{input: input, poke: poke, again: make(chan struct{}, 1), found: map[string][]string{}}
	w.problems.Store(&[]string{})
	return w
}

// Problems is what was found last and breaks something, a line each. It does not
// block.
func (w *Watch) Problems() []string { return *w.problems.Load() }

// Again has it look at once, for everything. It does not block.
func (w *Watch) Again() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// Start looks for what is seen at once, before the daemon changes anything. It is
// called before Run.
func (w *Watch) Start(ctx context.Context) {
	in := w.input()
	in.Daemon = nil
	w.look(ctx, in, false)
}

// Run looks until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	begin := time.NewTimer(watchBegin)
	defer begin.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-begin.C:
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for heavy := true; ; {
		for round := range watchHeavy {
			w.look(ctx, w.input(), heavy || round == 0)
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				heavy = false
			case <-w.again:
				heavy = true
			}
		}
	}
}

// look looks once, with heavy for everything.
func (w *Watch) look(ctx context.Context, in *Input, heavy bool) {
	in.Inside = true
	all := Conditions()
	list := slices.DeleteFunc(slices.Clone(all), func(c Condition) bool { return c.heavy && !heavy })
	r := examine(ctx, in, list)
	if ctx.Err() != nil {
		return
	}
	for i := range list {
		delete(w.found, list[i].Name)
	}
	for _, f := range r.Findings { // notes break nothing
		w.found[f.Condition] = append(w.found[f.Condition], f.Text()+" (vipspeaker doctor "+f.Condition+")")
	}
	problems := []string{}
	for i := range all {
		problems = append(problems, w.found[all[i].Name]...)
	}
	if before := w.problems.Swap(&problems); !slices.Equal(*before, problems) {
		w.poke()
	}
}
