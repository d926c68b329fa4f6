package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

var errInjected = errors.New("injected")

// world is a host with its routers. What the loop does to it is checked while
// it happens: a broken rule is noted with its time. A test holds the lock
// except while it sleeps.
type world struct {
	t      *testing.T
	rand   *rand.Rand
	signal Signal

	mu     sync.Mutex
	broken []string
	faults bool          // one call in three fails, one wake-up in four is lost
	deaf   bool          // all wake-ups are lost
	refuse bool          // every kernel call fails
	hang   chan struct{} // kernel calls wait for it to be closed; nil for not
	slow   time.Duration // each kernel call takes up to this long
	late   time.Duration // speakers carry out their orders after that
	config *config.Config

	// The kernel: what is bound, which sources and legs are in effect.
	bound   map[netip.Prefix]bool
	sources map[string]netip.Addr // "en1/4"
	legs    map[string]bool
	steered bool // the last Steer did all of its work
	calls   int  // kernel calls that run
	writes  int
	talking map[netip.Prefix]int // connections of VIPs
	links   map[string]netmon.Link
	net     *netmon.State

	// BGP: what was ordered, which routers answer, what is.
	orders  map[string]bgp.SpeakerConfig
	routers map[string]bool
	crashed map[string]bool
	state   *bgp.State
	stopped []bgp.StopMode
	silent  bool // Stop hangs, and orders have no effect
	tried   bool // a Bind was ordered

	// BFD: what is, how often it was ordered, and whether routers do not speak it.
	bfd     *bfd.State
	watches int
	mute    bool

	results health.Results
	specs   []health.Spec // of checks
	probes  []health.Spec
	sets    int // how often checks were ordered
	watched []string

	restored bool
	journal  []string // what had an effect, in order
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{
		t: t, rand: rand.New(rand.NewPCG(seed, 2)), signal: NewSignal(), config: loopConfig(),
		bound: map[netip.Prefix]bool{}, sources: map[string]netip.Addr{}, legs: map[string]bool{},
		links: map[string]netmon.Link{}, orders: map[string]bgp.SpeakerConfig{},
		routers: map[string]bool{"en1": true, "en5": true}, crashed: map[string]bool{}, state: &bgp.State{},
		results: health.Results{}, bfd: &bfd.State{}, talking: map[netip.Prefix]int{},
	}
	for _, l := range sampleNet().Links[:3] {
		w.links[l.Name] = l
	}
	w.links["en1"] = link(2, "en1", "10.68.1.1/24", "fe80::1/64", "fd01::1/64")
	for _, v := range w.config.VIPs {
		w.verdict(v.Name, health.Healthy, time.Hour)
	}
	w.relink()
	return w
}

// loopConfig has three VIPs: on both interfaces, on one, and of IPv6.
func loopConfig() *config.Config {
	c := sampleConfig()
	c.BGP.RouterID = addr("10.68.1.1")
	for i := range c.Interfaces {
		c.Interfaces[i].GatewayProbe = config.GatewayProbe{Enabled: true, Interval: 500 * time.Millisecond, Failures: 3}
		c.Interfaces[i].Peers[0].BFD = &config.BFD{MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 3}
	}
	c.VIPs = append(
		c.VIPs,
		config.VIP{Name: "vipb", Prefix: prefix("10.68.6.2/32"), Interfaces: []string{"en5"}, Checks: webCheck("10.68.6.2")},
		config.VIP{Name: "vipc", Prefix: prefix("fd68:6::3/128"), Interfaces: []string{"en1", "en5"}, Checks: webCheck("fd68:6::3")},
	)
	return c
}

func (w *world) options() Options {
	return Options{
		Log: slog.New(slog.DiscardHandler), Config: w.config, Signal: w.signal,
		Network: fakeNetwork{w}, Checks: fakeChecks{w}, Kernel: fakeKernel{w}, Sessions: fakeSessions{w}, BFD: fakeBFD{w},
		NewProbe:   func(Probe) (health.Checker, error) { return nil, nil },
		NewChecker: func(config.Check) (health.Checker, error) { return nil, nil },
		Publish:    func(*status.Status) {},
	}
}

// start runs a loop and returns it with a function that stops it and gives
// Run's error.
func (w *world) start(opt Options) (l *Loop, stop func() error) {
	w.t.Helper()
	l, err := New(opt)
	if err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Run(w.t.Context()) }()
	return l, func() error {
		l.Stop()
		w.mu.Unlock()
		defer w.mu.Lock()
		return <-ended
	}
}

// run runs a loop until it ends by itself.
func (w *world) run(ctx context.Context, l *Loop) error {
	w.mu.Unlock()
	defer w.mu.Lock()
	return l.Run(ctx)
}

// breaks notes a broken rule. The lock is held.
func (w *world) breaks(format string, args ...any) {
	w.broken = append(w.broken, time.Now().Format("05.000000 ")+fmt.Sprintf(format, args...))
}

// sleep lets time pass and everybody else come to rest. The lock is held before
// and after it.
func (w *world) sleep(d time.Duration) {
	w.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
}

// do changes the world and wakes the loop. The lock is held.
func (w *world) do(change func()) {
	change()
	w.relink()
	w.poke()
	w.react()
}

// poke wakes the loop, maybe. The lock is held.
func (w *world) poke() {
	if !w.deaf && (!w.faults || w.rand.IntN(4) > 0) {
		w.signal.Poke()
	}
}

// relink publishes the links, with the VIPs on the virtual interface. The lock
// is held.
func (w *world) relink() {
	vi := netmon.Link{Index: 9, Name: "vi0", Up: true, Running: true}
	for p := range w.bound {
		vi.Addresses = append(vi.Addresses, netmon.Address{Prefix: p, Usable: true, Protocol: vip.Protocol})
	}
	w.net = &netmon.State{Links: append(slices.Collect(maps.Values(w.links)), vi)}
}

func (w *world) verdict(name string, v health.Verdict, expires time.Duration) {
	all := slices.Concat(w.config.VIPs, loopConfig().VIPs) // now and then one is not configured
	k := slices.IndexFunc(all, func(v config.VIP) bool { return v.Name == name })
	id := webID(all[k].Prefix.Addr().String())
	w.results = maps.Clone(w.results)
	w.results[id] = health.Result{ID: id, Verdict: v, Checked: time.Now(), Passed: time.Now(), Expires: time.Now().Add(expires)}
}

// probe gives the probe of an interface's router a result.
func (w *world) probe(name string, answered bool) {
	id := "attachment/" + name + "/" + map[string]string{"en1": "10.68.1.2", "en5": "10.68.5.2"}[name]
	r := health.Result{ID: id, Verdict: health.Healthy, Since: time.Now(), Checked: time.Now(), Passed: time.Now(), Expires: time.Now().Add(time.Hour), Streak: 3}
	if !answered {
		r.Verdict, r.Reason, r.Passed = health.Unhealthy, "no answer", time.Now().Add(-1600*time.Millisecond)
	}
	w.results = maps.Clone(w.results)
	w.results[id] = r
}

// attached tells whether an interface's router answers its probe.
func (w *world) attached(name string) bool {
	for id, r := range w.results {
		if strings.HasPrefix(id, "attachment/"+name+"/") && r.Verdict == health.Unhealthy {
			return false
		}
	}
	return true
}

// path changes the state of the BFD session on an interface, if there is one.
func (w *world) path(name string, up bool) {
	next := &bfd.State{Sessions: slices.Clone(w.bfd.Sessions)}
	for i := range next.Sessions {
		s := &next.Sessions[i]
		switch {
		case s.Interface != name || (s.Status == bfd.Up) == up:
		case up:
			s.Status, s.Since, s.WasUp, s.Diagnostic = bfd.Up, time.Now(), true, ""
		default:
			s.Status, s.Since, s.DownSince, s.Diagnostic = bfd.Down, time.Now(), time.Now(), "control detection time expired"
			s.Downs++
		}
	}
	w.bfd = next
}

// link changes a link like the kernel and the monitor would.
func (w *world) link(name string, up bool) {
	l := w.links[name]
	if up && !l.Running {
		l.HealthySince = time.Now()
	}
	l.Running = up
	w.links[name] = l
}

// carried tells whether an established session has the prefix. The lock is held.
func (w *world) carried(p netip.Prefix) bool {
	for _, s := range w.state.Speakers {
		if slices.Contains(s.Announced, p) && slices.ContainsFunc(s.Peers, func(x bgp.PeerState) bool { return x.State == bgp.Established }) {
			return true
		}
	}
	return false
}

// react lets the speakers carry out their orders a little later. The lock is
// held.
func (w *world) react() {
	time.AfterFunc(time.Millisecond+w.late, func() {
		w.mu.Lock()
		next := &bgp.State{}
		for _, name := range slices.Sorted(maps.Keys(w.orders)) {
			order := w.orders[name]
			s := bgp.SpeakerState{Name: name, Phase: bgp.Running}
			if w.crashed[name] {
				next.Speakers = append(next.Speakers, bgp.SpeakerState{Name: name, Phase: bgp.Backoff})
				continue
			}
			for _, p := range order.Peers {
				state := bgp.PeerState{Address: p.Address, State: bgp.Active, IPv4: true, IPv6: true}
				if w.routers[name] && w.links[name].Running {
					state.State = bgp.Established
				}
				s.Peers = append(s.Peers, state)
			}
			for _, p := range order.Paths {
				s.Announced = append(s.Announced, p.Prefix)
			}
			next.Speakers = append(next.Speakers, s)
		}
		changed := fmt.Sprint(next.Speakers) != fmt.Sprint(w.state.Speakers)
		w.state = next
		if changed {
			w.poke()
		}
		w.mu.Unlock()
	})
}

// drop removes an address; its source goes with it. The lock is held.
func (w *world) drop(p netip.Prefix) {
	delete(w.bound, p)
	maps.DeleteFunc(w.sources, func(_ string, s netip.Addr) bool { return s == p.Addr() })
}

// differences compares the world with what the configuration and the state of
// the world ask for, made apart from Plan. The lock is held.
func (w *world) differences() []string {
	diff := slices.Clone(w.broken)
	expect := func(ok bool, format string, args ...any) {
		if !ok {
			diff = append(diff, fmt.Sprintf(format, args...))
		}
	}
	expect(len(w.bound) == len(w.config.VIPs), "bound %v, want %d VIPs", w.bound, len(w.config.VIPs))
	for _, v := range w.config.VIPs {
		r := w.results[webID(v.Prefix.Addr().String())]
		healthy := r.Verdict == health.Healthy && r.Expires.After(time.Now())
		expect(w.bound[v.Prefix], "%s is not bound", v.Name)
		announced := false
		for _, name := range []string{"en1", "en5"} {
			s, _ := w.state.Speaker(name)
			has := slices.Contains(s.Announced, v.Prefix)
			up := len(s.Peers) > 0 && s.Peers[0].State == bgp.Established
			selected := slices.Contains(v.Interfaces, name) && healthy && (v.Prefix.Addr().Is4() || w.hasIPv6(name))
			expect(has == selected, "%s in the RIB of %s: %t, want %t", v.Name, name, has, selected)
			expect(up == (w.links[name].Running && w.routers[name] && w.attached(name)), "session on %s: %t", name, up)
			announced = announced || has && up
		}
		for _, name := range v.Interfaces {
			source := w.sources[name+"/4"] == v.Prefix.Addr()
			expect(source == (v.PreferredSource && announced), "%s is source on %s: %t, announced: %t", v.Name, name, source, announced)
		}
	}
	return diff
}

func (w *world) hasIPv6(name string) bool {
	return slices.ContainsFunc(w.links[name].Addresses, func(a netmon.Address) bool { return a.Prefix.Addr().Is6() && !a.LinkLocal })
}
