package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/vip"

	"github.com/google/go-cmp/cmp"
)

// render is a decision as text, one line per thing, so that tables can be read.
func render(d *Desired) string {
	var b strings.Builder
	for _, s := range d.BGP.Speakers {
		fmt.Fprintf(&b, "speaker %s:", s.Name)
		for _, p := range s.Peers {
			fmt.Fprintf(&b, " peer %s from %s", p.Address, p.LocalAddress)
		}
		for _, p := range s.Paths {
			hop := "self"
			if p.NextHop.IsValid() {
				hop = p.NextHop.String()
			}
			fmt.Fprintf(&b, " path %s via %s", p.Prefix, hop)
		}
		if len(s.Peers) == 0 {
			fmt.Fprintf(&b, " down %q", s.DownReason)
		}
		b.WriteByte('\n')
	}
	for _, n := range d.Kernel.Interfaces {
		fmt.Fprintf(&b, "kernel %s: leg=%t", n.Name, n.Leg())
		if n.Source4.IsValid() {
			fmt.Fprintf(&b, " source %s", n.Source4)
		}
		if n.Source6.IsValid() {
			fmt.Fprintf(&b, " source %s", n.Source6)
		}
		b.WriteByte('\n')
	}
	for _, v := range d.VIPs {
		fmt.Fprintf(&b, "vip %s: wanted=%t announced=%t", v.Name, v.Wanted, v.Announced)
		if v.Reason != "" {
			fmt.Fprintf(&b, " %s: %s", v.Reason, v.Detail)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func lines(s ...string) string { return strings.Join(s, "\n") + "\n" }

const (
	sp1   = "speaker en1: peer 10.68.1.2 from 10.68.1.1 path 10.68.6.1/32 via self"
	sp5   = "speaker en5: peer 10.68.5.2 from 10.68.5.1 path 10.68.6.1/32 via self"
	k1    = "kernel en1: leg=true source 10.68.6.1"
	k1off = "kernel en1: leg=false source 10.68.6.1"
	k5    = "kernel en5: leg=true source 10.68.6.1"
	good  = "vip vipa: wanted=true announced=true"
)

// planCase is a world and what is to be done about it.
type planCase struct {
	name   string
	change func(*Inputs)
	want   string
}

func (tt *planCase) run(t *testing.T) {
	t.Parallel()
	d := Plan(edit(tt.change), t0)
	if diff := cmp.Diff(tt.want, render(&d)); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
}

func TestPlanInterfaces(t *testing.T) {
	t.Parallel()
	down := func(name string, change func(*netmon.Link)) func(*Inputs) {
		return func(in *Inputs) {
			for i := range in.Net.Links {
				if in.Net.Links[i].Name == name {
					change(&in.Net.Links[i])
				}
			}
		}
	}
	tests := []planCase{
		{"steady", func(*Inputs) {}, lines(sp1, sp5, k1, k5, good)},
		{
			"administratively down", down("en1", func(l *netmon.Link) { l.Up, l.Running = false, false }),
			lines(`speaker en1: path 10.68.6.1/32 via self down "interface en1: administratively down"`, sp5, k1off, k5, good),
		},
		{
			"carrier lost", down("en1", func(l *netmon.Link) { l.Running = false }),
			lines(`speaker en1: path 10.68.6.1/32 via self down "interface en1: no carrier"`, sp5, k1off, k5, good),
		},
		{
			"link absent", down("en1", func(l *netmon.Link) { l.Name = "en1x" }),
			lines(`speaker en1: path 10.68.6.1/32 via self down "interface en1: no such link"`, sp5, k1off, k5, good),
		},
		{
			"address lost", down("en1", func(l *netmon.Link) { l.Addresses = l.Addresses[1:] }),
			lines(`speaker en1: path 10.68.6.1/32 via self down "interface en1: no usable address on-link with 10.68.1.2"`, sp5, k1off, k5, good),
		},
		{
			"address tentative", down("en1", func(l *netmon.Link) { l.Addresses[0].Usable = false }),
			lines(`speaker en1: path 10.68.6.1/32 via self down "interface en1: no usable address on-link with 10.68.1.2"`, sp5, k1off, k5, good),
		},
		{
			"hold-up", down("en1", func(l *netmon.Link) { l.HealthySince = t0.Add(-time.Second) }),
			lines(`speaker en1: path 10.68.6.1/32 via self down "interface en1: healthy again, held for 2s"`, sp5, k1off, k5, good),
		},
		{"hold-up over", down("en1", func(l *netmon.Link) { l.HealthySince = t0.Add(-2 * time.Second) }), lines(sp1, sp5, k1, k5, good)},
	}
	for _, tt := range tests {
		t.Run(tt.name, tt.run)
	}
}

func TestPlanGates(t *testing.T) {
	t.Parallel()
	tests := []planCase{
		{
			"router silent", func(in *Inputs) {
				in.BGP.Speakers[0].Peers[0].State = bgp.Active
			},
			lines(sp1, sp5, k1off, k5, good),
		},
		{
			"both routers silent", func(in *Inputs) {
				in.BGP.Speakers[0].Peers[0].State = bgp.Active
				in.BGP.Speakers[1].Peers[0].State = bgp.Active
				in.BGP.Speakers[1].Peers[0].LastError = "connection refused"
			},
			lines(sp1, sp5, "kernel en1: leg=true", "kernel en5: leg=true",
				"vip vipa: wanted=true announced=false no_session: en1: 10.68.1.2 Active; en5: 10.68.5.2 Active: connection refused"),
		},
		{
			"check failed", func(in *Inputs) {
				r := in.Health[vipID()]
				r.Verdict, r.Reason = health.Unhealthy, "connection refused"
				in.Health[vipID()] = r
			},
			lines("speaker en1: peer 10.68.1.2 from 10.68.1.1", "speaker en5: peer 10.68.5.2 from 10.68.5.1",
				"kernel en1: leg=true", "kernel en5: leg=true",
				"vip vipa: wanted=false announced=false check_failed: check web: connection refused"),
		},
		{
			"not bound", func(in *Inputs) { in.Bound = nil },
			lines("speaker en1: peer 10.68.1.2 from 10.68.1.1", "speaker en5: peer 10.68.5.2 from 10.68.5.1",
				"kernel en1: leg=true", "kernel en5: leg=true",
				"vip vipa: wanted=true announced=false not_bound: the kernel does not hold it"),
		},
		{
			"no router id", func(in *Inputs) { in.RouterID = netip.Addr{}; in.BGP = nil },
			lines("kernel en1: leg=true", "kernel en5: leg=true",
				"vip vipa: wanted=false announced=false no_session: "+
					"en1: no router id: no listed interface has an IPv4 address; set bgp.router_id; "+
					"en5: no router id: no listed interface has an IPv4 address; set bgp.router_id"),
		},
		{
			"one interface selected", func(in *Inputs) { in.Config.VIPs[0].Interfaces = []string{"en5"} },
			lines("speaker en1: peer 10.68.1.2 from 10.68.1.1", sp5, "kernel en1: leg=true", k5, good),
		},
		{
			"shutdown", func(in *Inputs) { in.Overrides.Shutdown = true },
			lines("speaker en1: peer 10.68.1.2 from 10.68.1.1", "speaker en5: peer 10.68.5.2 from 10.68.5.1",
				"kernel en1: leg=true", "kernel en5: leg=true",
				"vip vipa: wanted=false announced=false shutdown: the daemon is stopping"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, tt.run)
	}
}

// Everything that the configuration says about sessions, paths and the kernel
// arrives unchanged.
func TestPlanTranslates(t *testing.T) {
	t.Parallel()
	in := sample()
	med := uint32(7)
	c := in.Config
	c.Interfaces[0].Gateways = []netip.Addr{addr("10.68.1.3")}
	c.Interfaces[0].Peers[0].Password = "key"
	c.Interfaces[0].Peers[0].TTLSecurity = true
	c.Interfaces[1].Peers[0].ASN = c.BGP.ASN
	c.VIPs[0].Announce = config.Announce{Communities: []uint32{9}, LargeCommunities: []config.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}}, MED: &med, Prepend: 2}
	c.Egress.Exclude = []netip.Prefix{prefix("192.0.2.0/24")}
	d := Plan(in, t0)

	wantSpeaker := bgp.SpeakerConfig{
		Name: "en1", ASN: 65010, RouterID: addr("10.68.1.1"), ListenPort: 179, ListenAddresses: []netip.Addr{addr("10.68.1.1")},
		GracefulRestart: bgp.GracefulRestart{Enabled: true, RestartTime: 30 * time.Second},
		Peers: []bgp.Peer{{
			Address: addr("10.68.1.2"), ASN: 65000, LocalAddress: addr("10.68.1.1"), Interface: "en1", Port: 179,
			Password: "key", TTLSecurity: true, HoldTime: 9 * time.Second, Keepalive: 3 * time.Second,
			ConnectRetry: time.Second, MaxPrefixes: 16,
		}},
		Paths: []bgp.Path{{
			Prefix: prefix("10.68.6.1/32"), MED: &med, Prepend: 2, Communities: []uint32{9},
			LargeCommunities: []bgp.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}},
		}},
		Reflected: 1, DownReason: "interface en1: session no longer configured",
	}
	if diff := cmp.Diff(wantSpeaker, *d.speaker("en1"), compare...); diff != "" {
		t.Errorf("speaker (-want +got):\n%s", diff)
	}
	wantKernel := vip.Desired{
		Device: vip.Device{Name: "vi0", Kind: vip.KindAuto},
		VIPs:   []netip.Prefix{prefix("10.68.6.1/32")},
		Interfaces: []vip.Interface{
			{Name: "en1", Usable: true, Source4: addr("10.68.6.1"), Routers: []netip.Addr{addr("10.68.1.2")}, Gateways: []netip.Addr{addr("10.68.1.3")}},
			{Name: "en5", Usable: true, Source4: addr("10.68.6.1"), Routers: []netip.Addr{addr("10.68.5.2")}},
		},
		Exclude: []netip.Prefix{prefix("192.0.2.0/24"), prefix("10.68.1.2/32"), prefix("10.68.5.2/32")},
		Sysctls: vip.SysctlSet,
		// The peer on en5 is internal.
		Fallbacks: []vip.Fallback{{Local: addr("10.68.1.1"), Peer: addr("10.68.1.2")}},
	}
	if diff := cmp.Diff(wantKernel, d.Kernel, compare...); diff != "" {
		t.Errorf("kernel (-want +got):\n%s", diff)
	}
}

func TestChecks(t *testing.T) {
	t.Parallel()
	checks := []config.Check{{Name: "a", Kind: "a"}, {Name: "b", Kind: "b"}}
	a, b := CheckID(&checks[0]), CheckID(&checks[1])
	result := func(v health.Verdict, expires time.Duration) health.Result {
		return health.Result{Verdict: v, Reason: "why", Expires: t0.Add(expires)}
	}
	tests := []struct {
		name    string
		results health.Results
		want    string
	}{
		{"all healthy", health.Results{a: result(health.Healthy, 1), b: result(health.Healthy, 1)}, ""},
		{"none yet", nil, "check_unknown"},
		{"one missing", health.Results{a: result(health.Healthy, 1)}, "check_unknown"},
		{"one unknown", health.Results{a: result(health.Healthy, 1), b: result(health.Unknown, 1)}, "check_unknown"},
		{"one failed", health.Results{a: result(health.Unknown, 1), b: result(health.Unhealthy, 1)}, "check_failed"},
		{"expired this moment", health.Results{a: result(health.Healthy, 0), b: result(health.Healthy, 1)}, "check_stale"},
		{"expired", health.Results{a: result(health.Healthy, -1), b: result(health.Unknown, 1)}, "check_stale"},
		{"a failure does not expire", health.Results{a: result(health.Unhealthy, -1), b: result(health.Healthy, 1)}, "check_failed"},
		{"a word that nobody knows", health.Results{a: result("fine", 1), b: result(health.Healthy, 1)}, "check_unknown"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := sample()
			in.Config.VIPs[0].Checks = checks
			in.Health = tt.results
			d := Plan(in, t0)
			if got := string(d.VIPs[0].Reason); got != tt.want {
				t.Errorf("reason = %q, want %q", got, tt.want)
			}
			if paths := len(d.speaker("en1").Paths); (paths == 1) != (tt.want == "") {
				t.Errorf("%d paths with reason %q", paths, tt.want)
			}
		})
	}
}

// A decision says when time alone may change it.
func TestRecheck(t *testing.T) {
	t.Parallel()
	if d := Plan(sample(), t0); !d.Recheck.Equal(t0.Add(2500 * time.Millisecond)) {
		t.Errorf("recheck = %v, want the end of the verdict", d.Recheck)
	}
	in := edit(func(in *Inputs) { in.Net.Links[0].HealthySince = t0.Add(-time.Second) })
	if d := Plan(in, t0); !d.Recheck.Equal(t0.Add(time.Second)) {
		t.Errorf("recheck = %v, want the end of the hold-up", d.Recheck)
	}
	in = edit(func(in *Inputs) { in.Config.VIPs[0].Checks = nil })
	if d := Plan(in, t0); !d.Recheck.IsZero() {
		t.Errorf("recheck = %v, want none", d.Recheck)
	}
}

// After a start over the state of a former process, sessions wait until they can
// bring all routes, and the sources stay.
func TestAdoption(t *testing.T) {
	t.Parallel()
	adopt := func(after time.Duration, change func(*Inputs)) Desired {
		in := sample()
		in.Adopted, in.AdoptedSources, in.StartedAt = true, []netip.Addr{addr("10.68.6.1")}, t0.Add(-after)
		in.Health, in.BGP = nil, nil
		if change != nil {
			change(&in)
		}
		return Plan(in, t0)
	}
	const hold = `speaker en1: down "interface en1: session no longer configured"`
	off := "vip vipa: wanted=false announced=false check_unknown: check web"
	d := adopt(time.Second, nil)
	if diff := cmp.Diff(lines(hold, strings.ReplaceAll(hold, "en1", "en5"), k1, k5, off), render(&d)); diff != "" {
		t.Errorf("before the first verdict (-want +got):\n%s", diff)
	}
	d = adopt(time.Second, func(in *Inputs) { in.Health = sample().Health })
	if len(d.speaker("en1").Peers) != 1 || !d.Kernel.Interfaces[0].Source4.IsValid() {
		t.Errorf("with a verdict, before the session:\n%s", render(&d))
	}
	d = adopt(15*time.Second, nil)
	if len(d.speaker("en1").Peers) != 1 {
		t.Errorf("half the restart time is over, sessions must not wait:\n%s", render(&d))
	}
	for name, d := range map[string]Desired{
		"restart time over":   adopt(30*time.Second, nil),
		"session established": adopt(time.Second, func(in *Inputs) { in.BGP = &bgp.State{Speakers: []bgp.SpeakerState{speaking("en5", "10.68.5.2")}} }),
		"check failed": adopt(time.Second, func(in *Inputs) {
			in.Health = health.Results{vipID(): {Verdict: health.Unhealthy}}
		}),
		"no graceful restart": adopt(time.Second, func(in *Inputs) { in.Config.BGP.GracefulRestart.Enabled = false }),
		"was no source":       adopt(time.Second, func(in *Inputs) { in.AdoptedSources = nil }),
		"shutdown":            adopt(time.Second, func(in *Inputs) { in.Overrides.Shutdown = true }),
	} {
		if d.Kernel.Interfaces[0].Source4.IsValid() {
			t.Errorf("%s: the source stays on", name)
		}
	}
}

// A VIP that is no longer configured stays bound while a speaker still has it,
// and for as long as the loop asks. What never was configured is not bound.
func TestLingering(t *testing.T) {
	t.Parallel()
	in := sample()
	in.BGP.Speakers[0].Announced = append(in.BGP.Speakers[0].Announced, prefix("10.68.6.9/32"), prefix("192.0.2.0/24"))
	in.Lingering = map[netip.Prefix]time.Time{
		prefix("10.68.6.9/32"): t0,
		prefix("10.68.6.8/32"): t0.Add(time.Second), prefix("10.68.6.7/32"): t0, prefix("10.68.6.1/32"): t0.Add(time.Second),
	}
	d := Plan(in, t0)
	want := []netip.Prefix{prefix("10.68.6.1/32"), prefix("10.68.6.8/32"), prefix("10.68.6.9/32")}
	if !slices.Equal(d.Kernel.VIPs, want) {
		t.Errorf("bound = %v, want %v", d.Kernel.VIPs, want)
	}
	if paths := d.speaker("en1").Paths; len(paths) != 1 {
		t.Errorf("paths = %v, want the configured VIP only", paths)
	}
}
