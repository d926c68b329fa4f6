package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/control"
	"vipspeaker/pkg/doctor"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/hook"
	"vipspeaker/pkg/ndp"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/speaker"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// daemon is everything that the command run keeps alive.
type daemon struct {
	log      *slog.Logger
	level    *slog.LevelVar
	lock     *lock
	stateDir string
	notify   notifier
	// caught are signals, collected from before the first change of the host on:
	// none may end the process with the kernel half done.
	caught chan os.Signal

	signal   speaker.Signal
	store    *status.Store
	events   *status.Events
	orders   *orders.Store
	hooks    *hook.Runner
	merge    sync.Mutex // one change of the configuration in force at a time
	made     atomic.Pointer[inForce]
	network  *netmon.Monitor
	checks   *health.Manager
	bfd      *bfd.Manager
	routers  *ndp.Manager
	doctor   *doctor.Watch
	kernel   *vip.Manager
	sessions *bgp.Manager
	owners   *owner.Manager // nil without ownership
	loop     *speaker.Loop
	reloader *reloader
	keeper   *keeper

	control net.Listener
	http    net.Listener // nil if http.listen is off
	server  *http.Server

	ordered      atomic.Pointer[string]        // how the end was ordered, nil before
	config       atomic.Pointer[config.Config] // in force
	configStatus atomic.Pointer[status.Config]
	first        sync.Once
	chosen       netip.Addr                 // the router id in the state directory at the start
	given        atomic.Pointer[netip.Addr] // the one in the configuration, zero if it leaves the choice
}

// eventsKept is how many events the daemon remembers.
const eventsKept = 1000

// newDaemon builds all parts and opens all listeners, so that whatever is wrong
// with them is said before anything of the host is touched.
func newDaemon(ctx context.Context, f *flags, cfg *config.Config, logger *slog.Logger, level *slog.LevelVar, l *lock) (*daemon, error) {
	d := &daemon{
		log: logger, level: level, lock: l, stateDir: f.stateDir, notify: notifier{logger}, caught: catchSignals(),
		signal: speaker.NewSignal(), store: status.NewStore(), events: status.NewEvents(eventsKept),
	}
	d.reloader = &reloader{path: f.config, log: logger, apply: d.apply, publish: d.publishConfig, record: d.record, now: time.Now}
	if err := d.build(ctx, f, cfg); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *daemon) build(ctx context.Context, f *flags, cfg *config.Config) (err error) {
	if d.chosen, err = readRouterID(d.stateDir); err != nil {
		return err
	}
	fronts, err := readFronts(d.stateDir, cfg.BGP.GracefulRestart.RestartTime, time.Now())
	if err != nil {
		return err
	}
	d.keeper = newKeeper(d.stateDir, d.log)
	d.keeper.adopt(d.chosen, fronts)
	d.given.Store(&cfg.BGP.RouterID)
	d.hooks = hook.New(hook.Options{Log: d.log})
	d.orders = orders.Open(orders.Options{Log: d.log, Dir: f.dataDir, Changed: d.ordersChanged, Expired: d.expired})
	cfg, made := d.withVIPs(d.withRouterID(cfg)) //nolint:contextcheck // only its log lines have one
	d.made.Store(made)
	d.config.Store(cfg)
	if d.kernel, err = vip.New(vip.Options{Log: d.log, StateDir: d.stateDir}); err != nil { //nolint:contextcheck // its first reading is bounded
		return err
	}
	d.network = netmon.New(netmon.Options{Log: d.log, Poke: d.signal.Poke})
	d.checks = health.New(health.Options{Log: d.log, Poke: d.signal.Poke})
	d.sessions = bgp.NewManager(bgp.Options{
		Log: d.log, Poke: d.signal.Poke, Command: speakerProcess,
		Restarting: d.kernel.Adopted() && cfg.BGP.GracefulRestart.Enabled,
	})
	d.bfd = bfd.New(bfd.Options{Log: d.log, Poke: d.signal.Poke, Command: bfdProcess})
	d.routers = ndp.New(ndp.Options{Log: d.log, Poke: d.signal.Poke})
	d.doctor = doctor.NewWatch(d.doctorInput, d.signal.Poke)
	d.doctor.Start(ctx)
	if err = d.ownership(cfg.Ownership); err != nil {
		return err
	}
	v := readVersions()
	makes := newCheckers()
	d.loop, err = speaker.New(speaker.Options{
		Owners: d.loopOwners(),
		Log:    d.log, Config: cfg, Signal: d.signal,
		Network: d.network, Checks: d.checks, Kernel: d.kernel, Sessions: d.sessions, BFD: d.bfd, Routers: d.routers,
		NewChecker: makes.check, NewProbe: makes.probe, Orders: d.orders.Orders, Publish: d.publish, Record: d.record, HostProblems: d.doctor.Problems, ConfigStatus: func() status.Config { return *d.configStatus.Load() },
		Version: v.Version, Adopted: d.kernel.Adopted(), AdoptedSources: d.kernel.AdoptedSources(), AdoptedLearned: d.kernel.AdoptedLearned(),
		Fronts: fronts,
	})
	if err != nil {
		return err
	}
	d.reloader.loaded()
	return d.listen(ctx, f, cfg, v)
}

// listen opens the control socket and the port for metrics.
func (d *daemon) listen(ctx context.Context, f *flags, cfg *config.Config, v versions) (err error) {
	socket, err := f.socketOf(cfg)
	if err != nil {
		return err
	}
	if d.control, err = control.Listen(ctx, socket); err != nil {
		return err
	}
	if cfg.HTTP.Listen == "" {
		return nil
	}
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		status.NewCollector(d.store, v.build()), d.events, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err = registry.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	d.server = status.NewServer(status.NewHandler(d.store, registry, d.loop.Healthy), d.log)
	d.http, err = status.Listen(ctx, cfg.HTTP.Listen)
	return err
}

// close gives back what build has taken.
func (d *daemon) close() {
	signal.Stop(d.caught)
	for _, l := range []net.Listener{d.control, d.http} {
		if l != nil {
			l.Close() //nolint:errcheck,gosec // closed already, if it has served
		}
	}
	if d.kernel != nil {
		d.kernel.Close()
	}
}

// speakerProcess is the command of the speaker process of an interface: this
// program again, also when its file has been replaced since.
func speakerProcess(name string) *exec.Cmd {
	return exec.Command("/proc/self/exe", speakerCommand, name) //nolint:gosec,noctx // this program itself; the manager ends it
}

// serve runs all parts until there is an order to stop and the loop has left,
// or until a part fails.
func (d *daemon) serve(ctx context.Context) error {
	d.started(ctx)
	// The parts outlive the order to stop: the loop still needs them to leave.
	p := newParts(context.WithoutCancel(ctx))
	p.start("network", d.network.Run)
	p.start("checks", d.checks.Run)
	p.start("sessions", d.sessions.Run)
	// It ends after the loop has left, whatever the mode: its last packets say
	// that BFD is not wanted (AdminDown), so that no router takes the end for a
	// path that failed (RFC 5882 sections 3.2 and 4.3).
	p.start("bfd", d.bfd.Run)
	p.start("routers", d.routers.Run)
	if d.owners != nil {
		p.start("ownership", d.owners.Run)
	}
	p.start("doctor", d.doctor.Run)
	p.start("orders", d.orders.Run)
	p.start("hooks", d.hooks.Run)
	p.start("state directory", d.keeper.run)
	p.start("service manager", func(ctx context.Context) error { return d.notify.watchdog(ctx, d.loop.Healthy) })
	p.start("control", func(ctx context.Context) error {
		return control.Serve(ctx, d.control, control.Options{
			Log: d.log, Status: d.store.Load, Reload: d.reload, Events: d.events, Operator: &operator{d}, Failback: d.failback, Move: d.move,
			Handover: d.handOver,
		})
	})
	if d.http != nil {
		p.start("http", func(ctx context.Context) error { return status.Serve(ctx, d.server, d.http) })
	}
	p.start(loopPart, d.runLoop)
	// No part: it is not waited for when it says that it is enough.
	enough := make(chan error, 1)
	go func() { enough <- d.signals(ctx, p.life) }()
	err := p.wait(enough)
	if err == nil {
		d.log.Info("ended")
	}
	return err
}

// started tells that the daemon is at work.
func (d *daemon) started(ctx context.Context) {
	version, asn, adopted := readVersions().Version, d.config.Load().BGP.ASN, d.kernel.Adopted()
	e := status.Event{Kind: "daemon", Subject: "vipspeaker", Message: "started", Cause: "version " + version}
	if adopted {
		e.Cause += ", over what a former process left"
	}
	t := speaker.Transition{Event: e, Attrs: []any{"version", version, "asn", asn, "adopted", adopted}}
	t.Tell(ctx, d.log, d.record, time.Now())
}

// record keeps an event.
func (d *daemon) record(e status.Event) { d.events.Add(e) }

var errSecondSignal = errors.New("ended at once by a second signal; 'vipspeaker cleanup' removes what is left in the kernel")
