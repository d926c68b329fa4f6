package speaker

import (
	"net/netip"
	"slices"
	"testing"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/vip"

	"github.com/google/go-cmp/cmp"
)

// A VIP is a source by its rules, besides or instead of preferred_source, while
// it is announced, or always; and never while the daemon stops.
func TestSourceWhen(t *testing.T) {
	t.Parallel()
	rules := []config.SourceRule{
		{Rank: 4, Users: &config.Users{First: 7, Last: 9}, Destination: prefix("10.9.0.0/16")}, {Rank: 5, Mark: 1, Mask: 3},
	}
	want := []vip.SourceRule{
		{
			Source: addr("10.68.6.1"), Interfaces: []string{"en1", "en5"}, Rank: 4,
			Users: &vip.Users{First: 7, Last: 9}, Destination: prefix("10.9.0.0/16"),
		},
		{Source: addr("10.68.6.1"), Interfaces: []string{"en1", "en5"}, Rank: 5, Mark: 1, Mask: 3},
	}
	failed := func(in *Inputs) { in.Health = health.Results{vipID(): {Verdict: health.Unhealthy}} }
	notOwned := func(in *Inputs) {
		in.Config.VIPs[0].Exclusive, in.Config.Ownership = true, &config.Ownership{Host: "a"}
	}
	for name, c := range map[string]struct {
		change       func(*Inputs)
		always       bool
		ruled, whole bool
	}{
		"announced":                 {nil, false, true, true},
		"announced, always":         {nil, true, true, true},
		"withheld":                  {failed, false, false, false},
		"withheld, always":          {failed, true, true, true},
		"no session":                {func(in *Inputs) { in.BGP = nil }, false, false, false},
		"no session, always":        {func(in *Inputs) { in.BGP = nil }, true, true, true},
		"stopping, always":          {func(in *Inputs) { in.Overrides.Shutdown = true }, true, false, false},
		"another owns it, always":   {notOwned, true, false, false},
		"and it fails, always":      {func(in *Inputs) { notOwned(in); failed(in) }, true, false, false},
		"not preferred":             {func(in *Inputs) { in.Config.VIPs[0].PreferredSource = false }, false, true, false},
		"not preferred, no session": {func(in *Inputs) { in.Config.VIPs[0].PreferredSource, in.BGP = false, nil }, false, false, false},
	} {
		in := sample()
		in.Config.VIPs[0].Source = config.Source{Always: c.always, Rules: rules}
		if c.change != nil {
			c.change(&in)
		}
		d := Plan(in, t0)
		if got := d.Kernel.Interfaces[1].Source4.IsValid(); got != c.whole {
			t.Errorf("%s: source of all traffic: %t, want %t", name, got, c.whole)
		}
		got := want
		if !c.ruled {
			got = nil
		}
		if diff := cmp.Diff(got, d.Kernel.SourceRules, compare...); diff != "" {
			t.Errorf("%s: rules (-want +got):\n%s", name, diff)
		}
	}
}

// The kernel is told the MTUs that VIPs have.
func TestMTUOfVIP(t *testing.T) {
	t.Parallel()
	in := sample()
	if d := Plan(in, t0); d.Kernel.MTU != nil {
		t.Errorf("MTUs without one in the configuration: %v", d.Kernel.MTU)
	}
	in.Config.VIPs[0].MTU = 1400
	if d := Plan(in, t0); len(d.Kernel.MTU) != 1 || d.Kernel.MTU[prefix("10.68.6.1/32")] != 1400 {
		t.Errorf("MTUs are %v", d.Kernel.MTU)
	}
}

// The bounds that the configuration knows are those of the kernel's writer.
func TestSourceBounds(t *testing.T) {
	t.Parallel()
	if config.MaxSourceRules != vip.MaxSourceRules || config.MaxSources != vip.MaxSources || config.MaxMTUs != vip.MaxMTUs {
		t.Errorf("bounds of the configuration are %d, %d and %d, of the writer %d, %d and %d",
			config.MaxSourceRules, config.MaxSources, config.MaxMTUs, vip.MaxSourceRules, vip.MaxSources, vip.MaxMTUs)
	}
}

// checkSourceRules wants every rule to be one of a VIP that may be a source.
func checkSourceRules(t *testing.T, in *Inputs, d *Desired) {
	t.Helper()
	for _, r := range d.Kernel.SourceRules {
		k := slices.IndexFunc(in.Config.VIPs, func(v config.VIP) bool { return v.Prefix == netip.PrefixFrom(r.Source, r.Source.BitLen()) })
		switch {
		case k < 0 || !slices.ContainsFunc(in.Config.VIPs[k].Source.Rules, func(c config.SourceRule) bool { return c.Rank == r.Rank }):
			t.Errorf("source rule %+v is not configured", r)
		case in.Overrides.Shutdown:
			t.Errorf("source rule %+v while stopping", r)
		case !in.Config.VIPs[k].Source.Always && !d.VIPs[k].Announced && !slices.Contains(in.AdoptedSources, r.Source):
			t.Errorf("source rule %+v of a VIP that is not announced", r)
		}
	}
}
