package vip

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// What Bind calls bound gets its packets at once, although the kernel makes the
// local routes of IPv6 addresses some time after the addresses.
func TestBoundMeansDelivered(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired()
		for i := range 200 {
			d.VIPs = append(d.VIPs, netip.MustParsePrefix(fmt.Sprintf("fd68:6::%x/128", i+1)))
			a := converge(t, m, d)
			if len(a.Bound) != len(d.VIPs) {
				t.Fatalf("%d of %d VIPs bound", len(a.Bound), len(d.VIPs))
			}
			v := d.VIPs[i].Addr()
			if got := l.IP("-6 route get %s", v); !strings.HasPrefix(got, "local "+v.String()) {
				t.Fatalf("%s is bound, but the kernel sends its packets elsewhere: %s", v, got)
			}
		}
	})
}

// The kernel also makes the local routes anew when a device comes up, and calls
// nobody before it has done so.
func TestBoundMeansDeliveredWhenTheDeviceComesUp(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		l.IP("link add x0 type bridge")
		d := desired(vip4, vip6)
		d.Device = Device{Name: "x0", Kind: KindExisting}
		for range 100 {
			if a := converge(t, m, d); len(a.Bound) != 0 {
				t.Fatalf("the device is down and %v are bound", a.Bound)
			}
			l.IP("link set x0 up")
			a, err := m.Steer(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			if got := l.IP("-6 route get %s", vip6.Addr()); a.IsBound(vip6) && !strings.HasPrefix(got, "local ") {
				t.Fatalf("bound, but the kernel sends its packets elsewhere: %s", got)
			}
			if a := converge(t, m, d); !a.IsBound(vip6) {
				t.Fatalf("bound: %v", a.Bound)
			}
			l.IP("link set x0 down")
		}
	})
}

// A VIP for which the kernel does not take packets is not bound, and is when
// that has changed.
func TestNotDeliveredIsNotBound(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		converge(t, m, desired(vip4, vip6))
		m.deliveryBound = deliveryBound // it is to run out
		more := netip.MustParsePrefix("fd68:6::2/128")
		l.IP("-6 route del local fd68:6::1 table local")
		d := desired(vip4, vip6, more)
		// The kernel may take longer for the other one, too, on a machine that is busy.
		netnstest.Until(t, soon, func() error {
			a, err := attempt(t.Context(), m, d)
			if err == nil || !strings.Contains(err.Error(), "kernel does not take packets for fd68:6::1/128") {
				t.Fatalf("error %v", err)
			}
			if !a.IsBound(vip4) || a.IsBound(vip6) {
				t.Fatalf("bound: %v", a.Bound)
			}
			if !a.IsBound(more) {
				return err
			}
			return nil
		})
		l.IP("-6 route add local fd68:6::1 dev vi0 table local proto kernel")
		if a := converge(t, m, d); !a.IsBound(vip6) {
			t.Errorf("bound: %v", a.Bound)
		}
	})
}
