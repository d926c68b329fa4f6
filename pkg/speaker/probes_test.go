package speaker

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"

	"github.com/google/go-cmp/cmp"
)

// probing is the sample with probes of both interfaces and the results of all.
func probing(in *Inputs) {
	for i := range in.Config.Interfaces {
		in.Config.Interfaces[i].GatewayProbe = config.GatewayProbe{Enabled: true, Interval: 500 * time.Millisecond, Failures: 3}
	}
	for _, id := range []string{"attachment/en1/10.68.1.2", "attachment/en5/10.68.5.2"} {
		in.Health[id] = answers(id)
	}
}

func answers(id string) health.Result {
	return health.Result{
		ID: id, Verdict: health.Healthy, Since: t0.Add(-time.Hour), Checked: t0, Passed: t0,
		Expires: t0.Add(2 * time.Second), Streak: 99,
	}
}

// silent is a target that answered last 1.6 s ago.
func silent(id string) health.Result {
	return health.Result{
		ID: id, Verdict: health.Unhealthy, Reason: "no answer", Since: t0, Checked: t0, Passed: t0.Add(-1600 * time.Millisecond),
		Expires: t0.Add(2 * time.Second), Streak: 3,
	}
}

func TestPlanProbes(t *testing.T) {
	t.Parallel()
	dead := func(ids ...string) func(*Inputs) {
		return func(in *Inputs) {
			probing(in)
			for _, id := range ids {
				in.Health[id] = silent(id)
			}
		}
	}
	with := func(change func(*Inputs), more func(*Inputs)) func(*Inputs) {
		return func(in *Inputs) { change(in); more(in) }
	}
	const (
		en1, en5 = "attachment/en1/10.68.1.2", "attachment/en5/10.68.5.2"
		lost1    = `speaker en1: path 10.68.6.1/32 via self down "interface en1: attachment: 10.68.1.2 unreachable since 1.6 s (3 of 3 probes)"`
		second   = "attachment/en1/10.68.1.9"
	)
	twoGateways := func(in *Inputs) {
		in.Config.Interfaces[0].Gateways = []netip.Addr{addr("10.68.1.2"), addr("10.68.1.9")}
	}
	pathProbe := func(r health.Result) func(*Inputs) {
		return func(in *Inputs) {
			in.Config.Interfaces[0].PathProbe = &config.PathProbe{Target: addr("192.0.2.1"), Interval: time.Second, Timeout: time.Second, Failures: 5}
			in.Health["path/en1/192.0.2.1"] = r
		}
	}
	tests := []planCase{
		{"answered", probing, lines(sp1, sp5, k1, k5, good)},
		{"not yet asked", with(probing, func(in *Inputs) { delete(in.Health, en1) }), lines(sp1, sp5, k1, k5, good)},
		{"silent", dead(en1), lines(lost1, sp5, k1off, k5, good)},
		{
			"silent, but that is old", with(dead(en1), func(in *Inputs) {
				r := silent(en1)
				r.Expires = t0
				in.Health[en1] = r
			}), lines(sp1, sp5, k1, k5, good),
		},
		{
			"never answered, once asked", with(dead(en1), func(in *Inputs) {
				in.Health[en1] = health.Result{Verdict: health.Unhealthy, Since: t0, Expires: t0.Add(1), Streak: 1}
			}), lines(sp1, sp5, k1, k5, good),
		},
		{
			"never answered, asked often enough", with(dead(en1), func(in *Inputs) {
				in.Health[en1] = health.Result{Verdict: health.Unhealthy, Since: t0.Add(-time.Second), Expires: t0.Add(1), Streak: 7}
			}), lines(strings.ReplaceAll(lost1, "1.6 s", "1 s"), sp5, k1off, k5, good),
		},
		{"switched off", with(dead(en1), func(in *Inputs) { in.Config.Interfaces[0].GatewayProbe.Enabled = false }), lines(sp1, sp5, k1, k5, good)},
		{"one of two gateways silent", with(dead(en1), func(in *Inputs) { twoGateways(in); in.Health[second] = answers(second) }), lines(sp1, sp5, k1, k5, good)},
		{"one of two gateways silent, the other unknown", with(dead(en1), twoGateways), lines(lost1, sp5, k1off, k5, good)},
		{
			"both gateways silent", with(dead(en1, second), twoGateways),
			lines(strings.ReplaceAll(lost1, `probes)"`, `probes); 10.68.1.9 unreachable since 1.6 s (3 of 3 probes)"`), sp5, k1off, k5, good),
		},
		{
			"silent everywhere: no leg is left, so all stay", dead(en1, en5),
			lines(lost1, strings.NewReplacer("en1", "en5", "10.68.1.2", "10.68.5.2").Replace(lost1), "kernel en1: leg=true", "kernel en5: leg=true",
				"vip vipa: wanted=false announced=false no_usable_interface: "+
					"en1: attachment: 10.68.1.2 unreachable since 1.6 s (3 of 3 probes); en5: attachment: 10.68.5.2 unreachable since 1.6 s (3 of 3 probes)"),
		},
		{
			"the link explains more", with(dead(en1), func(in *Inputs) { in.Net.Links[0].Running = false }),
			lines(`speaker en1: path 10.68.6.1/32 via self down "interface en1: no carrier"`, sp5, k1off, k5, good),
		},
		{"path answered", pathProbe(answers("path/en1/192.0.2.1")), lines(sp1, sp5, k1, k5, good)},
		{
			"path silent", pathProbe(silent("path/en1/192.0.2.1")),
			lines(`speaker en1: path 10.68.6.1/32 via self down "interface en1: path: 192.0.2.1 does not answer since 1.6 s (3 of 5 probes): no answer"`,
				sp5, k1off, k5, good),
		},
		{"path never asked", pathProbe(health.Result{}), lines(sp1, sp5, k1, k5, good)},
	}
	for _, tt := range tests {
		t.Run(tt.name, tt.run)
	}
}

// attachment is a probe of the sample's interface en1.
func attachment(target, source string) Probe {
	return Probe{
		ID: "attachment/en1/" + target, Interface: "en1", Layer: "attachment", Target: addr(target), Source: addr(source),
		Interval: 400 * time.Millisecond, Timeout: 200 * time.Millisecond, Failures: 3,
	}
}

// withIPv6 gives the interface en1 a network, a peer and a VIP of IPv6.
func withIPv6(in *Inputs) {
	in.Net.Links[0].Addresses = append(in.Net.Links[0].Addresses, netmon.Address{Prefix: prefix("fd01::1/64"), Usable: true})
	c := in.Config
	c.Interfaces[0].Peers = append(c.Interfaces[0].Peers, config.Peer{Address: addr("fd01::2"), ASN: 65000})
	c.VIPs = append(c.VIPs, config.VIP{Name: "vip6", Prefix: prefix("fd68:6::1/128"), Interfaces: []string{"en1", "en5"}})
}

// What is probed, from where, and how often.
func TestProbesOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*config.Interface, *Inputs)
		want   []Probe
	}{
		{"the peers", func(*config.Interface, *Inputs) {}, []Probe{attachment("10.68.1.2", "10.68.1.1")}},
		{"a peer that is not on the link", func(_ *config.Interface, in *Inputs) { in.Net.Links[0].Addresses = nil }, nil},
		{"a peer while the link is down", func(_ *config.Interface, in *Inputs) { in.Net.Links[0].Running = false }, []Probe{attachment("10.68.1.2", "10.68.1.1")}},
		{"the gateway instead", func(c *config.Interface, _ *Inputs) {
			c.Gateways, c.GatewayProbe.Interval = []netip.Addr{addr("10.68.1.9")}, time.Minute
		}, []Probe{{
			ID: "attachment/en1/10.68.1.9", Interface: "en1", Layer: "attachment", Target: addr("10.68.1.9"), Source: addr("10.68.1.1"),
			Interval: time.Minute, Timeout: 250 * time.Millisecond, Failures: 3,
		}}},
		{"the gateway of one family, the peer of the other", func(c *config.Interface, in *Inputs) {
			c.Gateways = []netip.Addr{addr("10.68.1.9")}
			withIPv6(in)
		}, []Probe{attachment("10.68.1.9", "10.68.1.1"), attachment("fd01::2", "fd01::1")}},
		{"main's gateway and the peer", func(_ *config.Interface, in *Inputs) {
			in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "10.68.1.254")}
		}, []Probe{attachment("10.68.1.254", "10.68.1.1"), attachment("10.68.1.2", "10.68.1.1")}},
		{"main's gateway is the peer", func(_ *config.Interface, in *Inputs) {
			in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "10.68.1.2")}
		}, []Probe{attachment("10.68.1.2", "10.68.1.1")}},
		{"a configured gateway and main's", func(c *config.Interface, in *Inputs) {
			c.Gateways = []netip.Addr{addr("10.68.1.9")}
			in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "10.68.1.254")}
		}, []Probe{attachment("10.68.1.9", "10.68.1.1")}},
		{"main's gateway without a peer", func(c *config.Interface, in *Inputs) {
			c.Peers = nil
			in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "10.68.1.254"), defaultRoute(3, 0, "10.68.5.2")}
		}, []Probe{attachment("10.68.1.254", "10.68.1.1")}},
		{"neither peer nor gateway", func(c *config.Interface, _ *Inputs) { c.Peers = nil }, nil},
		{"main's IPv6 gateway without an IPv6 VIP", func(_ *config.Interface, in *Inputs) {
			in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "fe80::2")}
		}, []Probe{attachment("10.68.1.2", "10.68.1.1")}},
		{"main's link-local gateway", func(_ *config.Interface, in *Inputs) {
			withIPv6(in)
			in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "fe80::2")}
		}, []Probe{
			attachment("fe80::2%en1", "fe80::1%en1"), attachment("10.68.1.2", "10.68.1.1"), attachment("fd01::2", "fd01::1"),
		}},
		{"a path", func(c *config.Interface, _ *Inputs) {
			c.GatewayProbe.Enabled = false
			c.PathProbe = &config.PathProbe{Target: addr("192.0.2.1"), Interval: time.Second, Timeout: 300 * time.Millisecond, Failures: 4}
		}, []Probe{{
			ID: "path/en1/192.0.2.1", Interface: "en1", Layer: "path", Target: addr("192.0.2.1"), Source: addr("10.68.1.1"),
			Interval: time.Second, Timeout: 300 * time.Millisecond, Failures: 4,
		}}},
		{"a path of another family", func(c *config.Interface, _ *Inputs) {
			c.GatewayProbe.Enabled = false
			c.PathProbe = &config.PathProbe{Target: addr("2001:db8::1")}
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := sample()
			c := &in.Config.Interfaces[0]
			c.GatewayProbe = config.GatewayProbe{Enabled: true, Interval: 400 * time.Millisecond, Failures: 3}
			tt.change(c, &in)
			d := Plan(in, t0)
			if diff := cmp.Diff(tt.want, d.Probes, compare...); diff != "" {
				t.Errorf("probes (-want +got):\n%s", diff)
			}
		})
	}
}

// A gateway that is known to be dead is no next hop while another of its family
// is left, and the last words of a session find another way.
func TestDeadGateways(t *testing.T) {
	t.Parallel()
	gateways := []netip.Addr{addr("10.68.1.2"), addr("10.68.1.9"), addr("fd01::9")}
	v4, both := []netip.Addr{addr("10.68.1.9"), addr("fd01::9")}, gateways
	for name, tt := range map[string]struct {
		dead  []string
		want  []netip.Addr
		first bool
	}{
		"none":              {nil, both, false},
		"one":               {[]string{"10.68.1.2"}, v4, false},
		"all of a family":   {[]string{"10.68.1.2", "10.68.1.9"}, both, false},
		"all":               {[]string{"10.68.1.2", "10.68.1.9", "fd01::9"}, both, true},
		"the only IPv6 one": {[]string{"fd01::9"}, both, false},
	} {
		in := edit(probing)
		in.Config.Interfaces[0].Gateways = gateways
		for _, g := range gateways {
			in.Health["attachment/en1/"+g.String()] = answers("")
		}
		for _, g := range tt.dead {
			in.Health["attachment/en1/"+g] = silent("")
		}
		d := Plan(in, t0)
		if diff := cmp.Diff(tt.want, d.Kernel.Interfaces[0].Gateways, compare...); diff != "" {
			t.Errorf("%s: next hops (-want +got):\n%s", name, diff)
		}
		want := []vip.Fallback{
			{Local: addr("10.68.1.1"), Peer: addr("10.68.1.2"), First: tt.first},
			{Local: addr("10.68.5.1"), Peer: addr("10.68.5.2")},
		}
		if diff := cmp.Diff(want, d.Kernel.Fallbacks, compare...); diff != "" {
			t.Errorf("%s: fallbacks (-want +got):\n%s", name, diff)
		}
		if got := len(d.Interfaces[0].Failures); got != len(tt.dead) {
			t.Errorf("%s: %d failures, want %d", name, got, len(tt.dead))
		}
	}
}

// A family whose next hops on an interface are all dead leaves it, while the other
// family stays and while another interface has a next hop of it that lives.
func TestDeadFamily(t *testing.T) {
	t.Parallel()
	gateways := [][]netip.Addr{{addr("10.68.1.2"), addr("fd01::2")}, {addr("10.68.5.2"), addr("fd05::2")}}
	for name, tt := range map[string]struct {
		dead []string
		want string
	}{
		"none":                    {nil, "en1 en5"},
		"IPv4 on en1":             {[]string{"en1/10.68.1.2"}, "en1-4 en5"},
		"IPv6 on en1":             {[]string{"en1/fd01::2"}, "en1-6 en5"},
		"each family on one":      {[]string{"en1/10.68.1.2", "en5/fd05::2"}, "en1-4 en5-6"},
		"IPv6 on both":            {[]string{"en1/fd01::2", "en5/fd05::2"}, "en1 en5"},
		"all on en1":              {[]string{"en1/10.68.1.2", "en1/fd01::2"}, "en5"},
		"all on en1, IPv6 on en5": {[]string{"en1/10.68.1.2", "en1/fd01::2", "en5/fd05::2"}, "en5"},
	} {
		in := edit(probing)
		for i, address := range []string{"fd01::1/64", "fd05::1/64"} {
			in.Net.Links[i].Addresses = append(in.Net.Links[i].Addresses, netmon.Address{Prefix: prefix(address), Usable: true})
			in.Config.Interfaces[i].Gateways = gateways[i]
			for _, g := range gateways[i] {
				in.Health["attachment/"+in.Config.Interfaces[i].Name+"/"+g.String()] = answers("")
			}
		}
		for _, id := range tt.dead {
			in.Health["attachment/"+id] = silent("")
		}
		d := Plan(in, t0)
		var got []string
		for i := range d.Kernel.Interfaces {
			n := &d.Kernel.Interfaces[i]
			if !n.Leg() {
				continue
			}
			text := n.Name
			if n.Silent4 {
				text += "-4"
			}
			if n.Silent6 {
				text += "-6"
			}
			got = append(got, text)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: legs %q, want %q", name, got, tt.want)
		}
	}
}

// The next hops of a family may be configured, main's or the peers: each has its
// own, and only those that traffic uses count.
func TestDeadFamilyByOrigin(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		gateways []netip.Addr
		main     []string
		dead     []string
		want4    bool // IPv4 has left en1
		want6    bool
		attached bool
	}{
		"IPv4 configured, dead":                   {[]netip.Addr{addr("10.68.1.2")}, nil, []string{"10.68.1.2"}, true, false, true},
		"IPv4 configured, IPv6 peer dead":         {[]netip.Addr{addr("10.68.1.2")}, nil, []string{"fd01::2"}, false, true, true},
		"IPv4 configured, both dead":              {[]netip.Addr{addr("10.68.1.2")}, nil, []string{"10.68.1.2", "fd01::2"}, false, false, false},
		"main's gateways are not the peer, dead":  {nil, []string{"10.68.1.254"}, []string{"10.68.1.254"}, true, false, true},
		"main's gateways are not the peer, peer":  {nil, []string{"10.68.1.254"}, []string{"10.68.1.2"}, false, false, true},
		"main's link-local gateway, dead":         {nil, []string{"fe80::2"}, []string{"fe80::2%en1"}, false, true, true},
		"one of main's gateways dead":             {nil, []string{"10.68.1.254", "10.68.1.253"}, []string{"10.68.1.254"}, false, false, true},
		"main's gateways and the IPv4 peer, dead": {nil, []string{"10.68.1.254"}, []string{"10.68.1.254", "10.68.1.2"}, true, false, true},
	} {
		in := edit(probing)
		withIPv6(&in)
		in.Config.Interfaces[0].Gateways = tt.gateways
		in.Net.Links[1].Addresses = append(in.Net.Links[1].Addresses, netmon.Address{Prefix: prefix("fd05::1/64"), Usable: true})
		for _, g := range tt.main {
			in.Net.Routes = append(in.Net.Routes, defaultRoute(2, 0, g))
			in.Health[probeID("attachment", "en1", addr(g))] = answers("")
		}
		in.Health["attachment/en1/fd01::2"] = answers("")
		for _, g := range tt.dead {
			in.Health["attachment/en1/"+g] = silent("")
		}
		d := Plan(in, t0)
		n := &d.Kernel.Interfaces[0]
		if n.Silent4 != tt.want4 || n.Silent6 != tt.want6 || d.Interfaces[0].Usable != tt.attached {
			t.Errorf("%s: IPv4 left %t, IPv6 left %t, usable %t (%s)", name, n.Silent4, n.Silent6, d.Interfaces[0].Usable, d.Interfaces[0].Detail)
		}
		var dead []netip.Addr
		for _, g := range tt.main {
			if slices.ContainsFunc(tt.dead, func(a string) bool { return addr(a).WithZone("") == addr(g) }) {
				dead = append(dead, addr(g))
			}
		}
		if diff := cmp.Diff(dead, n.Dead, compare...); diff != "" && tt.gateways == nil {
			t.Errorf("%s: dead next hops (-want +got):\n%s", name, diff)
		}
	}
}

// The text of a failure says for how long, and stays as it was made until
// something else fails.
func TestFailureTextStays(t *testing.T) {
	t.Parallel()
	in := edit(probing)
	in.Health["attachment/en1/10.68.1.2"] = silent("")
	d := Plan(in, t0)
	first := d.Interfaces[0].Detail
	want := []status.Failure{{
		Layer: "attachment", Target: "10.68.1.2", Since: t0.Add(-1600 * time.Millisecond), Failed: 3, Of: 3, Reason: "no answer",
	}}
	if diff := cmp.Diff(want, d.Interfaces[0].Failures); diff != "" || first != "10.68.1.2 unreachable since 1.6 s (3 of 3 probes)" {
		t.Errorf("%s (-want +got):\n%s", first, diff)
	}
	in.History = d.History
	if d = Plan(in, t0.Add(time.Second)); d.Interfaces[0].Detail != first || d.speaker("en1").DownReason != "interface en1: attachment: "+first {
		t.Errorf("a second later: %s", d.Interfaces[0].Detail)
	}
	in.Net.Links[0].Running = false
	in.History = Plan(in, t0.Add(time.Second)).History
	in.Net.Links[0].Running = true
	if d = Plan(in, t0.Add(time.Second)); d.Interfaces[0].Detail != "10.68.1.2 unreachable since 2.6 s (3 of 3 probes)" {
		t.Errorf("after another failure: %s", d.Interfaces[0].Detail)
	}
}

// What is dead beyond a router that answers on the link keeps the last words
// from nobody; where nothing is known of the link, they go another way.
func TestLastWordsOfADeadPath(t *testing.T) {
	t.Parallel()
	for _, attached := range []bool{true, false} {
		in := edit(probing)
		in.Config.Interfaces[0].GatewayProbe.Enabled = attached
		in.Config.Interfaces[0].PathProbe = &config.PathProbe{Target: addr("192.0.2.1"), Failures: 3}
		in.Health["path/en1/192.0.2.1"] = silent("")
		d := Plan(in, t0)
		if d.Interfaces[0].Reason != status.InterfacePath || d.Kernel.Fallbacks[0].First == attached {
			t.Errorf("attached=%t: %s, %+v", attached, d.Interfaces[0].Reason, d.Kernel.Fallbacks[0])
		}
	}
}

// A probe that is dead from the start tells nobody when its failures are enough,
// so Plan looks again; and what is behind a link that is gone is no failure.
func TestProbeDeadFromTheStart(t *testing.T) {
	t.Parallel()
	in := edit(probing)
	in.Health["attachment/en1/10.68.1.2"] = health.Result{Verdict: health.Unhealthy, Since: t0, Checked: t0, Expires: t0.Add(time.Hour), Streak: 1}
	if d := Plan(in, t0); !d.Interfaces[0].Usable || !d.Recheck.Equal(t0.Add(500*time.Millisecond)) {
		t.Errorf("usable %t, recheck at %s", d.Interfaces[0].Usable, d.Recheck)
	}
	in.Health["attachment/en1/10.68.1.2"] = silent("")
	if d := Plan(in, t0); len(d.Interfaces[0].Failures) != 1 {
		t.Errorf("failures %+v", d.Interfaces[0].Failures)
	}
	for _, gone := range []func(*netmon.Link){
		func(l *netmon.Link) { l.Up = false }, func(l *netmon.Link) { l.Running = false }, func(l *netmon.Link) { l.Name = "en1x" },
	} {
		in.Net = sampleNet()
		gone(&in.Net.Links[0])
		if d := Plan(in, t0); len(d.Interfaces[0].Failures) != 0 {
			t.Errorf("%+v: failures %+v", in.Net.Links[0], d.Interfaces[0].Failures)
		}
	}
}
