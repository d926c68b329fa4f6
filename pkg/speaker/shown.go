package speaker

import (
	"context"
	"sync"
)

// viewers wait for the picture of a pass that knows what they have ordered.
type viewers struct {
	mu      sync.Mutex
	waiting []chan struct{} // for the next pass to begin
	aboard  []chan struct{} // for the end of the pass that runs
}

// join returns what is closed when a pass that has not begun yet has its picture.
func (v *viewers) join() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	shown := make(chan struct{})
	v.waiting = append(v.waiting, shown)
	return shown
}

// board says that a pass begins. Those of one that ended without a picture stay.
func (v *viewers) board() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.aboard = append(v.aboard, v.waiting...)
	v.waiting = nil
}

// show says that the picture of the pass is out.
func (v *viewers) show() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, shown := range v.aboard {
		close(shown)
	}
	v.aboard = nil
}

// Shown asks for a pass and waits until its picture is out, so that whoever gave an
// order finds it in the status. It gives up when ctx ends, such as for a kernel that
// does not answer, or when the loop is to stop.
func (l *Loop) Shown(ctx context.Context) {
	shown := l.viewers.join()
	l.Poke()
	select {
	case <-shown:
	case <-ctx.Done():
	case <-l.stop:
	}
}
