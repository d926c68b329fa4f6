package speaker

import (
	"context"
	"errors"
	"slices"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/status"
)

// stopPoll is how often the end of the withdraw is looked for while stopping.
const stopPoll = 20 * time.Millisecond

// restartMode is the shutdown mode that leaves everything to the next process.
const restartMode = "restart"

// leave ends the daemon's work within the configured time. In drain mode: if so
// configured, everything is announced as about to go for some time; then sources
// off, withdraw everywhere, wait until routers have moved on, Cease,
// unbind and restore. In restart mode the sessions end without a word, so that
// routers keep the routes, and the kernel is left as it is.
func (l *Loop) leave(ctx context.Context) error {
	s := l.setup.Load().config.Shutdown
	if l.handsOver() {
		s.Mode = restartMode
	}
	l.progress.leaving(s.Time + watchEvery)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Time)
	defer cancel()
	l.tell(ctx, []Transition{{
		Event: status.Event{Kind: kindDaemon, Subject: loopSubject, Message: "stopping", Cause: "mode " + s.Mode},
		Attrs: []any{"mode", s.Mode, "within", s.Time},
	}})
	if s.Mode == restartMode {
		return l.stopSessions(ctx, bgp.StopRestart, "")
	}
	if s.GracefulShutdown > 0 {
		l.warn(ctx, s.GracefulShutdown)
	}
	l.shutdown = true
	wait, left := s.Wait, s.Time-s.GracefulShutdown
	if wait >= left {
		wait = left / 2
	}
	if carried := l.drain(ctx); carried {
		l.awaitWithdrawn(ctx, wait, wait+(left-wait)/2)
	} else if l.opt.Owners != nil {
		// What was handed over is withdrawn just now; it is given up once that is sure.
		l.awaitWithdrawn(ctx, 0, (left-wait)/2)
	}
	l.giveUp()
	return errors.Join(l.stopSessions(ctx, bgp.StopDrain, "vipspeaker is shut down"), l.restore(ctx))
}

// warn announces everything with GRACEFUL_SHUTDOWN for some time, so that routers
// choose other paths while this one still works (RFC 8326). Sources stay: what
// programs begin meanwhile may go on until the withdraw. The world is still
// followed: what fails now is withdrawn at once.
func (l *Loop) warn(ctx context.Context, d time.Duration) {
	end := time.NewTimer(d)
	defer end.Stop()
	l.leaving = true
	defer func() { l.leaving = false }()
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	wake := l.opt.Signal
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-wake:
			wake = nil // at most one look per spacing
			quiet.Reset(spacing)
			continue
		case <-quiet.C:
		}
		if !l.retell(ctx) {
			return
		}
		wake = l.opt.Signal
		quiet.Reset(l.untilRecheck())
	}
}

// retell carries out a decision as far as no VIP needs to be bound for it. It
// tells whether a router has anything from us.
func (l *Loop) retell(ctx context.Context) bool {
	in, ok := l.inputs()
	if !ok {
		return false
	}
	l.errs, l.said, l.fresh = nil, nil, false
	d := l.plan(&in)
	until := time.Now().Add(steerBound)
	if l.call == nil || l.within(until) {
		l.start(ctx, "steer", l.opt.Kernel.Steer, d.Kernel)
		l.within(until)
	}
	l.opt.Sessions.Withdraw(d.BGP)
	l.opt.Sessions.Announce(d.BGP)
	l.decision = d
	l.publish(ctx, &in, &d)
	return slices.ContainsFunc(d.VIPs, func(v VIP) bool { return v.Announced })
}

// drain takes the sources off and withdraws everything. It tells whether a
// router had anything to withdraw. The kernel gets its chance to be first, but
// not more.
func (l *Loop) drain(ctx context.Context) bool {
	in, ok := l.inputs()
	if !ok {
		return false
	}
	carried := false
	for i := range l.decision.VIPs {
		carried = carried || l.decision.VIPs[i].Announced
	}
	l.errs, l.said, l.fresh = nil, nil, false
	d := l.plan(&in)
	until := time.Now().Add(steerBound)
	if l.call == nil || l.within(until) {
		l.start(ctx, "steer", l.opt.Kernel.Steer, d.Kernel)
		l.within(until)
	}
	l.opt.Sessions.Withdraw(d.BGP)
	l.decision = d
	l.publish(ctx, &in, &d)
	return carried
}

// awaitWithdrawn waits until the speakers announce nothing, which may be late, then
// for the time that routers need to move on, and for limit at most.
func (l *Loop) awaitWithdrawn(ctx context.Context, wait, limit time.Duration) {
	began := time.Now()
	var gone time.Time // the first look that found nothing announced
	tick := time.NewTicker(stopPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		switch {
		case announcesAny(l.opt.Sessions.State()):
			gone = time.Time{}
		case gone.IsZero():
			gone = now
		}
		if now.Sub(began) >= limit || !gone.IsZero() && now.Sub(gone) >= wait {
			return
		}
	}
}

// announcesAny tells whether a speaker has anything in its RIB.
func announcesAny(s *bgp.State) bool {
	if s != nil {
		for i := range s.Speakers {
			if len(s.Speakers[i].Announced) > 0 {
				return true
			}
		}
	}
	return false
}

// stopSessions ends all speakers in at most half of the time that is left.
func (l *Loop) stopSessions(ctx context.Context, mode bgp.StopMode, text string) error {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
	defer cancel()
	return bounded(ctx, "end the sessions", func() error { return l.opt.Sessions.Stop(ctx, mode, text) })
}

// restore takes everything of ours out of the kernel, once a call that still
// runs has ended.
func (l *Loop) restore(ctx context.Context) error {
	running := l.call
	return bounded(ctx, "restore the kernel", func() error {
		if running != nil {
			select {
			case <-running:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return l.opt.Kernel.Restore(ctx)
	})
}
