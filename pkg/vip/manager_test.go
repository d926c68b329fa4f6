package vip

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/netnstest"
)

func TestBindSteerRestore(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		d := desired(vip4, vip6)
		a := converge(t, m, d)
		if diff := cmp.Diff([]netip.Prefix{vip4, vip6}, a.Bound, cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })); diff != "" {
			t.Errorf("bound (-want +got):\n%s", diff)
		}
		a = converge(t, m, d)
		t.Logf("%+v", a)
		t.Log(l.IP("addr show dev vi0"))
		t.Log(l.IP("rule"), l.IP("-6 rule"))
		for _, tb := range []string{"6801", "6802"} {
			t.Log(l.IP("route show table %s", tb), l.IP("-6 route show table %s", tb))
		}
		a = converge(t, m, d)
		if a.Writes != 0 {
			t.Errorf("third pass made %d writes", a.Writes)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}
