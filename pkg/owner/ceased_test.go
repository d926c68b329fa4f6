package owner

import (
	"net/netip"
	"slices"
	"testing"

	"vipspeaker/test/etcdtest"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// hasCeased tells whether a host has ceased to be the owner for these reasons.
func hasCeased(h *host, why ...Ceased) func() bool {
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return slices.Equal(h.ceased, why)
	}
}

// Who is not the owner any more knows why, until it is again.
func TestCeased(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	a, b := startPair(t, endpoint, testLease)
	if !hasCeased(a)() || !hasCeased(b)() {
		t.Errorf("nobody has ceased: %v, %v", a.ceased, b.ceased)
	}
	if _, err := a.m.Move(t.Context(), vip, "b"); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "b owns it", owns(b))
	eventually(t, soon, "a has let go", func() bool { s := a.m.State().VIPs[vip]; return s.Role == None && s.Ceased == HandedOver })
	b.ready(false)
	eventually(t, soon, "a owns it", owns(a))
	if s := a.m.State().VIPs[vip]; s.Ceased != "" || !hasCeased(a, HandedOver)() {
		t.Errorf("a is the owner again: %+v", s)
	}
	eventually(t, soon, "b has given up", hasCeased(b, GivenUp))
	// Nobody else has a key of it now, so etcd has nothing of it.
	a.ready(false)
	eventually(t, soon, "a has given up", hasCeased(a, HandedOver, GivenUp))
	a.ready(true)
	eventually(t, soon, "a owns it again", owns(a))

	s := a.m.store.Load()
	if _, err := s.client.Delete(t.Context(), s.key(vip, holdKey, "a")); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "a has noticed", hasCeased(a, HandedOver, GivenUp, HoldGone))
	eventually(t, soon, "a owns it again", owns(a))
	if _, err := s.client.Revoke(t.Context(), leaseOf(t, s)); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "a has no lease any more", hasCeased(a, HandedOver, GivenUp, HoldGone, LeaseEnded))
}

// leaseOf is the lease that holds the VIP.
func leaseOf(t *testing.T, s *store) clientv3.LeaseID {
	t.Helper()
	r, err := s.client.Get(t.Context(), s.key(vip, holdKey, s.host))
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	return clientv3.LeaseID(r.Kvs[0].Lease)
}

// What has no keys in etcd has a reason too, and what is not this host's has none.
func TestCeasedPictures(t *testing.T) {
	t.Parallel()
	m := New(Options{})
	other := netip.MustParsePrefix("10.68.6.2/32")
	m.memory[vip], m.memory[other] = &remembered{}, &remembered{}
	for _, tt := range []struct {
		role Role
		want Ceased
	}{{Owner, ""}, {None, GivenUp}, {None, GivenUp}, {Next, GivenUp}, {None, GivenUp}, {Owner, ""}, {Former, HandedOver}, {None, HandedOver}} {
		next := &State{VIPs: map[netip.Prefix]VIPState{other: {Role: Next}}}
		if tt.role != None {
			next.VIPs[vip] = VIPState{Role: tt.role}
		}
		m.cease(next, GivenUp)
		if got := next.VIPs[vip]; got.Role != tt.role || got.Ceased != tt.want || next.VIPs[other].Ceased != "" {
			t.Errorf("as %q: %+v, want %q", tt.role, next.VIPs, tt.want)
		}
		m.show(next)
	}
}
