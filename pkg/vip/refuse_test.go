package vip

import (
	"net/netip"
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
