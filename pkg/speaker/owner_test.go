package speaker

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// leasedSample is the sample with one owner for its VIP.
func leasedSample(role owner.Role, until time.Duration) Inputs {
	in := sample()
	v := &in.Config.VIPs[0]
	in.Health, v.Checks = nil, nil
	v.Exclusive, v.Role = true, ranked(2, failbackImmediate)
	in.Config.Ownership = &config.Ownership{Host: "a", Handover: time.Second}
	in.Boot = time.Hour
	in.Owners = &owner.State{Until: until, VIPs: map[netip.Prefix]owner.VIPState{
		v.Prefix: {Role: role, Owner: "b", ID: addr("10.68.2.1")},
	}}
	return in
}

// A VIP that must have one owner is announced, bound and fenced while this host
// holds it, and neither announced nor bound otherwise.
func TestOwnership(t *testing.T) {
	t.Parallel()
	const later = time.Hour + 3*time.Second
	vip := prefix("10.68.6.1/32")
	for _, tt := range []struct {
		name      string
		role      owner.Role
		until     time.Duration
		edit      func(*Inputs)
		announced bool
		bound     bool
		detail    string
	}{
		{"owner", owner.Owner, later, nil, true, true, ""},
		{"next", owner.Next, later, nil, true, true, ""},
		{"former", owner.Former, later, nil, true, true, ""},
		{"nobody", owner.None, later, nil, false, false, "owned by b"},
		{"the lease is over", owner.Owner, time.Hour, nil, false, false, "there is no lease"},
		{"etcd was never asked", owner.None, 0, func(in *Inputs) { in.Owners = nil }, false, false, "etcd has not been asked yet"},
		{"the name is another's", owner.None, later, func(in *Inputs) { in.Owners.Until, in.Owners.Refused = 0, "another machine has it" }, false, false, "another machine has it"},
		{"still in a RIB", owner.None, later, func(in *Inputs) { in.BGP.Speakers[1].Announced = []netip.Prefix{vip} }, false, true, "owned by b"},
		{"exclusive without ownership", owner.None, later, func(in *Inputs) { in.Config.Ownership = nil }, true, true, ""},
	} {
		in := leasedSample(tt.role, tt.until)
		if !tt.announced {
			for i := range in.BGP.Speakers {
				in.BGP.Speakers[i].Announced = nil
			}
		}
		if tt.edit != nil {
			tt.edit(&in)
		}
		d := Plan(in, t0)
		v := d.VIPs[0]
		paths := d.speaker("en1").Paths
		if v.Announced != tt.announced || (len(paths) == 1) != tt.announced || (len(d.Kernel.VIPs) == 1) != tt.bound {
			t.Errorf("%s: announced %t, paths %v, bound %v", tt.name, v.Announced, paths, d.Kernel.VIPs)
		}
		if !tt.announced && (v.Reason != status.NotOwner || !strings.HasPrefix(v.Detail, tt.detail)) {
			t.Errorf("%s: %s %s, want %s", tt.name, v.Reason, v.Detail, tt.detail)
		}
		if tt.announced && in.Config.Ownership != nil {
			if !paths[0].Fenced || d.speaker("en1").Fence != tt.until {
				t.Errorf("%s: no fence: %+v until %s", tt.name, paths[0], d.speaker("en1").Fence)
			}
			if d.Recheck.IsZero() || d.Recheck.After(t0.Add(later-time.Hour)) {
				t.Errorf("%s: nobody looks when the lease ends: %s", tt.name, d.Recheck)
			}
		}
	}
	if d := Plan(sample(), t0); d.Owners != nil || d.speaker("en1").Paths[0].Fenced {
		t.Error("a VIP without an owner has a lease")
	}
}

// What the others are told: ready is whoever could announce it, and carried what a
// router may still have.
func TestOwnershipWants(t *testing.T) {
	t.Parallel()
	const later = time.Hour + 3*time.Second
	want := owner.Want{
		VIP: prefix("10.68.6.1/32"), Rank: 2, Failback: true, ID: addr("10.68.1.1"), Ready: true, Announced: true, Carried: true,
	}
	look := func(in Inputs, at time.Time) (owner.Want, History) {
		t.Helper()
		d := Plan(in, at)
		if len(d.Owners) != 1 {
			t.Fatalf("wants %+v", d.Owners)
		}
		return d.Owners[0], d.History
	}
	check := func(name string, got, want owner.Want) {
		t.Helper()
		if diff := cmp.Diff(want, got, compare...); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	got, history := look(leasedSample(owner.Owner, later), t0)
	check("owner", got, want)

	in := leasedSample(owner.None, later)
	in.BGP.Speakers[0].Announced, in.BGP.Speakers[1].Announced = nil, nil
	got, _ = look(in, t0)
	waiting := want
	waiting.Announced, waiting.Carried = false, false
	check("waiting", got, waiting)

	// The sessions told the routers of the withdraw.
	in.History = history
	got, _ = look(in, t0)
	check("withdrawn", got, waiting)

	in.Overrides.Shutdown = true
	got, _ = look(in, t0)
	stopping := waiting
	stopping.Ready = false
	check("stopping", got, stopping)

	// A session that ended with the path in it: the router may have it for as long
	// as it waits for this host.
	in = leasedSample(owner.Owner, later)
	in.History = history
	in.BGP.Speakers = []bgp.SpeakerState{speaking("en5", "10.68.5.2")}
	got, lost := look(in, t0)
	silent := waiting
	silent.Carried = true
	check("a session is lost", got, silent)
	in.History = lost
	got, _ = look(in, t0.Add(in.Config.Interfaces[0].Peers[0].Timers.HoldTime))
	silent.Carried = false
	check("the router has forgotten it", got, silent)

	in = leasedSample(owner.None, later)
	in.BGP.Speakers = nil
	got, _ = look(in, t0)
	silent.Ready = false
	check("no session", got, silent)
}

// The path of the owner is no duplicate, that of anybody else is.
func TestOwnershipDuplicates(t *testing.T) {
	t.Parallel()
	vip := prefix("10.68.6.1/32")
	var history History
	look := func(host string, at time.Duration, edit func(*owner.VIPState)) int {
		in := leasedSample(owner.None, 2*time.Hour)
		s := in.Owners.VIPs[vip]
		edit(&s)
		in.Owners.VIPs[vip] = s
		in.BGP.Speakers[0].Seen = []bgp.SeenPath{seenPath(65010, 1, host, nil)}
		in.History = history
		d := Plan(in, t0.Add(at))
		history = d.History
		v := status.VIP{Role: &status.Role{Others: d.VIPs[0].Others}}
		return len(v.Duplicates())
	}
	for _, tt := range []struct {
		what string
		host string
		at   time.Duration
		edit func(*owner.VIPState)
		want int
	}{
		{"the owner", "10.68.2.1", 0, func(*owner.VIPState) {}, 0},
		{"another host", "10.68.3.1", 0, func(*owner.VIPState) {}, 1},
		{"one of a handover", "10.68.3.1", time.Minute, func(s *owner.VIPState) { s.Next = "c" }, 0},
		{"one that handed it over", "10.68.3.1", time.Minute, func(s *owner.VIPState) { s.Former = "c" }, 0},
		{"one that has just withdrawn", "10.68.3.1", time.Minute + seenFor - 1, func(*owner.VIPState) {}, 0},
		{"one that still announces it", "10.68.3.1", time.Minute + seenFor, func(*owner.VIPState) {}, 1},
		{"one that was the owner until now", "10.68.3.1", time.Hour, func(s *owner.VIPState) { s.Epoch = 7 }, 0},
		{"one that should not be any more", "10.68.3.1", 2 * time.Hour, func(s *owner.VIPState) { s.Epoch = 7 }, 1},
	} {
		if got := look(tt.host, tt.at, tt.edit); got != tt.want {
			t.Errorf("%s: %d duplicates, want %d", tt.what, got, tt.want)
		}
	}
}

// Without a lease this host does not know who owns the VIP: it must not take the owner
// of now for a duplicate of the one that it knew.
func TestOwnershipDuplicatesWithoutLease(t *testing.T) {
	t.Parallel()
	for until, want := range map[time.Duration]int{2 * time.Hour: 1, time.Hour: 0, 0: 0} {
		in := leasedSample(owner.None, until)
		in.BGP.Speakers[0].Seen = []bgp.SeenPath{seenPath(65010, 1, "10.68.3.1", nil)}
		if got := (&status.VIP{Role: &status.Role{Others: Plan(in, t0).VIPs[0].Others}}).Duplicates(); len(got) != want {
			t.Errorf("a lease until %s at %s: %d duplicates, want %d", until, in.Boot, len(got), want)
		}
	}
}

// Without a lease the fence is over, not away: only what has one is guarded.
func TestOwnershipFenceWithoutLease(t *testing.T) {
	t.Parallel()
	over, none := Plan(leasedSample(owner.None, 0), t0), Plan(sample(), t0)
	if f := over.speaker("en1").Fence; f <= 0 || f > time.Second {
		t.Errorf("fence %s", f)
	}
	if f := none.speaker("en1").Fence; f != 0 {
		t.Errorf("fence %s although nobody asks for owners", f)
	}
}

// A VIP that is removed while a router has it is not given up before that is over.
func TestOwnershipRemoved(t *testing.T) {
	t.Parallel()
	const later = time.Hour + 3*time.Second
	vip := prefix("10.68.6.1/32")
	in := leasedSample(owner.Owner, later)
	before := Plan(in, t0).History
	next := *in.Config
	next.VIPs = nil
	without := before.after(&setup{config: in.Config}, &setup{config: &next})
	look := func(name string, h History, at time.Time, carried bool, change func(*Inputs)) History {
		t.Helper()
		removed := leasedSample(owner.Owner, later)
		removed.Config.VIPs, removed.History = nil, h
		if change != nil {
			change(&removed)
		}
		d := Plan(removed, at)
		var want []owner.Want
		if carried {
			want = []owner.Want{{VIP: vip, Rank: unranked, ID: addr("10.68.1.1"), Carried: true}}
		}
		if diff := cmp.Diff(want, d.Owners, compare...); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if _, kept := d.History.Owners[vip]; kept != carried {
			t.Errorf("%s: remembered: %t", name, kept)
		}
		return d.History
	}
	withdrawn := func(in *Inputs) {
		for i := range in.BGP.Speakers {
			in.BGP.Speakers[i].Announced = nil
		}
	}
	h := look("removed", without, t0, true, nil)
	look("withdrawn", h, t0, false, withdrawn)
	cut := func(in *Inputs) { in.BGP.Speakers = []bgp.SpeakerState{speaking("en5", "10.68.5.2")} }
	h = look("a session is lost", h, t0, true, cut)
	look("the router has forgotten it", h, t0.Add(in.Config.Interfaces[0].Peers[0].Timers.HoldTime), false, cut)
	if _, kept := without.Owners[vip]; !kept {
		t.Error("forgotten by the reload")
	}
	next.VIPs = []config.VIP{in.Config.VIPs[0]}
	next.VIPs[0].Exclusive = false
	if len(before.after(&setup{config: in.Config}, &setup{config: &next}).Owners) != 0 {
		t.Error("remembered although it may have several owners now")
	}
}

// A VIP that another host may own is no source here, not even one that always is.
func TestOwnershipSource(t *testing.T) {
	t.Parallel()
	for role, want := range map[owner.Role]bool{owner.Owner: true, owner.Next: false, owner.Former: false, owner.None: false} {
		in := leasedSample(role, 2*time.Hour)
		in.Config.VIPs[0].Source.Always = true
		if got := Plan(in, t0).Kernel.Interfaces[1].Source4.IsValid(); got != want {
			t.Errorf("as %q: source: %t, want %t", role, got, want)
		}
	}
}

// What the picture tells about the owner: that a lease is over counts before its
// keeper has noticed.
func TestReportOwner(t *testing.T) {
	t.Parallel()
	const later = 2 * time.Hour
	for _, tt := range []struct {
		role   owner.Role
		ceased owner.Ceased
		until  time.Duration
		want   status.Role
	}{
		{owner.Owner, "", later, status.Role{Held: true, Owns: true}},
		{owner.Next, owner.GivenUp, later, status.Role{Held: true, Ceased: "given_up"}},
		{owner.Former, owner.HandedOver, later, status.Role{Held: true, Ceased: "handed_over"}},
		{owner.Owner, "", time.Hour, status.Role{Ceased: "lease_ended"}},
		{owner.None, owner.LeaseEnded, 0, status.Role{Ceased: "lease_ended"}},
		{owner.None, "", later, status.Role{}},
	} {
		in := leasedSample(tt.role, tt.until)
		c := &in.Config.VIPs[0]
		s := in.Owners.VIPs[c.Prefix]
		s.Ceased = tt.ceased
		in.Owners.VIPs[c.Prefix] = s
		in.Owners.Error, in.Owners.Refused = "no answer", "no name"
		var got status.Role
		reportOwner(&in, c, &got)
		tt.want.Leased, tt.want.Owner, tt.want.Trouble, tt.want.Refused = true, "b", "no answer", "no name"
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("as %q until %s (-want +got):\n%s", tt.role, tt.until, diff)
		}
	}
}

// An owner without a session takes its paths out of the speakers, which would send
// them with the next session: only then it can give the VIP up.
func TestOwnerWithoutSession(t *testing.T) {
	t.Parallel()
	in := leasedSample(owner.Owner, 2*time.Hour)
	for i := range in.BGP.Speakers {
		for j := range in.BGP.Speakers[i].Peers {
			in.BGP.Speakers[i].Peers[j].State = bgp.Idle
		}
	}
	look := func(name string, carried bool) {
		t.Helper()
		d := Plan(in, t0)
		v := d.VIPs[0]
		if v.Announced || len(d.speaker("en1").Paths)+len(d.speaker("en5").Paths) > 0 || len(d.Kernel.VIPs) != 1 {
			t.Errorf("%s: %s %s, paths %v, bound %v", name, v.Reason, v.Detail, d.speaker("en1").Paths, d.Kernel.VIPs)
		}
		if w := d.Owners[0]; w.Ready || w.Announced || w.Carried != carried {
			t.Errorf("%s: %+v, want carried %t", name, w, carried)
		}
	}
	look("loaded", true)
	for i := range in.BGP.Speakers {
		in.BGP.Speakers[i].Announced = nil
	}
	look("unloaded", false)
	in.BGP.Speakers[0].Peers[0].State = bgp.Established
	if d := Plan(in, t0); len(d.speaker("en1").Paths) != 1 || !d.Owners[0].Ready {
		t.Errorf("with a session: paths %v, %+v", d.speaker("en1").Paths, d.Owners[0])
	}
}

// A withdraw reaches nobody on a path that is dead: a session that lasts longer than
// its path counts as lost with the VIP in it.
func TestOwnerPathDead(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		edit  func(*Inputs)
		until time.Duration
	}{
		"link down": {func(in *Inputs) { in.Net.Links[0].Up, in.Net.Links[1].Up = false, false }, 9 * time.Second},
		"BFD": {func(in *Inputs) {
			in.History.BFD = map[Session]BFDHistory{}
			for i := range in.Config.Interfaces {
				n := &in.Config.Interfaces[i]
				n.Peers[0].BFD = &config.BFD{}
				in.History.BFD[Session{n.Name, n.Peers[0].Address}] = BFDHistory{FailedAt: t0}
			}
		}, lostBFD},
	} {
		in := leasedSample(owner.Owner, 2*time.Hour)
		in.History = Plan(in, t0).History
		tt.edit(&in)
		for i := range in.BGP.Speakers {
			in.BGP.Speakers[i].Announced = nil // it was unloaded at once
		}
		in.History = Plan(in, t0).History
		for after, want := range map[time.Duration]bool{tt.until - 1: true, tt.until: false} {
			if got := Plan(in, t0.Add(after)).Owners[0].Carried; got != want {
				t.Errorf("%s: after %s carried: %t", name, after, got)
			}
		}
	}
}

// A router that has ended the session itself has nothing of it: the VIP can be given up
// at once. Any other end leaves it the path for its hold time.
func TestOwnershipPeerEnded(t *testing.T) {
	t.Parallel()
	for _, ended := range []bool{true, false} {
		in := leasedSample(owner.Owner, time.Hour+3*time.Second)
		in.History = Plan(in, t0).History
		for i := range in.BGP.Speakers {
			in.BGP.Speakers[i].Announced = nil
			peer := &in.BGP.Speakers[i].Peers[0]
			peer.State, peer.PeerEnded = bgp.Idle, ended
		}
		if got := Plan(in, t0).Owners[0]; got.Carried == ended || got.Ready {
			t.Errorf("ended by the router %t: carried %t, ready %t", ended, got.Carried, got.Ready)
		}
	}
}

// A router whose session was lost and is back has dropped what it had: the VIP can be
// given up at once. It may have it still while it is not back, or another one is, or its
// session is the one of before.
func TestOwnershipSessionReturns(t *testing.T) {
	t.Parallel()
	hold := leasedSample(owner.Owner, 0).Config.Interfaces[0].Peers[0].Timers.HoldTime
	router, other := addr("10.255.0.1"), addr("10.255.0.2")
	back := func(in *Inputs, at int, transitions uint64, id netip.Addr) {
		peer := &in.BGP.Speakers[at].Peers[0]
		peer.State, peer.Transitions, peer.RouterID = bgp.Established, transitions, id
	}
	for _, tt := range []struct {
		name string
		edit func(*Inputs)
		kept time.Duration // since the loss
	}{
		{"both are back", func(in *Inputs) { back(in, 0, 3, router); back(in, 1, 3, router) }, 0},
		{"one is not", func(in *Inputs) { back(in, 0, 3, router) }, hold},
		{"one is another router", func(in *Inputs) { back(in, 0, 3, router); back(in, 1, 3, other) }, hold},
		{"of one it is not known which", func(in *Inputs) { back(in, 0, 3, router); back(in, 1, 3, netip.Addr{}) }, hold},
		{"one is a picture of before", func(in *Inputs) { back(in, 0, 3, router); back(in, 1, 1, router) }, hold},
		{"one was back and is gone", func(in *Inputs) {
			back(in, 0, 3, router)
			back(in, 1, 4, router)
			in.BGP.Speakers[1].Peers[0].State = bgp.Idle
		}, hold},
	} {
		in := leasedSample(owner.Owner, 2*time.Hour)
		for i := range in.BGP.Speakers {
			back(&in, i, 1, router)
		}
		in.History = Plan(in, t0).History
		for i := range in.BGP.Speakers {
			in.BGP.Speakers[i].Announced = nil
			peer := &in.BGP.Speakers[i].Peers[0]
			peer.State, peer.Transitions, peer.RouterID = bgp.Idle, 2, netip.Addr{}
		}
		lost := Plan(in, t0)
		if v := lost.VIPs[0]; !lost.Owners[0].Carried || !v.Kept.Equal(t0.Add(hold)) {
			t.Fatalf("%s: a loss keeps it until %s, carried %t", tt.name, v.Kept, lost.Owners[0].Carried)
		}
		if r := reportRole(&in, &lost.VIPs[0], &in.Config.VIPs[0]); !r.KeptUntil.Equal(t0.Add(hold)) {
			t.Errorf("%s: the picture says until %s", tt.name, r.KeptUntil)
		}
		in.History = lost.History
		tt.edit(&in)
		// It cannot announce it any more.
		in.Config.VIPs[0].Checks = sample().Config.VIPs[0].Checks
		for after, want := range map[time.Duration]bool{1: tt.kept > 0, tt.kept - 1: tt.kept > 0, max(tt.kept, 1): false} {
			d := Plan(in, t0.Add(after))
			if got := d.Owners[0]; got.Ready || got.Carried != want || d.VIPs[0].Kept.IsZero() == want {
				t.Errorf("%s: after %s carried %t until %s, ready %t", tt.name, after, got.Carried, d.VIPs[0].Kept, got.Ready)
			}
			if r := reportRole(&in, &d.VIPs[0], &in.Config.VIPs[0]); !r.KeptUntil.Equal(d.VIPs[0].Kept) {
				t.Errorf("%s: the picture says until %s, not %s", tt.name, r.KeptUntil, d.VIPs[0].Kept)
			}
			if !want && len(d.History.Lost) > 0 {
				t.Errorf("%s: %+v is remembered", tt.name, d.History.Lost)
			}
		}
	}
}

// Another router at the address of one that had the VIP was told of no withdraw: the
// one before may have it. That a router id is not known for a moment means nothing.
func TestOwnershipAnotherRouter(t *testing.T) {
	t.Parallel()
	router, other := addr("10.255.0.1"), addr("10.255.0.2")
	for _, tt := range []struct {
		was, is netip.Addr
		carried bool
	}{{router, router, false}, {router, other, true}, {router, netip.Addr{}, false}, {netip.Addr{}, router, false}} {
		in := leasedSample(owner.Owner, 2*time.Hour)
		in.BGP.Speakers[0].Peers[0].RouterID = tt.was
		in.History = Plan(in, t0).History
		in.Owners.VIPs[in.Config.VIPs[0].Prefix] = owner.VIPState{} // so it is withdrawn
		for i := range in.BGP.Speakers {
			in.BGP.Speakers[i].Announced = nil
		}
		in.BGP.Speakers[0].Peers[0].RouterID = tt.is
		if got := Plan(in, t0).Owners[0]; got.Carried != tt.carried {
			t.Errorf("%s, then %s: carried %t", tt.was, tt.is, got.Carried)
		}
	}
}
