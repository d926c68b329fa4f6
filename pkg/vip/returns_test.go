package vip

import (
	"net/netip"
	"slices"
	"testing"

	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

// Sections are disjoint, not too many, and each rule is in the one that covers it.
func TestSections(t *testing.T) {
	for _, n := range []int{129, 1000, 10_000, 30_000} {
		var rules []returnRule
		for i, v := range aggregate(scatteredVIPs(n)) {
			rules = append(rules, returnRule{v, uint32(i)})
		}
		found := sections(unix.AF_INET, rules)
		total := 0
		for i, s := range found {
			total += len(s.rules)
			for _, r := range s.rules {
				if !s.cover.Contains(r.from.Addr()) {
					t.Errorf("%s is not in %s", r.from, s.cover)
				}
			}
			if i > 0 && found[i-1].cover.Overlaps(s.cover) {
				t.Errorf("%s overlaps %s", found[i-1].cover, s.cover)
			}
		}
		if total != len(rules) || len(found) < 2 || len(found) > maxSections {
			t.Errorf("%d VIPs: %d of %d rules in %d sections", n, total, len(rules), len(found))
		}
	}
}

// With so many VIPs that their rules are in sections, traffic goes as with few:
// from each VIP by the usable interface, from others as main says, the last words
// of a session by what is left, and sources are chosen as ever.
func TestScatteredVIPs(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		d := desired(append([]netip.Prefix{vip4, vip6}, scatteredVIPs(600)...)...)
		d.Exclude = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}
		d.Fallbacks = []Fallback{{Local: netip.MustParseAddr("10.68.1.1"), Peer: netip.MustParseAddr("10.68.1.2"), First: true}}
		d = d.usable(false, true)
		converge(t, m, d)
		if a := converge(t, m, d); a.Writes != 0 || len(a.Bound) != 602 {
			t.Errorf("a second pass: %d writes, %d bound", a.Writes, len(a.Bound))
		}
		r, err := NewReader()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		check := func(from, to, device string, table uint32) {
			t.Helper()
			f := Flow{To: netip.MustParseAddr(to)}
			if from != "" {
				f.From = netip.MustParseAddr(from)
			}
			got, failed := r.Lookup(t.Context(), f)
			if failed != nil || got.Table != table || len(got.Hops) == 0 || got.Hops[0].Interface != device {
				t.Errorf("from %s to %s: %+v, %v; want %s by table %d", from, to, got, failed, device, table)
			}
			if len(got.Rules) > 6 {
				t.Errorf("from %s to %s: %d rules are met", from, to, len(got.Rules))
			}
		}
		for _, v := range scatteredVIPs(600) {
			check(v.Addr().String(), "10.68.9.9", "en5", 6801)
		}
		check("10.68.6.1", "10.68.9.9", "en5", 6801)
		check("fd68:6::1", "fd68:9::9", "en5", 6801)
		check("10.68.1.1", "10.68.9.9", "en1", unix.RT_TABLE_MAIN)
		check("10.68.7.1", "10.68.7.7", "en7", unix.RT_TABLE_MAIN)
		check("10.68.1.1", "10.68.1.2", "en5", 6801) // last words
		sourcesTo(t, map[string]string{"10.68.9.9:53": "10.68.6.1", "10.99.1.1:53": "10.68.1.1", "10.68.7.77:53": "10.68.7.1", "[fd68:9::9]:53": "fd68:6::1"})
		// And back to few.
		d.VIPs = d.VIPs[:2]
		converge(t, m, d)
		check("10.68.6.1", "10.68.9.9", "en5", 6801)
		check("10.68.1.1", "10.68.1.2", "en5", 6801)
		if err = m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// A section that gets another number, because one before it was divided, keeps the
// rule that leads to it: the kernel takes two rules that differ only in where they
// jump to for the same.
func TestSectionsRenumbered(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		newLab(t, ns)
		m := newManager(t, Options{Log: discard(), StateDir: t.TempDir()})
		row := func(a byte, n int) (out []netip.Prefix) {
			for i := range n {
				out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, a, 0, byte(2 * i)}), 32))
			}
			return out
		}
		few := append(row(100, 60), row(200, 100)...)
		more := append(slices.Clone(few), row(101, 60)...)
		for _, vips := range [][]netip.Prefix{few, more, few} {
			d := desired(vips...)
			converge(t, m, d)
			if a := converge(t, m, d); a.Writes != 0 || len(a.Repaired) != 0 {
				t.Errorf("%d VIPs: a second pass wrote %d times, repaired %v", len(vips), a.Writes, a.Repaired)
			}
		}
	})
}
