package vip

import (
	"slices"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
)

// tableOf is a table as sorted lines without what the mirror changes.
func (l *lab) tableOf(family, table string) []string {
	text, _ := l.TryIP("%s route show table %s", family, table)
	text = strings.NewReplacer(" proto 68", "", "\n\tnexthop", " nexthop").Replace(text)
	var out []string
	for line := range strings.Lines(text) {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	slices.Sort(out)
	return out
}

// variety is a main table with everything that routes can be.
func (l *lab) variety() {
	for _, route := range []string{
		"route add 10.1.0.0/24 via 10.68.1.2 mtu lock 1400 advmss 1300 initcwnd 20 proto static",
		"route add 10.2.0.0/24 nexthop via 10.68.1.2 weight 3 nexthop via 10.68.5.2 weight 1",
		"route add 10.3.0.0/24 via 192.0.2.1 dev en1 onlink",
		"route add 10.4.0.0/24 via inet6 fd68:1::2 dev en1",
		"route add 10.5.0.0/24 encap ip id 7 dst 10.68.1.2 via 10.68.1.2 dev en1",
		"route add 10.6.0.0/24 via 10.68.1.2 metric 10",
		"route add 10.6.0.0/24 via 10.68.7.9 metric 20",
		"route add 10.7.0.0/24 via 10.68.7.9 dev en7",
		"route add 10.8.0.0/24 via 10.68.1.2 src 10.68.5.1",
		"route add 10.9.0.0/24 via 10.68.1.2 src 10.68.7.1",
		"route add blackhole 10.10.0.0/24",
		"route add unreachable 10.11.0.0/24",
		"nexthop add id 41 via 10.68.1.2 dev en1",
		"nexthop add id 45 via 10.68.5.2 dev en5",
		"nexthop add id 40 group 41/45",
		"route add 10.12.0.0/24 nhid 40",
		"route add 10.13.0.0/24 nexthop via 10.68.1.2 nexthop via 10.68.7.9",
		"route add 10.14.0.0/24 via 10.68.1.2 realm 7",
		"route add 10.15.0.0/24 via 10.68.1.2 tos 0x10",
		"-6 route add fd01::/64 via fd68:1::2 mtu 1400 pref high",
		"-6 route add fd02::/64 nexthop via fd68:1::2 nexthop via fd68:5::2",
		"-6 route add fd03::/64 via fd68:7::9",
		"-6 route add fd04::/64 from fd77::/64 via fd68:1::2",
		"-6 route add blackhole fd05::/64",
		"-6 route add fd06::/64 via fd68:1::2 src fd68:7::1",
		"-6 route add fd07::/64 dev en1 expires 600",
		"-6 route add default via fd68:5::2 metric 50 pref low mtu 1450",
	} {
		l.IP("%s", route)
	}
}

// mirrored is what the tables hold of it: the source tables while both
// interfaces are usable, the return tables without en1.
func mirrored() map[string]string {
	return map[string]string{
		"-4 6802": `10.1.0.0/24 via 10.68.1.2 dev en1 src 10.68.6.1 mtu lock 1400 advmss 1300 initcwnd 20
10.12.0.0/24 nhid 40 src 10.68.6.1 nexthop via 10.68.1.2 dev en1 weight 1 nexthop via 10.68.5.2 dev en5 weight 1
10.14.0.0/24 via 10.68.1.2 dev en1 src 10.68.6.1 realm 7
10.15.0.0/24 tos 0x10 via 10.68.1.2 dev en1 src 10.68.6.1
10.2.0.0/24 src 10.68.6.1 nexthop via 10.68.1.2 dev en1 weight 3 nexthop via 10.68.5.2 dev en5 weight 1
10.3.0.0/24 via 192.0.2.1 dev en1 src 10.68.6.1 onlink
10.4.0.0/24 via inet6 fd68:1::2 dev en1 src 10.68.6.1
10.5.0.0/24 encap ip id 7 src 0.0.0.0 dst 10.68.1.2 ttl 0 tos 0 via 10.68.1.2 dev en1 src 10.68.6.1
10.6.0.0/24 via 10.68.1.2 dev en1 src 10.68.6.1 metric 10
10.68.1.0/24 dev en1 scope link src 10.68.6.1
10.68.5.0/24 dev en5 scope link src 10.68.6.1
10.8.0.0/24 via 10.68.1.2 dev en1 src 10.68.6.1
default src 10.68.6.1 nexthop via 10.68.1.2 dev en1 weight 1 nexthop via 10.68.5.2 dev en5 weight 1
throw 10.10.0.0/24
throw 10.11.0.0/24
throw 10.13.0.0/24
throw 10.6.0.0/24 metric 20
throw 10.68.7.0/24
throw 10.7.0.0/24
throw 10.9.0.0/24`,
		"-6 6802": `default src fd68:6::1 metric 1024 mtu 1450 pref medium nexthop via fd68:1::2 dev en1 weight 1 nexthop via fd68:5::2 dev en5 weight 1
fd01::/64 via fd68:1::2 dev en1 src fd68:6::1 metric 1024 mtu 1400 pref high
fd02::/64 src fd68:6::1 metric 1024 pref medium nexthop via fd68:1::2 dev en1 weight 1 nexthop via fd68:5::2 dev en5 weight 1
fd07::/64 dev en1 src fd68:6::1 metric 1024 pref medium
fd68:1::/64 dev en1 src fd68:6::1 metric 256 pref medium
fd68:5::/64 dev en5 src fd68:6::1 metric 256 pref medium
throw fd03::/64 dev lo metric 1024 pref medium
throw fd05::/64 dev lo metric 1024 pref medium
throw fd06::/64 dev lo metric 1024 pref medium
throw fd68:7::/64 dev lo metric 256 pref medium`,
		"-4 6801": `10.12.0.0/24 via 10.68.5.2 dev en5
10.2.0.0/24 via 10.68.5.2 dev en5
10.68.5.0/24 dev en5 scope link
default via 10.68.5.2 dev en5
throw 10.10.0.0/24
throw 10.11.0.0/24
throw 10.13.0.0/24
throw 10.6.0.0/24 metric 20
throw 10.68.7.0/24
throw 10.7.0.0/24`,
		"-6 6801": `default via fd68:5::2 dev en5 metric 1024 mtu 1450 pref medium
fd02::/64 via fd68:5::2 dev en5 metric 1024 pref medium
fd68:5::/64 dev en5 metric 256 pref medium
throw fd03::/64 dev lo metric 1024 pref medium
throw fd05::/64 dev lo metric 1024 pref medium
throw fd68:7::/64 dev lo metric 256 pref medium`,
	}
}

// Main's routes are copied with all they have, by whatever means they were made;
// what leads elsewhere is thrown back to main.
func TestMirror(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.variety()
		main4, main6 := l.IP("route"), stripExpiry(l.IP("-6 route"))
		m := l.manager(t)
		d := desired(vip4, vip6)
		settled := func(d Desired) {
			t.Helper()
			converge(t, m, d)
			if a := converge(t, m, d); a.Writes != 0 {
				t.Errorf("a pass that changes nothing wrote %d", a.Writes)
			}
		}
		check := func(name string, want []string) {
			t.Helper()
			family, table, _ := strings.Cut(name, " ")
			if diff := cmp.Diff(want, l.tableOf(family, table)); diff != "" {
				t.Errorf("table %s (-want +got):\n%s", name, diff)
			}
		}
		lines := func(s string) []string { return slices.Sorted(strings.SplitSeq(s, "\n")) }
		want := mirrored()
		settled(d)
		check("-4 6802", lines(want["-4 6802"]))
		check("-6 6802", lines(want["-6 6802"]))
		full4, full6 := l.tableOf("-4", "6801"), l.tableOf("-6", "6801")
		// en1 fails: groups lose a leg, what was only there goes, throws stay.
		settled(d.usable(false, true))
		check("-4 6801", lines(want["-4 6801"]))
		check("-6 6801", lines(want["-6 6801"]))
		settled(d)
		check("-4 6801", full4)
		check("-6 6801", full6)
		if l.IP("route") != main4 || stripExpiry(l.IP("-6 route")) != main6 {
			t.Error("the main table is changed")
		}
	})
}

func stripExpiry(s string) string {
	before, after, _ := strings.Cut(s, " expires ")
	_, after, _ = strings.Cut(after, " ")
	return before + after
}

// A routing table with somebody's routes is not touched, and no rule leads there.
// For a source the next free one serves as well.
func TestForeignTable(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add 10.77.0.0/16 via 10.68.1.2 table 6801")
		l.IP("-6 route add fd77::/64 via fd68:1::2 table 6802")
		before := l.dump()
		m := l.manager(t)
		d := desired(vip4, vip6)
		if _, err := m.Bind(t.Context(), d); err == nil || !strings.Contains(err.Error(), "another owner: table 6801 (see ip route show table 6801)") ||
			strings.Contains(err.Error(), "6802") {
			t.Errorf("error %v", err)
		}
		_, _ = m.Steer(t.Context(), d)
		l.IP("-6 route flush table 6802") // what is free now does not move what is placed
		if a, _ := m.Steer(t.Context(), d); a.Writes != 0 {
			t.Errorf("second pass: %d writes", a.Writes)
		}
		l.IP("-6 route add fd77::/64 via fd68:1::2 table 6802")
		if got := l.IP("rule"); strings.Contains(got, "6801") || strings.Contains(got, "6802") {
			t.Errorf("rules:\n%s", got)
		}
		if got := l.IP("-6 rule"); !strings.Contains(got, "6801") || strings.Contains(got, "6802") || !strings.Contains(got, "6803") {
			t.Errorf("IPv6 rules:\n%s", got)
		}
		if got := l.IP("-6 route get fd68:9::9"); !strings.Contains(got, "src fd68:6::1") {
			t.Errorf("source is not on: %s", got)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// Where everybody else's routes fill all tables, the source stays off.
func TestNoFreeTable(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		for n := 1; n < tableCount; n++ {
			l.IP("route add 10.77.0.0/16 via 10.68.1.2 table %d", DefaultBaseTable+n)
		}
		m := l.manager(t)
		if _, err := m.Bind(t.Context(), desired(vip4)); err == nil || !strings.Contains(err.Error(), "every table up to 6864") {
			t.Errorf("error %v", err)
		}
		if got := l.IP("rule"); !strings.Contains(got, "6801") || strings.Contains(got, "6865") {
			t.Errorf("rules:\n%s", got)
		}
	})
}
