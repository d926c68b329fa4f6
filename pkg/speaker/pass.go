package speaker

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/vip"
)

var (
	errStopped  = errors.New("stopped")
	errNotReady = errors.New("the network has not been read yet")
)

// bindCall is the name of the call that binds.
const bindCall = "bind"

// outcome is how a kernel call ended.
type outcome struct {
	name   string // of the call
	actual vip.Actual
	err    error
}

// kernelCall is one of the calls of Kernel.
type kernelCall func(context.Context, vip.Desired) (vip.Actual, error)

// pass reads the world once and makes it as it should be, in the order that
// never announces what is not bound, and never leaves a source that is not
// announced: sources off, withdraw, bind, announce, unbind. A source comes on
// in the pass after its announcement, because only then it is a fact.
func (l *Loop) pass(ctx context.Context) error {
	began := time.Now()
	l.errs, l.said, l.fresh = nil, nil, false
	l.follow()
	in, ok := l.inputs()
	if !ok {
		return errNotReady // no pass at all, so none that failed
	}
	d := l.plan(&in)
	l.check(d.Probes)
	l.watch(d.BFD)
	l.hear(d.Discover)
	steered := d.Kernel
	l.start(ctx, "steer", l.opt.Kernel.Steer, d.Kernel)
	done := l.within(time.Now().Add(steerBound))
	if known, counted := in.Bound, in.Connections; !done {
		in, _ = l.inputs()
		d = l.plan(&in)
	} else if in.Bound, in.Connections = l.bound(l.opt.Network.State()), l.actual.Connections; !slices.Equal(in.Bound, known) || !maps.Equal(in.Connections, counted) {
		d = l.plan(&in)
	}
	l.opt.Sessions.Withdraw(d.BGP)
	if !done && !l.await(ctx) {
		return errStopped
	}
	l.start(ctx, bindCall, l.opt.Kernel.Bind, d.Kernel)
	if !l.await(ctx) {
		return errStopped
	}
	if !l.checking {
		l.checking = true
		l.check(d.Probes)
	}
	// The world may have changed while the kernel worked.
	in, _ = l.inputs()
	d = l.plan(&in)
	l.opt.Sessions.Announce(d.BGP)
	l.start(ctx, "unbind", l.opt.Kernel.Unbind, d.Kernel)
	if !l.await(ctx) {
		return errStopped
	}
	l.decision = d
	l.settle(steered)
	err := l.finished(began)
	l.publish(ctx, &in, &d)
	return err
}

// settle asks for another pass when this one ended with other wishes for the
// kernel than it began with. A world that never settles must not keep the loop
// busy, so after a few passes in a row the next ones come with growing pauses.
func (l *Loop) settle(steered vip.Desired) {
	if reflect.DeepEqual(steered, l.decision.Kernel) {
		l.unrest = 0
		return
	}
	l.unrest++
	if l.unrest <= restless {
		l.Poke()
		return
	}
	if at := time.Now().Add(backoff(l.unrest - restless - 1)); l.recheck.IsZero() || at.Before(l.recheck) {
		l.recheck = at
	}
}

// finished notes that a pass ended, and returns what went wrong in it.
func (l *Loop) finished(began time.Time) error {
	err := errors.Join(l.errs...)
	l.passes.Duration = time.Since(began)
	l.passes.LastError = ""
	if err != nil {
		l.passes.Error++
		l.passes.LastError = err.Error()
	} else {
		l.passes.OK++
	}
	return err
}

// plan decides, and notes what it saw and when to look again.
func (l *Loop) plan(in *Inputs) Desired {
	in.Boot = owner.Now() // of the decision, not of the reading
	d := Plan(*in, time.Now())
	l.owns(&d)
	l.recheck, l.history = d.Recheck, d.History
	l.failbacks.settle(d.History)
	return d
}

// watch tells BFD which sessions are wanted, if those are others than before.
func (l *Loop) watch(sessions []bfd.SessionConfig) {
	if l.opt.BFD != nil && !reflect.DeepEqual(l.watched, sessions) {
		l.opt.BFD.Set(sessions)
		l.watched = sessions
	}
}

// hear tells on which interfaces routers must be heard, if those are others than
// before.
func (l *Loop) hear(interfaces []string) {
	if l.opt.Routers != nil && !slices.Equal(l.heard, interfaces) {
		l.opt.Routers.Set(interfaces)
		l.heard = interfaces
	}
}

// follow lets checks and network watch follow a new configuration.
func (l *Loop) follow() {
	s := l.setup.Load()
	if s == l.applied {
		return
	}
	names := make([]string, len(s.config.Interfaces))
	for i := range s.config.Interfaces {
		names[i] = s.config.Interfaces[i].Name
	}
	l.opt.Network.Watch(names)
	// Only what was configured before can linger.
	if l.applied != nil {
		l.history = l.history.after(l.applied, s)
		for prefix := range l.applied.prefixes {
			l.lingered[prefix] = time.Time{}
		}
	}
	l.applied, l.checking = s, false
	// What changed only its schedule keeps its verdict, under another name, from
	// here on.
	l.check(l.decision.Probes)
	// A path that was ordered just now may not be in the speaker's list yet.
	for i := range l.decision.BGP.Speakers {
		for j := range l.decision.BGP.Speakers[i].Paths {
			l.lingered[l.decision.BGP.Speakers[i].Paths[j].Prefix] = time.Now().Add(s.config.Shutdown.Wait)
		}
	}
}

// inputs takes the newest snapshots. It returns false while the network has not
// been read.
func (l *Loop) inputs() (Inputs, bool) {
	net := l.opt.Network.State()
	if net == nil || l.applied == nil {
		return Inputs{}, false
	}
	c := l.applied.config
	// The identifier is kept once found: another one would end all sessions.
	if c.BGP.RouterID.IsValid() || !l.routerID.IsValid() {
		l.routerID = RouterID(c, net)
	}
	in := Inputs{
		Config: c, Net: net, Health: l.opt.Checks.Results(), BGP: l.opt.Sessions.State(),
		Bound: l.bound(net), RouterID: l.routerID, Overrides: Overrides{Shutdown: l.shutdown, Leaving: l.leaving, Failback: l.failbacks.list(), Orders: l.orders()},
		StartedAt: l.startedAt, Adopted: l.opt.Adopted, AdoptedSources: l.opt.AdoptedSources,
		Lingering: l.linger(time.Now()), BindErrors: l.bindErrs,
		CheckIDs: l.applied.checkIDs, History: l.history, Connections: l.actual.Connections,
	}
	if l.opt.BFD != nil {
		in.BFD = l.opt.BFD.State()
	}
	if l.opt.Owners != nil {
		in.Owners = l.opt.Owners.State()
	}
	if l.opt.Routers != nil {
		in.NDP = l.opt.Routers.State()
	}
	for i := range l.decision.Interfaces {
		if n := &l.decision.Interfaces[i]; n.Leg {
			in.Legs = append(in.Legs, n.Name)
		}
	}
	return in, true
}

// linger notes until when VIPs stay bound that are no longer configured: for as long
// as speakers announce them, and then for the time that routers get, which counts
// from the first look that finds them withdrawn. A speaker may be late.
func (l *Loop) linger(now time.Time) map[netip.Prefix]time.Time {
	announced := map[netip.Prefix]bool{}
	if state := l.opt.Sessions.State(); state != nil && len(l.lingered) > 0 {
		for i := range state.Speakers {
			for _, prefix := range state.Speakers[i].Announced {
				announced[prefix] = true
			}
		}
	}
	for prefix, until := range l.lingered {
		switch {
		case l.applied.prefixes[prefix]:
			delete(l.lingered, prefix)
		case announced[prefix] || l.announced[prefix]:
			l.lingered[prefix] = now.Add(l.applied.config.Shutdown.Wait)
		case !until.After(now):
			delete(l.lingered, prefix)
		}
	}
	l.announced = announced
	return l.lingered
}

// bound are the VIPs that the kernel holds. When the writer could not read the
// kernel, they are those of its last reading that the monitor still sees.
func (l *Loop) bound(net *netmon.State) []netip.Prefix {
	if l.fresh {
		return l.actual.Bound
	}
	var held []netip.Prefix
	present := map[netip.Addr]bool{}
	for i := range net.Links {
		if link := &net.Links[i]; link.Up {
			for j := range link.Addresses {
				present[link.Addresses[j].Prefix.Addr()] = true
			}
		}
	}
	for _, prefix := range l.actual.Bound {
		// A prefix of many addresses is a local route, which the monitor need
		// not know.
		if !prefix.IsSingleIP() || present[prefix.Addr()] {
			held = append(held, prefix)
		}
	}
	return held
}

// start begins a kernel call.
func (l *Loop) start(ctx context.Context, name string, do kernelCall, want vip.Desired) {
	call := make(chan outcome, 1)
	go func() {
		actual, err := do(ctx, want)
		call <- outcome{name, actual, err}
	}()
	l.call = call
}

// within waits for the kernel call until a time and tells whether it ended.
func (l *Loop) within(until time.Time) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case out := <-l.call:
		l.observe(out)
		return true
	case <-timer.C:
		return false
	}
}

// await waits for the kernel call to end, as long as that takes: the watchdog
// bounds it. Meanwhile news still withdraws, since what the kernel does must
// never hold that up. It returns false when the loop is to stop.
func (l *Loop) await(ctx context.Context) bool {
	missed := false
	defer func() {
		if missed {
			l.Poke()
		}
	}()
	var wake <-chan struct{}
	timer := time.NewTimer(spacing)
	defer timer.Stop()
	for {
		select {
		case out := <-l.call:
			l.observe(out)
			return true
		case <-ctx.Done():
			return false
		case <-l.stop:
			return false
		case <-timer.C:
			// Listening starts late: a call that ends at once needs no
			// second decision in between.
			if wake == nil {
				wake = l.opt.Signal
			} else {
				l.withdraw()
			}
			timer.Reset(l.untilRecheck())
		case <-wake:
			missed = true
			l.withdraw()
			wake = nil
			timer.Reset(spacing)
		}
	}
}

// withdraw takes back what the newest snapshots no longer allow, while the
// kernel is busy.
func (l *Loop) withdraw() {
	l.fresh = false
	if in, ok := l.inputs(); ok {
		l.opt.Sessions.Withdraw(l.plan(&in).BGP)
	}
}

// untilRecheck is the time to the next look that needs no wake-up.
func (l *Loop) untilRecheck() time.Duration {
	if l.recheck.IsZero() {
		return resync
	}
	return max(time.Until(l.recheck), spacing)
}

// observe takes over what a kernel call found.
func (l *Loop) observe(out outcome) {
	l.call = nil
	l.failed(out.name, out.err)
	for object, n := range out.actual.Repaired {
		l.repaired[object] += uint64(max(n, 0))
	}
	// A call that could not read the kernel says nothing about it, and what
	// the one before it read may have changed since.
	if l.fresh = !out.actual.Read.IsZero(); l.fresh {
		l.actual = out.actual
	}
}
