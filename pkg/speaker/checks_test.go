package speaker

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// Of a VIP with checks_mode any, one check must pass.
func TestChecksMode(t *testing.T) {
	t.Parallel()
	checks := []config.Check{{Name: "a", Kind: "a"}, {Name: "b", Kind: "b"}}
	fine := health.Result{Verdict: health.Healthy, Expires: t0.Add(1)}
	old := health.Result{Verdict: health.Healthy, Expires: t0}
	bad := health.Result{Verdict: health.Unhealthy, Reason: "refused"}
	for name, tt := range map[string]struct {
		a, b     health.Result
		all, any string
	}{
		"both":            {fine, fine, "", ""},
		"one":             {fine, bad, "check_failed: check b: refused", ""},
		"the other":       {bad, fine, "check_failed: check a: refused", ""},
		"one, other old":  {fine, old, "check_stale: check b", ""},
		"one, other new":  {fine, health.Result{}, "check_unknown: check b", ""},
		"none":            {bad, bad, "check_failed: check a: refused", "check_failed: check a: refused"},
		"none, one old":   {old, bad, "check_failed: check b: refused", "check_failed: check b: refused"},
		"both old":        {old, old, "check_stale: check a", "check_stale: check a"},
		"both not known":  {health.Result{}, health.Result{}, "check_unknown: check a", "check_unknown: check a"},
		"old and unknown": {health.Result{}, old, "check_stale: check b", "check_stale: check b"},
	} {
		for mode, want := range map[string]string{"all": tt.all, "any": tt.any, "": tt.all} {
			in := sample()
			in.Config.VIPs[0].Checks, in.Config.VIPs[0].ChecksMode = checks, mode
			in.Health = health.Results{CheckID(&checks[0]): tt.a, CheckID(&checks[1]): tt.b}
			d := Plan(in, t0)
			if got := joinNonEmpty(": ", string(d.VIPs[0].Reason), d.VIPs[0].Detail); got != want {
				t.Errorf("%s, %s: %q, want %q", name, mode, got, want)
			}
		}
	}
}

// A VIP that is degraded when its checks fail stays announced, with other
// attributes. One whose checks are not known is no such.
func TestDegrade(t *testing.T) {
	t.Parallel()
	n := func(v uint32) *uint32 { return &v }
	announce := config.Announce{
		Communities: []uint32{1, 2}, LargeCommunities: []config.LargeCommunity{{Global: 1}}, MED: n(10), LocalPref: n(200), Prepend: 1,
	}
	plain := bgp.Path{
		Prefix: prefix("10.68.6.1/32"), Communities: []uint32{1, 2}, LargeCommunities: []bgp.LargeCommunity{{Global: 1}},
		MED: n(10), LocalPref: n(200), Prepend: 1,
	}
	all := plain
	all.Communities, all.LargeCommunities = []uint32{1, 2, 3}, []bgp.LargeCommunity{{Global: 1}, {Global: 2}}
	all.MED, all.LocalPref, all.Prepend = n(99), n(50), 4
	full := config.Degrade{
		MED: n(99), LocalPref: n(50), Prepend: 3, Communities: []uint32{3, 2}, LargeCommunities: []config.LargeCommunity{{Global: 2}},
	}
	bad := health.Results{vipID(): {Verdict: health.Unhealthy, Reason: "refused", Passed: t0}}
	for name, tt := range map[string]struct {
		results  health.Results
		degrade  *config.Degrade
		degraded bool
		detail   string
		want     []bgp.Path
	}{
		"healthy":         {sample().Health, &full, false, "", []bgp.Path{plain}},
		"failed":          {bad, &full, true, "degraded: check web: refused", []bgp.Path{all}},
		"failed, no keys": {bad, &config.Degrade{}, true, "degraded: check web: refused", []bgp.Path{plain}},
		"stale":           {health.Results{vipID(): {Verdict: health.Healthy, Expires: t0}}, &full, true, "degraded: check web", []bgp.Path{all}},
		"unknown":         {nil, &full, false, "check web", []bgp.Path{}},
		"withdraw":        {bad, nil, false, "check web: refused", []bgp.Path{}},
	} {
		in := sample()
		in.Config.VIPs[0].Announce, in.Config.VIPs[0].Degrade, in.Health = announce, tt.degrade, tt.results
		d := Plan(in, t0)
		if diff := cmp.Diff(tt.want, d.speaker("en1").Paths, compare...); diff != "" {
			t.Errorf("%s: paths (-want +got):\n%s", name, diff)
		}
		if v := d.VIPs[0]; v.Degraded != tt.degraded || v.Detail != tt.detail || v.Announced != (len(tt.want) == 1) {
			t.Errorf("%s: %+v", name, v)
		}
		if !slices.Equal(in.Config.VIPs[0].Announce.Communities, []uint32{1, 2}) {
			t.Fatalf("%s: the configuration changed", name)
		}
		in.Overrides.Shutdown = true
		if d = Plan(in, t0); len(d.speaker("en1").Paths) != 0 {
			t.Errorf("%s: announced while stopping", name)
		}
	}
}

// Checks that are the same run once, for as long as any VIP needs them.
func TestSharedChecks(t *testing.T) {
	t.Parallel()
	c := sampleConfig()
	web := webCheck("10.68.6.1")[0]
	renamed, slower, listen, other := web, web, config.Check{Name: "l", Kind: "listen"}, config.Check{Name: "l", Kind: "listen"}
	renamed.Name = "another"
	slower.FastInterval = time.Millisecond
	listen.Listen = &config.ListenCheck{Port: 80, Protocol: "tcp", Address: addr("10.68.6.1")}
	other.Listen = &config.ListenCheck{Port: 80, Protocol: "tcp", Address: addr("10.68.6.2")}
	c.VIPs = []config.VIP{
		{Name: "one", Prefix: prefix("10.68.6.1/32"), Checks: []config.Check{web, listen}},
		{Name: "two", Prefix: prefix("10.68.6.2/32"), Checks: []config.Check{renamed, slower, other}},
	}
	made := 0
	s, err := newSetup(c, func(config.Check) (health.Checker, error) { made++; return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	names := func(specs []health.Spec) (list []string) {
		for i := range specs {
			list = append(list, specs[i].Name)
		}
		return list
	}
	if got, want := names(s.specs), []string{"one/web", "one/l", "two/web", "two/l"}; !slices.Equal(got, want) || made != len(want) {
		t.Errorf("%d made: %q, want %q", made, got, want)
	}
	one, two := s.checkIDs[c.VIPs[0].Prefix], s.checkIDs[c.VIPs[1].Prefix]
	if one[0] != two[0] || one[0] == two[1] || one[1] == two[2] {
		t.Errorf("IDs %q and %q", one, two)
	}
	if s.specs[0].Key != s.specs[2].Key || s.specs[1].Key == s.specs[3].Key {
		t.Error("the key has the schedule in it, or lacks the address")
	}
	for i, want := range [][]string{{}, {"one/web", "one/l"}, {"one/web", "two/web", "two/l"}} {
		held := [][]netip.Prefix{nil, {c.VIPs[0].Prefix}, {c.VIPs[1].Prefix}}[i]
		if got := names(s.specsOf(held)); !slices.Equal(got, want) {
			t.Errorf("checks with %v bound: %q, want %q", held, got, want)
		}
	}
}

// A service that was never seen to work is not announced as degraded either; with
// any, one check that was is enough.
func TestDegradeNeedsOnePass(t *testing.T) {
	t.Parallel()
	failed := health.Result{Verdict: health.Unhealthy, Reason: "refused"}
	passed := failed
	passed.Passed = t0.Add(-time.Hour)
	for _, tt := range []struct {
		mode string
		a, b health.Result
		want bool
	}{
		{"all", failed, failed, false},
		{"all", passed, failed, false},
		{"all", passed, passed, true},
		{"all", failed, healthyResult(""), false},
		{"all", passed, healthyResult(""), true},
		{"any", failed, failed, false},
		{"any", passed, failed, true},
	} {
		in := sample()
		v := &in.Config.VIPs[0]
		v.ChecksMode, v.Degrade = tt.mode, &config.Degrade{Prepend: 3}
		v.Checks = append(webCheck("10.68.6.1"), webCheck("10.68.6.2")...)
		in.Health = health.Results{webID("10.68.6.1"): tt.a, webID("10.68.6.2"): tt.b}
		d := Plan(in, t0)
		if got := d.VIPs[0]; got.Degraded != tt.want || got.Wanted != tt.want || !tt.want && got.Reason != status.CheckFailed {
			t.Errorf("%s, passed %t and %t: %+v", tt.mode, !tt.a.Passed.IsZero(), !tt.b.Passed.IsZero(), got)
		}
	}
}

// The cause of a degraded VIP is its check, also before a speaker has it.
func TestDegradedCause(t *testing.T) {
	t.Parallel()
	in := sample()
	in.Config.VIPs[0].Degrade = &config.Degrade{}
	in.Health = health.Results{vipID(): {Verdict: health.Unhealthy, Reason: "refused", Passed: t0}}
	in.BGP = nil
	const want = "degraded: check web: refused; en1: the speaker has not started; en5: the speaker has not started"
	if v := Plan(in, t0).VIPs[0]; v.Detail != want || v.Reason != status.NoSession {
		t.Errorf("%s: %q, want %q", v.Reason, v.Detail, want)
	}
}

// Another file of roots is another check, although its path is the same.
func TestRootsKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "roots.pem")
	c := &config.Check{Kind: "grpc", GRPC: &config.GRPCCheck{CAFile: path}}
	keys := map[string]bool{rootsKey(&config.Check{}): true, rootsKey(c): true}
	for _, content := range []string{"one", "two"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		keys[rootsKey(c)] = true
		if rootsKey(c) != rootsKey(&config.Check{Kind: "http", HTTP: &config.HTTPCheck{CAFile: path}}) {
			t.Error("the file is not what counts")
		}
	}
	if len(keys) != 4 || !keys[""] {
		t.Errorf("%d different keys, want 4", len(keys))
	}
}
