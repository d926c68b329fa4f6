package vip

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
)

// ours is everything of ours in the kernel, as text.
func (l *lab) ours() string {
	var b strings.Builder
	for _, command := range []string{
		"-br addr show", "rule", "-6 rule", "route show table 6801", "route show table 6802",
		"-6 route show table 6801", "-6 route show table 6802", "route show table local proto 68",
	} {
		text, _ := l.TryIP("%s", command) // a table that does not exist is an error
		lines := slices.Collect(strings.Lines(text))
		slices.Sort(lines) // a route that is put back stands at another place
		b.WriteString("# " + command + "\n" + strings.Join(lines, ""))
	}
	return b.String()
}

// Whatever somebody does to what is ours, the next pass puts it back and counts
// it.
func TestDriftIsRepaired(t *testing.T) {
	for name, c := range map[string]struct {
		disturb func(testing.TB, *lab)
		objects []string
	}{
		"address deleted":      {func(_ testing.TB, l *lab) { l.IP("addr del 10.68.6.1/32 dev vi0") }, []string{"address"}},
		"ipv6 address deleted": {func(_ testing.TB, l *lab) { l.IP("addr del fd68:6::1/128 dev vi0") }, []string{"address"}},
		"device deleted":       {func(_ testing.TB, l *lab) { l.IP("link del vi0") }, []string{"address", "link"}},
		"device down":          {func(_ testing.TB, l *lab) { l.IP("link set vi0 down") }, []string{"address", "link"}},
		"rules flushed": {func(_ testing.TB, l *lab) {
			l.IP("rule flush")
			l.IP("rule add pref 32766 lookup main")
			l.IP("rule add pref 32767 lookup default")
		}, []string{"rule"}},
		"one rule":      {func(_ testing.TB, l *lab) { l.IP("-6 rule del pref 32101") }, []string{"rule"}},
		"table flushed": {func(_ testing.TB, l *lab) { l.IP("route flush table 6801") }, []string{"route"}},
		"source table":  {func(_ testing.TB, l *lab) { l.IP("-6 route flush table 6802") }, []string{"route"}},
		"route changed": {func(_ testing.TB, l *lab) { l.IP("route replace default via 10.68.5.2 proto 68 table 6801") }, []string{"route"}},
		"sysctl":        {func(_ testing.TB, l *lab) { l.Sysctl("net/ipv4/conf/en1/arp_announce", "0") }, []string{"sysctl"}},
		"link flap": {func(tb testing.TB, l *lab) {
			tb.Helper()
			l.IP("link set en5 down")
			l.IP("link set en5 up")
			l.restore5(tb)
		}, []string{"route"}},
		"alias":          {func(_ testing.TB, l *lab) { l.IP("link set vi0 alias other") }, []string{"link"}},
		"arp":            {func(_ testing.TB, l *lab) { l.IP("link set vi0 arp on") }, []string{"link"}},
		"nothing broken": {func(testing.TB, *lab) {}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				t.Helper()
				l := newLab(t, ns)
				before := l.dump()
				m := l.manager(t)
				d := desired(vip4, vip6)
				converge(t, m, d)
				want := l.ours()
				c.disturb(t, l)
				a := converge(t, m, d)
				if got := slices.Sorted(maps.Keys(a.Repaired)); !slices.Equal(got, c.objects) {
					t.Errorf("repaired %v, want %v", a.Repaired, c.objects)
				}
				if len(a.Bound) != 2 || len(a.Sources) != 4 {
					t.Errorf("bound %v, sources %v", a.Bound, a.Sources)
				}
				if diff := cmp.Diff(want, l.ours()); diff != "" {
					t.Errorf("not as before (-before +now):\n%s", diff)
				}
				if a := converge(t, m, d); a.Writes != 0 || len(a.Repaired) != 0 {
					t.Errorf("a second pass wrote %d, repaired %v", a.Writes, a.Repaired)
				}
				if err := m.Restore(t.Context()); err != nil {
					t.Error(err)
				}
				l.sameButOrder(t, before)
			})
		})
	}
}

// restore5 gives en5 back what the kernel took away with its going down.
func (l *lab) restore5(tb testing.TB) {
	tb.Helper()
	l.IP("-6 addr replace fd68:5::1/64 dev en5 nodad")
	l.IP("route replace default via 10.68.5.2 metric 200")
	l.IP("-6 route replace default via fd68:5::2 metric 200")
	l.settle(tb)
}
