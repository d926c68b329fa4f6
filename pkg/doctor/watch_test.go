package doctor

import (
	"slices"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// What breaks nothing is no problem of a daemon, which would tell of it for ever.
func TestWatchLeavesNotesOut(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.Sysctl("net/ipv4/fib_multipath_hash_policy", "0")
		ns.IP("route add default via 10.68.5.2 table 200")
		ns.IP("rule add pref 31000 to 10.68.9.0/24 lookup 200")
		pokes := 0
		w := NewWatch(func() *Input { return l.in }, func() { pokes++ })
		w.look(t.Context(), w.input(), false)
		got := w.Problems()
		if len(got) != 1 || !strings.HasPrefix(got[0], "IPv4 rule 31000 ") || !strings.HasSuffix(got[0], " (vipspeaker doctor foreign-rule)") || pokes != 1 {
			t.Errorf("problems %q, %d pokes", got, pokes)
		}
		ns.IP("rule del pref 31000")
		w.look(t.Context(), w.input(), false)
		if got = w.Problems(); !slices.Equal(got, []string{}) || pokes != 2 {
			t.Errorf("when it is cured: problems %q, %d pokes", got, pokes)
		}
	})
}
