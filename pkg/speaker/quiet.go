package speaker

import (
	"context"
	"log/slog"
	"time"

	"vipspeaker/pkg/status"
)

// What one subject may tell: a router that flaps a hundred times a second must
// neither fill the log nor push what others have told out of the memory.
const (
	tellSpan = 10 * time.Second
	tellMost = 30 // transitions in each span
)

// teller is of whom a transition tells.
type teller struct{ kind, subject, vip, iface string }

// told is what a subject told in one span.
type told struct {
	since time.Time
	count int
	left  int // those that were left out
}

// quiet counts what subjects tell. It belongs to the goroutine of the loop.
type quiet map[teller]*told

// allow tells whether a transition may be told.
func (q quiet) allow(e *status.Event, now time.Time) bool {
	key := teller{e.Kind, e.Subject, e.VIP, e.Interface}
	t := q[key]
	if t == nil {
		t = &told{since: now}
		q[key] = t
	}
	if t.count++; t.count <= tellMost {
		return true
	}
	t.left++
	return false
}

// over ends the spans whose time is over. It gives a transition for each subject
// of which something was left out.
func (q quiet) over(now time.Time) (list []Transition) {
	for key, t := range q {
		if now.Sub(t.since) < tellSpan {
			continue
		}
		delete(q, key)
		if t.left > 0 {
			list = append(list, Transition{Level: slog.LevelWarn, Event: status.Event{
				Kind: key.kind, Subject: key.subject, VIP: key.vip, Interface: key.iface, Message: "changes left out",
				Cause: "it changes too often: the status has how it is now",
			}, Attrs: []any{"kind", key.kind, "subject", key.subject, "vip", key.vip, "interface", key.iface, "count", t.left}})
		}
	}
	return list
}

// tell logs and records transitions, but no more of one subject than a reader can
// follow.
func (l *Loop) tell(ctx context.Context, list []Transition) {
	now := time.Now()
	over := l.quiet.over(now)
	for i := range over {
		over[i].Tell(ctx, l.opt.Log, l.opt.Record, now)
	}
	for i := range list {
		if t := &list[i]; t.Level < slog.LevelInfo || l.quiet.allow(&t.Event, now) {
			t.Tell(ctx, l.opt.Log, l.opt.Record, now)
		}
	}
}
