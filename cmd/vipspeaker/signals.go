package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
)

// catchSignals begins to collect the signals that the daemon acts on.
func catchSignals() chan os.Signal {
	caught := make(chan os.Signal, 8)
	signal.Notify(caught, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	return caught
}

// signals maps signals, and the end of order, to actions until life ends. It
// returns an error when the process must end at once.
func (d *daemon) signals(order, life context.Context) error {
	ordered := order.Done()
	stopping := false
	for {
		select {
		case <-life.Done():
			return nil
		case <-ordered:
			ordered = nil
			stopping = true
			d.stop()
		case s := <-d.caught:
			switch {
			case s == syscall.SIGHUP && !stopping:
				d.reload(life)
			case s == syscall.SIGHUP:
			case stopping:
				return errSecondSignal
			default:
				stopping = true
				d.stop()
			}
		}
	}
}

// stop orders the end. What is written to the lock file tells `cleanup` what to
// do with the kernel if this process does not come to its end.
func (d *daemon) stop() {
	d.notify.stopping()
	if err := d.lock.write(record{pid: os.Getpid(), stop: d.config.Load().Shutdown.Mode}); err != nil {
		d.log.Warn("order to stop not noted", "error", err)
	}
	d.loop.Stop()
}

// reload reads the configuration file again, for a signal and for the command.
func (d *daemon) reload(ctx context.Context) []string {
	d.notify.reloading()
	defer d.notify.ready()
	return d.reloader.reload(ctx)
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
	if s.RouterID.IsValid() && s.RouterID != d.written && s.RouterID != *d.given.Load() {
		d.written = s.RouterID
		if err := writeRouterID(d.stateDir, s.RouterID); err != nil {
			d.log.Warn("router id not kept for the next start", "error", err)
		}
	}
	d.tellFronts(d.keepFronts(s))
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
