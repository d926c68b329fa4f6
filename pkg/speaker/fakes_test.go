package speaker

import (
	"context"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/vip"
)

var (
	_ Kernel   = fakeKernel{}
	_ Sessions = fakeSessions{}
	_ Network  = fakeNetwork{}
	_ Checks   = fakeChecks{}
	_ BFD      = fakeBFD{}
	_ Owners   = &fakeOwners{}
)

// fakeOwners gives a VIP the state of the test, for as long as it takes. It belongs
// to the world whose lock it takes.
type fakeOwners struct {
	w     *world
	vip   netip.Prefix
	state owner.VIPState
	wants []owner.Want // of the last Set
}

func (f *fakeOwners) Set(wants []owner.Want) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.wants = wants
}

func (f *fakeOwners) State() *owner.State {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return &owner.State{Until: math.MaxInt64, VIPs: map[netip.Prefix]owner.VIPState{f.vip: f.state}}
}

type fakeNetwork struct{ w *world }

func (f fakeNetwork) State() *netmon.State {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.net
}

func (f fakeNetwork) Watch(names []string) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.watched = names
}

func (f fakeNetwork) Resyncs() map[string]uint64 { return map[string]uint64{} }

type fakeChecks struct{ w *world }

func (f fakeChecks) Set(specs []health.Spec) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	var checks, probes []health.Spec
	for _, s := range specs {
		if s.Kind == "neighbour" || s.Kind == "icmp" {
			probes = append(probes, s)
		} else {
			checks = append(checks, s)
		}
	}
	if len(checks) > 0 && !f.w.tried {
		f.w.breaks("a check runs before its VIP was ever bound")
	}
	f.w.sets++
	// A check that asks for the same keeps its verdict under another name.
	f.w.results = maps.Clone(f.w.results)
	for _, s := range checks {
		for _, old := range f.w.specs {
			if r, ok := f.w.results[old.ID]; ok && old.Key == s.Key {
				f.w.results[s.ID] = r
			}
		}
	}
	f.w.specs = checks
	f.w.probes = probes
}

func (f fakeChecks) Results() health.Results {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.results
}

type fakeBFD struct{ w *world }

// Set keeps the sessions that stay and begins the others: up at once, where the
// router speaks BFD.
func (f fakeBFD) Set(sessions []bfd.SessionConfig) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.watches++
	next := &bfd.State{}
	for _, c := range sessions {
		s, ok := f.w.bfd.Session(c.Peer, c.Local, c.Interface)
		if !ok {
			s = bfd.SessionState{Peer: c.Peer, Local: c.Local, Interface: c.Interface, Status: bfd.Up, Since: time.Now(), WasUp: true}
			if f.w.mute {
				s.Status, s.WasUp = bfd.Down, false
			}
		}
		next.Sessions = append(next.Sessions, s)
	}
	f.w.bfd = next
}

func (f fakeBFD) State() *bfd.State {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.bfd
}

type fakeKernel struct{ w *world }

// call is the frame of all kernel calls: takes its time, may fail, may hang.
func (f fakeKernel) call(want vip.Desired, do func() bool) (vip.Actual, error) {
	w := f.w
	w.mu.Lock()
	w.calls++
	if w.calls > 1 {
		w.breaks("two kernel calls at a time")
	}
	hang, takes, fails, part := w.hang, time.Duration(0), w.refuse || w.faults && w.rand.IntN(3) == 0, w.rand.IntN(2) == 0
	if w.slow > 0 {
		takes = time.Duration(w.rand.Int64N(int64(w.slow)))
	}
	w.mu.Unlock()
	if hang != nil {
		<-hang
	}
	time.Sleep(takes)
	w.mu.Lock()
	w.calls--
	defer w.mu.Unlock()
	if fails && (part || w.refuse) {
		return vip.Actual{}, errInjected
	}
	if !fails && do() {
		w.writes++
		w.relink()
		time.AfterFunc(100*time.Microsecond, func() { // the monitor sees our writes too
			w.mu.Lock()
			w.poke()
			w.mu.Unlock()
		})
	}
	a := vip.Actual{DeviceName: "vi0", Read: time.Now(), Connections: map[netip.Prefix]int{}}
	for _, d := range want.Drained {
		a.Connections[d.Prefix] = w.talking[d.Prefix]
	}
	for _, p := range want.VIPs {
		if w.bound[p] {
			a.Bound = append(a.Bound, p)
		}
	}
	for key, s := range w.sources {
		a.Sources = append(a.Sources, vip.SourceState{Interface: key[:3], Address: s})
	}
	if fails {
		return a, errInjected
	}
	return a, nil
}

func (f fakeKernel) Steer(_ context.Context, want vip.Desired) (vip.Actual, error) {
	w := f.w
	w.mu.Lock()
	w.steered = false
	usable := 0
	for _, n := range want.Interfaces {
		if n.Leg() {
			usable++
		}
		for _, s := range []netip.Addr{n.Source4, n.Source6} {
			if p := netip.PrefixFrom(s, s.BitLen()); s.IsValid() && (!w.bound[p] || !w.carried(p)) {
				w.breaks("source %s on %s, but bound=%t announced=%t", s, n.Name, w.bound[p], w.carried(p))
			}
		}
	}
	if usable == 0 {
		w.breaks("no leg is left")
	}
	w.mu.Unlock()
	return f.call(want, func() bool {
		sources, legs := map[string]netip.Addr{}, map[string]bool{}
		for _, n := range want.Interfaces {
			legs[n.Name] = n.Leg()
			for key, s := range map[string]netip.Addr{"/4": n.Source4, "/6": n.Source6} {
				if s.IsValid() && w.bound[netip.PrefixFrom(s, s.BitLen())] {
					sources[n.Name+key] = s
				}
			}
		}
		changed := !maps.Equal(sources, w.sources) || !maps.Equal(legs, w.legs)
		if len(sources) < len(w.sources) {
			w.journal = append(w.journal, "source off")
		}
		if len(sources) > len(w.sources) {
			w.journal = append(w.journal, "source on")
		}
		w.sources, w.legs, w.steered = sources, legs, true
		return changed
	})
}

func (f fakeKernel) Bind(_ context.Context, want vip.Desired) (vip.Actual, error) {
	f.w.mu.Lock()
	f.w.tried = true
	f.w.mu.Unlock()
	return f.call(want, func() (changed bool) {
		for _, p := range want.VIPs {
			if !f.w.bound[p] {
				f.w.bound[p], changed = true, true
				f.w.journal = append(f.w.journal, "bind "+p.String())
			}
		}
		return changed
	})
}

func (f fakeKernel) Unbind(_ context.Context, want vip.Desired) (vip.Actual, error) {
	w := f.w
	return f.call(want, func() (changed bool) {
		for _, d := range want.Drained {
			if d.Close && w.talking[d.Prefix] > 0 {
				if w.carried(d.Prefix) {
					w.breaks("connections of %s are reset while it is announced", d.Prefix)
				}
				w.talking[d.Prefix] = 0
				w.journal = append(w.journal, "reset "+d.Prefix.String())
			}
		}
		for p := range w.bound {
			if slices.Contains(want.VIPs, p) {
				continue
			}
			if w.carried(p) {
				w.breaks("%s is unbound while it is announced", p)
			}
			w.drop(p)
			w.journal = append(w.journal, "unbind "+p.String())
			changed = true
		}
		return changed
	})
}

func (f fakeKernel) Restore(context.Context) error {
	w := f.w
	_, err := f.call(vip.Desired{}, func() bool {
		clear(w.bound)
		clear(w.sources)
		w.restored = true
		w.journal = append(w.journal, "restore")
		return true
	})
	return err
}

type fakeSessions struct{ w *world }

// allowed checks an order against the kernel and, for an announcement, the
// checks. News that come while the kernel works are not for the withdraw of that
// pass: their sources are not off yet. The lock is held.
func (w *world) allowed(d bgp.Desired, announce bool) {
	for _, s := range d.Speakers {
		for _, p := range s.Paths {
			// A VIP that was just removed from the configuration goes in the
			// next pass.
			k := slices.IndexFunc(w.config.VIPs, func(v config.VIP) bool { return v.Prefix == p.Prefix })
			healthy := k < 0
			if k >= 0 {
				r := w.results[webID(p.Prefix.Addr().String())]
				healthy = r.Verdict == health.Healthy && r.Expires.After(time.Now()) || w.config.VIPs[k].Degrade != nil
			}
			if !w.bound[p.Prefix] || announce && !healthy {
				w.breaks("%s is left on %s: announce=%t bound=%t healthy=%t", p.Prefix, s.Name, announce, w.bound[p.Prefix], healthy)
			}
		}
	}
}

func paths(s bgp.SpeakerConfig) map[netip.Prefix]bool {
	set := map[netip.Prefix]bool{}
	for _, p := range s.Paths {
		set[p.Prefix] = true
	}
	return set
}

// Withdraw is lost now and then, like a process that is just dying.
func (f fakeSessions) Withdraw(d bgp.Desired) {
	w := f.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.allowed(d, false)
	everywhere := map[netip.Prefix]bool{}
	wanted := map[string]bgp.SpeakerConfig{}
	for _, s := range d.Speakers {
		wanted[s.Name] = s
		maps.Copy(everywhere, paths(s))
	}
	for _, order := range w.orders {
		for _, p := range order.Paths {
			for key, s := range w.sources {
				if !everywhere[p.Prefix] && s == p.Prefix.Addr() && w.steered && w.calls == 0 {
					w.breaks("%s is withdrawn while it is source on %s", p.Prefix, key)
				}
			}
		}
	}
	if w.silent || w.faults && w.rand.IntN(3) == 0 {
		return
	}
	for name, order := range w.orders {
		keepPaths, keepPeers := paths(wanted[name]), map[netip.Addr]bool{}
		for _, p := range wanted[name].Peers {
			keepPeers[p.Address] = true
		}
		before := len(order.Paths)
		order.Paths = slices.DeleteFunc(slices.Clone(order.Paths), func(p bgp.Path) bool { return !keepPaths[p.Prefix] })
		order.Peers = slices.DeleteFunc(slices.Clone(order.Peers), func(p bgp.Peer) bool { return !keepPeers[p.Address] })
		if len(order.Paths) < before {
			w.journal = append(w.journal, "withdraw "+name)
		}
		w.orders[name] = order
	}
	w.react()
}

func (f fakeSessions) Announce(d bgp.Desired) {
	w := f.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.allowed(d, true)
	if w.silent || w.faults && w.rand.IntN(3) == 0 {
		return
	}
	old := w.orders
	w.orders = map[string]bgp.SpeakerConfig{}
	for _, s := range d.Speakers {
		w.orders[s.Name] = s
		if len(s.Paths) > len(old[s.Name].Paths) {
			w.journal = append(w.journal, "announce "+s.Name)
		}
	}
	w.react()
}

func (f fakeSessions) State() *bgp.State {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.state
}

func (f fakeSessions) Stop(ctx context.Context, mode bgp.StopMode, _ string) error {
	w := f.w
	w.mu.Lock()
	w.stopped = append(w.stopped, mode)
	w.journal = append(w.journal, "stop "+string(mode))
	silent := w.silent
	w.orders = map[string]bgp.SpeakerConfig{}
	w.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}
