package health

import (
	"context"
	"sync"
	"time"
)

// limitKey finds the limit of a run in its context, for its reason: the time
// between two readings of the clock would be another each time.
type limitKey struct{}

// deadline is the context of one run, as context.WithDeadline makes it, but with
// its timer and its place in the list of its parent's children only for runs that
// wait: most are over at once, and there are thousands in a second.
type deadline struct {
	parent context.Context //nolint:containedctx // it is a context
	at     time.Time
	limit  time.Duration // how long the run may take

	mu    sync.Mutex
	inner context.Context    //nolint:containedctx // nil until somebody waits; guarded by mu
	stop  context.CancelFunc // of inner; guarded by mu
	over  bool               // the run has ended; guarded by mu
}

// Deadline implements context.Context.
func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }

// Done implements context.Context.
func (d *deadline) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inner == nil {
		d.inner, d.stop = context.WithDeadline(d.parent, d.at)
		if d.over {
			d.stop()
		}
	}
	return d.inner.Done()
}

// Err implements context.Context.
func (d *deadline) Err() error {
	ctx, over := d.within()
	switch err := ctx.Err(); {
	case err != nil:
		return err
	case over:
		return context.Canceled
	case !time.Now().Before(d.at):
		<-d.Done() // so that all see it
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context. It lets package context find the inner one,
// so that what derives from it needs no goroutine.
func (d *deadline) Value(key any) any {
	if _, ok := key.(limitKey); ok {
		return d.limit
	}
	ctx, _ := d.within()
	return ctx.Value(key)
}

// within returns the inner context, or the parent for want of one, and whether
// the run has ended without it.
func (d *deadline) within() (ctx context.Context, over bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inner != nil {
		return d.inner, false
	}
	return d.parent, d.over
}

// end cancels it after the run.
func (d *deadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	if d.stop != nil {
		d.stop()
	}
}
