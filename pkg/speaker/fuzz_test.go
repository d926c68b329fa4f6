package speaker

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"

	"github.com/google/go-cmp/cmp"
)

// FuzzPlan makes worlds from a seed and checks what must hold in all of them.
func FuzzPlan(f *testing.F) {
	for seed := range uint64(2000) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		in := anyInputs(r)
		d := Plan(in, t0)
		checkPaths(t, &in, &d)
		checkReasons(t, &in, &d)
		checkKernel(t, &in, &d)
		checkBehind(t, &in, &d)
		checkDamping(t, &in, &d)
		checkAgain(t, &in, &d)
		if diff := cmp.Diff(d, Plan(in, t0), planCompare...); diff != "" {
			t.Errorf("the same inputs gave another decision:\n%s", diff)
		}
		if diff := cmp.Diff(d, Plan(shuffled(r, in), t0), planCompare...); diff != "" {
			t.Errorf("the order of the inputs matters:\n%s", diff)
		}
		if t.Failed() {
			t.Logf("decision:\n%s", render(&d))
		}
	})
}

var planCompare = append([]cmp.Option{cmp.AllowUnexported(Interface{}, Peer{})}, compare...)

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func chance(r *rand.Rand, oneIn int) bool { return r.IntN(oneIn) == 0 }

// anyInputs is a world with a valid configuration.
func anyInputs(r *rand.Rand) Inputs {
	in := Inputs{
		Config: anyConfig(r), Net: &netmon.State{}, Health: health.Results{}, BGP: &bgp.State{}, Lingering: map[netip.Prefix]time.Time{},
		RouterID: pick(r, addr("10.1.0.1"), addr("10.1.0.1"), netip.Addr{}), StartedAt: t0.Add(-time.Duration(r.IntN(40)) * time.Second),
		Adopted: chance(r, 3), Overrides: Overrides{Shutdown: chance(r, 10)},
	}
	for i := range in.Config.Interfaces {
		anyInterface(r, &in, i)
	}
	if chance(r, 20) {
		in.BGP = nil
	}
	for i := range in.Config.VIPs {
		v := &in.Config.VIPs[i]
		if !chance(r, 3) {
			in.Bound = append(in.Bound, v.Prefix)
		}
		if chance(r, 2) {
			in.AdoptedSources = append(in.AdoptedSources, v.Prefix.Addr())
		}
		for _, c := range v.Checks {
			if !chance(r, 8) {
				in.Health[CheckID(&c)] = health.Result{
					Verdict: pick(r, health.Healthy, health.Healthy, health.Healthy, health.Unhealthy, health.Unknown),
					Passed:  pick(r, time.Time{}, t0.Add(-time.Hour)),
					Reason:  pick(r, "", "timeout"), Expires: t0.Add(time.Duration(r.IntN(10)-2) * time.Second),
				}
			}
		}
	}
	for range r.IntN(3) {
		in.Bound = append(in.Bound, anyVIP(r))
		in.Lingering[anyVIP(r)] = t0.Add(time.Duration(r.IntN(4)-2) * time.Second)
	}
	anyPast(r, &in)
	return in
}

func anyVIP(r *rand.Rand) netip.Prefix {
	return prefix(fmt.Sprintf(pick(r, "10.68.%d.1/32", "10.69.%d.0/24", "fd68::%d/128", "fd69:0:0:%d::/64"), r.IntN(6)))
}

func anyConfig(r *rand.Rand) *config.Config {
	c := sampleConfig()
	template := c.Interfaces[0].Peers[0]
	c.Interfaces, c.VIPs = nil, nil
	c.BGP.GracefulRestart.Enabled = !chance(r, 4)
	var names []string
	for i := range 1 + r.IntN(4) {
		n := config.Interface{Name: fmt.Sprintf("en%d", i), HoldUp: time.Duration(r.IntN(3)) * time.Second}
		for j := range 1 + r.IntN(3) {
			p := template // without BFD
			if chance(r, 2) {
				p.BFD = &config.BFD{Required: chance(r, 4)}
			}
			p.Address, p.ASN = addr(fmt.Sprintf(pick(r, "10.1.%d.%d", "fd01:%d::%d"), i, 10+j)), pick(r, uint32(65000), 65010)
			n.Peers = append(n.Peers, p)
		}
		if chance(r, 3) {
			n.Gateways = []netip.Addr{addr(fmt.Sprintf("10.1.%d.9", i))}
		}
		behind(r, &n)
		c.Interfaces, names = append(c.Interfaces, n), append(names, n.Name)
	}
	taken := map[netip.Prefix]bool{}
	sources := map[string]bool{}
	for i := range r.IntN(6) {
		v := config.VIP{Name: fmt.Sprintf("v%d", i), Prefix: anyVIP(r)}
		if taken[v.Prefix] {
			continue
		}
		taken[v.Prefix] = true
		v.Interfaces = slices.Clone(names[r.IntN(len(names)):])
		v.PreferredSource = v.Prefix.IsSingleIP() && chance(r, 2)
		for _, n := range v.Interfaces {
			key := fmt.Sprint(n, v.Prefix.Addr().Is4())
			v.PreferredSource = v.PreferredSource && !sources[key]
		}
		for _, n := range v.Interfaces {
			sources[fmt.Sprint(n, v.Prefix.Addr().Is4())] = sources[fmt.Sprint(n, v.Prefix.Addr().Is4())] || v.PreferredSource
		}
		for j := range r.IntN(3) {
			v.Checks = append(v.Checks, config.Check{Name: fmt.Sprintf("c%d", j), Kind: fmt.Sprintf("c%d", r.IntN(6))})
		}
		v.ChecksMode, v.Damping = pick(r, "all", "any"), anyDamping(r)
		if chance(r, 3) {
			v.Degrade = &config.Degrade{Prepend: 7}
		}
		c.VIPs = append(c.VIPs, v)
	}
	return c
}

// behind gives an interface probes and damping.
func behind(r *rand.Rand, n *config.Interface) {
	n.Damping = anyDamping(r)
	n.GatewayProbe = config.GatewayProbe{Enabled: !chance(r, 3), Interval: time.Second, Failures: 1 + r.IntN(3)}
	if chance(r, 3) {
		n.PathProbe = &config.PathProbe{Target: addr(pick(r, "192.0.2.1", "2001:db8::1")), Interval: time.Second, Failures: 2}
	}
}

func anyDamping(r *rand.Rand) config.Damping {
	return config.Damping{Enabled: !chance(r, 3), HalfLife: time.Minute, Suppress: 2000, Reuse: 750, MaxSuppress: time.Hour}
}

func anyPenalty(r *rand.Rand) Penalty {
	q := Penalty{Value: float64(r.IntN(4000)), At: t0.Add(-time.Duration(r.IntN(200)) * time.Second), Flaps: r.Uint64N(9)}
	q.Suppressed = chance(r, 2)
	return q
}

// anyPast gives the world a history, results of probes and BFD sessions.
func anyPast(r *rand.Rand, in *Inputs) {
	in.History = History{Interfaces: map[string]InterfaceHistory{}, VIPs: map[netip.Prefix]VIPHistory{}, BFD: map[Session]BFDHistory{}}
	in.BFD = &bfd.State{}
	for i := range in.Config.Interfaces {
		n := &in.Config.Interfaces[i]
		if !chance(r, 3) {
			h := InterfaceHistory{Open: !chance(r, 3), Index: pick(r, 0, i+2, i+2, i+3), Excused: chance(r, 5), Penalty: anyPenalty(r)}
			if h.Open && chance(r, 3) {
				h.Opened = t0.Add(-time.Duration(r.IntN(4)) * time.Second)
			}
			in.History.Interfaces[n.Name] = h
		}
		for j := range n.Peers {
			if !chance(r, 3) {
				in.History.BFD[Session{n.Name, n.Peers[j].Address}] = BFDHistory{
					Downs: r.Uint64N(2), FailedAt: pick(r, time.Time{}, t0, t0.Add(-9*time.Second), t0.Add(-11*time.Second)),
				}
			}
		}
	}
	for i := range in.Config.VIPs {
		in.History.VIPs[in.Config.VIPs[i].Prefix] = VIPHistory{Open: chance(r, 2), Penalty: anyPenalty(r)}
	}
	// What is probed and watched follows from the rest.
	now := Plan(*in, t0)
	for _, b := range now.Probes {
		if !chance(r, 5) {
			in.Health[b.ID] = health.Result{
				Verdict: pick(r, health.Healthy, health.Healthy, health.Unhealthy, health.Unhealthy, health.Unknown), Streak: r.IntN(4),
				Passed: pick(r, time.Time{}, t0.Add(-time.Second)), Since: t0.Add(-time.Minute), Expires: t0.Add(time.Duration(r.IntN(10)-2) * time.Second),
			}
		}
	}
	for _, s := range now.BFD {
		if !chance(r, 5) {
			in.BFD.Sessions = append(in.BFD.Sessions, bfd.SessionState{
				Peer: s.Peer, Local: s.Local, Interface: s.Interface, Downs: r.Uint64N(2),
				Status: pick(r, bfd.Up, bfd.Up, bfd.Down, bfd.Init), Since: t0.Add(-time.Duration(r.IntN(5)) * time.Second), DownSince: t0,
				RemoteStatus: pick(r, bfd.Up, bfd.Down, bfd.AdminDown), Error: pick(r, "", "", "no socket"),
			})
		}
	}
}

// anyInterface gives the interface a link and a speaker.
func anyInterface(r *rand.Rand, in *Inputs, i int) {
	c := &in.Config.Interfaces[i]
	if !chance(r, 6) {
		l := netmon.Link{Index: i + 2, Name: c.Name, Up: !chance(r, 6)}
		l.Running = l.Up && !chance(r, 6)
		if chance(r, 3) {
			l.HealthySince = t0.Add(-time.Duration(r.IntN(4)) * time.Second)
		}
		for _, a := range []string{"10.1.%d.1/24", "10.1.%d.2/24", "fd01:%d::1/64", "fe80::%d/64", "10.68.%d.1/32", "10.2.%d.1/24"} {
			if chance(r, 2) {
				p := prefix(fmt.Sprintf(a, i))
				l.Addresses = append(l.Addresses, netmon.Address{Prefix: p, Usable: !chance(r, 5), LinkLocal: p.Addr().IsLinkLocalUnicast()})
			}
		}
		in.Net.Links = append(in.Net.Links, l)
	}
	if chance(r, 5) {
		return
	}
	s := bgp.SpeakerState{Name: c.Name, Phase: bgp.Running}
	for _, p := range c.Peers {
		if chance(r, 5) {
			continue
		}
		s.Peers = append(s.Peers, bgp.PeerState{
			Address: p.Address, State: pick(r, bgp.Established, bgp.Established, bgp.Active, bgp.Idle),
			Transitions: r.Uint64N(2), IPv4: !chance(r, 5), IPv6: !chance(r, 5),
		})
	}
	for j := range in.Config.VIPs {
		if chance(r, 2) {
			s.Announced = append(s.Announced, in.Config.VIPs[j].Prefix)
		}
	}
	if chance(r, 4) {
		if p := anyVIP(r); !slices.Contains(s.Announced, p) {
			s.Announced = append(s.Announced, p)
		}
	}
	in.BGP.Speakers = append(in.BGP.Speakers, s)
}

// shuffled is the same world told in another order.
func shuffled(r *rand.Rand, in Inputs) Inputs {
	mix := func(n int, swap func(i, j int)) { r.Shuffle(n, swap) }
	net := &netmon.State{Links: slices.Clone(in.Net.Links)}
	mix(len(net.Links), func(i, j int) { net.Links[i], net.Links[j] = net.Links[j], net.Links[i] })
	for i := range net.Links {
		a := slices.Clone(net.Links[i].Addresses)
		mix(len(a), func(i, j int) { a[i], a[j] = a[j], a[i] })
		net.Links[i].Addresses = a
	}
	in.Net = net
	if in.BGP != nil {
		state := &bgp.State{Speakers: slices.Clone(in.BGP.Speakers)}
		mix(len(state.Speakers), func(i, j int) { state.Speakers[i], state.Speakers[j] = state.Speakers[j], state.Speakers[i] })
		for k := range state.Speakers {
			s := &state.Speakers[k]
			s.Peers, s.Announced = slices.Clone(s.Peers), slices.Clone(s.Announced)
			mix(len(s.Peers), func(i, j int) { s.Peers[i], s.Peers[j] = s.Peers[j], s.Peers[i] })
			mix(len(s.Announced), func(i, j int) { s.Announced[i], s.Announced[j] = s.Announced[j], s.Announced[i] })
		}
		in.BGP = state
	}
	in.Bound, in.Legs, in.AdoptedSources = slices.Clone(in.Bound), slices.Clone(in.Legs), slices.Clone(in.AdoptedSources)
	mix(len(in.Bound), func(i, j int) { in.Bound[i], in.Bound[j] = in.Bound[j], in.Bound[i] })
	mix(len(in.AdoptedSources), func(i, j int) {
		in.AdoptedSources[i], in.AdoptedSources[j] = in.AdoptedSources[j], in.AdoptedSources[i]
	})
	return in
}

// mayBeAnnounced is the rule in its shortest form, made apart from Plan.
func mayBeAnnounced(in *Inputs, c *config.VIP) bool {
	passing, failed, passed := 0, false, 0
	for _, k := range c.Checks {
		r := in.Health[CheckID(&k)]
		if r.Verdict == health.Healthy || !r.Passed.IsZero() {
			passed++
		}
		switch {
		case r.Verdict == health.Healthy && r.Expires.After(t0):
			passing++
		case r.Verdict == health.Healthy || r.Verdict == health.Unhealthy:
			failed = true
		}
	}
	fine := passing == len(c.Checks) || c.ChecksMode == "any" && passing > 0
	once := passed == len(c.Checks) || c.ChecksMode == "any" && passed > 0
	return (fine || c.Degrade != nil && failed && once) && slices.Contains(in.Bound, c.Prefix) && !in.Overrides.Shutdown
}

func checkPaths(t *testing.T, in *Inputs, d *Desired) {
	t.Helper()
	for _, s := range d.BGP.Speakers {
		at := slices.IndexFunc(in.Config.Interfaces, func(c config.Interface) bool { return c.Name == s.Name })
		if at < 0 {
			t.Fatalf("speaker %s: no such interface is configured", s.Name)
		}
		if !s.RouterID.IsValid() {
			t.Errorf("speaker %s runs without a router id", s.Name)
		}
		l, exists := in.Net.Link(s.Name)
		owns := func(a netip.Addr) bool {
			return slices.ContainsFunc(l.Addresses, func(x netmon.Address) bool { return x.Prefix.Addr() == a && x.Usable }) &&
				!slices.ContainsFunc(in.Config.VIPs, func(v config.VIP) bool { return v.Prefix.Contains(a) })
		}
		for _, p := range s.Peers {
			if !exists || !l.Up || !l.Running {
				t.Errorf("speaker %s: peer %s on a link that does not work", s.Name, p.Address)
			}
			if !owns(p.LocalAddress) || p.Interface != s.Name {
				t.Errorf("speaker %s: session to %s from %s is not pinned to the interface", s.Name, p.Address, p.LocalAddress)
			}
			if !slices.ContainsFunc(in.Config.Interfaces[at].Peers, func(c config.Peer) bool { return c.Address == p.Address }) {
				t.Errorf("speaker %s: peer %s is not configured here", s.Name, p.Address)
			}
		}
		if len(s.Peers) == 0 && (s.DownReason == "" || len(s.DownReason) > 128) {
			t.Errorf("speaker %s without peers says why as %q", s.Name, s.DownReason)
		}
		seen := map[netip.Prefix]bool{}
		for _, p := range s.Paths {
			k := slices.IndexFunc(in.Config.VIPs, func(v config.VIP) bool { return v.Prefix == p.Prefix })
			switch {
			case k < 0:
				t.Errorf("speaker %s: path %s is no configured VIP", s.Name, p.Prefix)
				continue
			case p.Prefix.Bits() == 0:
				t.Errorf("speaker %s: default route", s.Name)
			case seen[p.Prefix]:
				t.Errorf("speaker %s: two paths for %s", s.Name, p.Prefix)
			case p.NextHop.IsValid() && (!owns(p.NextHop) || p.NextHop.Is4() != p.Prefix.Addr().Is4()):
				t.Errorf("speaker %s: next hop %s of %s is not the interface's own", s.Name, p.NextHop, p.Prefix)
			}
			seen[p.Prefix] = true
			if !slices.Contains(in.Config.VIPs[k].Interfaces, s.Name) {
				t.Errorf("speaker %s: %s is not selected here", s.Name, p.Prefix)
			}
			if !mayBeAnnounced(in, &in.Config.VIPs[k]) {
				t.Errorf("speaker %s: %s is announced but not healthy and bound", s.Name, p.Prefix)
			}
		}
	}
}

func checkReasons(t *testing.T, in *Inputs, d *Desired) {
	t.Helper()
	words := []string{"check_failed", "check_unknown", "check_stale", "not_bound", "no_usable_interface", "no_session", "shutdown", "damped"}
	if len(d.VIPs) != len(in.Config.VIPs) || len(d.Interfaces) != len(in.Config.Interfaces) {
		t.Fatalf("%d VIPs and %d interfaces decided, want %d and %d", len(d.VIPs), len(d.Interfaces), len(in.Config.VIPs), len(in.Config.Interfaces))
	}
	for _, v := range d.VIPs {
		if (v.Reason == "") != v.Announced || v.Reason != "" && !slices.Contains(words, string(v.Reason)) {
			t.Errorf("%s: announced=%t with reason %q", v.Name, v.Announced, v.Reason)
		}
		if v.Reason != "" && strings.TrimSpace(v.Detail) == "" {
			t.Errorf("%s: withheld for %s without a detail", v.Name, v.Reason)
		}
		if v.Announced && (!v.Wanted || !v.Bound) {
			t.Errorf("%s: announced, but wanted=%t bound=%t", v.Name, v.Wanted, v.Bound)
		}
		for _, pl := range v.Interfaces {
			if (pl.Reason == "") != pl.Announced || pl.Reason != "" && !slices.Contains(words, string(pl.Reason)) {
				t.Errorf("%s on %s: announced=%t with reason %q", v.Name, pl.Interface, pl.Announced, pl.Reason)
			}
			if pl.Announced != (len(pl.Peers) > 0) {
				t.Errorf("%s on %s: announced=%t to %v", v.Name, pl.Interface, pl.Announced, pl.Peers)
			}
		}
	}
	for _, n := range d.Interfaces {
		if n.Usable != (n.Reason == "") {
			t.Errorf("interface %s: usable=%t with reason %q", n.Name, n.Usable, n.Reason)
		}
	}
	if !d.Recheck.IsZero() && !d.Recheck.After(t0) {
		t.Errorf("recheck at %v is not in the future", d.Recheck)
	}
}

func checkKernel(t *testing.T, in *Inputs, d *Desired) {
	t.Helper()
	usable := 0
	for i, n := range d.Kernel.Interfaces {
		if n.Name != in.Config.Interfaces[i].Name {
			t.Errorf("interface %d is %s, want the order of the configuration", i, n.Name)
		}
		if n.Leg() {
			usable++
		}
		for _, source := range []netip.Addr{n.Source4, n.Source6} {
			k := slices.IndexFunc(in.Config.VIPs, func(v config.VIP) bool {
				return source.IsValid() && v.Prefix == netip.PrefixFrom(source, source.BitLen())
			})
			switch {
			case !source.IsValid():
			case k < 0 || !in.Config.VIPs[k].PreferredSource || !slices.Contains(in.Config.VIPs[k].Interfaces, n.Name):
				t.Errorf("source %s on %s is not configured", source, n.Name)
			case !d.VIPs[k].Announced && !slices.Contains(in.AdoptedSources, source):
				t.Errorf("source %s on %s is not announced", source, n.Name)
			case in.Overrides.Shutdown:
				t.Errorf("source %s on %s while stopping", source, n.Name)
			}
		}
		if n.Source4.Is6() || n.Source6.Is4() {
			t.Errorf("sources %s and %s of the wrong family", n.Source4, n.Source6)
		}
	}
	if usable == 0 {
		t.Error("no interface is left for outgoing traffic")
	}
	for _, c := range in.Config.VIPs {
		if !slices.Contains(d.Kernel.VIPs, c.Prefix) {
			t.Errorf("%s is configured and not to be bound", c.Prefix)
		}
	}
	for _, s := range d.BGP.Speakers {
		for _, p := range s.Paths {
			if !slices.Contains(d.Kernel.VIPs, p.Prefix) {
				t.Errorf("%s is announced and not to be bound", p.Prefix)
			}
		}
	}
	for _, n := range in.Config.Interfaces {
		for _, p := range n.Peers {
			if !slices.Contains(d.Kernel.Exclude, netip.PrefixFrom(p.Address, p.Address.BitLen())) {
				t.Errorf("peer %s is not exempt from the source", p.Address)
			}
		}
	}
}
