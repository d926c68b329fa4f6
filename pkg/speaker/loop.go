package speaker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/ndp"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// The times of the control loop.
const (
	// spacing is the least time between two passes, unless there is bad news.
	spacing = 5 * time.Millisecond
	// looks is how often one spacing is broken off to see whether news is bad.
	looks = 3
	// resync is the time after which a pass runs without a wake-up.
	resync = 30 * time.Second
	// steerBound is how long a withdraw waits for the kernel.
	steerBound = 200 * time.Millisecond
	// backoffMin and backoffMax bound the time to the next try after an error.
	backoffMin = 250 * time.Millisecond
	backoffMax = 15 * time.Second
	// restless is how many passes in a row may ask for another one at once.
	restless = 3
)

// Network tells what links and addresses exist. *netmon.Monitor is one.
type Network interface {
	// State is nil before the first reading.
	State() *netmon.State
	Watch(names []string)
	Resyncs() map[string]uint64
}

// Checks runs service checks. *health.Manager is one.
type Checks interface {
	Set(specs []health.Spec)
	Results() health.Results
}

// Kernel holds VIPs and their routes. *vip.Manager is one. Its calls are never
// made two at a time.
type Kernel interface {
	Steer(ctx context.Context, want vip.Desired) (vip.Actual, error)
	Bind(ctx context.Context, want vip.Desired) (vip.Actual, error)
	Unbind(ctx context.Context, want vip.Desired) (vip.Actual, error)
	Restore(ctx context.Context) error
}

// Sessions holds BGP peers and paths. *bgp.Manager is one. Withdraw and
// Announce take an order and never block.
type Sessions interface {
	Withdraw(want bgp.Desired)
	Announce(want bgp.Desired)
	State() *bgp.State
	Stop(ctx context.Context, mode bgp.StopMode, text string) error
}

// BFD holds BFD sessions. *bfd.Manager is one. Set never blocks.
type BFD interface {
	Set(sessions []bfd.SessionConfig)
	State() *bfd.State
}

// Routers hears routers on links. *ndp.Manager is one. Set never blocks.
type Routers interface {
	Set(interfaces []string)
	State() *ndp.State
}

// Signal wakes the loop. All sources share one, and may have it before the loop
// exists.
type Signal chan struct{}

// NewSignal returns a signal.
func NewSignal() Signal { return make(Signal, 1) }

// Poke asks for a pass. It never blocks and says nothing but "look again".
func (s Signal) Poke() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// Options are what a loop needs. All of it is required unless it says otherwise.
type Options struct {
	Log    *slog.Logger
	Config *config.Config
	// Signal is what the sources poke.
	Signal   Signal
	Network  Network
	Checks   Checks
	Kernel   Kernel
	Sessions Sessions
	// BFD may be nil for none.
	BFD BFD
	// Routers may be nil for none, if no peer is unnumbered.
	Routers Routers
	// Owners may be nil for none, if the configuration has no ownership.
	Owners Owners
	// NewChecker makes the checker of a configured check.
	NewChecker func(config.Check) (health.Checker, error)
	// NewProbe makes the checker of a probe; may be nil for no probes.
	NewProbe func(Probe) (health.Checker, error)
	// Record gets every transition that is logged; may be nil. It must not block.
	Record func(status.Event)
	// Orders are the operator's, never nil; may be nil for nobody who gives any.
	Orders func() *orders.Orders
	// Publish gets the picture of every pass. It must not block or change it.
	Publish func(*status.Status)
	// HostProblems are conditions of the host that break a promise, in words,
	// besides those that the kernel writer reports; may be nil. It must not block.
	HostProblems func() []string
	// ConfigStatus tells about the configuration file; may be nil.
	ConfigStatus func() status.Config
	Version      string
	// Adopted and AdoptedSources are what the kernel writer found of a former
	// process, see Inputs.
	Adopted        bool
	AdoptedSources []netip.Addr
	// Fronts are the VIPs that a former process announced with their rank until
	// just now.
	Fronts []netip.Prefix
	// AdoptedLearned are the learned routes that it found.
	AdoptedLearned []vip.Learned
}

// Loop is the control loop. One goroutine makes all decisions and calls all
// writers.
type Loop struct {
	opt       Options
	startedAt time.Time
	setup     atomic.Pointer[setup]
	failbacks failbacks
	order     sync.Once     // closes stop
	stop      chan struct{} // closed by Stop and HandOver
	handOver  bool          // what the order was; to be read once stop is closed
	progress  progress
	viewers   viewers

	// What follows belongs to the goroutine of the loop.

	applied  *setup // the configuration that checks and network follow
	checking bool   // all checks of applied run
	ordered  []health.Spec
	probes   map[Probe]health.Checker // those that were made
	watched  []bfd.SessionConfig      // what BFD was told
	heard    []string                 // where Routers was told to hear
	history  History
	call     chan outcome // the kernel call that is running, nil for none
	actual   vip.Actual   // the newest reading of the kernel
	fresh    bool         // actual was read by the call that ended last
	repaired map[string]uint64
	errs     []error  // of this pass
	said     []string // what they say, without the name of the call
	bindErrs []string // of the last Bind
	routerID netip.Addr
	lingered map[netip.Prefix]time.Time
	// announced is what speakers announced at the last look for lingered.
	announced map[netip.Prefix]bool
	shutdown  bool
	leaving   bool    // see Overrides.Leaving
	decision  Desired // the last one that was carried out
	recheck   time.Time
	unrest    int // passes in a row that asked for another one
	failures  int // passes in a row with an error
	passes    status.Passes
	picture   *status.Status // the last one
	told      troubles
	quiet     quiet
}

// setup is a configuration with what follows from it.
type setup struct {
	config   *config.Config
	specs    []health.Spec
	checkIDs map[netip.Prefix][]string // see Inputs.CheckIDs
	prefixes map[netip.Prefix]bool     // of the VIPs
}

func newSetup(c *config.Config, newChecker func(config.Check) (health.Checker, error)) (*setup, error) {
	specs, ids, err := checkSpecs(c, newChecker)
	if err != nil {
		return nil, err
	}
	return &setup{config: c, specs: specs, checkIDs: ids, prefixes: prefixesOf(c)}, nil
}

func prefixesOf(c *config.Config) map[netip.Prefix]bool {
	set := make(map[netip.Prefix]bool, len(c.VIPs))
	for i := range c.VIPs {
		set[c.VIPs[i].Prefix] = true
	}
	return set
}

// New returns a loop for the configuration. It fails when a check cannot be
// made, such as for a file of roots that does not exist.
func New(opt Options) (*Loop, error) {
	first, err := newSetup(opt.Config, opt.NewChecker)
	if err != nil {
		return nil, err
	}
	l := &Loop{
		opt: opt, startedAt: time.Now(), stop: make(chan struct{}),
		repaired: map[string]uint64{}, lingered: map[netip.Prefix]time.Time{}, told: troubles{}, quiet: quiet{},
	}
	l.progress.base = l.startedAt
	if opt.Adopted {
		for _, prefix := range opt.Fronts {
			put(&l.history.Roles, new(bool), prefix, RoleHistory{Front: true})
		}
	}
	l.history.Learned = adoptLearned(opt.AdoptedLearned)
	l.setup.Store(first)
	return l, nil
}

// SetConfig puts another configuration in force. What it does not change is not
// touched, since every pass writes differences only. On an error the old one
// stays. It must not be called from two goroutines at a time.
func (l *Loop) SetConfig(c *config.Config) error {
	next, err := newSetup(c, l.opt.NewChecker)
	if err != nil {
		return err
	}
	l.setup.Store(next)
	l.Poke()
	return nil
}

// SetVIPs is SetConfig for a configuration that has the checks of the one in force
// and differs in VIPs without any. Nothing is read for it, so it cannot fail.
func (l *Loop) SetVIPs(c *config.Config) {
	next := &setup{config: c, specs: l.setup.Load().specs, checkIDs: make(map[netip.Prefix][]string, len(c.VIPs)), prefixes: prefixesOf(c)}
	for i := range c.VIPs {
		next.checkIDs[c.VIPs[i].Prefix] = checkIDs(&c.VIPs[i])
	}
	l.setup.Store(next)
	l.Poke()
}

// Poke asks for a pass. It never blocks.
func (l *Loop) Poke() { l.opt.Signal.Poke() }

// Stop orders the end: Run then leaves as the configuration's shutdown section
// says, and returns. It never blocks and may be called more than once.
func (l *Loop) Stop() { l.order.Do(func() { close(l.stop) }) }

// HandOver is Stop in the mode restart, whatever the configuration says: all is
// left to the next process. Of several orders the first one counts.
func (l *Loop) HandOver() {
	l.order.Do(func() {
		l.handOver = true
		close(l.stop)
	})
}

// handsOver tells whether the order to stop was HandOver.
func (l *Loop) handsOver() bool {
	select {
	case <-l.stop:
		return l.handOver
	default:
		return false
	}
}

// loop makes passes until it is stopped, then leaves.
func (l *Loop) loop(ctx context.Context) error {
	for {
		l.progress.begin()
		l.viewers.board()
		err := l.pass(ctx)
		l.progress.end(!errors.Is(err, errNotReady))
		if errors.Is(err, errStopped) || l.rest(ctx, l.pause(err)) {
			return l.leave(ctx)
		}
	}
}

// pause notes how a pass ended and returns the time to the next one, if nothing
// wakes the loop before.
func (l *Loop) pause(err error) time.Duration {
	wait := resync
	if err != nil {
		wait = backoff(l.failures)
		l.failures++
	} else {
		l.failures = 0
	}
	return max(min(wait, l.untilRecheck()), spacing)
}

// backoff is the time to wait after that many failures in a row, with jitter, so
// that hosts which failed together do not try again together.
func backoff(failures int) time.Duration {
	d := min(backoffMin<<min(failures, 10), backoffMax)
	return d - rand.N(d/4) //nolint:gosec // jitter needs no secrecy
}

// rest waits for a wake-up or for the time to be over, but at least for the
// spacing unless there is bad news. It returns true when the loop is to stop.
func (l *Loop) rest(ctx context.Context, wait time.Duration) bool {
	quiet, end := time.NewTimer(spacing), time.NewTimer(wait)
	defer quiet.Stop()
	defer end.Stop()
	calm, woken, looked := false, false, 0
	for {
		select {
		case <-ctx.Done():
			return true
		case <-l.stop:
			return true
		case <-end.C:
			return false
		case <-quiet.C:
			if woken {
				return false
			}
			calm = true
		case <-l.opt.Signal:
			woken = true
			looked++
			if calm || looked <= looks && l.badNews() {
				return false
			}
		}
	}
}

// badNews tells whether a pass now would take something away.
func (l *Loop) badNews() bool {
	l.fresh = false
	in, ok := l.inputs()
	if !ok {
		return false
	}
	next := l.plan(&in)
	return takesAway(&l.decision, &next)
}
