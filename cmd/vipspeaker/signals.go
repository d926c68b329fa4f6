package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
)

// catchSignals begins to collect the signals that the daemon acts on.
func catchSignals() chan os.Signal {
	caught := make(chan os.Signal, 8)
	signal.Notify(caught, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	return caught
}

// reloadWait is how long an order to stop waits for reloads that were ordered
// before it: it is then carried out as the new file says. A disk that does not
// answer holds it up no longer.
const reloadWait = 2 * time.Second

// noteWait is how long an order to stop waits until it is noted for the next process.
const noteWait = time.Second

// shownBound is how long the answer to an order waits for a pass. It is less than
// reloadWait, because a reload is such an order.
const shownBound = time.Second

// reloads carries out orders to reload one after the other.
type reloads struct {
	next    chan struct{} // cap 1: one that waits reads what is there then
	ordered sync.WaitGroup
}

// run reloads when it is told to, until life ends.
func (r *reloads) run(life context.Context, reload func(context.Context)) {
	for {
		select {
		case <-life.Done():
			return
		case <-r.next:
			reload(life)
			r.ordered.Done()
		}
	}
}

// order asks for a reload. It never blocks.
func (r *reloads) order() {
	r.ordered.Add(1)
	select {
	case r.next <- struct{}{}:
	default:
		r.ordered.Done() // the one that waits does for both
	}
}

// await waits until what was ordered has been carried out, but not for longer than
// it is given.
func (r *reloads) await(bound time.Duration) {
	done := make(chan struct{})
	go func() {
		r.ordered.Wait()
		close(done)
	}()
	within(done, bound)
}

// outliveReaders makes writing to a pipe that nobody reads any more an error, until
// the function that it returns is called. Where SIGPIPE has no handler, that ends
// a process whose standard error is the pipe (os/signal). The signal is not ignored,
// for the programs of checks and hooks would inherit that.
func outliveReaders() func() {
	gone := make(chan os.Signal, 1)
	signal.Notify(gone, syscall.SIGPIPE)
	return func() { signal.Stop(gone) }
}

// echoes is for how long after an order to stop another one is the same: timeout(1)
// signals its child and then its own process group, and a terminal's ^C comes to a
// process by its group and perhaps by its parent. It is a bound as those of within.
const echoes = 500 * time.Millisecond

// signals maps signals, and the end of order, to actions until life ends. It
// returns an error when the process must end at once.
func (d *daemon) signals(order, life context.Context) error {
	ordered := order.Done()
	reloads := &reloads{next: make(chan struct{}, 1)}
	go reloads.run(life, func(ctx context.Context) { d.reload(ctx) })
	// Since we have begun to stop there are left of echoes, which tick counts.
	left, tick := 0, &time.Ticker{}
	stop := func() {
		reloads.await(reloadWait)
		d.stop(d.config.Load().Shutdown.Mode, d.loop.Stop)
		// Now, because what came meanwhile is heard next.
		left, tick = boundSteps, time.NewTicker(echoes/boundSteps)
	}
	defer func() {
		if tick.C != nil {
			tick.Stop()
		}
	}()
	for {
		select {
		case <-life.Done():
			return nil
		case <-tick.C:
			left = max(left-1, 0)
		case <-ordered:
			ordered = nil
			stop()
		case s := <-d.caught:
			stopping := d.ordered.Load() != nil
			switch {
			case s == syscall.SIGHUP && !stopping:
				reloads.order()
			case s == syscall.SIGHUP:
			case stopping && left > 0:
			case stopping:
				return errSecondSignal
			default:
				stop()
			}
		}
	}
}

// stop orders the end in a mode, which the loop is told by tell, unless it has been
// ordered before. It returns the mode in which the daemon ends. What is written to
// the lock file tells `cleanup` what to do with the kernel if this process does not
// come to its end.
func (d *daemon) stop(mode string, tell func()) string {
	if !d.ordered.CompareAndSwap(nil, &mode) {
		return d.endMode()
	}
	d.notify.stopping()
	r := d.lock.mine
	r.stop = mode
	if err := inTime(func() error { return d.lock.write(r) }); err != nil {
		d.log.Warn("order to stop not noted", "error", err)
	}
	tell()
	return mode
}

// inTime calls do, which writes, and waits for it, but not for longer than noteWait.
func inTime(do func() error) error {
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = do()
	}()
	if !within(done, noteWait) {
		return fmt.Errorf("not done within %s", noteWait)
	}
	return err
}

// endMode is how the daemon ends: as was ordered, else as the configuration says.
func (d *daemon) endMode() string {
	if mode := d.ordered.Load(); mode != nil {
		return *mode
	}
	return d.config.Load().Shutdown.Mode
}

// reload reads the configuration file again, for a signal and for the command.
func (d *daemon) reload(ctx context.Context) []string {
	d.notify.reloading()
	defer d.notify.ready()
	mistakes := d.reloader.reload(ctx)
	if len(mistakes) == 0 {
		d.shown(ctx)
	}
	return mistakes
}

// shown waits until the status shows what was ordered, so that a script may order
// and then look. The order counts whether it is shown in time or not.
func (d *daemon) shown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shownBound)
	defer cancel()
	d.loop.Shown(ctx)
}

// apply puts a configuration in force.
func (d *daemon) apply(cfg *config.Config) error {
	if err := requireSockets(cfg); err != nil {
		return err
	}
	if err := sameOwnership(d.config.Load().Ownership, cfg.Ownership); err != nil {
		return err
	}
	before := d.given.Swap(&cfg.BGP.RouterID)
	d.merge.Lock()
	defer d.merge.Unlock()
	cfg, old := d.withRouterID(cfg), d.config.Load()
	if err := d.takeOver(cfg); err != nil {
		d.given.Store(before)
		return err
	}
	if err := setLevel(d.level, cfg.Log.Level); err != nil {
		return err
	}
	for _, key := range atNextStart(old, cfg) {
		d.log.Warn("changed setting takes effect at the next start", "key", key)
	}
	d.doctor.Again()
	return nil
}

// atNextStart lists the settings that differ and that a running daemon keeps.
func atNextStart(old, cfg *config.Config) []string {
	var keys []string
	for key, changed := range map[string]bool{
		"http.listen":    old.HTTP.Listen != cfg.HTTP.Listen,
		"control.socket": old.Control.Socket != cfg.Control.Socket,
		"log.format":     old.Log.Format != cfg.Log.Format,
	} {
		if changed {
			keys = append(keys, key)
		}
	}
	return keys
}

// publishConfig tells what became of the configuration file; the next pass
// shows it.
func (d *daemon) publishConfig(c status.Config) {
	d.configStatus.Store(&c)
	d.signal.Poke()
}

// publish takes the picture of a pass. The first one means that the daemon is
// at work.
func (d *daemon) publish(s *status.Status) {
	d.keeper.keep(s, *d.given.Load())
	d.store.Publish(s)
	d.hooks.Set(hookStates(s, d.config.Load()))
	d.first.Do(d.notify.ready)
}

// withRouterID gives a configuration without a router id the one that a former
// process or this one has chosen.
func (d *daemon) withRouterID(cfg *config.Config) *config.Config {
	if cfg.BGP.RouterID.IsValid() {
		return cfg
	}
	id := d.chosen
	if s := d.store.Load(); s != nil && s.RouterID.IsValid() {
		id = s.RouterID
	}
	if !id.IsValid() {
		return cfg
	}
	filled := *cfg
	filled.BGP.RouterID = id
	return &filled
}
