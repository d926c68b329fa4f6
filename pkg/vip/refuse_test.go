package vip

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// A VIP that is an address of a device which is not for VIPs is refused with the
// reason, and the others are bound. On lo it is where VIPs often were before.
func TestOwnAddressIsNoVIP(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("addr add 10.68.6.77/32 dev lo")
		before := l.dump()
		m := l.manager(t)
		d := desired(vip4, vip6, netip.MustParsePrefix("10.68.6.77/32"), netip.MustParsePrefix("10.68.5.1/32"), netip.MustParsePrefix("fd68:7::1/128"))
		a, err := m.Bind(t.Context(), d)
		for _, want := range []string{
			"vip 10.68.5.1 is not bound: it is an address of en5", "vip fd68:7::1 is not bound: it is an address of en7",
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v lacks %q", err, want)
			}
		}
		if len(a.Bound) != 3 || a.IsBound(d.VIPs[3]) || a.IsBound(d.VIPs[4]) {
			t.Errorf("bound %v", a.Bound)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// A VIP that would cut the host off from a router or from a network is refused
// with the reason; one that is bound already stays.
func TestVIPThatCutsTheHostOff(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add 10.77.0.0/16 via 10.68.7.2")
		l.IP("route add 10.81.0.0/24 dev en7 scope link")
		l.IP("route add 10.82.0.0/24 via 192.0.2.5 dev en7 onlink")
		before := l.dump()
		m := l.manager(t)
		d := desired(vip4, vip6)
		for i := range d.Interfaces {
			d.Interfaces[i].Source4, d.Interfaces[i].Source6 = netip.Addr{}, netip.Addr{}
		}
		d.Interfaces[0].Gateways = []netip.Addr{netip.MustParseAddr("10.68.1.3")}
		d.Interfaces[1].Routers = []netip.Addr{netip.MustParseAddr("fd68:5::3")}
		refusals := map[string]string{
			"10.68.1.2/32":   "vip 10.68.1.2 is not bound: it is a next hop of route 0.0.0.0/0 in table main",
			"10.68.7.2/32":   "vip 10.68.7.2 is not bound: it is a next hop of route 10.77.0.0/16 in table main",
			"fd68:1::2/128":  "vip fd68:1::2 is not bound: it is a next hop of route ::/0 in table main",
			"10.68.1.3/32":   "vip 10.68.1.3 is not bound: it is the gateway of en1",
			"fd68:5::3/128":  "vip fd68:5::3 is not bound: it is a BGP peer on en5",
			"10.0.0.0/8":     "vip 10.0.0.0/8 is not bound: it holds 10.68.1.1, an address of en1",
			"192.0.2.0/24":   "vip 192.0.2.0/24 is not bound: it holds 192.0.2.5, a next hop of route 10.82.0.0/24 in table main",
			"10.68.7.128/25": "vip 10.68.7.128/25 is not bound: it overlaps 10.68.7.0/24, the network of en7",
			"10.81.0.0/16":   "vip 10.81.0.0/16 is not bound: it overlaps 10.81.0.0/24, the network of en7",
			"fd68:7::f0/124": "vip fd68:7::f0/124 is not bound: it overlaps fd68:7::/64, the network of en7",
		}
		for v := range refusals {
			d.VIPs = append(d.VIPs, netip.MustParsePrefix(v))
		}
		inside := netip.MustParsePrefix("10.68.7.99/32") // hosts there miss it, and nobody else
		whole := netip.MustParsePrefix("10.80.0.0/24")
		d.VIPs = append(d.VIPs, inside, whole)
		a, err := m.Bind(t.Context(), d)
		for _, want := range refusals {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v lacks %q", err, want)
			}
		}
		if !slices.Equal(a.Bound, []netip.Prefix{vip4, vip6, inside, whole}) {
			t.Errorf("bound %v", a.Bound)
		}
		if s := l.IP("route get 10.68.7.2"); !strings.Contains(s, "dev en7") {
			t.Errorf("the way to a router: %s", s)
		}
		l.IP("route add 10.80.0.0/25 dev en7")
		d.VIPs = []netip.Prefix{vip4, vip6, inside, whole}
		if a, err := m.Bind(t.Context(), d); err != nil || len(a.Bound) != 4 {
			t.Errorf("bound before: %v, %v", a.Bound, err)
		}
		l.IP("route del 10.80.0.0/25")
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// A VIP that was taken away by somebody else before it left the configuration is
// judged anew when it comes back.
func TestFormerVIPIsJudgedAnew(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		other := netip.MustParsePrefix("10.68.7.99/32")
		converge(t, m, desired(vip4, other))
		l.IP("addr del 10.68.7.99/32 dev vi0")
		converge(t, m, desired(vip4))
		l.IP("addr add 10.68.7.99/24 dev en7")
		a, err := attempt(t.Context(), m, desired(vip4, other))
		if err == nil || !strings.Contains(err.Error(), "vip 10.68.7.99 is not bound: it is an address of en7") || a.IsBound(other) {
			t.Errorf("bound %v: %v", a.Bound, err)
		}
	})
}

// A wide route without a next hop, as into a tunnel, cuts nobody off from a VIP
// inside it; the network of a given device is the VIPs' own.
func TestPrefixVIPInsideWiderNetworks(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("link add any0 type bridge")
		l.IP("addr add 10.80.0.1/24 dev any0")
		l.IP("link set any0 up")
		l.IP("route add 10.0.0.0/8 dev en7 scope link")
		m := l.manager(t)
		given, inTunnel := netip.MustParsePrefix("10.80.0.0/24"), netip.MustParsePrefix("10.90.0.0/16")
		d := desired(vip4)
		d.Device = Device{Name: "any0", Kind: KindExisting}
		d.VIPs = append(d.VIPs, given, inTunnel)
		a, err := m.Bind(t.Context(), d)
		if err != nil || !a.IsBound(given) || !a.IsBound(inTunnel) {
			t.Errorf("bound %v: %v", a.Bound, err)
		}
	})
}
