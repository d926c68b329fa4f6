package vip

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// defaults are the default routes of a table, without what does not matter.
func (l *lab) defaults(table string) string {
	out := l.IP("route show default table %s", table) + l.IP("-6 route show default table %s", table)
	out = regexp.MustCompile(`proto \S+|weight 1|metric \d+|pref medium`).ReplaceAllString(out, "")
	return strings.Join(strings.Fields(out), " ")
}

func withRouters(d Desired) Desired {
	d.Interfaces[0].Routers = []netip.Addr{netip.MustParseAddr("10.68.1.2"), netip.MustParseAddr("fd68:1::2")}
	d.Interfaces[1].Routers = []netip.Addr{netip.MustParseAddr("10.68.5.2"), netip.MustParseAddr("fd68:5::2")}
	return d
}

// The routers that are peers are the way out where main names none; main and
// the configuration come first.
func TestRoutersAreTheLastGateways(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		l.IP("route del default via 10.68.5.2 metric 200")
		l.IP("-6 route del default via fd68:5::2 metric 200")
		d := withRouters(desired(vip4, vip6))
		d.Interfaces[0].Routers = []netip.Addr{netip.MustParseAddr("10.68.1.77"), netip.MustParseAddr("fd68:1::77")}
		converge(t, m, d)
		const want = "default src 10.68.6.1 nexthop via 10.68.1.2 dev en1 nexthop via 10.68.5.2 dev en5 " +
			"default src fd68:6::1 nexthop via fd68:1::2 dev en1 nexthop via fd68:5::2 dev en5"
		if got := l.defaults("6802"); got != want {
			t.Errorf("source table:\n got %q\nwant %q", got, want)
		}
		l.IP("route del default")
		l.IP("-6 route del default")
		converge(t, m, withRouters(desired(vip4, vip6)))
		if got := l.defaults("6802"); got != want {
			t.Errorf("without a default in main:\n got %q\nwant %q", got, want)
		}
	})
}

// Where main's own choice is an interface that is not listed, programs go on
// leaving there with that interface's address; only what is from a VIP already
// takes the listed interfaces. A configured gateway overrules main.
func TestDefaultElsewhereIsLeftAlone(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		l.IP("route add default via 10.68.7.2 metric 10")
		l.IP("-6 route add default via fd68:7::2 metric 10")
		d := withRouters(desired(vip4, vip6))
		converge(t, m, d)
		sourcesTo(t, map[string]string{
			"10.68.9.9:53": "10.68.7.1", "[fd68:9::9]:53": "fd68:7::1",
			"10.68.5.77:53": "10.68.6.1", "[fd68:5::77]:53": "fd68:6::1",
		})
		if got := l.defaults("6802"); got != "" {
			t.Errorf("source table has %q, want no default", got)
		}
		const want = "default nexthop via 10.68.1.2 dev en1 nexthop via 10.68.5.2 dev en5 " +
			"default nexthop via fd68:1::2 dev en1 nexthop via fd68:5::2 dev en5"
		if got := l.defaults("6801"); got != want {
			t.Errorf("return table:\n got %q\nwant %q", got, want)
		}
		d.Interfaces[1].Gateways = d.Interfaces[1].Routers
		converge(t, m, d)
		sourcesTo(t, map[string]string{"10.68.9.9:53": "10.68.6.1", "[fd68:9::9]:53": "fd68:6::1"})
	})
}

// An interface whose routers are silent keeps its own network and loses what is
// beyond.
func TestSilentInterface(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add 10.77.0.0/16 via 10.68.1.2")
		l.IP("-6 route add fd77::/16 via fd68:1::2")
		m := l.manager(t)
		d := desired(vip4, vip6)
		d.Interfaces[0].Silent = true
		converge(t, m, d)
		const want = "default via 10.68.5.2 dev en5 src 10.68.6.1 default via fd68:5::2 dev en5 src fd68:6::1"
		if got := l.defaults("6802"); got != want {
			t.Errorf("source table:\n got %q\nwant %q", got, want)
		}
		for to, dev := range map[string]string{"10.68.1.77": "en1", "10.77.1.1": "en5", "fd68:1::77": "en1", "fd77::1": "en5"} {
			if got := l.IP("route get %s", to); !regexp.MustCompile(` dev ` + dev + ` .*src (10\.68\.6\.1|fd68:6::1) `).MatchString(got) {
				t.Errorf("route to %s is %q, want %s and the VIP as source", to, got, dev)
			}
		}
	})
}

// One family loses its routers on an interface, the other one does not.
func TestSilentFamily(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4, vip6)
		converge(t, m, d)
		before := l.defaults("6801")
		const both4 = "default nexthop via 10.68.1.2 dev en1 nexthop via 10.68.5.2 dev en5"
		const both6 = "default nexthop via fd68:1::2 dev en1 nexthop via fd68:5::2 dev en5"
		for _, c := range []struct {
			silent4, silent6 bool
			want             string
		}{
			{false, false, both4 + " " + both6},
			{false, true, both4 + " default via fd68:5::2 dev en5"},
			{true, false, "default via 10.68.5.2 dev en5 " + both6},
			{false, false, before},
		} {
			d.Interfaces[0].Silent4, d.Interfaces[0].Silent6 = c.silent4, c.silent6
			converge(t, m, d)
			if got := l.defaults("6801"); got != c.want {
				t.Errorf("silent in IPv4 %t, in IPv6 %t:\n got %q\nwant %q", c.silent4, c.silent6, got, c.want)
			}
		}
	})
}

// One of main's gateways on an interface that is known to be dead is left out,
// while another one there is left.
func TestDeadGatewayOfMain(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		l.IP("route replace default metric 100 nexthop via 10.68.1.2 dev en1 nexthop via 10.68.1.3 dev en1")
		d := desired(vip4, vip6)
		for _, tt := range []struct {
			dead []string
			want string
		}{
			{nil, "nexthop via 10.68.1.2 dev en1 nexthop via 10.68.1.3 dev en1"},
			{[]string{"10.68.1.2"}, "nexthop via 10.68.1.3 dev en1"},
			{[]string{"10.68.1.2", "10.68.1.3"}, "nexthop via 10.68.1.2 dev en1 nexthop via 10.68.1.3 dev en1"},
		} {
			d.Interfaces[0].Dead = nil
			for _, a := range tt.dead {
				d.Interfaces[0].Dead = append(d.Interfaces[0].Dead, netip.MustParseAddr(a))
			}
			converge(t, m, d)
			if got := l.defaults("6802"); !strings.Contains(got, "default src 10.68.6.1 "+tt.want+" nexthop via 10.68.5.2 dev en5") {
				t.Errorf("%v are dead: %q, want %q", tt.dead, got, tt.want)
			}
		}
	})
}
