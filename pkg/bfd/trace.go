package bfd

import (
	"context"
	"log/slog"
	"net/netip"
	"time"
)

// dropTraceInterval is the least time between two lines about dropped packets
// of one session.
const dropTraceInterval = time.Second

// tracer writes debug lines in a goroutine of its own: a log that is slow must
// not make packets late. Lines that it cannot take in time are lost.
type tracer struct {
	ctx    context.Context //nolint:containedctx // the logger asks for one
	logger *slog.Logger
	events chan traceEvent
}

// traceEvent is one line to be.
type traceEvent struct {
	peer, local netip.Addr
	iface       string
	from, to    state
	diag        diagnostic
	why         drop // none for a transition
}

func newTracer(ctx context.Context, logger *slog.Logger) *tracer {
	return &tracer{ctx: ctx, logger: logger, events: make(chan traceEvent, 256)}
}

// on tells whether debug lines are wanted, which may change at any time.
func (t *tracer) on() bool { return t.logger.Enabled(t.ctx, slog.LevelDebug) }

// run writes until events is closed.
func (t *tracer) run() {
	for ev := range t.events {
		line := t.logger.With("peer", ev.peer, "local", ev.local, "interface", ev.iface)
		if ev.why != dropNone {
			line.Debug("bfd packet dropped", "reason", ev.why.words())
			continue
		}
		line.Debug("bfd session changed", "from", ev.from.status(), "to", ev.to.status(), "diagnostic", ev.diag.words())
	}
}

func (t *tracer) transition(en *entry, from state) {
	t.put(traceEvent{
		peer: en.cfg.Peer, local: en.cfg.Local, iface: en.cfg.Interface,
		from: from, to: en.state, diag: en.diag,
	})
}

func (t *tracer) dropped(en *entry, why drop, now time.Time) {
	if now.Sub(en.lastTrace) < dropTraceInterval || !t.on() {
		return
	}
	en.lastTrace = now
	t.put(traceEvent{peer: en.cfg.Peer, local: en.cfg.Local, iface: en.cfg.Interface, why: why})
}

func (t *tracer) put(ev traceEvent) {
	if !t.on() {
		return
	}
	select {
	case t.events <- ev:
	default:
	}
}
