package health

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

const (
	// leastWatchWait and mostWatchWait bound the wait before a Watch that ended
	// too early is started again. It doubles each time, and begins anew after a
	// Watch that lasted for the longer.
	leastWatchWait = 100 * time.Millisecond
	mostWatchWait  = 30 * time.Second
)

// keepWatching watches between the runs of one check until the context ends.
func (m *Manager) keepWatching(ctx context.Context, c *check, w Watcher) {
	again := func() {
		select {
		case c.again <- struct{}{}:
		default:
		}
	}
	level, wait := slog.LevelWarn, leastWatchWait
	for {
		began := time.Now()
		cause := m.watchOnce(ctx, c, w, again)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= mostWatchWait {
			level, wait = slog.LevelWarn, leastWatchWait
		}
		m.log.Log(ctx, level, "check hears of no changes, goes by its interval", "check", m.nameOf(c), "cause", cause, "retry_in", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		level, wait = slog.LevelDebug, min(2*wait, mostWatchWait)
		again() // for what changed meanwhile
	}
}

// watchOnce returns why the Watch ended. A panic ends nothing else.
func (m *Manager) watchOnce(ctx context.Context, c *check, w Watcher, again func()) (cause string) {
	defer func() {
		if p := recover(); p != nil {
			cause = firstLine(fmt.Sprintf("watch panicked: %v", p), reasonBytes)
			m.log.Debug("watch panicked", "check", m.nameOf(c), "panic", p, "stack", string(debug.Stack()))
		}
	}()
	w.Watch(ctx, again)
	return "watch ended"
}
