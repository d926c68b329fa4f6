package vip

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
)

var (
	any4 = netip.MustParsePrefix("0.0.0.0/0")
	any6 = netip.MustParsePrefix("::/0")
	ten  = netip.MustParsePrefix("10.0.0.0/8")
)

// learn is a learned route; a leg is "en1 10.68.1.2 weight".
func learn(prefix netip.Prefix, legs ...LearnedLeg) Learned {
	return Learned{Prefix: prefix, Legs: legs}
}

func by(name, gateway string, weight int) LearnedLeg {
	return LearnedLeg{Interface: name, Gateway: netip.MustParseAddr(gateway), Weight: weight}
}

// learnedBoth are defaults of both families by routers of the lab that are not
// main's gateways.
func learnedBoth(d Desired) Desired {
	d.Learned = []Learned{
		learn(any4, by("en1", "10.68.1.77", 1), by("en5", "10.68.5.77", 3)),
		learn(any6, by("en1", "fd68:1::77", 1), by("en5", "fe80::5", 1)),
	}
	return d
}

func (l *lab) mainTable() string {
	return l.IP("route show table main") + l.IP("-6 route show table main")
}

// ofTable are the routes of a table to a prefix, without what does not matter.
func (l *lab) ofTable(table, prefix string) string {
	out := l.IP("route show %s table %s", prefix, table)
	if strings.Contains(prefix, ":") {
		out = l.IP("-6 route show %s table %s", prefix, table)
	}
	return strings.Join(strings.Fields(strings.NewReplacer("proto 68", "", "pref medium", "").Replace(out)), " ")
}

// What routers told comes before configured gateways and before main's, in the
// tables of the VIPs; main is as it was. When it goes, the others are back.
func TestLearnedDefault(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add 10.0.0.0/8 via 10.68.1.2")
		before, whole := l.mainTable(), l.dump()
		m := l.manager(t)
		d := desired(vip4, vip6)
		d.Interfaces[0].Gateways = []netip.Addr{netip.MustParseAddr("10.68.1.2")}
		converge(t, m, d)
		others := l.defaults("6802")
		d = learnedBoth(d)
		d.Learned = append(d.Learned, learn(ten, by("en5", "10.68.5.77", 1)))
		a := converge(t, m, d)
		if len(a.Main) != 0 || len(a.Problems) != 0 {
			t.Errorf("in main: %v, problems %q", a.Main, a.Problems)
		}
		const want4 = "default src 10.68.6.1 metric 0 nexthop via 10.68.1.77 dev en1 weight 1 nexthop via 10.68.5.77 dev en5 weight 3"
		if got := l.ofTable("6802", "default"); got != strings.Replace(want4, "metric 0 ", "", 1) {
			t.Errorf("source table:\n got %q\nwant %q", got, want4)
		}
		const want6 = "default src fd68:6::1 metric 1024 nexthop via fd68:1::77 dev en1 weight 1 nexthop via fe80::5 dev en5 weight 1"
		if got := l.ofTable("6802", "::/0"); got != want6 {
			t.Errorf("source table:\n got %q\nwant %q", got, want6)
		}
		const wantTen = "10.0.0.0/8 via 10.68.5.77 dev en5"
		if got := l.ofTable("6801", "10.0.0.0/8"); got != wantTen {
			t.Errorf("return table: %q, want %q", got, wantTen)
		}
		if diff := cmp.Diff(before, l.mainTable()); diff != "" {
			t.Errorf("main is not as before (-before +now):\n%s", diff)
		}
		if a := converge(t, m, d); a.Writes != 0 {
			t.Errorf("the next pass wrote %d changes", a.Writes)
		}
		d.Learned = nil
		converge(t, m, d)
		if got := l.defaults("6802"); got != others {
			t.Errorf("without learned routes:\n got %q\nwant %q", got, others)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.same(t, whole)
	})
}

// IPv4 by an IPv6 next hop, next hops that are not on the link, and the last leg.
func TestLearnedLegs(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4, vip6)
		for _, c := range []struct {
			name    string
			learned Learned
			usable  []bool
			want    string
		}{
			{
				"via inet6", learn(any4, by("en1", "fe80::1", 1), by("en5", "10.68.5.77", 1)), nil,
				"default nexthop via inet6 fe80::1 dev en1 nexthop via 10.68.5.77 dev en5",
			},
			{"not on the link", learn(any4, by("en1", "192.0.2.1", 1), by("en5", "10.68.5.77", 1)), nil, "default via 10.68.5.77 dev en5"},
			{"failed leg", learn(any4, by("en1", "10.68.1.77", 1), by("en5", "10.68.5.77", 1)), []bool{false, true}, "default via 10.68.5.77 dev en5"},
			{"nothing left", learn(any4, by("en1", "10.68.1.77", 1)), []bool{false, true}, "default via 10.68.5.2 dev en5"},
			{"last leg, another way", Learned{any4, []LearnedLeg{by("en1", "10.68.1.77", 1)}, true}, []bool{false, true}, "default via 10.68.5.2 dev en5"},
			{"last leg on a leg", Learned{any4, []LearnedLeg{by("en1", "10.68.1.77", 1)}, true}, nil, "default via 10.68.1.77 dev en1"},
			{"no such interface", learn(any4, by("en9", "10.68.5.77", 1)), nil, "default nexthop via 10.68.1.2 dev en1 nexthop via 10.68.5.2 dev en5"},
		} {
			d.Learned = []Learned{c.learned}
			converge(t, m, d.usable(c.usable...))
			if got, _, _ := strings.Cut(l.defaults("6801"), " default"); got != c.want {
				t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
			}
		}
		l.IP("route del default")
		l.IP("route del default")
		d.Learned = []Learned{{any4, []LearnedLeg{by("en1", "10.68.1.77", 1)}, true}}
		converge(t, m, d.usable(false, true))
		if got, _, _ := strings.Cut(l.defaults("6801"), " default"); got != "default via 10.68.1.77 dev en1" {
			t.Errorf("the last leg, without another way: %q", got)
		}
	})
}

// With install: main, main has them too, with the VIP as source, but for what is
// excluded. Nothing of others is touched, and all of ours goes.
func TestLearnedInMain(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add 10.99.0.0/16 via 10.68.5.2")
		before := l.dump()
		m := l.manager(t)
		d := learnedBoth(desired(vip4, vip6))
		d.MainMetric = 20
		d.Exclude = []netip.Prefix{
			netip.MustParsePrefix("10.98.0.0/16"), netip.MustParsePrefix("10.99.0.0/17"), netip.MustParsePrefix("fd99::/16"), host(netip.MustParseAddr("10.68.1.2")),
		}
		a := converge(t, m, d)
		if want := []netip.Prefix{any4, any6}; !slices.Equal(a.Main, want) || len(a.Problems) != 0 {
			t.Errorf("in main: %v, want %v; problems %q", a.Main, want, a.Problems)
		}
		const legs4 = "nexthop via 10.68.1.77 dev en1 weight 1 nexthop via 10.68.5.77 dev en5 weight 3"
		const legs6 = "nexthop via fd68:1::77 dev en1 weight 1 nexthop via fe80::5 dev en5 weight 1"
		for prefix, want := range map[string]string{
			"default proto 68": "default src 10.68.6.1 metric 20 " + legs4, "10.98.0.0/16": "10.98.0.0/16 metric 20 " + legs4,
			"10.99.0.0/17": "", "169.254.0.0/16": "169.254.0.0/16 metric 20 " + legs4, "224.0.0.0/4": "224.0.0.0/4 metric 20 " + legs4,
			"::/0 proto 68": "default src fd68:6::1 metric 20 " + legs6, "fd99::/16": "fd99::/16 metric 20 " + legs6,
		} {
			if got := l.ofTable("main", prefix); got != want {
				t.Errorf("main has for %s\n%q, want\n%q", prefix, got, want)
			}
		}
		sourcesTo(t, map[string]string{"10.68.9.9:53": "10.68.6.1", "10.99.1.1:53": "10.68.5.1", "[fd68:9::9]:53": "fd68:6::1"})
		if got := sourceTo(t, "udp", "10.98.1.1:53"); got == vip4.Addr() { // by whichever leg
			t.Errorf("source towards an excluded destination is the VIP")
		}
		if a := converge(t, m, d); a.Writes != 0 {
			t.Errorf("the next pass wrote %d changes", a.Writes)
		}
		// The address goes, and would take the route along.
		less := d
		less.VIPs = []netip.Prefix{vip6}
		converge(t, m, less)
		if got := l.ofTable("main", "default proto 68"); got != "default metric 20 "+legs4 {
			t.Errorf("without the VIP main has %q", got)
		}
		converge(t, m, d)
		l.IP("route del default metric 20")
		if a := converge(t, m, d); a.Repaired[objectRoute] != 1 {
			t.Errorf("repaired %v, want one route", a.Repaired)
		}
		m.Close()
		next := l.manager(t)
		if diff := cmp.Diff(d.Learned, next.AdoptedLearned(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("adopted (-want +got):\n%s", diff)
		}
		if a := converge(t, next, d); a.Writes != 0 {
			t.Errorf("adoption wrote %d changes", a.Writes)
		}
		if err := next.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.same(t, before)
	})
}

// Where the state file is damaged, the kernel tells what was learned and which
// routes of main are ours. Others that have our number stay what they are.
func TestLearnedInMainRecalled(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add 198.51.100.0/24 via 10.68.1.2 proto 68 metric 20")     // a destination that nobody told
		l.IP("route add default via 10.68.5.2 proto 68 metric 21")             // another metric
		l.IP("-6 route add default via fd68:5::2 proto 68 metric 20 mtu 1400") // one that keeps ours out
		before := l.dump()
		m := l.manager(t)
		d := learnedBoth(desired(vip4, vip6))
		d.Sysctls, d.MainMetric, d.Exclude = SysctlOff, 20, []netip.Prefix{netip.MustParsePrefix("10.98.0.0/16")}
		if a := converge(t, m, d); !slices.Equal(a.Main, []netip.Prefix{any4}) {
			t.Errorf("in main: %v", a.Main)
		}
		m.Close()
		if err := os.WriteFile(filepath.Join(l.dir, stateName), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		next := l.manager(t)
		learned := next.AdoptedLearned()
		for _, want := range d.Learned {
			if !slices.ContainsFunc(learned, func(l Learned) bool { return l.Prefix == want.Prefix && slices.Equal(l.Legs, want.Legs) }) {
				t.Errorf("not recalled: %+v, but %+v", want, learned)
			}
		}
		d.Learned = slices.DeleteFunc(learned, func(l Learned) bool { return l.Prefix.Bits() != 0 })
		if a := converge(t, next, d); a.Writes != 0 || !slices.Equal(a.Main, []netip.Prefix{any4}) {
			t.Errorf("adoption wrote %d changes; in main: %v, problems %q", a.Writes, a.Main, a.Problems)
		}
		// A leg goes, as it would have without the damage.
		converge(t, next, d.usable(false, true))
		if got := l.ofTable("main", "default metric 20"); got != "default via 10.68.5.77 dev en5 src 10.68.6.1" {
			t.Errorf("main has %q", got)
		}
		if err := next.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.same(t, before)
	})
}

// So they do for a cleanup that knows the configuration.
func TestLearnedInMainCleanedUp(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add 198.51.100.0/24 via 10.68.1.2 proto 68 metric 20") // a destination that nobody told
		l.IP("route add default via 10.68.5.2 proto 68 metric 21")         // another metric
		before := l.dump()
		m := l.manager(t)
		d := learnedBoth(desired(vip4, vip6))
		d.Sysctls, d.MainMetric, d.Exclude = SysctlOff, 20, []netip.Prefix{netip.MustParsePrefix("10.98.0.0/16")}
		if a := converge(t, m, d); len(a.Main) == 0 {
			t.Fatalf("in main: %v, problems %q", a.Main, a.Problems)
		}
		m.Close()
		if err := os.WriteFile(filepath.Join(l.dir, stateName), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		next := l.manager(t)
		if !next.Unclaimed() {
			t.Error("nothing is unclaimed")
		}
		d.Learned = slices.DeleteFunc(next.AdoptedLearned(), func(l Learned) bool { return l.Prefix.Bits() != 0 })
		d.Interfaces = append(d.Interfaces, Interface{Name: "en9"}) // gone by now
		if err := next.RestoreFor(t.Context(), d); err != nil {
			t.Error(err)
		}
		l.same(t, before)
		if _, err := os.Stat(filepath.Join(l.dir, stateName)); !os.IsNotExist(err) {
			t.Errorf("state file: %v", err)
		}
	})
}

// Routes of others in main win or lose by their metric; they are told of and
// never touched.
func TestLearnedBesideForeignRoutes(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add default via 10.68.5.2 metric 20 proto bgp")
		l.IP("-6 route add default via fd68:5::2 metric 20 proto bgp")
		before := l.dump()
		m := l.manager(t)
		d := learnedBoth(desired(vip4, vip6))
		d.MainMetric = 20
		a := converge(t, m, d)
		told := strings.Join(a.Problems, "\n")
		if len(a.Main) != 0 || strings.Count(told, "is not installed: another owner has one with the metric 20") != 2 {
			t.Errorf("in main: %v, problems:\n%s", a.Main, told)
		}
		if got := l.IP("route show default"); strings.Contains(got, "68 ") || !strings.Contains(got, "proto bgp") {
			t.Errorf("main has %q", got)
		}
		d.MainMetric = 30
		a = converge(t, m, d)
		told = strings.Join(a.Problems, "\n")
		if len(a.Main) != 2 || strings.Count(told, "is not used: one of another owner with the metric 20 comes before") != 2 {
			t.Errorf("in main: %v, problems:\n%s", a.Main, told)
		}
		// One that comes later, in the place of ours, is left where it is.
		l.IP("route replace default via 10.68.5.2 metric 30 proto bgp")
		if a = converge(t, m, d); len(a.Main) != 1 {
			t.Errorf("in main: %v", a.Main)
		}
		l.IP("route del default metric 30 proto bgp")
		if a = converge(t, m, d); len(a.Main) != 2 {
			t.Errorf("in main: %v", a.Main)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.same(t, before)
	})
}

// Weights of interfaces count for a default that nobody told, too.
func TestInterfaceWeights(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4)
		d.Interfaces[1].Weight = 4
		converge(t, m, d)
		const want = "default src 10.68.6.1 nexthop via 10.68.1.2 dev en1 weight 1 nexthop via 10.68.5.2 dev en5 weight 4"
		if got := l.ofTable("6802", "default"); got != want {
			t.Errorf("source table has %q, want %q", got, want)
		}
		if a := converge(t, m, d); a.Writes != 0 {
			t.Errorf("the next pass wrote %d changes", a.Writes)
		}
	})
}
