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
	"vipspeaker/pkg/ndp"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/status"

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
		found(r, &n)
		c.Interfaces, names = append(c.Interfaces, n), append(names, n.Name)
	}
	for i := range r.IntN(3) {
		p := template
		p.Address, p.ASN, p.TTL, p.AddPath = addr(fmt.Sprintf(pick(r, "10.255.0.%d", "fd99::%d"), i)), pick(r, uint32(65000), 65010), uint8(r.IntN(9)), chance(r, 2)
		p.Passive, p.LocalAddress = chance(r, 5), pick(r, netip.Addr{}, netip.Addr{}, addr("10.1.0.1"), addr("10.255.9.9"))
		if chance(r, 3) {
			p.BFD = &config.BFD{Required: chance(r, 4)}
		}
		c.Peers = append(c.Peers, p)
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
		if v.Prefix.IsSingleIP() && i%2 == 0 {
			v.Source = config.Source{Always: i == 2, Rules: []config.SourceRule{{Rank: i, Users: &config.Users{First: uint32(i), Last: 9}}}}
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

// found makes one of an interface's peers one that is found by itself, now and
// then, or takes all peers away.
func found(r *rand.Rand, n *config.Interface) {
	p := &n.Peers[r.IntN(len(n.Peers))]
	switch r.IntN(8) {
	case 0:
		p.Address, p.Gateway = netip.Addr{}, true
	case 1:
		p.Address, p.Unnumbered, p.External, p.ASN = netip.Addr{}, true, true, 0
	case 2:
		p.Address, p.IPv4 = addr("fe80::77"), true
	case 3:
		n.Peers = nil
	}
}

// around gives an interface default gateways and routers that are heard.
func around(r *rand.Rand, in *Inputs, i int) {
	for _, g := range []string{"10.1.%d.8", "10.1.%d.10", "fe80::%d:8", "fd01:%d::8", "192.0.2.%d"} {
		if chance(r, 3) {
			in.Net.Routes = append(in.Net.Routes, defaultRoute(i+2, uint32(r.IntN(2)), fmt.Sprintf(g, i)))
		}
	}
	n := ndp.Interface{Name: in.Config.Interfaces[i].Name, Error: pick(r, "", "no socket")}
	for j := range r.IntN(3) {
		n.Routers = append(n.Routers, ndp.Router{
			Address:         addr(fmt.Sprintf("fe80::%d:%d", i, j+7)).WithZone(n.Name),
			ByAdvertisement: chance(r, 2), Heard: t0.Add(-time.Duration(r.IntN(9)) * time.Second),
		})
	}
	in.NDP.Interfaces = append(in.NDP.Interfaces, n)
	if h, ok := in.History.Interfaces[n.Name]; ok && len(n.Routers) > 0 && chance(r, 2) {
		h.Router = n.Routers[r.IntN(len(n.Routers))].Address
		in.History.Interfaces[n.Name] = h
	}
}

// behind gives an interface probes and damping.
func behind(r *rand.Rand, n *config.Interface) {
	n.Damping = anyDamping(r)
	n.GatewayProbe = config.GatewayProbe{Enabled: !chance(r, 3), Interval: time.Second, Failures: 1 + r.IntN(3)}
	if chance(r, 3) {
		n.PathProbe = &config.PathProbe{Target: addr(pick(r, "192.0.2.1", "2001:db8::1")), Interval: time.Second, Failures: 2}
	}
}

// anyOrders drains VIPs, each for itself or all.
func anyOrders(r *rand.Rand, in *Inputs) {
	in.Connections = map[netip.Prefix]int{}
	o := &orders.Orders{}
	for i := range in.Config.VIPs {
		v := &in.Config.VIPs[i]
		v.Drain = config.Drain{ConnectionsTimeout: time.Duration(r.IntN(20)) * time.Second, Unbind: chance(r, 2)}
		if chance(r, 2) {
			in.Connections[v.Prefix] = r.IntN(3)
		}
		if chance(r, 3) {
			at := t0.Add(-time.Duration(r.IntN(30)) * time.Second)
			o.Drain(orders.Drain{Prefix: v.Prefix, Since: at, Withdraw: at.Add(time.Duration(r.IntN(30)) * time.Second)})
		}
	}
	if chance(r, 9) {
		o.All = &orders.DrainAll{Since: t0}
	}
	if chance(r, 9) {
		o.Damage = "damaged"
	}
	in.Overrides.Orders = o
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
	anyOrders(r, in)
	in.NDP = &ndp.State{}
	for i := range in.Config.Interfaces {
		around(r, in, i)
	}
	// What is probed and watched, and with whom there are sessions, follows from
	// the rest.
	now := Plan(*in, t0)
	if in.BGP != nil {
		for i := range now.Interfaces {
			anySpeaker(r, in, now.Interfaces[i].Name, now.Interfaces[i].Peers)
		}
		anySpeaker(r, in, status.TopLevel, now.Remote)
	}
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
}

// anySpeaker gives peers a speaker.
func anySpeaker(r *rand.Rand, in *Inputs, name string, peers []Peer) {
	if chance(r, 5) {
		return
	}
	s := bgp.SpeakerState{Name: name, Phase: bgp.Running}
	for _, p := range peers {
		if chance(r, 5) || !p.Address.IsValid() {
			continue
		}
		s.Peers = append(s.Peers, bgp.PeerState{
			Address: p.Address, State: pick(r, bgp.Established, bgp.Established, bgp.Active, bgp.Idle),
			Transitions: r.Uint64N(2), IPv4: !chance(r, 5), IPv6: !chance(r, 5), ExtendedNextHop: chance(r, 2),
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
	net := &netmon.State{Links: slices.Clone(in.Net.Links), Routes: slices.Clone(in.Net.Routes)}
	mix(len(net.Routes), func(i, j int) { net.Routes[i], net.Routes[j] = net.Routes[j], net.Routes[i] })
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
	if d, ok := in.Overrides.Orders.DrainOf(c.Prefix, t0); ok && !t0.Before(d.Withdraw) {
		return false
	}
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
		if s.Name == status.TopLevel {
			checkTopLevel(t, in, d, &s)
			continue
		}
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
			if !owns(bare(p.LocalAddress)) || p.Interface != s.Name {
				t.Errorf("speaker %s: session to %s from %s is not pinned to the interface", s.Name, p.Address, p.LocalAddress)
			}
			if !slices.ContainsFunc(in.Config.Interfaces[at].Peers, func(c config.Peer) bool { return mayBe(&c, p.Address) }) {
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

// checkTopLevel: one path for each usable interface that the VIP selects and that
// has an address, and that address as next hop; sessions only from our own
// addresses.
func checkTopLevel(t *testing.T, in *Inputs, d *Desired, s *bgp.SpeakerConfig) {
	t.Helper()
	seen := map[pathKey]bool{}
	for _, p := range s.Paths {
		k := slices.IndexFunc(in.Config.VIPs, func(v config.VIP) bool { return v.Prefix == p.Prefix })
		n := d.Interfaces[p.ID-1]
		switch {
		case k < 0 || !mayBeAnnounced(in, &in.Config.VIPs[k]) || seen[pathKey{p.Prefix, p.ID}]:
			t.Errorf("path %s %d: not to be announced, or twice", p.Prefix, p.ID)
		case !slices.Contains(in.Config.VIPs[k].Interfaces, n.Name) || !n.Usable:
			t.Errorf("path %s by %s, which is not selected or not usable", p.Prefix, n.Name)
		case p.NextHop.IsLinkLocalUnicast() || !slices.ContainsFunc(n.Addresses, func(a netip.Prefix) bool { return a.Addr() == p.NextHop }):
			t.Errorf("path %s by %s has next hop %s", p.Prefix, n.Name, p.NextHop)
		}
		seen[pathKey{p.Prefix, p.ID}] = true
	}
	for i := range in.Config.VIPs {
		v := &in.Config.VIPs[i]
		for at, n := range d.Interfaces {
			own := global(n.Addresses, true).IsValid() && v.Prefix.Addr().Is4() || global(n.Addresses, false).IsValid()
			want := mayBeAnnounced(in, v) && n.Usable && own && slices.Contains(v.Interfaces, n.Name) && d.VIPs[i].Penalty.Suppressed == d.VIPs[i].Degraded
			if want && !seen[pathKey{v.Prefix, uint32(at) + 1}] {
				t.Errorf("no path %s by %s", v.Prefix, n.Name)
			}
		}
	}
	for _, p := range s.Peers {
		if p.Interface != "" || !p.LocalAddress.IsValid() || p.LocalAddress.Is4() != p.Address.Is4() && !slices.ContainsFunc(in.Config.Peers, func(c config.Peer) bool {
			return c.LocalAddress == p.LocalAddress
		}) {
			t.Errorf("session with %s from %s pinned to %q", p.Address, p.LocalAddress, p.Interface)
		}
		for _, o := range d.BGP.Speakers {
			if o.Name != s.Name && slices.ContainsFunc(s.ListenAddresses, func(a netip.Addr) bool { return slices.Contains(o.ListenAddresses, a) }) {
				t.Errorf("%s and %s listen on one address", o.Name, s.Name)
			}
		}
	}
}

func checkReasons(t *testing.T, in *Inputs, d *Desired) {
	t.Helper()
	words := []string{"check_failed", "check_unknown", "check_stale", "not_bound", "no_usable_interface", "no_session", "shutdown", "damped", "drained"}
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
			case !d.VIPs[k].Announced && !in.Config.VIPs[k].Source.Always && !slices.Contains(in.AdoptedSources, source):
				t.Errorf("source %s on %s is not announced", source, n.Name)
			case in.Overrides.Shutdown:
				t.Errorf("source %s on %s while stopping", source, n.Name)
			}
		}
		if n.Source4.Is6() || n.Source6.Is4() {
			t.Errorf("sources %s and %s of the wrong family", n.Source4, n.Source6)
		}
	}
	checkSourceRules(t, in, d)
	if usable == 0 {
		t.Error("no interface is left for outgoing traffic")
	}
	for i, c := range in.Config.VIPs {
		drained := d.VIPs[i].Drain != nil && d.VIPs[i].Drain.Phase == status.DrainDone && c.Drain.Unbind
		if !drained && !slices.Contains(d.Kernel.VIPs, c.Prefix) {
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
	for _, n := range d.Interfaces {
		for _, p := range slices.Concat(n.Peers, d.Remote) {
			if !p.Address.IsValid() || p.Address.Is6() && p.Address.IsLinkLocalUnicast() {
				continue
			}
			if !slices.Contains(d.Kernel.Exclude, netip.PrefixFrom(p.Address, p.Address.BitLen())) {
				t.Errorf("peer %s is not exempt from the source", p.Address)
			}
		}
	}
}
