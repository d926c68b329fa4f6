package speaker

import (
	"context"
	"log/slog"
	"time"

	"vipspeaker/pkg/status"
)

// Transition is one thing that became another: what is logged of it and what is
// recorded.
type Transition struct {
	Level slog.Level
	// Event is what happened; its Message is the log's too. Level and Time are
	// filled in.
	Event status.Event
	// Attrs are what the log line says beside the message, as pairs.
	Attrs []any
	// Logged tells that the package that did it has logged it.
	Logged bool
}

// Tell writes the log line of the transition and, unless it is for debugging
// only, hands the event on. Record may be nil.
func (t *Transition) Tell(ctx context.Context, logger *slog.Logger, record func(status.Event), now time.Time) {
	if !t.Logged {
		logger.Log(ctx, t.Level, t.Event.Message, t.Attrs...) //nolint:sloglint // each Transition is made with a static message
	}
	if record == nil || t.Level < slog.LevelInfo {
		return
	}
	e := t.Event
	e.Time, e.Level = now, status.LevelInfo
	if t.Level >= slog.LevelWarn {
		e.Level = status.LevelWarn
	}
	record(e)
}
