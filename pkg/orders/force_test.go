package orders

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// many returns that many VIPs.
func many(n int) []netip.Prefix {
	list := make([]netip.Prefix, n)
	for i := range list {
		list[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 68, byte(i >> 8), byte(i)}), 32)
	}
	return list
}

// TestDrainEveryCopiesOnce: an order for all is one new list and two indexes,
// however many VIPs there are, and what lay in the list of others is as it was.
func TestDrainEveryCopiesOnce(t *testing.T) {
	allocations := func(n int) float64 {
		before := &Orders{All: &DrainAll{Since: t0, Except: many(n / 2)}}
		var known []Drain
		for _, p := range many(n) {
			before.Drains = append(before.Drains, order(p, t0, time.Hour))
			known = append(known, order(p, t0.Add(time.Second), 0))
		}
		return testing.AllocsPerRun(3, func() {
			next := *before
			next.DrainEvery(known, DrainAll{Since: t0.Add(time.Second)})
			if len(next.Drains) != n || !next.Drains[n-1].Since.Equal(t0) || !next.Drains[n-1].Until.IsZero() || before.Drains[n-1].Until.IsZero() {
				t.Fatalf("the last of %d is %+v, was %+v", n, next.Drains[n-1], before.Drains[n-1])
			}
		})
	}
	few, most := allocations(64), allocations(2048)
	// Maps grow by tables, so the number is not quite the same.
	if most > few+200 {
		t.Errorf("%g allocations for 64 VIPs, %g for 2048", few, most)
	}
}

// TestInForceLooksOnce: the answers are those of the index, for which the lists are
// not read again.
func TestInForceLooksOnce(t *testing.T) {
	o := &Orders{All: &DrainAll{Since: t0, Except: many(8)}}
	for _, p := range many(4) {
		o.Drains = append(o.Drains, order(p, t0, 0))
	}
	f := o.At(t0)
	for i := range o.Drains {
		o.Drains[i].Prefix = vipb
	}
	clear(o.All.Except)
	for i, p := range many(10) {
		_, ok := f.DrainOf(p)
		if want := i < 4 || i >= 8; ok != want {
			t.Errorf("%s is drained: %t, want %t", p, ok, want)
		}
	}
	if n := testing.AllocsPerRun(10, func() { f.DrainOf(vipa) }); n > 0 {
		t.Errorf("an answer costs %g allocations", n)
	}
}

// BenchmarkPlanOfDrains is what one decision asks when all of 10,000 VIPs are
// drained.
func BenchmarkPlanOfDrains(b *testing.B) {
	list := many(10000)
	o := &Orders{All: &DrainAll{Since: t0, Except: list[:5000]}}
	for _, p := range list[5000:] {
		o.Drains = append(o.Drains, order(p, t0, 0))
	}
	for b.Loop() {
		f := o.At(t0)
		for _, p := range list {
			f.DrainOf(p)
		}
	}
}

// TestOrdersStayReadable: what the next start would refuse to read is refused, and
// what is there stays.
func TestOrdersStayReadable(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	change(t, s, func(o *Orders) { o.Drain(order(vipa, time.Now(), 0)) })
	before, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	large, err := json.Marshal(strings.Repeat("x", largest))
	if err != nil {
		t.Fatal(err)
	}
	err = s.Change(func(o *Orders, _ time.Time) error { o.PutVIP(VIP{Name: "large", Spec: large}); return nil })
	if err == nil || !strings.Contains(err.Error(), "would be larger than 16777216 bytes") || len(s.Orders().VIPs) != 0 {
		t.Errorf("error %v, VIPs %d", err, len(s.Orders().VIPs))
	}
	if after, err := os.ReadFile(filepath.Join(dir, Name)); err != nil || string(after) != string(before) {
		t.Errorf("the file is another one, %v", err)
	}
	if again, _ := open(t, dir); again.Orders().Damage != "" || len(again.Orders().Drains) != 1 {
		t.Errorf("after a restart: %+v", again.Orders())
	}
}
