package vip

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// The kernel deletes every IPv4 route whose preferred source goes: a VIP that
// somebody's route needs is not taken away.
func TestUnbindNeverCostsARoute(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		other := netip.MustParsePrefix("10.68.6.200/32")
		m := l.manager(t)
		d := desired(vip4, other)
		converge(t, m, d)
		l.IP("route replace default via 10.68.1.2 metric 100 src 10.68.6.1")
		main := l.IP("route show")
		d.VIPs = nil
		for i := range d.Interfaces {
			d.Interfaces[i].Source4 = netip.Addr{}
		}
		a := converge(t, m, d)
		if got := l.IP("route show"); got != main {
			t.Errorf("main table:\n%swant:\n%s", got, main)
		}
		if s := l.IP("-br addr show dev vi0"); !strings.Contains(s, "10.68.6.1/32") || strings.Contains(s, "10.68.6.200") {
			t.Errorf("addresses: %s", s)
		}
		if len(a.Problems) == 0 || !strings.Contains(strings.Join(a.Problems, "\n"), "10.68.6.1 is not unbound") {
			t.Errorf("problems: %q", a.Problems)
		}
		if err := m.Restore(t.Context()); err == nil || !strings.Contains(err.Error(), "10.68.6.1 is not unbound") {
			t.Errorf("restore: %v", err)
		}
		if got := l.IP("route show"); got != main {
			t.Errorf("main table after restore:\n%swant:\n%s", got, main)
		}
		l.IP("route replace default via 10.68.1.2 metric 100")
		if err := l.manager(t).Restore(t.Context()); err != nil {
			t.Error(err)
		}
		if s, err := l.TryIP("link show vi0"); err == nil {
			t.Errorf("left: %s", s)
		}
	})
}

// When the kernel refuses to take a rule or a route back, the VIP stays: without it,
// what names no source would not leave the host any more.
func TestUnbindAfterItsSource(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		d := desired(vip4)
		converge(t, m, d)
		for name, call := range map[string]func() error{
			"unbind":  func() error { _, err := m.Unbind(t.Context(), d); return err },
			"restore": func() error { return m.Restore(t.Context()) },
		} {
			d.VIPs = nil
			calls := 0
			m.conn.gate = func(n int) int { // the first write fails
				if calls++; calls == 1 {
					return 0
				}
				return n
			}
			if err := call(); !errors.Is(err, errStopped) {
				t.Errorf("%s: %v", name, err)
			}
			m.conn.gate = nil
			if s := l.IP("-br addr show dev vi0"); !strings.Contains(s, "10.68.6.1/32") {
				t.Errorf("%s: the VIP is gone: %s", name, s)
			}
			sourcesTo(t, map[string]string{"10.68.9.9:53": "10.68.6.1"})
			d.VIPs = []netip.Prefix{vip4}
			converge(t, m, d)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// One route of somebody else keeps its own source bound and nothing more, and
// the log tells only what really went.
func TestOneRouteKeepsOneAddress(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		var out bytes.Buffer
		m := newManager(t, Options{Log: slog.New(slog.NewTextHandler(&out, nil)), StateDir: l.dir})
		converge(t, m, desired(vip4, netip.MustParsePrefix("10.68.6.2/32"), netip.MustParsePrefix("10.68.6.3/32"), vip6))
		l.IP("route add 10.77.0.0/24 via 10.68.1.2 src 10.68.6.1")
		const want = "10.68.6.1 is not unbound: route 10.77.0.0/24 in table main of another owner has it as source and would be deleted; " +
			"change that route (ip route show table main), then run vipspeaker cleanup"
		if err := m.Restore(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("restore: %v, want %s", err, want)
		}
		if s := l.IP("-br addr show dev vi0"); !strings.Contains(s, "10.68.6.1/32") || strings.Count(s, "/") != 1 {
			t.Errorf("addresses: %s, want only the one with the route", s)
		}
		if s := l.IP("route show 10.77.0.0/24"); !strings.Contains(s, "src 10.68.6.1") {
			t.Errorf("the route of somebody else: %q", s)
		}
		if s := out.String(); !strings.Contains(s, `msg="vips unbound" count=3`) || strings.Contains(s, "virtual interface deleted") {
			t.Errorf("log:\n%s", s)
		}
	})
}

// An address that another device has as well can go: the route that names it as
// source, be it the kernel's own connected route, lives on the other one.
func TestAddressOfAnotherDeviceCanGo(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		own := netip.MustParsePrefix("10.68.5.66/32")
		converge(t, m, desired(vip4, vip6, own))
		l.IP("addr add 10.68.5.66/24 dev en7")
		l.IP("route add 10.77.0.0/24 via 10.68.1.2 src 10.68.5.66")
		main := l.IP("route show")
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		if got := l.IP("route show"); got != main {
			t.Errorf("main table:\n%swant:\n%s", got, main)
		}
		l.IP("route del 10.77.0.0/24")
		l.IP("addr del 10.68.5.66/24 dev en7")
		l.same(t, before)
	})
}

// An address that has to stay keeps its rules and costs no write in any pass.
func TestKeptAddressIsQuiet(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		kept := netip.MustParsePrefix("10.68.6.9/32")
		converge(t, m, desired(vip4, kept))
		l.IP("route add 10.77.0.0/24 via 10.68.1.2 src 10.68.6.9")
		converge(t, m, desired(vip4))
		a := converge(t, m, desired(vip4))
		if a.Writes != 0 {
			t.Errorf("%d writes in a pass in which nothing changes", a.Writes)
		}
		if rules := l.IP("rule"); !strings.Contains(rules, "from 10.68.6.9 lookup 6801") {
			t.Errorf("the address that stays has no rule:\n%s", rules)
		}
	})
}
