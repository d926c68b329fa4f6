package speaker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"vipspeaker/pkg/bgp"
)

const (
	// passBound is how long one pass may run.
	passBound = 10 * time.Second
	// silenceBound is how long the loop may go without a finished pass.
	silenceBound = 3 * resync
	// watchEvery is how often the watchdog looks.
	watchEvery = time.Second
	// letGoBound is how long a dead loop's sessions get to say goodbye.
	letGoBound = 2 * time.Second
)

// progress is what the loop tells its watchdog. Times are durations since base,
// so that a step of the wall clock is not taken for silence.
type progress struct {
	base time.Time
	// running is when the running pass began, zero for none; done is when the
	// last one ended; deadline is when the stop must be over, zero before it.
	running, done, deadline atomic.Int64
	// stood is for how long the whole process did not run: that does not count.
	stood atomic.Int64
}

func (p *progress) now() int64 { return max(int64(time.Since(p.base))-p.stood.Load(), 1) }

// looked says how long ago the watchdog looked before. If that is too long, the
// watchdog itself did not run, and so the process did not: it was stopped
// (SIGSTOP), frozen with its container, or the machine with it. That is no fault of
// the loop, which goes on as soon as the process does.
func (p *progress) looked(ago time.Duration) {
	if late := ago - watchEvery; late > watchEvery {
		p.stood.Add(int64(late))
	}
	// What was noted since the process goes on is of the time before.
	now := p.now()
	for _, at := range []*atomic.Int64{&p.running, &p.done} {
		if v := at.Load(); v > now {
			at.CompareAndSwap(v, now)
		}
	}
}

func (p *progress) begin() { p.running.Store(p.now()) }

// end says that the running pass is over. One that could do nothing does not
// count as done.
func (p *progress) end(done bool) {
	if done {
		p.done.Store(p.now())
	}
	p.running.Store(0)
}

// leaving says that the loop stops and has that much time for it.
func (p *progress) leaving(limit time.Duration) {
	p.deadline.Store(p.now() + int64(limit))
}

// Healthy returns nil while the loop makes passes in time. A loop that does not
// keeps announcing what may no longer be true, so its process must end.
func (l *Loop) Healthy() error {
	p := &l.progress
	now := p.now()
	if deadline := p.deadline.Load(); deadline != 0 {
		if now > deadline {
			return errors.New("the stop did not end in time")
		}
		return nil
	}
	if began := p.running.Load(); began != 0 && now-began > int64(passBound) {
		return fmt.Errorf("a pass of the control loop runs for more than %s", passBound)
	}
	if silent := now - p.done.Load(); silent > int64(silenceBound) {
		return fmt.Errorf("no pass of the control loop ended in %s", time.Duration(silent).Round(time.Second))
	}
	return nil
}

// Run makes passes until ctx ends or Stop is called, leaves as the
// configuration says and returns nil. Both give it the same bounded time, so
// what it uses must outlive ctx. It returns an error when the loop hangs, after
// trying to end all sessions: the caller must then end the process.
func (l *Loop) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- l.loop(ctx) }()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case err := <-ended:
			return err
		case <-tick.C:
			now := time.Now()
			l.progress.looked(now.Sub(last))
			last = now
			if err := l.Healthy(); err != nil {
				return errors.Join(fmt.Errorf("watchdog: %w", err), l.letGo(ctx))
			}
		}
	}
}

// letGo ends all sessions on behalf of a loop that is dead.
func (l *Loop) letGo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGoBound)
	defer cancel()
	return bounded(ctx, "end the sessions", func() error {
		return l.opt.Sessions.Stop(ctx, bgp.StopDrain, "control loop hangs")
	})
}

// bounded calls do and stops waiting for it when ctx ends.
func bounded(ctx context.Context, what string, do func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- do() }()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}
