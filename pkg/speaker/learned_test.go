package speaker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// received is a path of a peer to a prefix.
func received(to, peer, hop string) bgp.ReceivedPath {
	return bgp.ReceivedPath{Prefix: prefix(to), NextHop: addr(hop), Peer: addr(peer), LocalPref: 100, ASPathLength: 1}
}

// learning is the sample whose two routers send a default route.
func learning(in *Inputs) {
	in.Config.Egress.Import = append(in.Config.Egress.Import, prefix("0.0.0.0/0"))
	for i, peer := range []string{"10.68.1.2", "10.68.5.2"} {
		s := &in.BGP.Speakers[i]
		s.Peers[0].Since = t0.Add(-time.Hour)
		s.Received = []bgp.ReceivedPath{received("0.0.0.0/0", peer, peer)}
	}
}

// A clock that was set back since a session came up does not make it look as if
// it had just done so: what its router took back would stay until the clock is
// there again.
func TestLearnedClockSetBack(t *testing.T) {
	t.Parallel()
	in := edit(learning)
	first := Plan(in, t0)
	in.History = first.History
	for i := range in.BGP.Speakers {
		in.BGP.Speakers[i].Peers[0].Since = t0.Add(time.Hour)
		in.BGP.Speakers[i].Received = nil
	}
	d := Plan(in, t0)
	if got := routes(&d); got != "" {
		t.Errorf("kernel is to hold %q although both routers took the route back; %s", got, reasons(&d))
	}
}

// routes renders what the kernel is to hold.
func routes(d *Desired) string {
	var out []string
	for i := range d.Kernel.Learned {
		l := &d.Kernel.Learned[i]
		text := l.Prefix.String()
		if l.Static {
			text += " static"
		}
		for _, g := range l.Legs {
			text += fmt.Sprintf(" %s:%s*%d", g.Interface, g.Gateway, g.Weight)
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// reasons renders why paths are not legs, or look dead.
func reasons(d *Desired) string {
	var out []string
	for i := range d.Learned {
		for j := range d.Learned[i].Legs {
			if l := &d.Learned[i].Legs[j]; l.Why != "" {
				out = append(out, l.Interface+": "+l.Why)
			}
		}
	}
	return strings.Join(out, "; ")
}

const (
	bothLegs = "0.0.0.0/0 en1:10.68.1.2*1 en5:10.68.5.2*1"
	onlyEn5  = "0.0.0.0/0 en5:10.68.5.2*1"
)

// What is a leg of a learned route, and what is not.
func TestPlanLearned(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*Inputs)
		want   string
		why    string
	}{
		{"both", nil, bothLegs, ""},
		{"not listed", func(in *Inputs) { in.Config.Egress.Import = nil }, "", ""},
		{"sent by one", func(in *Inputs) { in.BGP.Speakers[0].Received = nil }, onlyEn5, ""},
		{"interface down", func(in *Inputs) { in.Net.Links[0].Running = false }, onlyEn5, "en1: interface en1: no carrier"},
		{"session down", func(in *Inputs) { in.BGP.Speakers[0].Peers[0].State = bgp.Active }, onlyEn5, "en1: session with 10.68.1.2 is down"},
		{"off the link", func(in *Inputs) { in.BGP.Speakers[0].Received[0].NextHop = addr("10.68.5.2") }, onlyEn5, "en1: next hop 10.68.5.2 is not on the network of en1"},
		{"ourselves", func(in *Inputs) { in.BGP.Speakers[0].Received[0].NextHop = addr("10.68.1.1") }, onlyEn5, "en1: next hop 10.68.1.1 is this host"},
		{"a VIP", func(in *Inputs) { in.BGP.Speakers[0].Received[0].NextHop = addr("10.68.6.1") }, onlyEn5, "en1: next hop 10.68.6.1 is this host"},
		{"another host of the link", func(in *Inputs) { in.BGP.Speakers[0].Received[0].NextHop = addr("10.68.1.9") }, "0.0.0.0/0 en1:10.68.1.9*1 en5:10.68.5.2*1", ""},
		{"an IPv6 next hop", func(in *Inputs) { in.BGP.Speakers[0].Received[0].NextHop = addr("fe80::2") }, "0.0.0.0/0 en1:fe80::2*1 en5:10.68.5.2*1", ""},
		{"weights", func(in *Inputs) { in.Config.Interfaces[0].Weight = 3 }, "0.0.0.0/0 en1:10.68.1.2*3 en5:10.68.5.2*1", ""},
		{"bandwidths", func(in *Inputs) {
			in.BGP.Speakers[0].Received[0].Bandwidth, in.BGP.Speakers[1].Received[0].Bandwidth = 1.25e9, 3.125e9
		}, "0.0.0.0/0 en1:10.68.1.2*2 en5:10.68.5.2*5", ""},
		{"one bandwidth", func(in *Inputs) { in.BGP.Speakers[0].Received[0].Bandwidth = 1e9 }, bothLegs, ""},
		{"paths by different interfaces", func(in *Inputs) { in.BGP.Speakers[0].Received[0].ASPathLength = 9 }, bothLegs, ""},
		{"two prefixes", func(in *Inputs) {
			in.Config.Egress.Import = append(in.Config.Egress.Import, prefix("10.0.0.0/8"))
			in.BGP.Speakers[1].Received = append(in.BGP.Speakers[1].Received, received("10.0.0.0/8", "10.68.5.2", "10.68.5.2"))
		}, bothLegs + "; 10.0.0.0/8 en5:10.68.5.2*1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := edit(learning)
			if tt.change != nil {
				tt.change(&in)
			}
			d := Plan(in, t0)
			if got := routes(&d); got != tt.want {
				t.Errorf("routes %q, want %q", got, tt.want)
			}
			if got := reasons(&d); got != tt.why {
				t.Errorf("reasons %q, want %q", got, tt.why)
			}
			for i := range d.BGP.Speakers {
				if got := d.BGP.Speakers[i].Import; !slices.Equal(got, in.Config.Egress.Import) {
					t.Errorf("speaker %s imports %v", d.BGP.Speakers[i].Name, got)
				}
			}
		})
	}
}

// Of several paths by one interface the best are legs, and share its weight.
func TestPlanLearnedBest(t *testing.T) {
	t.Parallel()
	const first, second, equal = "en1:10.68.1.2*1", "en1:10.68.1.3*1", "en1:10.68.1.2*1 en1:10.68.1.3*1"
	for _, tt := range []struct {
		name   string
		change func(a, b *bgp.ReceivedPath, c []config.Peer)
		want   string
	}{
		{"equal", func(*bgp.ReceivedPath, *bgp.ReceivedPath, []config.Peer) {}, equal},
		{"local pref", func(a, b *bgp.ReceivedPath, _ []config.Peer) { b.LocalPref, a.MED = 101, 0; b.ASPathLength = 5 }, second},
		{"as path", func(a, b *bgp.ReceivedPath, _ []config.Peer) { b.ASPathLength, b.MED, a.MED = 2, 0, 9 }, first},
		{"origin", func(a, b *bgp.ReceivedPath, _ []config.Peer) { a.Origin, b.MED = 2, 9 }, second},
		{"med", func(a, _ *bgp.ReceivedPath, _ []config.Peer) { a.MED = 5 }, second},
		{"med of other AS", func(a, _ *bgp.ReceivedPath, c []config.Peer) { a.MED, c[0].ASN = 5, 65009 }, equal},
		{"external", func(_, _ *bgp.ReceivedPath, c []config.Peer) { c[1].ASN = 65010 }, first},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := edit(learning)
			c := &in.Config.Interfaces[0]
			c.Peers = append(c.Peers, c.Peers[0])
			c.Peers[1].Address = addr("10.68.1.3")
			s := &in.BGP.Speakers[0]
			s.Peers = append(s.Peers, established("10.68.1.3"))
			s.Received = append(s.Received, received("0.0.0.0/0", "10.68.1.3", "10.68.1.3"))
			in.BGP.Speakers[1].Received = nil
			tt.change(&s.Received[0], &s.Received[1], c.Peers)
			d := Plan(in, t0)
			if got := routes(&d); got != "0.0.0.0/0 "+tt.want {
				t.Errorf("routes %q, want %q; %s", got, tt.want, reasons(&d))
			}
			if tt.want != equal {
				return
			}
			in.BGP.Speakers[1].Received = []bgp.ReceivedPath{received("0.0.0.0/0", "10.68.5.2", "10.68.5.2")}
			in.Config.Interfaces[1].Weight = 3
			d = Plan(in, t0)
			if got, want := routes(&d), "0.0.0.0/0 en1:10.68.1.2*1 en1:10.68.1.3*1 en5:10.68.5.2*6"; got != want {
				t.Errorf("with a weight of 3 for en5: %q, want %q", got, want)
			}
		})
	}
}

// The last leg stays when all look dead, goes when its router says so, and gives
// way to any that works.
func TestPlanLearnedStatic(t *testing.T) {
	t.Parallel()
	f := &film{in: edit(learning), now: t0}
	speakers := f.in.BGP.Speakers
	look := func(want, why string) {
		t.Helper()
		d := f.look(0, nil)
		if got := routes(&d); got != want {
			t.Errorf("at %s: routes %q, want %q", f.now.Sub(t0), got, want)
		}
		if got := reasons(&d); got != why {
			t.Errorf("at %s: reasons %q, want %q", f.now.Sub(t0), got, why)
		}
	}
	look(bothLegs, "")
	speakers[0].Peers[0].State, speakers[0].Received = bgp.Active, nil
	look(onlyEn5, "en1: session with 10.68.1.2 is down")
	speakers[1].Peers[0].State, speakers[1].Received = bgp.Active, nil
	look("0.0.0.0/0 static en5:10.68.5.2*1", "en1: session with 10.68.1.2 is down; en5: session with 10.68.5.2 is down")
	f.in.Net.Links[1].Running = false
	look("0.0.0.0/0 static en5:10.68.5.2*1", "en1: session with 10.68.1.2 is down; en5: interface en5: no carrier")
	// Back, but not yet with its path: it counts as withdrawn only after a while.
	f.now = f.now.Add(time.Minute)
	speakers[0].Peers[0].State, speakers[0].Peers[0].Since = bgp.Established, f.now
	look("0.0.0.0/0 static en5:10.68.5.2*1", "en1: not sent again yet; en5: interface en5: no carrier")
	speakers[0].Received = []bgp.ReceivedPath{received("0.0.0.0/0", "10.68.1.2", "10.68.1.2")}
	look("0.0.0.0/0 en1:10.68.1.2*1", "en5: interface en5: no carrier")
	f.now = f.now.Add(learnPatience)
	speakers[0].Received = nil
	look("", "en5: interface en5: no carrier")
}

// What a former process used stays until its sessions are back, or have had the
// time for it.
func TestPlanLearnedAdopted(t *testing.T) {
	t.Parallel()
	former := adoptLearned([]vip.Learned{{Prefix: prefix("0.0.0.0/0"), Legs: []vip.LearnedLeg{
		{Interface: "en1", Gateway: addr("10.68.1.2"), Weight: 1}, {Interface: "en5", Gateway: addr("10.68.5.2"), Weight: 1}, {Interface: "en9", Gateway: addr("10.68.9.2"), Weight: 1},
	}}})
	f := &film{in: edit(learning), now: t0}
	f.in.StartedAt, f.in.Adopted, f.in.History.Learned = t0, true, former
	for i := range f.in.BGP.Speakers {
		s := &f.in.BGP.Speakers[i]
		s.Received, s.Peers[0].State, s.Peers[0].Transitions = nil, bgp.Active, 0
	}
	look := func(want string) {
		t.Helper()
		d := f.look(0, nil)
		if got := routes(&d); got != want {
			t.Errorf("at %s: routes %q, want %q; %s", f.now.Sub(t0), got, want, reasons(&d))
		}
	}
	look(bothLegs)
	f.now = t0.Add(time.Second)
	s := &f.in.BGP.Speakers[0]
	s.Peers[0].State, s.Peers[0].Since, s.Peers[0].Transitions = bgp.Established, f.now, 1
	look(bothLegs)
	s.Received = []bgp.ReceivedPath{received("0.0.0.0/0", "10.68.1.2", "10.68.1.2")}
	look(bothLegs)
	f.now = t0.Add(31 * time.Second)
	look("0.0.0.0/0 en1:10.68.1.2*1")
}

// A leg that BFD lost goes at once, which is bad news.
func TestPlanLearnedBFD(t *testing.T) {
	t.Parallel()
	in := edit(bfdPeers)
	learning(&in)
	before := Plan(in, t0)
	if got := routes(&before); got != bothLegs {
		t.Fatalf("routes %q", got)
	}
	in.History = before.History
	fails(&in)
	d := Plan(in, t0)
	if got := routes(&d); got != onlyEn5 || !strings.Contains(reasons(&d), "en1: BFD with 10.68.1.2 down") {
		t.Errorf("routes %q, reasons %q", got, reasons(&d))
	}
	only := before
	only.Kernel.Interfaces, only.BGP = nil, bgp.Desired{}
	if !takesAway(&only, &d) || takesAway(&d, &d) {
		t.Error("a leg that goes is no bad news, or one that stays is")
	}
	in.BFD.Sessions[0].Status, in.BFD.Sessions[0].RemoteStatus = bfd.Up, bfd.Up
}

// Peers that belong to no interface tell next hops that are on one.
func TestPlanLearnedFromTopLevel(t *testing.T) {
	t.Parallel()
	in := edit(learning)
	in.Config.Peers = []config.Peer{{Address: addr("192.0.2.1"), ASN: 65010, Timers: in.Config.BGP.Timers, TTL: 64}}
	for i := range in.BGP.Speakers {
		in.BGP.Speakers[i].Received = nil
	}
	top := speaking(status.TopLevel, "192.0.2.1", "10.68.6.1/32")
	top.Received = []bgp.ReceivedPath{received("0.0.0.0/0", "192.0.2.1", "10.68.5.2")}
	in.BGP.Speakers = append(in.BGP.Speakers, top)
	d := Plan(in, t0)
	if got := routes(&d); got != onlyEn5 {
		t.Errorf("routes %q; %s", got, reasons(&d))
	}
	in.BGP.Speakers[2].Received[0].NextHop = addr("10.77.0.1")
	d = Plan(in, t0)
	if got := reasons(&d); routes(&d) != "" || got != ": next hop 10.77.0.1 is on the network of no listed interface" {
		t.Errorf("routes %q, reasons %q", routes(&d), got)
	}
}

// A leg that a former process learned from a peer that belongs to no interface is
// known again, and goes when that peer takes it back.
func TestPlanLearnedAdoptedFromTopLevel(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		own   bool // the interface has peers too
		alone string
	}{
		{"interface without peers", false, ""},
		{"interface with peers", true, "0.0.0.0/0 static en5:10.68.5.2*1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &film{in: edit(learning), now: t0}
			f.in.Config.Peers = []config.Peer{{Address: addr("192.0.2.1"), ASN: 65010, Timers: f.in.Config.BGP.Timers, TTL: 64}}
			own := &f.in.BGP.Speakers[1]
			own.Received, own.Peers[0].State, own.Peers[0].Transitions = nil, bgp.Active, 0
			f.in.BGP.Speakers[0].Received = nil
			if !tt.own {
				f.in.Config.Interfaces[1].Peers = nil
				f.in.BGP.Speakers = f.in.BGP.Speakers[:1]
			}
			f.in.BGP.Speakers = append(f.in.BGP.Speakers, bgp.SpeakerState{
				Name: status.TopLevel, Phase: bgp.Running, Peers: []bgp.PeerState{{Address: addr("192.0.2.1"), ASN: 65010, State: bgp.Active}},
			})
			f.in.StartedAt, f.in.Adopted = t0, true
			f.in.History.Learned = adoptLearned([]vip.Learned{{Prefix: prefix("0.0.0.0/0"), Legs: []vip.LearnedLeg{
				{Interface: "en5", Gateway: addr("10.68.5.2"), Weight: 1},
			}}})
			look := func(want string, legs int) {
				t.Helper()
				d := f.look(0, nil)
				if got := routes(&d); got != want || len(d.History.Learned) != legs {
					t.Errorf("at %s: routes %q, want %q; %d legs, want %d; %s", f.now.Sub(t0), got, want, len(d.History.Learned), legs, reasons(&d))
				}
			}
			look(onlyEn5, 1)
			before := f.in.History
			top := &f.in.BGP.Speakers[len(f.in.BGP.Speakers)-1]
			top.Peers[0] = established("192.0.2.1")
			top.Peers[0].Since = t0
			top.Received = []bgp.ReceivedPath{received("0.0.0.0/0", "192.0.2.1", "10.68.5.2")}
			f.now = t0.Add(time.Second)
			look(onlyEn5, 1)
			top.Received = nil
			f.now = t0.Add(31 * time.Second)
			look("", 0)
			// Never sent again: it may have been the interface's own peer.
			f.in.History = before
			look(tt.alone, len(f.in.BGP.Speakers)-2)
			f.in.History = before
			f.in.Config.Peers, f.in.Config.Interfaces[1].Peers = nil, nil
			look("", 0)
		})
	}
}

func TestWeights(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		parts []float64
		want  []int
	}{
		{nil, nil},
		{[]float64{7}, []int{1}},
		{[]float64{1, 1, 1}, []int{1, 1, 1}},
		{[]float64{10e9, 25e9}, []int{2, 5}},
		{[]float64{1, 256}, []int{1, 256}},
		{[]float64{1, 1000}, []int{1, 256}},
		{[]float64{0.5, 0.5, 3}, []int{1, 1, 6}},
		{[]float64{1, 1.0 / 3}, []int{3, 1}},
	} {
		if got := weights(tt.parts); !slices.Equal(got, tt.want) {
			t.Errorf("weights(%v) = %v, want %v", tt.parts, got, tt.want)
		}
	}
}

// Each leg that comes or goes is an event with its cause.
func TestLearnedTransitions(t *testing.T) {
	t.Parallel()
	f := &film{in: edit(learning), now: t0}
	f.in.Config.Egress.Install = installMain
	picture := func() *status.Status {
		d := f.look(0, nil)
		return &status.Status{Egress: reportEgress(&f.in, &d, nil)}
	}
	told := func(prev, next *status.Status) string {
		c := &changes{prev: prev, next: next}
		c.egress()
		var out []string
		for _, tr := range c.list {
			out = append(out, joinNonEmpty(" | ", tr.Event.Message, tr.Event.From, tr.Event.To, tr.Event.Cause))
		}
		return strings.Join(out, "\n")
	}
	both := picture()
	if got, want := told(&status.Status{}, both), "leg of learned route on | 10.68.1.2 via en1\nleg of learned route on | 10.68.5.2 via en5"; got != want {
		t.Errorf("first: %q, want %q", got, want)
	}
	f.in.BGP.Speakers[0].Received = nil
	one := picture()
	if got, want := told(both, one), "leg of learned route off | 10.68.1.2 via en1 | no longer sent by the peer"; got != want {
		t.Errorf("withdrawn: %q, want %q", got, want)
	}
	f.in.BGP.Speakers[1].Peers[0].State = bgp.Idle
	last := picture()
	if got, want := told(one, last), "all legs of a learned route look dead | 10.68.5.2 via en5: session with 10.68.5.2 is down"; got != want {
		t.Errorf("the last: %q, want %q", got, want)
	}
	f.in.BGP.Speakers[1].Peers[0].State = bgp.Established
	if got, want := told(last, picture()), "learned route has a working leg again"; got != want {
		t.Errorf("back: %q, want %q", got, want)
	}
	if got := told(last, last); got != "" {
		t.Errorf("no change: %q", got)
	}
}
