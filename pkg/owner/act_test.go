package owner

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/etcdtest"
)

// byHand is a manager that nobody runs, with a lease and wants for three VIPs.
func byHand(t *testing.T) (*Manager, *store) {
	t.Helper()
	endpoint, _ := etcdtest.Start(t)
	m := New(Options{
		Log: slog.New(slog.DiscardHandler), Host: "a",
		Config: Config{Endpoints: []string{endpoint}, Prefix: "/test/", Lease: time.Minute},
	})
	s, err := dial(t.Context(), m.opt.Config, "a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.client.Close() })
	if _, err := s.renew(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if other, err := s.takeName(t.Context(), claim{}); other != nil || err != nil {
		t.Fatal(other, err)
	}
	m.renewed = Now()
	var wants []Want
	for i := range 3 {
		wants = append(wants, Want{VIP: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 68, 6, byte(i)}), 32), Rank: 1, Ready: true})
	}
	m.Set(wants)
	return m, s
}

func keys(t *testing.T, s *store) int {
	t.Helper()
	entries, err := s.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// What is written after the lease has ended would stay for ever.
func TestActWithoutLease(t *testing.T) {
	t.Parallel()
	m, s := byHand(t)
	if _, err := s.client.Revoke(t.Context(), s.lease); err != nil {
		t.Fatal(err)
	}
	if _, err := m.act(t.Context(), s, nil); !errors.Is(err, errNoLease) {
		t.Errorf("error %v", err)
	}
	if _, err := s.do(t.Context(), acquire, "", Want{VIP: vip}, &entry{}); !errors.Is(err, errNoLease) {
		t.Errorf("acquired without a lease: %v", err)
	}
	if _, err := s.asking(t.Context(), Want{VIP: vip, Ready: true}, &entry{}); !errors.Is(err, errNoLease) {
		t.Errorf("asked without a lease: %v", err)
	}
	if n := keys(t, s); n != 0 {
		t.Errorf("keys of %d VIPs without a lease", n)
	}
}

// The lease is renewed between two steps when that is due, and when etcd does not
// answer the other steps do not wait for it, too.
func TestActLeavesForRenewal(t *testing.T) {
	t.Parallel()
	m, s := byHand(t)
	m.renewed -= m.every()
	if did, err := m.act(t.Context(), s, nil); !did || err != nil || keys(t, s) != 1 {
		t.Errorf("did %t, error %v, keys of %d VIPs, want those of 1", did, err, keys(t, s))
	}
	m.renewed = Now()
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if _, err := m.act(ctx, s, nil); err == nil || strings.Count(err.Error(), "is ready") != 1 {
		t.Errorf("errors %v, want one", err)
	}
	if did, err := m.act(t.Context(), s, nil); !did || err != nil || keys(t, s) != 3 {
		t.Errorf("did %t, error %v, keys of %d VIPs, want those of 3", did, err, keys(t, s))
	}
}

// All holds that are to be given up leave the picture at once, and stay until the
// caller knows that.
func TestHideTogether(t *testing.T) {
	t.Parallel()
	pokes := 0
	m := New(Options{Poke: func() { pokes++ }})
	state := &State{VIPs: map[netip.Prefix]VIPState{}}
	for i := range 3 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 68, 6, byte(i)}), 32)
		state.VIPs[p] = VIPState{Role: Owner}
		m.memory[p] = &remembered{memory: memory{hidden: time.Duration(min(i, 1))}}
	}
	m.state.Store(state)
	m.hide()
	none := 0
	for p, v := range m.State().VIPs {
		if v.Role == None {
			none++
		}
		k := m.memory[p]
		if v.Role == None != (k.told > 0) || k.told > 0 && (k.hidden < time.Second || m.heard(k)) {
			t.Errorf("%s as %q: %+v", p, v.Role, k)
		}
		if state.VIPs[p].Role != Owner {
			t.Error("a picture was changed that others may look at")
		}
	}
	if none != 2 || pokes != 3 {
		t.Errorf("%d hidden, the caller woken %d times", none, pokes)
	}
	if m.heard(&remembered{}) {
		t.Error("given up before it is hidden")
	}
}

// A hold that nobody announced for long is kept for a moment after it was hidden:
// the caller may just have begun.
func TestDecideReleaseAfterHiding(t *testing.T) {
	t.Parallel()
	var k memory
	w := Want{VIP: vip, Rank: 1, Ready: true}
	e := &entry{holds: []hold{{Role: Owner, host: "a", lease: 1}}, asks: []ask{{Rank: 1, host: "a", lease: 1}}}
	look := func(at time.Duration, want step, hidden time.Duration) {
		t.Helper()
		if do, _, _ := k.decide(self{"a", 1, testHandover}, w, e, at); do != want || k.hidden != hidden {
			t.Errorf("at %s: %s, hidden since %s, want %s, %s", at, do, k.hidden, want, hidden)
		}
	}
	look(time.Second, nothing, 0)
	w.Ready = false
	look(time.Minute, nothing, time.Minute)
	look(time.Minute+clear-1, nothing, time.Minute)
	look(time.Minute+clear, release, time.Minute)
	w.Carried = true
	look(time.Minute+clear, nothing, 0)
}

// Each outage is told once, and its end, and is shown until then.
func TestTroubleEachTime(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	m := New(Options{Log: slog.New(slog.NewTextHandler(&text, nil))})
	for range 2 {
		m.trouble(errors.New("no route"))
		m.trouble(errors.New("timeout"))
		m.publish(&store{}, nil) // of a turn that reached etcd
		if e := m.State().Error; e != "timeout" {
			t.Errorf("%q is shown in the middle of a turn", e)
		}
		m.trouble(nil)
		if e := m.State().Error; e != "" {
			t.Errorf("%q is shown after it", e)
		}
	}
	if down, up := strings.Count(text.String(), "cannot be asked"), strings.Count(text.String(), "answers again"); down != 2 || up != 2 {
		t.Errorf("told of %d outages and %d ends:\n%s", down, up, &text)
	}
}
