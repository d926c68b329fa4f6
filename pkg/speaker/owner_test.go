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
	in.Config.Ownership = &config.Ownership{Host: "a"}
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
		{"former", owner.Former, later, nil, false, true, "owned by b"},
		{"nobody", owner.None, later, nil, false, false, "owned by b"},
		{"the lease is over", owner.Owner, time.Hour, nil, false, false, "there is no lease"},
		{"etcd was never asked", owner.None, 0, func(in *Inputs) { in.Owners = nil }, false, false, "etcd has not been asked yet"},
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
	look := func(host, next string) int {
		in := leasedSample(owner.None, 2*time.Hour)
		s := in.Owners.VIPs[prefix("10.68.6.1/32")]
		s.Next = next
		in.Owners.VIPs[prefix("10.68.6.1/32")] = s
		in.BGP.Speakers[0].Seen = []bgp.SeenPath{seenPath(65010, 1, host, nil)}
		d := Plan(in, t0)
		v := status.VIP{Role: &status.Role{Others: d.VIPs[0].Others}}
		return len(v.Duplicates())
	}
	if look("10.68.2.1", "") != 0 || look("10.68.3.1", "") != 1 || look("10.68.3.1", "c") != 0 {
		t.Error("the owner and those of a handover are no duplicates, others are")
	}
}

// Before it withdraws, an owner whose successor announces is worse than that.
func TestOwnerMakesWay(t *testing.T) {
	t.Parallel()
	for _, role := range []*config.Role{nil, ranked(1, failbackImmediate)} {
		in := leasedSample(owner.Owner, 2*time.Hour)
		in.Config.VIPs[0].Role = role
		s := in.Owners.VIPs[prefix("10.68.6.1/32")]
		s.Next, s.Joined = "c", true
		in.Owners.VIPs[prefix("10.68.6.1/32")] = s
		d := Plan(in, t0)
		p := d.speaker("en1").Paths[0]
		if p.Prepend != maxPrepend || *p.LocalPref != behindLocalPref || *p.MED < behindMED || !p.Fenced {
			t.Errorf("announced with %s", attributesOf(p))
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
	for role, want := range map[owner.Role]bool{owner.Owner: true, owner.Former: false, owner.None: false} {
		in := leasedSample(role, 2*time.Hour)
		in.Config.VIPs[0].Source.Always = true
		if got := Plan(in, t0).Kernel.Interfaces[1].Source4.IsValid(); got != want {
			t.Errorf("as %q: source: %t, want %t", role, got, want)
		}
	}
}
