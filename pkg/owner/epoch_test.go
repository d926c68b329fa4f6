package owner

import (
	"net/netip"
	"testing"
)

// The epoch is that of the owner: an offer and its end leave it, and the next owner
// has a greater one.
func TestEpoch(t *testing.T) {
	t.Parallel()
	m, s := byHand(t)
	p := netip.MustParsePrefix("10.68.6.0/32")
	w := Want{VIP: p, Rank: 1, Ready: true}
	look := func() (*entry, int64) {
		t.Helper()
		entries, err := s.read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e := entries[p]
		if e == nil {
			return &entry{}, 0
		}
		return e, e.show("a", int64(s.lease)).Epoch
	}
	do := func(what step, to string) int64 {
		t.Helper()
		e, _ := look()
		if done, err := s.do(t.Context(), what, to, w, e); !done || err != nil {
			t.Fatalf("%s: %t, %v", what, done, err)
		}
		_, epoch := look()
		return epoch
	}
	if _, err := m.act(t.Context(), s, nil); err != nil { // the ask
		t.Fatal(err)
	}
	first := do(acquire, "")
	if first <= 0 {
		t.Fatalf("epoch %d", first)
	}
	for _, what := range []step{offer, recall, offer, recall} {
		if epoch := do(what, map[step]string{offer: "b", recall: ""}[what]); epoch != first {
			t.Errorf("after the %s: %d, was %d", what, epoch, first)
		}
	}
	if _, err := s.move(t.Context(), p, "a"); err == nil {
		t.Error("moved to where it is")
	}
	do(release, "")
	if next := do(acquire, ""); next <= first {
		t.Errorf("the next one is %d, was %d", next, first)
	}
}
