package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// The life of a plain configuration: bound, source on, nothing more to write,
// and gone without a trace.
func TestLife(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		d := desired(vip4, vip6)
		converge(t, m, d)
		a := converge(t, m, d)
		if !a.IsBound(vip4) || !a.IsBound(vip6) || a.Writes != 0 || a.DeviceName != "vi0" || a.DeviceKind == "" {
			t.Errorf("%+v", a)
		}
		if a, err := m.Read(t.Context(), d); err != nil || len(a.Bound) != 2 || len(a.Sources) != 4 {
			t.Errorf("read: %+v, %v", a, err)
		}
		addr := l.IP("addr show dev vi0")
		if strings.Contains(addr, "fe80") || strings.Contains(addr, "tentative") || strings.Count(addr, "inet") != 2 {
			t.Errorf("vi0 has more than the VIPs, or not for good:\n%s", addr)
		}
		for _, family := range []string{"-4", "-6"} {
			if got := l.IP("%s route show", family); strings.Contains(got, "vi0") || strings.Contains(got, "68:6:") || strings.Contains(got, "10.68.6") {
				t.Errorf("the main table knows the VIPs:\n%s", got)
			}
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// A device of the administrator's is used and stays, and so does lo.
func TestGivenDevice(t *testing.T) {
	for name, device := range map[string]Device{
		"existing": {Name: "br9", Kind: KindExisting},
		"lo":       {Name: "lo", Kind: KindAuto},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				t.Helper()
				l := newLab(t, ns)
				l.IP("link add br9 type bridge")
				l.IP("link set br9 up")
				l.IP("addr add 10.68.6.9/24 dev %s", device.Name)
				l.IP("addr add 10.68.6.200/32 dev %s", device.Name)
				l.settle(t)
				before := l.dump()
				m := l.manager(t)
				foreign := netip.MustParsePrefix("10.68.6.200/32")
				d := desired(vip4, vip6, foreign)
				d.Device = device
				converge(t, m, d)
				a := converge(t, m, d)
				if a.Writes != 0 || len(a.Bound) != 3 || a.DeviceName != device.Name || len(a.Sources) != 4 {
					t.Errorf("%+v", a)
				}
				want := "vip 10.68.6.200 on " + device.Name + " was bound by another owner: it is used and never removed"
				if !slices.Contains(a.Problems, want) {
					t.Errorf("problems %q lack %q", a.Problems, want)
				}
				d.VIPs = []netip.Prefix{vip4}
				converge(t, m, d)
				if s := l.IP("-br addr show dev %s", device.Name); !strings.Contains(s, "10.68.6.200") || strings.Contains(s, "fd68:6::1") {
					t.Errorf("after unbind: %s", s)
				}
				if err := m.Restore(t.Context()); err != nil {
					t.Error(err)
				}
				l.same(t, before)
			})
		})
	}
}

// A VIP that the administrator gave a device with its network is used as it is: of
// IPv6 the kernel takes no second one with a host mask.
func TestGivenDeviceWithNetwork(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("link add any0 type bridge")
		l.IP("addr add 10.80.0.1/24 dev any0")
		l.IP("addr add fd80::1/64 dev any0 nodad")
		l.IP("link set any0 up")
		m := l.manager(t)
		d := desired(netip.MustParsePrefix("10.80.0.1/32"), netip.MustParsePrefix("fd80::1/128"))
		d.Device = Device{Name: "any0", Kind: KindExisting}
		converge(t, m, d)
		a := converge(t, m, d)
		if !slices.Equal(a.Bound, d.VIPs) || a.Writes != 0 {
			t.Errorf("bound %v, %d writes in a second pass", a.Bound, a.Writes)
		}
		if s := l.IP("-6 route get fd68:9::9"); !strings.Contains(s, "src fd80::1") {
			t.Errorf("the IPv6 VIP is no source: %s", s)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		if s := l.IP("addr show dev any0"); !strings.Contains(s, "10.80.0.1/24") || strings.Contains(s, "10.80.0.1/32") || !strings.Contains(s, "fd80::1/64") {
			t.Errorf("addresses of others after the end: %s", s)
		}
	})
}

func TestDeviceErrors(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("link add vi0 type bridge")
		before := l.dump()
		m := l.manager(t)
		d := desired(vip4)
		if _, err := attempt(t.Context(), m, d); err == nil || !strings.Contains(err.Error(), "vi0 exists and is not ours") {
			t.Errorf("somebody's vi0: %v", err)
		}
		d.Device = Device{Name: "br9", Kind: KindExisting}
		if _, err := attempt(t.Context(), m, d); err == nil || !strings.Contains(err.Error(), "br9 does not exist") {
			t.Errorf("a device that does not exist: %v", err)
		}
		d.Device = Device{Name: "vi1", Kind: "nosuchkind"}
		if _, err := attempt(t.Context(), m, d); err == nil || !strings.Contains(err.Error(), "make device vi1 of kind nosuchkind") {
			t.Errorf("a kind that does not exist: %v", err)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// Where no kind of virtual device can be made, the VIPs are on lo.
func TestFallbackToLoopback(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		m.kinds = []string{"nosuchkind", "northisone"}
		d := desired(vip4, vip6)
		converge(t, m, d)
		a := converge(t, m, d)
		if a.Writes != 0 || len(a.Bound) != 2 || a.DeviceName != "lo" || a.DeviceKind != "lo" {
			t.Errorf("%+v", a)
		}
		sourcesTo(t, map[string]string{"10.68.9.9:53": "10.68.6.1", "[fd68:9::9]:53": "fd68:6::1"})
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// A whole prefix is bound by a local route: every address in it answers.
func TestPrefixVIP(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add local 10.79.0.0/16 dev lo table local")
		before := l.dump()
		m := l.manager(t)
		d := desired(netip.MustParsePrefix("10.80.0.0/24"), netip.MustParsePrefix("fd68:80::/64"))
		d.VIPs = append(d.VIPs, netip.MustParsePrefix("10.79.0.0/16"))
		for i := range d.Interfaces {
			d.Interfaces[i].Source4, d.Interfaces[i].Source6 = netip.MustParseAddr("10.80.0.7"), netip.Addr{}
		}
		converge(t, m, d)
		a := converge(t, m, d)
		if a.Writes != 0 || len(a.Bound) != 3 {
			t.Errorf("%+v", a)
		}
		for _, to := range []string{"10.80.0.200", "fd68:80::abcd"} {
			if s := l.IP("route get %s", to); !strings.Contains(s, "local") {
				t.Errorf("route get %s: %s", to, s)
			}
		}
		sourcesTo(t, map[string]string{"10.68.9.9:53": "10.80.0.7"})
		l.IP("route del local 10.80.0.0/24 table local")
		if a := converge(t, m, d); a.Repaired[objectAddress] != 1 || len(a.Bound) != 3 {
			t.Errorf("after the loss of a local route: %+v", a)
		}
		d.VIPs = nil
		converge(t, m, d)
		if s := l.IP("route show table local proto 68"); s != "" {
			t.Errorf("left after unbind: %s", s)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// Many VIPs go to several devices, and one rule covers those in a row.
func TestManyVIPs(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		d := desired(manyVIPs(2500)...)
		d.VIPs = append(d.VIPs, vip6)
		converge(t, m, d)
		a := converge(t, m, d)
		if a.Writes != 0 || len(a.Bound) != 2501 {
			t.Errorf("%d writes, %d bound", a.Writes, len(a.Bound))
		}
		for device, want := range map[string]int{"vi0": 1000, "vi0.1": 1000, "vi0.2": 501} {
			if got := strings.Count(l.IP("-o addr show dev %s", device), "\n"); got != want {
				t.Errorf("%d addresses on %s, want %d", got, device, want)
			}
		}
		if n := strings.Count(l.IP("rule show table 6801"), "\n"); n > 12 {
			t.Errorf("%d rules for 2500 VIPs in a row", n)
		}
		d.VIPs = append(d.VIPs[:1:1], d.VIPs[1400:1500]...)
		converge(t, m, d)
		if got := l.IP("-br link show type bridge"); strings.Contains(got, "vi0.2") || !strings.Contains(got, "vi0.1") {
			t.Errorf("devices after unbind: %s", got)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// manyVIPs are IPv4 VIPs in a row.
func manyVIPs(n int) []netip.Prefix {
	out := make([]netip.Prefix, n)
	for i := range out {
		out[i] = netip.MustParsePrefix(fmt.Sprintf("10.100.%d.%d/32", i/256, i%256))
	}
	return out
}

// The device of a new name takes over before the former one goes.
func TestDeviceRenamed(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		d := desired(vip4, vip6)
		converge(t, m, d)
		d.Device.Name = "vip0"
		if a, err := m.Steer(t.Context(), d); err != nil || len(a.Bound) != 2 || len(a.Sources) != 4 {
			t.Errorf("before the new device: %+v, %v", a, err)
		}
		converge(t, m, d)
		if got := l.IP("-br link show type bridge"); strings.Contains(got, "vi0") || !strings.Contains(got, "vip0") {
			t.Errorf("devices: %s", got)
		}
		sourcesTo(t, map[string]string{"10.68.9.9:53": "10.68.6.1", "[fd68:9::9]:53": "fd68:6::1"})
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// A device that somebody made in the place of ours is theirs: it is neither used
// nor deleted, whatever a state file says of its name.
func TestDeviceOfTheSameName(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		killed := l.manager(t)
		d := desired(vip4, vip6)
		converge(t, killed, d)
		killed.Close()
		l.IP("link del vi0")
		l.IP("link add vi0 type bridge")
		l.IP("addr add 10.55.0.1/24 dev vi0")
		m := l.manager(t)
		if _, err := m.Bind(t.Context(), d); err == nil || !strings.Contains(err.Error(), "vi0 exists and is not ours") {
			t.Errorf("bind: %v", err)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		if s, err := l.TryIP("-br addr show dev vi0"); err != nil || !strings.Contains(s, "10.55.0.1/24") || strings.Contains(s, "10.68.6.1") {
			t.Errorf("the device of somebody else: %s, %v", s, err)
		}
		l.IP("link del vi0")
		converge(t, m, d)
		if s := l.IP("link show vi0"); !strings.Contains(s, aliasMark) {
			t.Errorf("our device: %s", s)
		}
	})
}

// A process that was stopped between the making of a device and the note of its
// number leaves no claim on whatever has the name later: the next one notes it.
func TestDeviceOfTheSameNameAfterACrash(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		converge(t, m, desired(vip4))
		if err := m.state.setDevice("vi0", 0); err != nil {
			t.Fatal(err)
		}
		next := l.manager(t)
		converge(t, next, desired(vip4))
		l.IP("link del vi0")
		l.IP("link add vi0 type bridge")
		if _, err := attempt(t.Context(), next, desired(vip4)); err == nil || !strings.Contains(err.Error(), "vi0 exists and is not ours") {
			t.Errorf("somebody's vi0: %v", err)
		}
		if err := next.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		if s, err := l.TryIP("link show vi0"); err != nil {
			t.Errorf("somebody's device is gone: %s", s)
		}
	})
}

// An address that is not usable yet is not bound.
func TestTentativeIsNotBound(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.Sysctl("net/ipv6/conf/en7/accept_dad", "1")
		l.Sysctl("net/ipv6/neigh/en7/retrans_time_ms", "2000") // how long it is tentative
		m := l.manager(t)
		d := desired(vip6)
		d.Device = Device{Name: "en7", Kind: KindExisting}
		// A machine that stands still may use all of that time up before it was looked at.
		netnstest.Until(t, soon, func() error {
			l.TryIP("-6 addr del %s dev en7", vip6) //nolint:errcheck // the first time it is not there
			l.IP("-6 addr add %s dev en7", vip6)
			a := converge(t, m, d)
			if !strings.Contains(l.IP("-6 addr show dev en7 to %s", vip6), "tentative") {
				return errors.New("it was not tentative for long enough")
			}
			if a.IsBound(vip6) || len(a.Sources) != 0 {
				t.Errorf("tentative, and yet %+v", a)
			}
			return nil
		})
		netnstest.Until(t, soon, func() error {
			if a := converge(t, m, d); !a.IsBound(vip6) {
				return errors.New(l.IP("addr show dev en7"))
			}
			return nil
		})
		l.IP("link set en7 down")
		if a, err := m.Read(t.Context(), d); err != nil || a.IsBound(vip6) {
			t.Errorf("device down, and yet %+v, %v", a, err)
		}
	})
}

// Gateways come from the configuration where it has any; one that the kernel
// would refuse costs nothing but itself.
func TestGateways(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		for _, family := range []string{"-4", "-6"} {
			l.IP("%s route flush default", family)
		}
		m := l.manager(t)
		d := desired(vip4, vip6)
		linkLocal := netip.MustParseAddr("fe80::1234")
		d.Interfaces[0].Gateways = []netip.Addr{netip.MustParseAddr("10.68.1.2"), linkLocal}
		d.Interfaces[1].Gateways = []netip.Addr{netip.MustParseAddr("10.99.0.1")}
		converge(t, m, d)
		a := converge(t, m, d)
		for _, want := range []string{
			"gateway 10.99.0.1 of interface en5 is not on-link and is not used",
			"interface en5 has no IPv6 gateway: the default route for the VIPs does not use it",
		} {
			if !slices.Contains(a.Problems, want) {
				t.Errorf("problems %q lack %q", a.Problems, want)
			}
		}
		silent := d.usable()
		silent.Interfaces[1].Silent = true
		if a, err := m.Steer(t.Context(), silent); err != nil || slices.ContainsFunc(a.Problems, func(s string) bool { return strings.Contains(s, "has no") }) {
			t.Errorf("a silent interface is meant to have no default route: %q, %v", a.Problems, err)
		}
		converge(t, m, d)
		for to, want := range map[string]string{
			"10.68.9.9 from 10.68.6.1": "via 10.68.1.2 dev en1", "fd68:9::9 from fd68:6::1": "via fe80::1234 dev en1",
		} {
			if got := l.IP("route get %s", to); !strings.Contains(got, want) {
				t.Errorf("route get %s: %s, want %s", to, got, want)
			}
		}
	})
}

// A device that could not be made leaves no claim on what has its name later.
func TestFailedDeviceIsNotClaimed(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4)
		d.Device.Kind = "no such kind"
		if _, err := m.Bind(t.Context(), d); err == nil {
			t.Fatal("a device of no kind was made")
		}
		l.IP("link add vi0 type bridge")
		l.IP("addr add 10.55.0.1/24 dev vi0")
		d.Device.Kind = KindAuto
		if _, err := m.Bind(t.Context(), d); err == nil || !strings.Contains(err.Error(), "is not ours") {
			t.Errorf("bind: %v, want that the device is not ours", err)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		if out := l.IP("addr show dev vi0"); !strings.Contains(out, "10.55.0.1/24") {
			t.Errorf("the administrator's device lost its address: %s", out)
		}
	})
}

// A device that knows no IPv6, as all of a host that was booted with
// ipv6.disable=1, or one with an MTU below 1280, needs no mode for the link-local
// address that it never gets.
func TestDeviceWithoutIPv6(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4)
		converge(t, m, d)
		l.IP("link set vi0 mtu 1000 down")
		if _, err := m.Bind(t.Context(), d); err != nil {
			t.Errorf("bind: %v", err)
		}
		if a := converge(t, m, d); a.Writes != 0 || len(a.Bound) != 1 {
			t.Errorf("%+v", a)
		}
	})
}
