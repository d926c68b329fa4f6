package speaker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// bfdPeers is the sample with BFD to both routers, up since long ago.
func bfdPeers(in *Inputs) {
	in.BFD = &bfd.State{}
	for i := range in.Config.Interfaces {
		n := &in.Config.Interfaces[i]
		n.Peers[0].BFD = &config.BFD{MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 3}
		in.BFD.Sessions = append(in.BFD.Sessions, bfd.SessionState{
			Peer: n.Peers[0].Address, Local: (&Interface{Addresses: ownAddresses(in.Net.Links[i], never)}).onLink(n.Peers[0].Address), Interface: n.Name,
			Status: bfd.Up, Since: t0.Add(-time.Hour), WasUp: true, RemoteStatus: bfd.Up,
		})
	}
}

// fails makes the session to the router on en1 go down.
func fails(in *Inputs) {
	s := &in.BFD.Sessions[0]
	s.Status, s.Since, s.DownSince = bfd.Down, t0, t0
	s.Downs++
	s.Diagnostic, s.RemoteStatus = "control detection time expired", bfd.Up
}

func TestPlanBFD(t *testing.T) {
	t.Parallel()
	const (
		down    = "BFD with 10.68.1.2 down: control detection time expired"
		noPeer  = `speaker en1: path 10.68.6.1/32 via self down "interface en1: session no longer configured"`
		missing = "BFD with 10.68.1.2 is required and not up"
	)
	type step struct {
		after  time.Duration
		change func(*Inputs)
		held   string // what holds the session on en1; empty for nothing
	}
	session := func(change func(*bfd.SessionState)) func(*Inputs) {
		return func(in *Inputs) { change(&in.BFD.Sessions[0]) }
	}
	up := func(at time.Duration) func(*Inputs) {
		return session(func(s *bfd.SessionState) { s.Status, s.Since, s.Diagnostic = bfd.Up, t0.Add(at), "" })
	}
	neverUp := session(func(s *bfd.SessionState) { s.Status, s.WasUp, s.RemoteStatus = bfd.Down, false, "" })
	require := func(in *Inputs) { in.Config.Interfaces[0].Peers[0].BFD.Required = true }
	tests := []struct {
		name  string
		first func(*Inputs)
		steps []step
	}{
		{"up", nil, []step{{0, nil, ""}}},
		{"not known yet", func(in *Inputs) { in.BFD = nil }, []step{{0, nil, ""}}},
		{"never up", neverUp, []step{{time.Hour, nil, ""}}},
		{"required, not known yet", func(in *Inputs) { require(in); in.BFD = nil }, []step{{0, nil, missing}}},
		{"required, never up", func(in *Inputs) { require(in); neverUp(in) }, []step{{time.Hour, nil, missing}, {0, up(time.Hour), ""}}},
		{"required, the router does not want it", func(in *Inputs) {
			require(in)
			neverUp(in)
			in.BFD.Sessions[0].RemoteStatus = bfd.AdminDown
		}, []step{{0, nil, ""}}},
		{"required, it cannot run", func(in *Inputs) { require(in); neverUp(in); in.BFD.Sessions[0].Error = "no such device" }, []step{
			{0, nil, "BFD with 10.68.1.2 is required and cannot run: no such device"},
		}},
		{"it cannot run any more", nil, []step{{0, fails, down}, {0, session(func(s *bfd.SessionState) { s.Error = "no such device" }), ""}}},
		{"down, and up for the hold-up", nil, []step{
			{0, fails, down},
			{time.Second, up(time.Second), "BFD with 10.68.1.2 up again, held for 2s"},
			{1999 * time.Millisecond, nil, "BFD with 10.68.1.2 up again, held for 2s"},
			{time.Millisecond, nil, ""},
			{time.Hour, nil, ""},
		}},
		{"down for good: the router may no longer speak BFD", nil, []step{
			{0, fails, down},
			{9999 * time.Millisecond, nil, down},
			{time.Millisecond, nil, ""},
			{time.Hour, nil, ""},
			{time.Second, up(3611 * time.Second), ""}, // and it comes back without a word
		}},
		{"down for good, with a long hold-up", func(in *Inputs) { in.Config.Interfaces[0].HoldUp = time.Minute }, []step{
			{0, fails, down}, {59 * time.Second, nil, down}, {time.Second, nil, ""},
		}},
		{"down for good, but required", require, []step{
			{0, fails, down}, {time.Hour, nil, down}, {time.Second, up(3601 * time.Second), "BFD with 10.68.1.2 up again, held for 2s"}, {2 * time.Second, nil, ""},
		}},
		{"down and up again between two looks", nil, []step{
			{0, session(func(s *bfd.SessionState) { s.Downs, s.DownSince, s.Since = 1, t0, t0 }), "BFD with 10.68.1.2 up again, held for 2s"},
			{2 * time.Second, nil, ""},
		}},
		{"switched off on the router, then on", nil, []step{
			{0, session(func(s *bfd.SessionState) {
				s.Status, s.DownSince, s.Diagnostic, s.RemoteStatus = bfd.Down, t0, "neighbor signaled session down", bfd.AdminDown
			}), ""},
			{time.Second, session(func(s *bfd.SessionState) { s.RemoteStatus = bfd.Down }), ""},
			{time.Second, up(2 * time.Second), ""},
		}},
		{"down, then switched off on the router", nil, []step{
			{0, fails, down}, {time.Second, session(func(s *bfd.SessionState) { s.RemoteStatus = bfd.AdminDown }), ""},
		}},
		{"down, then another session", nil, []step{
			{0, fails, down}, {time.Second, session(func(s *bfd.SessionState) { s.Downs, s.WasUp, s.DownSince = 0, false, time.Time{} }), ""},
		}},
		{"a reason without words", nil, []step{{0, func(in *Inputs) { fails(in); in.BFD.Sessions[0].Diagnostic = "" }, "BFD with 10.68.1.2 down"}}},
		{"a long reason", nil, []step{{0, func(in *Inputs) { fails(in); in.BFD.Sessions[0].Diagnostic = strings.Repeat("ü", 99) }, "BFD with 10.68.1.2 down: " + strings.Repeat("ü", 50) + "…"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &film{in: edit(bfdPeers), now: t0}
			if tt.first != nil {
				tt.first(&f.in)
			} else {
				f.look(0, nil)
			}
			for i, s := range tt.steps {
				d := f.look(s.after, s.change)
				peer := d.Interfaces[0].Peers[0]
				if peer.Detail != s.held || peer.Wanted != (s.held == "") {
					t.Fatalf("step %d: wanted=%t %q, want %q", i, peer.Wanted, peer.Detail, s.held)
				}
				if got := d.speaker("en1").DownReasons[peer.Address]; got != s.held || len(got) > 128 {
					t.Errorf("step %d: Cease with %q", i, got)
				}
				want := lines(sp1, sp5, k1, k5, good)
				if s.held != "" {
					want = lines(noPeer, sp5, k1off, k5, good)
				}
				if diff := cmp.Diff(want, render(&d)); diff != "" {
					t.Errorf("step %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

// The wanted sessions follow link and address, not what the interface is held
// for.
func TestBFDSessions(t *testing.T) {
	t.Parallel()
	one := bfd.SessionConfig{
		Peer: addr("10.68.1.2"), Local: addr("10.68.1.1"), Interface: "en1",
		MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 3,
	}
	far := one
	far.Multihop, far.MinTTL, far.Passive = true, 250, true
	far.Auth = &bfd.Auth{Type: bfd.MeticulousKeyedSHA1, KeyID: 7, Key: "key"}
	for name, tt := range map[string]struct {
		change func(*Inputs)
		want   []bfd.SessionConfig
	}{
		"up":         {func(*Inputs) {}, []bfd.SessionConfig{one}},
		"no carrier": {func(in *Inputs) { in.Net.Links[0].Running = false }, nil},
		"down":       {func(in *Inputs) { in.Net.Links[0].Up = false }, nil},
		"no link":    {func(in *Inputs) { in.Net.Links[0].Name = "en9" }, nil},
		"no address": {func(in *Inputs) { in.Net.Links[0].Addresses = nil }, nil},
		"hold-up":    {func(in *Inputs) { in.Net.Links[0].HealthySince = t0 }, []bfd.SessionConfig{one}},
		"shutdown":   {func(in *Inputs) { in.Overrides.Shutdown = true }, []bfd.SessionConfig{one}},
		"attachment": {func(in *Inputs) { probing(in); in.Health["attachment/en1/10.68.1.2"] = silent("") }, []bfd.SessionConfig{one}},
		"all keys": {func(in *Inputs) {
			b := in.Config.Interfaces[0].Peers[0].BFD
			b.Multihop, b.MinTTL, b.Passive = true, 250, true
			b.Auth = &config.BFDAuth{Type: "meticulous_keyed_sha1", KeyID: 7, Key: "key"}
		}, []bfd.SessionConfig{far}},
	} {
		in := edit(bfdPeers)
		in.Config.Interfaces[1].Peers[0].BFD = nil
		tt.change(&in)
		d := Plan(in, t0)
		if diff := cmp.Diff(tt.want, d.BFD, compare...); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A path that BFD found dead carries nothing at once, whatever the speaker still
// says, and the last words of its session find another way.
func TestBFDTakesTheLeg(t *testing.T) {
	t.Parallel()
	in := edit(bfdPeers)
	in.History = Plan(in, t0).History
	fails(&in)
	d := Plan(in, t0)
	n := d.Kernel.Interfaces[0]
	if n.Leg() || !n.Usable {
		t.Errorf("kernel: %+v", n)
	}
	if got := d.VIPs[0].Interfaces[0]; got.Announced || got.Reason != status.NoSession || !strings.Contains(got.Detail, "BFD with 10.68.1.2 down") {
		t.Errorf("vip on en1: %+v", got)
	}
	if f := d.Kernel.Fallbacks; !f[0].First || f[1].First {
		t.Errorf("fallbacks: %+v", f)
	}
	want := []status.Failure{{Layer: "bfd", Target: "10.68.1.2", Since: t0, Reason: "control detection time expired"}}
	if diff := cmp.Diff(want, d.Interfaces[0].Failures); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	// The last resort: when no session is left, the interface whose router is not
	// known to be dead.
	in.BGP.Speakers[1].Peers[0].State = "Active"
	if d = Plan(in, t0); d.Kernel.Interfaces[0].Leg() || !d.Kernel.Interfaces[1].Leg() {
		t.Errorf("without sessions: %s", render(&d))
	}
	in.BFD.Sessions[1].Downs++
	in.BFD.Sessions[1].Status = bfd.Down
	if d = Plan(in, t0); !d.Kernel.Interfaces[0].Leg() || !d.Kernel.Interfaces[1].Leg() {
		t.Errorf("both dead: %s", render(&d))
	}
	// Each of two routers by itself.
	in = edit(bfdPeers)
	second := in.Config.Interfaces[0].Peers[0]
	second.Address = addr("10.68.1.3")
	in.Config.Interfaces[0].Peers = append(in.Config.Interfaces[0].Peers, second)
	in.BGP.Speakers[0].Peers = append(in.BGP.Speakers[0].Peers, established("10.68.1.3"))
	fails(&in)
	d = Plan(in, t0)
	if !d.Kernel.Interfaces[0].Leg() || fmt.Sprint(d.Kernel.Interfaces[0].Routers) != "[10.68.1.3]" || fmt.Sprint(d.VIPs[0].Interfaces[0].Peers) != "[10.68.1.3]" {
		t.Errorf("one of two: %+v %v", d.Kernel.Interfaces[0], d.VIPs[0].Interfaces[0].Peers)
	}
	// Up again, but held: it is no next hop yet either.
	in.History = d.History
	in.BFD.Sessions[0].Status, in.BFD.Sessions[0].Since = bfd.Up, t0
	if d = Plan(in, t0); fmt.Sprint(d.Kernel.Interfaces[0].Routers) != "[10.68.1.3]" {
		t.Errorf("one of two is up again: %+v", d.Kernel.Interfaces[0])
	}
}

// The times of the BFD process are those of a clock that somebody may set: a
// step of an hour, whichever way, holds no session for longer.
func TestBFDTimesOfAnotherClock(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{0, time.Hour} {
		f := &film{in: edit(bfdPeers), now: t0}
		f.look(0, nil)
		set := func(status bfd.SessionStatus, downs uint64) func(*Inputs) {
			return func(in *Inputs) {
				s := &in.BFD.Sessions[0]
				s.Status, s.Downs, s.Since, s.DownSince = status, downs, f.now.Add(step), f.now.Add(step)
			}
		}
		wanted := func(when string, want bool, d Desired) {
			t.Helper()
			if got := d.Interfaces[0].Peers[0]; got.Wanted != want {
				t.Errorf("step %s, %s: wanted %t, %q", step, when, got.Wanted, got.Detail)
			}
		}
		wanted("down", false, f.look(time.Second, set(bfd.Down, 1)))
		wanted("patience is over", true, f.look(bfdPatience, nil))
		wanted("up", true, f.look(time.Second, set(bfd.Up, 1)))
		wanted("down again", false, f.look(time.Second, set(bfd.Down, 2)))
		wanted("up again", false, f.look(time.Second, set(bfd.Up, 2)))
		wanted("hold-up", false, f.look(1999*time.Millisecond, nil))
		wanted("hold-up is over", true, f.look(time.Millisecond, nil))
	}
}

// A router that changes its link-local address again and again leaves nothing behind;
// but one that is back at once is the same, and one whose session failed stays so.
func TestBFDHistoryOfFormerRouters(t *testing.T) {
	t.Parallel()
	in := edit(func(in *Inputs) {
		unnumbered(in)
		in.Config.Interfaces[0].Peers[0].BFD = &config.BFD{MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 3}
	})
	f := &film{in: in, now: t0}
	// look has the router at an address, and the sessions of the look before run.
	look := func(after time.Duration, address string, change func(s *bfd.SessionState)) Desired {
		d := f.look(after, func(in *Inputs) { heard(in, router(address, 0)) })
		f.in.BFD = &bfd.State{}
		for i := range d.BFD {
			s := bfd.SessionState{Peer: d.BFD[i].Peer, Local: d.BFD[i].Local, Interface: d.BFD[i].Interface, Status: bfd.Up, Since: f.now, WasUp: true}
			change(&s)
			f.in.BFD.Sessions = append(f.in.BFD.Sessions, s)
		}
		return d
	}
	up := func(s *bfd.SessionState) { s.Downs = 0 }
	for i := range 100 {
		look(time.Minute, fmt.Sprintf("fe80::1:%x", i), up)
	}
	if n := len(f.in.History.BFD); n > 2 {
		t.Errorf("%d sessions are remembered after 100 addresses", n)
	}

	failed := func(s *bfd.SessionState) { s.Status, s.Downs, s.DownSince = bfd.Down, 1, f.now }
	const a, b = "fe80::a", "fe80::b"
	look(time.Minute, a, up)
	look(time.Second, a, failed)
	if d := look(time.Second, a, failed); d.Interfaces[0].Peers[0].held == "" {
		t.Fatal("a failure holds nothing")
	}
	look(time.Second, b, up)
	look(time.Second, b, up)
	f.in.BFD = &bfd.State{}
	if d := look(time.Second, a, up); d.Interfaces[0].Peers[0].held == "" {
		t.Error("the failure is forgotten while another router was there for a moment")
	}

	// What still runs has the count of before.
	flapped := func(s *bfd.SessionState) { s.Downs = 5 }
	look(time.Minute, b, flapped)
	look(time.Minute, b, flapped)
	look(time.Minute, b, flapped)
	seen := f.in.BFD
	look(time.Second, a, up)
	f.in.BFD = seen
	if d := look(time.Second, b, flapped); len(d.Interfaces[0].Failures) > 0 || d.Interfaces[0].Peers[0].held != "" {
		t.Errorf("a count that is known is a failure: %+v", d.Interfaces[0].Failures)
	}
}

// A path that is dead fails the sessions of both families, each a little later than the
// other: that is one flap, and the next one is another.
func TestBFDOnePathOneFlap(t *testing.T) {
	t.Parallel()
	const detection = 150 * time.Millisecond
	for _, tt := range []struct {
		after time.Duration // between the two
		want  uint64
	}{{0, 1}, {30 * time.Millisecond, 1}, {detection, 1}, {detection + 1, 2}, {time.Minute, 2}} {
		f := &film{in: edit(bfdPeers), now: t0}
		second := f.in.Config.Interfaces[0].Peers[0]
		second.Address = addr("10.68.1.3")
		f.in.Config.Interfaces[0].Peers = append(f.in.Config.Interfaces[0].Peers, second)
		f.in.BGP.Speakers[0].Peers = append(f.in.BGP.Speakers[0].Peers, established("10.68.1.3"))
		other := f.in.BFD.Sessions[0]
		other.Peer = second.Address
		f.in.BFD.Sessions = append(f.in.BFD.Sessions, other)
		last := len(f.in.BFD.Sessions) - 1
		f.look(0, nil)
		down := func(i int) {
			s := &f.in.BFD.Sessions[i]
			s.Status, s.Downs, s.DownSince, s.DetectionTime = bfd.Down, s.Downs+1, f.now, detection
		}
		if tt.after == 0 {
			f.look(time.Second, func(*Inputs) { down(0); down(last) })
		} else {
			f.look(time.Second, func(*Inputs) { down(last) })
			f.look(tt.after, func(*Inputs) { down(0) })
		}
		if got := f.look(0, nil).Interfaces[0].Penalty.Flaps; got != tt.want {
			t.Errorf("two sessions, %s apart: %d flaps, want %d", tt.after, got, tt.want)
		}
	}
}
