package speaker

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// drainAt is an order that was given at t0 for the sample's VIP.
func drainAt(until time.Time) *orders.Orders {
	o := &orders.Orders{}
	o.Drain(orders.Drain{
		Prefix: prefix("10.68.6.1/32"), Name: "vipa", Reason: "new disks", Since: t0, Withdraw: t0.Add(30 * time.Second), Until: until,
	})
	return o
}

// TestDrainPhases: how far a drain is follows from its times and from the
// connections alone, so every look says the same as if there had been no other.
func TestDrainPhases(t *testing.T) {
	t.Parallel()
	const one, none, unread = 1, 0, -1
	for _, tt := range []struct {
		name        string
		at          time.Duration
		connections int
		unbind      bool
		unbound     bool // the kernel does not hold it
		carried     bool // a router still has it
		until       time.Duration
		want        status.DrainPhase
		bind, reset bool
		recheck     time.Duration
	}{
		{name: "begins", at: 0, connections: one, want: status.DrainLeaving, bind: true, recheck: time.Second},
		{name: "the clock is a little behind", at: -30 * time.Second, connections: one, want: status.DrainLeaving, bind: true, recheck: -29 * time.Second},
		{name: "the clock is not set", at: -time.Hour, connections: none, unbind: true, want: status.DrainWaiting, bind: true, recheck: time.Second - time.Hour},
		{name: "is about to go", at: 29500 * time.Millisecond, connections: none, want: status.DrainLeaving, bind: true, recheck: 30 * time.Second},
		{name: "is withdrawn", at: 30 * time.Second, connections: one, want: status.DrainWaiting, bind: true, recheck: 31 * time.Second},
		{name: "routers move", at: 31 * time.Second, connections: none, unbind: true, want: status.DrainWaiting, bind: true, recheck: 32 * time.Second},
		{name: "nobody is left", at: 32 * time.Second, connections: none, want: status.DrainDone, bind: true},
		{name: "nobody is left, unbind", at: 32 * time.Second, connections: none, unbind: true, want: status.DrainDone},
		{name: "nobody is left, but a router has it", at: 32 * time.Second, connections: none, unbind: true, carried: true, want: status.DrainDone, bind: true},
		{name: "not counted yet", at: 40 * time.Second, connections: unread, unbind: true, want: status.DrainWaiting, bind: true, recheck: 41 * time.Second},
		{name: "connections live on", at: 89500 * time.Millisecond, connections: one, want: status.DrainWaiting, bind: true, recheck: 90 * time.Second},
		{name: "time is over", at: 90 * time.Second, connections: one, unbind: true, want: status.DrainClosing, bind: true, reset: true, recheck: 90250 * time.Millisecond},
		{name: "they are reset", at: 91 * time.Second, connections: none, unbind: true, want: status.DrainDone, reset: true},
		{name: "they resist", at: 95 * time.Second, connections: one, unbind: true, want: status.DrainDone, reset: true},
		{name: "after a reboot", at: 40 * time.Second, connections: none, unbind: true, unbound: true, want: status.DrainDone},
		{name: "nothing was read yet", at: 40 * time.Second, connections: unread, unbind: true, unbound: true, want: status.DrainWaiting, bind: true, recheck: 41 * time.Second},
		{name: "ends by itself later", at: 32 * time.Second, connections: none, until: time.Hour, want: status.DrainDone, bind: true, recheck: time.Hour},
		{name: "has ended by itself", at: time.Hour, connections: none, unbind: true, until: time.Hour, bind: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := prefix("10.68.6.1/32")
			in := edit(func(in *Inputs) {
				in.Config.VIPs[0].Checks = nil
				in.Config.VIPs[0].Drain = config.Drain{Time: 30 * time.Second, ConnectionsTimeout: time.Minute, Unbind: tt.unbind}
				in.Connections = map[netip.Prefix]int{v: tt.connections}
				if tt.connections == unread {
					in.Connections = nil
				}
				if tt.unbound {
					in.Bound = nil
				}
				if gone := tt.at >= 30*time.Second && tt.want != ""; gone && !tt.carried {
					for i := range in.BGP.Speakers {
						in.BGP.Speakers[i].Announced = nil
					}
				}
				until := time.Time{}
				if tt.until > 0 {
					until = t0.Add(tt.until)
				}
				in.Overrides.Orders = drainAt(until)
			})
			d := Plan(in, t0.Add(tt.at))
			got := d.VIPs[0]
			phase := status.DrainPhase("")
			if got.Drain != nil {
				phase = got.Drain.Phase
			}
			if phase != tt.want {
				t.Errorf("phase %q, want %q", phase, tt.want)
			}
			paths := d.speaker("en1").Paths
			withheld := tt.want != "" && tt.want != status.DrainLeaving
			switch {
			case withheld && (len(paths) != 0 || got.Reason != status.Drained || got.Detail != "new disks" || got.Wanted):
				t.Errorf("withdrawn: paths %v, reason %q %q, wanted %t", paths, got.Reason, got.Detail, got.Wanted)
			case !withheld && (len(paths) != 1 || got.Reason != ""):
				t.Errorf("announced: paths %v, reason %q %q", paths, got.Reason, got.Detail)
			case !withheld && slices.Contains(paths[0].Communities, gracefulShutdown) != (tt.want == status.DrainLeaving):
				t.Errorf("communities %v", paths[0].Communities)
			}
			if source := d.Kernel.Interfaces[0].Source4.IsValid(); source == withheld {
				t.Errorf("is source: %t", source)
			}
			if bind := len(d.Kernel.VIPs) == 1; bind != tt.bind {
				t.Errorf("is to be bound: %t", bind)
			}
			want := []vip.Drained{{Prefix: v, Close: tt.reset}}
			if tt.want == "" {
				want = nil
			}
			if diff := cmp.Diff(want, d.Kernel.Drained, compare...); diff != "" {
				t.Errorf("connections:\n%s", diff)
			}
			recheck := time.Time{}
			if tt.recheck != 0 {
				recheck = t0.Add(tt.recheck)
			}
			if !d.Recheck.Equal(recheck) {
				t.Errorf("looks again %s after t0, want %s", d.Recheck.Sub(t0), tt.recheck)
			}
		})
	}
}

// TestDrainAttributes: what the VIP's drain says stands above what is announced
// anyway, and on_failure's.
func TestDrainAttributes(t *testing.T) {
	t.Parallel()
	in := edit(func(in *Inputs) {
		med, high := uint32(9), uint32(300)
		v := &in.Config.VIPs[0]
		v.Announce = config.Announce{LocalPref: &high, Prepend: 1, Communities: []uint32{7}}
		v.Degrade = &config.Degrade{Prepend: 2, LocalPref: &high, Communities: []uint32{8}}
		v.Drain = config.Drain{Time: time.Minute, MED: &med, LocalPref: 5, Prepend: 3, Communities: []uint32{9}}
		r := healthyResult(vipID())
		r.Verdict, r.Passed = health.Unhealthy, t0.Add(-time.Minute)
		in.Health = health.Results{vipID(): r}
		in.Overrides.Orders = drainAt(time.Time{})
	})
	d := Plan(in, t0)
	p := d.speaker("en1").Paths[0]
	if *p.MED != 9 || *p.LocalPref != 5 || p.Prepend != 6 || !slices.Equal(p.Communities, []uint32{7, 8, 9, gracefulShutdown}) {
		t.Errorf("MED %d, LOCAL_PREF %d, prepend %d, communities %v", *p.MED, *p.LocalPref, p.Prepend, p.Communities)
	}
	if !d.VIPs[0].Degraded || d.VIPs[0].Drain.Phase != status.DrainLeaving {
		t.Errorf("degraded %t, %s", d.VIPs[0].Degraded, d.VIPs[0].Drain.Phase)
	}
	// Its check fails in use and while it is drained: the latter is no flap.
	in.Config.VIPs[0].Damping = config.Damping{Enabled: true, HalfLife: time.Minute, Suppress: 2000, Reuse: 750, MaxSuppress: time.Hour}
	in.History.VIPs = map[netip.Prefix]VIPHistory{prefix("10.68.6.1/32"): {Open: true}}
	if after := Plan(in, t0.Add(time.Hour)); after.VIPs[0].Penalty.Flaps != 0 || after.VIPs[0].Degraded {
		t.Errorf("drained: %d flaps, degraded %t", after.VIPs[0].Penalty.Flaps, after.VIPs[0].Degraded)
	}
	if before := Plan(in, t0); before.VIPs[0].Penalty.Flaps != 1 {
		t.Errorf("about to go: %d flaps", before.VIPs[0].Penalty.Flaps)
	}
}

// TestDrainOfUnknownOrders: when nobody knows what was ordered, everything is
// withheld and nothing else is done.
func TestDrainOfUnknownOrders(t *testing.T) {
	t.Parallel()
	in := edit(func(in *Inputs) {
		in.Config.VIPs[0].Drain = config.Drain{Unbind: true}
		in.Connections = map[netip.Prefix]int{prefix("10.68.6.1/32"): 0}
		in.Overrides.Orders = &orders.Orders{Damage: "orders.json is damaged"}
	})
	d := Plan(in, t0)
	if v := d.VIPs[0]; v.Reason != status.Drained || !strings.HasPrefix(v.Detail, "orders.json is damaged; ") {
		t.Errorf("%q %q", v.Reason, v.Detail)
	}
	if len(d.Kernel.VIPs) != 1 || d.Kernel.Drained[0].Close || len(d.speaker("en1").Peers) != 1 {
		t.Errorf("bound %v, %+v, %d sessions", d.Kernel.VIPs, d.Kernel.Drained, len(d.speaker("en1").Peers))
	}
}

// Rule 2, by order: the word ahead, source off, withdraw, wait for the
// connections, reset, unbind; the sessions stay. And back.
func TestRule02DrainIsInOrder(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		v := prefix("10.68.6.1/32")
		for i := range w.config.VIPs {
			w.config.VIPs[i].Drain = config.Drain{ConnectionsTimeout: time.Minute, Unbind: true}
		}
		given := &orders.Orders{}
		opt := w.options()
		opt.Orders = func() *orders.Orders { return given }
		var last *status.Status
		opt.Publish = func(s *status.Status) { last = s }
		_, stop := w.start(opt)
		w.settled(time.Second)

		drain := func() {
			w.do(func() {
				o := &orders.Orders{}
				o.Drain(orders.Drain{Prefix: v, Since: time.Now(), Withdraw: time.Now().Add(10 * time.Second)})
				given = o
			})
		}
		w.journal, w.talking[v] = nil, 2
		drain()
		w.sleep(10*time.Second - time.Millisecond)
		if paths, warned := tagged(w); len(w.journal) != 0 || warned != 2 || paths != 4 {
			t.Errorf("about to go: %v, %d of %d paths tell it", w.journal, warned, paths)
		}
		w.sleep(time.Second)
		slices.Sort(w.journal[1:])
		if want := []string{"source off", "withdraw en1", "withdraw en5"}; !slices.Equal(w.journal, want) {
			t.Errorf("then %v, want %v", w.journal, want)
		}
		w.talking[v] = 1
		w.sleep(58 * time.Second)
		if d := last.VIPs[0].Drain; len(w.journal) != 3 || d.Phase != status.DrainWaiting || *d.Connections != 1 {
			t.Errorf("a connection is left: %v, %+v", w.journal, d)
		}
		w.sleep(2 * time.Second)
		if want := []string{"reset 10.68.6.1/32", "unbind 10.68.6.1/32"}; !slices.Equal(w.journal[3:], want) {
			t.Errorf("at the end %v, want %v", w.journal[3:], want)
		}
		if len(w.orders["en1"].Peers) != 1 || !w.bound[prefix("10.68.6.2/32")] {
			t.Error("a session or another VIP is gone")
		}
		w.journal = nil
		w.do(func() { given = &orders.Orders{} })
		w.settled(50 * time.Millisecond)
		if w.journal[0] != "bind 10.68.6.1/32" || w.journal[len(w.journal)-1] != "source on" {
			t.Errorf("back: %v", w.journal)
		}

		// It is over sooner when the connections end by themselves.
		w.journal, w.talking[v] = nil, 1
		drain()
		w.sleep(15 * time.Second)
		w.talking[v] = 0
		w.sleep(1500 * time.Millisecond)
		if w.journal[len(w.journal)-1] != "unbind 10.68.6.1/32" || slices.Contains(w.journal, "reset 10.68.6.1/32") {
			t.Errorf("the last connection ended by itself: %v", w.journal)
		}
		w.stop(stop)
	})
}

// TestDrainAfterCrash: a daemon that begins does not know yet what the kernel has.
// It neither unbinds what has connections nor binds what is gone.
func TestDrainAfterCrash(t *testing.T) {
	t.Parallel()
	for _, reboot := range []bool{false, true} {
		bubble(t, func(w *world) {
			v := prefix("10.68.6.1/32")
			w.config.VIPs[0].Drain = config.Drain{ConnectionsTimeout: time.Hour, Unbind: true}
			if !reboot {
				w.bound[v], w.talking[v] = true, 1
				w.relink()
			}
			given := &orders.Orders{}
			given.Drain(orders.Drain{Prefix: v, Since: time.Now().Add(-time.Minute), Withdraw: time.Now().Add(-30 * time.Second)})
			opt := w.options()
			opt.Orders = func() *orders.Orders { return given }
			_, stop := w.start(opt)
			w.sleep(time.Minute)
			for _, did := range w.journal {
				if strings.HasSuffix(did, v.String()) {
					t.Errorf("reboot %t: %s", reboot, did)
				}
			}
			if !w.bound[prefix("10.68.6.2/32")] || paths(w.orders["en1"])[v] {
				t.Error("another VIP is not bound, or this one is announced")
			}
			w.stop(stop)
		})
	}
}
