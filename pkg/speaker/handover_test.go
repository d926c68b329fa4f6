package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// How a VIP with one owner is announced: by what it is in a handover, whatever its
// rank is.
func TestHandoverAttributes(t *testing.T) {
	t.Parallel()
	const usual, behind = "prepend 0 med 0 pref 300", "prepend 10 med 1000 pref 1"
	for _, tt := range []struct {
		name   string
		state  owner.VIPState
		want   string
		tag    int
		origin uint8
	}{
		{"owner", owner.VIPState{Role: owner.Owner}, usual, 0, 0},
		{"the next one is asked", owner.VIPState{Role: owner.Owner, Next: "b"}, usual, 0, 0},
		{"the next one announces", owner.VIPState{Role: owner.Owner, Next: "b", Joined: true}, behind, 1000, 0},
		{"former", owner.VIPState{Role: owner.Former}, behind, 1000, 0},
		{"next", owner.VIPState{Role: owner.Next}, behind, 1000, originIncomplete},
	} {
		for _, role := range []*config.Role{nil, ranked(1, failbackImmediate), ranked(254, "manual")} {
			in := leasedSample(tt.state.Role, 2*time.Hour)
			in.Config.VIPs[0].Role = role
			in.Owners.VIPs[prefix("10.68.6.1/32")] = tt.state
			d := Plan(in, t0)
			p := d.speaker("en1").Paths[0]
			want, rank := tt.want, 0
			switch {
			case role != nil:
				rank = role.Rank
			case tt.tag == 0:
				want = "prepend 0" // as announce says
			}
			want = fmt.Sprintf("%s 65010:%d:%d", want, tagBase+tt.tag+rank, id1)
			if got := attributesOf(p); got != want || p.Origin != tt.origin || !p.Fenced {
				t.Errorf("%s, rank %d: %s, origin %d, fenced %t, want %s, origin %d", tt.name, rank, got, p.Origin, p.Fenced, want, tt.origin)
			}
			if d.VIPs[0].Behind != (tt.tag > 0) {
				t.Errorf("%s: behind: %t", tt.name, d.VIPs[0].Behind)
			}
		}
	}
}

// handing looks at the sample's VIP after each other, with what was seen before.
type handing struct {
	t       *testing.T
	history History
}

// look makes one look at it, at some time after t0.
func (h *handing) look(at time.Duration, state owner.VIPState, edit func(*Inputs)) Desired {
	h.t.Helper()
	vip := prefix("10.68.6.1/32")
	in := leasedSample(state.Role, 2*time.Hour)
	in.Boot += at
	in.Owners.VIPs[vip] = state
	in.Config.VIPs[0].Drain.ConnectionsTimeout = time.Minute
	if state.Role == owner.None {
		for i := range in.BGP.Speakers {
			in.BGP.Speakers[i].Announced = nil
		}
	}
	in.History = h.history
	if edit != nil {
		edit(&in)
	}
	d := Plan(in, t0.Add(at))
	h.history = d.History
	return d
}

// connected says how many connections the VIP has.
func connected(n int) func(*Inputs) {
	return func(in *Inputs) { in.Connections = map[netip.Prefix]int{prefix("10.68.6.1/32"): n} }
}

// A host that has handed a VIP over serves the connections that are left, until they
// end or their time is over; nobody else's end is anybody's.
func TestHandoverServesConnections(t *testing.T) {
	t.Parallel()
	former, none := owner.VIPState{Role: owner.Former, Owner: "b"}, owner.VIPState{Owner: "b"}
	phase := func(d Desired) status.DrainPhase {
		if p := d.VIPs[0].Parted; p != nil {
			return p.Phase
		}
		return ""
	}
	check := func(what string, d Desired, want status.DrainPhase, bound, reset bool) {
		t.Helper()
		if phase(d) != want || (len(d.Kernel.VIPs) == 1) != bound {
			t.Errorf("%s: %q, bound %v, want %q, %t", what, phase(d), d.Kernel.VIPs, want, bound)
		}
		var drained []vip.Drained
		if want != "" {
			drained = []vip.Drained{{Prefix: prefix("10.68.6.1/32"), Close: reset}}
		}
		if diff := cmp.Diff(drained, d.Kernel.Drained, compare...); diff != "" {
			t.Errorf("%s: connections:\n%s", what, diff)
		}
		if n := d.Kernel.Interfaces[0]; want != "" && n.Source4.IsValid() {
			t.Errorf("%s: the VIP is source", what)
		}
	}
	const s = time.Second
	begin := func(name string) *handing {
		h := &handing{t: t}
		check(name+": announced by both", h.look(0, former, nil), "", true, false)
		check(name+": withdrawn", h.look(s, none, nil), status.DrainWaiting, true, false)
		return h
	}

	h := begin("they end")
	check("routers move", h.look(2*s, none, connected(0)), status.DrainWaiting, true, false)
	d := h.look(30*s, none, connected(3))
	check("they live on", d, status.DrainWaiting, true, false)
	if v := d.VIPs[0]; v.Reason != status.NotOwner || v.Parted.Connections != 3 || !v.Parted.Deadline.Equal(t0.Add(61*s)) || d.Recheck.After(t0.Add(31*s)) {
		t.Errorf("%s, %+v, looks again %s after t0", v.Reason, v.Parted, d.Recheck.Sub(t0))
	}
	check("the lease ends later", h.look(31*s, none, func(in *Inputs) { connected(3)(in); in.Owners.Until = 0 }), status.DrainWaiting, true, false)
	check("none is left", h.look(32*s, none, connected(0)), status.DrainDone, false, false)
	check("for ever", h.look(33*s, none, connected(1)), "", false, false)

	h = begin("time is over")
	check("the last ones", h.look(61*s, none, connected(2)), status.DrainClosing, true, true)
	check("are reset", h.look(62*s, none, connected(0)), status.DrainDone, false, true)

	h = begin("it is taken back")
	check("next", h.look(30*s, owner.VIPState{Role: owner.Next, Owner: "b", Next: "a"}, connected(3)), "", true, false)
	check("owner", h.look(31*s, owner.VIPState{Role: owner.Owner, Owner: "a"}, connected(3)), "", true, false)
	check("given up without a handover", h.look(32*s, none, connected(3)), "", false, false)

	h = begin("somebody removes it")
	check("removed", h.look(30*s, none, func(in *Inputs) { connected(0)(in); in.Bound = nil }), status.DrainDone, false, false)

	// Nothing is kept of what was lost with the lease.
	over := func(in *Inputs) {
		in.Owners.Until = 0
		for i := range in.BGP.Speakers {
			in.BGP.Speakers[i].Announced = nil
		}
	}
	for _, role := range []owner.Role{owner.Owner, owner.Former} {
		h = &handing{t: t}
		h.look(0, owner.VIPState{Role: role}, nil)
		check("the lease is over as "+string(role), h.look(s, owner.VIPState{Role: role}, over), "", false, false)
		check("another one has begun", h.look(2*s, none, connected(3)), "", false, false)
	}
}

// An owner that is drained is announced until another one has taken the VIP over, if
// one can; then it serves what is left as after any drain.
func TestDrainHandsOver(t *testing.T) {
	t.Parallel()
	const s = time.Second
	ordered := func(at time.Duration) func(*Inputs) {
		return func(in *Inputs) {
			connected(2)(in)
			o := &orders.Orders{}
			o.Drain(orders.Drain{Prefix: prefix("10.68.6.1/32"), Since: t0, Withdraw: t0.Add(at)})
			in.Overrides.Orders = o
		}
	}
	now, later := ordered(0), ordered(30*s)
	owned := owner.VIPState{Role: owner.Owner, Owner: "a"}
	ready, none := owned, owner.VIPState{Owner: "b", Ready: []string{"b"}}
	ready.Ready = []string{"b"}
	asked, former := ready, owner.VIPState{Role: owner.Former, Owner: "b", Former: "a", Ready: []string{"b"}}
	asked.Next = "b"
	type seen struct {
		what  string
		at    time.Duration
		state owner.VIPState
		edit  func(*Inputs)

		phase     status.DrainPhase
		announced bool // is to be
		bound     bool
	}
	for name, list := range map[string][]seen{
		"another one is ready": {
			{"ordered", 0, ready, now, status.DrainLeaving, true, true},
			{"asked", s, asked, now, status.DrainLeaving, true, true},
			{"taken over", 2 * s, former, now, status.DrainLeaving, true, true},
			{"withdrawn", 3 * s, none, now, status.DrainWaiting, false, true},
			{"waits for the last ones", 62 * s, none, now, status.DrainWaiting, false, true},
			{"their time is over", 63 * s, none, now, status.DrainClosing, false, true},
		},
		"long before the withdraw": {
			{"ordered", 0, ready, later, status.DrainLeaving, true, true},
			{"taken over", 2 * s, former, later, status.DrainLeaving, true, true},
			{"withdrawn", 3 * s, none, later, status.DrainWaiting, false, true},
			{"none is left", 6 * s, none, func(in *Inputs) { later(in); connected(0)(in) }, status.DrainDone, false, false},
		},
		"nobody is ready": {
			{"ordered", 0, owned, later, status.DrainLeaving, true, true},
			{"withdrawn", 30 * s, owned, later, status.DrainWaiting, false, true},
			{"now one is", 30*s + 1, ready, later, status.DrainWaiting, false, true},
			{"given up", 31 * s, none, later, status.DrainWaiting, false, true},
		},
		"it does not come": {
			{"ordered", 0, ready, now, status.DrainLeaving, true, true},
			{"waits", handoverBound + s - 1, asked, now, status.DrainLeaving, true, true},
			{"no longer", handoverBound + s, asked, now, status.DrainWaiting, false, true},
		},
		"the lease is over": {
			{"ordered", 0, ready, now, status.DrainLeaving, true, true},
			{"over", s, owner.VIPState{Role: owner.Owner}, func(in *Inputs) {
				now(in)
				in.Owners.Until, in.BGP.Speakers[0].Announced, in.BGP.Speakers[1].Announced = 0, nil, nil
			}, status.DrainWaiting, false, false},
		},
	} {
		h := &handing{t: t}
		for _, w := range list {
			d := h.look(w.at, w.state, w.edit)
			v := d.VIPs[0]
			if v.Drain.Phase != w.phase || (len(d.speaker("en1").Paths) == 1) != w.announced || (len(d.Kernel.VIPs) == 1) != w.bound {
				t.Errorf("%s: %s: %s, paths %v, bound %v", name, w.what, v.Drain.Phase, d.speaker("en1").Paths, d.Kernel.VIPs)
			}
			if want := d.Owners[0]; !want.Leaving || want.Ready != (w.phase == status.DrainLeaving) {
				t.Errorf("%s: %s: the others are told %+v", name, w.what, want)
			}
		}
	}
}

// A host that stops and says so ahead asks nobody for the VIP any more, and hands over
// what it owns.
func TestStopHandsOver(t *testing.T) {
	t.Parallel()
	in := leasedSample(owner.Owner, 2*time.Hour)
	if Plan(in, t0).Owners[0].Leaving {
		t.Error("leaving before the stop")
	}
	in.Overrides.Leaving = true
	if w := Plan(in, t0).Owners[0]; !w.Leaving || !w.Ready {
		t.Errorf("the others are told %+v", w)
	}
}

// Rule 2, by a handover: the source goes before the withdraw, the address after it and
// not before routers have heard of it. Connections keep it.
func TestRule02HandoverIsInOrder(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		v := prefix("10.68.6.1/32")
		w.config = ownedConfig()
		owners := &fakeOwners{w: w, vip: v, state: owner.VIPState{Role: owner.Owner}}
		opt := w.options()
		opt.Owners = owners
		_, stop := w.start(opt)
		w.sleep(time.Second)
		if !w.carried(v) {
			t.Fatal("the owner does not announce it")
		}
		w.journal, w.talking[v] = nil, 1
		w.do(func() { owners.state = owner.VIPState{Role: owner.Former} })
		w.sleep(time.Second)
		if want := []string{"source off"}; !slices.Equal(w.journal, want) || !w.carried(v) {
			t.Errorf("as former owner %v, announced %t", w.journal, w.carried(v))
		}
		w.do(func() { owners.state = owner.VIPState{Owner: "b"} })
		w.sleep(10 * time.Second)
		slices.Sort(w.journal)
		if want := []string{"source off", "withdraw en1", "withdraw en5"}; !slices.Equal(w.journal, want) || owners.wants[0].Carried {
			t.Errorf("then %v, carried %t", w.journal, owners.wants[0].Carried)
		}
		w.talking[v] = 0
		w.sleep(2 * time.Second)
		if w.journal[len(w.journal)-1] != "unbind 10.68.6.1/32" {
			t.Errorf("at the end %v", w.journal)
		}
		w.stop(stop)
	})
}

// ownedConfig is that of the loop's tests with one owner for its first VIP.
func ownedConfig() *config.Config {
	c := loopConfig()
	c.VIPs = c.VIPs[:1]
	c.VIPs[0].Exclusive, c.VIPs[0].Drain.ConnectionsTimeout = true, time.Minute
	c.Ownership = &config.Ownership{Host: "a", Handover: time.Second}
	return c
}

// A host that has handed everything over stops at once, but not before it knows that
// no speaker has the VIP: else its hold would stay until the lease ends.
func TestStopAfterHandover(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		v := prefix("10.68.6.1/32")
		w.config = ownedConfig()
		w.config.Shutdown.GracefulShutdown = 5 * time.Second
		owners := &fakeOwners{w: w, vip: v, state: owner.VIPState{Role: owner.Owner}}
		opt := w.options()
		opt.Owners = owners
		l, stop := w.start(opt)
		w.sleep(time.Second)
		l.Stop()
		w.sleep(time.Second)
		if !owners.wants[0].Leaving || !owners.wants[0].Ready || !w.carried(v) {
			t.Errorf("it stops, and others are told %+v", owners.wants[0])
		}
		w.do(func() { owners.state = owner.VIPState{Owner: "b"} })
		began := time.Now()
		w.stop(stop)
		if took := time.Since(began); owners.wants[0].Carried || took > time.Second {
			t.Errorf("stopped within %s, others were told %+v", took, owners.wants[0])
		}
	})
}

// What is left of a handover is in the picture.
func TestHandoverIsReported(t *testing.T) {
	t.Parallel()
	h := &handing{t: t}
	h.look(0, owner.VIPState{Role: owner.Former}, nil)
	d := h.look(time.Second, owner.VIPState{Owner: "b", Epoch: 9}, connected(3))
	p := reportParted(&d.VIPs[0])
	v := status.VIP{Name: "vipa", Prefix: prefix("10.68.6.1/32"), Parted: p, Role: &status.Role{Leased: true, Owner: "b"}}
	st := &status.Status{VIPs: []status.VIP{v}}
	e, err := st.Explain("vipa", t0.Add(31*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	gate := e.Gates[len(e.Gates)-2].Detail
	if *p.Connections != 3 || !strings.Contains(gate, "connections left from before the handover: 3, reset in 30s") {
		t.Errorf("%+v, %s", p, gate)
	}
}
