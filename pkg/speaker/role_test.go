package speaker

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
)

func ranked(rank int, failback string) *config.Role {
	return &config.Role{Rank: rank, Failback: failback, Tag: true}
}

// attributesOf renders what a path says of its rank.
func attributesOf(p bgp.Path) string {
	text := fmt.Sprintf("prepend %d", p.Prepend)
	if p.MED != nil {
		text += fmt.Sprintf(" med %d", *p.MED)
	}
	if p.LocalPref != nil {
		text += fmt.Sprintf(" pref %d", *p.LocalPref)
	}
	for _, c := range p.LargeCommunities {
		text += fmt.Sprintf(" %d:%d:%d", c.Global, c.Local1, c.Local2)
	}
	return text
}

const id1 = 10<<24 | 68<<16 | 1<<8 | 1 // 10.68.1.1

func TestRankAttributes(t *testing.T) {
	t.Parallel()
	num := func(n uint32) *uint32 { return &n }
	ten := 10
	for _, tt := range []struct {
		name string
		edit func(*Inputs, *config.VIP)
		want string
	}{
		{"no role", func(_ *Inputs, v *config.VIP) { v.Role = nil }, "prepend 0"},
		{"rank 1", func(_ *Inputs, v *config.VIP) { v.Role = ranked(1, "immediate") }, "prepend 0 med 0 pref 300 65010:6800001:ID"},
		{"rank 2", func(_ *Inputs, v *config.VIP) { v.Role = ranked(2, "immediate") }, "prepend 4 med 1 pref 299 65010:6800002:ID"},
		{"rank 3", func(_ *Inputs, v *config.VIP) { v.Role = ranked(3, "immediate") }, "prepend 8 med 2 pref 298 65010:6800003:ID"},
		{"rank 254", func(_ *Inputs, v *config.VIP) { v.Role = ranked(254, "immediate") }, "prepend 10 med 253 pref 47 65010:6800254:ID"},
		{"no tag", func(_ *Inputs, v *config.VIP) { v.Role = &config.Role{Rank: 2, Failback: "immediate"} }, "prepend 4 med 1 pref 299"},
		{"on top of announce", func(_ *Inputs, v *config.VIP) {
			v.Role, v.Announce = ranked(3, "immediate"), config.Announce{Prepend: 7, MED: num(100), LocalPref: num(50)}
		}, "prepend 10 med 102 pref 48 65010:6800003:ID"},
		{"low preference", func(_ *Inputs, v *config.VIP) {
			v.Role, v.Announce = ranked(3, "immediate"), config.Announce{LocalPref: num(0)}
		}, "prepend 8 med 2 pref 2 65010:6800003:ID"},
		{"overridden", func(_ *Inputs, v *config.VIP) {
			v.Role = &config.Role{Rank: 2, Failback: "immediate", MED: num(7), LocalPref: num(8), Prepend: &ten}
		}, "prepend 10 med 7 pref 8"},
		{"internal peer", func(in *Inputs, v *config.VIP) {
			v.Role, in.Config.Interfaces[0].Peers[0].ASN = ranked(3, "immediate"), 65010
		}, "prepend 0 med 2 pref 298 65010:6800003:ID"},
		{"behind", func(_ *Inputs, v *config.VIP) { v.Role = ranked(2, "manual") }, "prepend 10 med 1001 pref 1 65010:6801002:ID"},
		{"about to go", func(in *Inputs, v *config.VIP) {
			v.Role, in.Overrides.Leaving = ranked(2, "immediate"), true
		}, "prepend 10 med 1001 pref 0 65010:6800002:ID"},
		{"drained", func(in *Inputs, v *config.VIP) {
			v.Role, v.Drain, in.Overrides.Orders = ranked(2, "immediate"), config.Drain{LocalPref: 5}, drainAt(time.Time{})
		}, "prepend 10 med 1001 pref 5 65010:6800002:ID"},
		{"exclusive", func(_ *Inputs, v *config.VIP) { v.Exclusive = true }, "prepend 0 65010:6800000:ID"},
	} {
		in := sample()
		tt.edit(&in, &in.Config.VIPs[0])
		d := Plan(in, t0)
		got := attributesOf(d.speaker("en1").Paths[0])
		if want := strings.ReplaceAll(tt.want, "ID", fmt.Sprint(id1)); got != want {
			t.Errorf("%s: %s, want %s", tt.name, got, want)
		}
	}
}

// Whatever its base is, a better rank is never announced as worse in anything.
func TestRanksAreOrdered(t *testing.T) {
	t.Parallel()
	for _, base := range []*uint32{nil, new(uint32)} {
		for rank := 1; rank < maxRank; rank++ {
			a, b := ranked(rank, "immediate"), ranked(rank+1, "immediate")
			last := ranked(1, "manual")
			if rolePrepend(a, false, 10) > rolePrepend(b, false, 10) || *roleMED(a, base, false) >= *roleMED(b, base, false) ||
				base == nil && *roleLocalPref(a, base, false) <= *roleLocalPref(b, base, false) {
				t.Errorf("rank %d is not better than the next", rank)
			}
			if rolePrepend(b, false, 10) > rolePrepend(last, true, 10) || *roleMED(b, base, false) >= *roleMED(last, base, true) ||
				*roleLocalPref(b, base, false) <= *roleLocalPref(last, base, true) {
				t.Errorf("rank %d is not better than one that is behind", rank+1)
			}
		}
	}
}

// seenPath is what a router sends of another host.
func seenPath(asn uint32, rank int, host string, change func(*bgp.SeenPath)) bgp.SeenPath {
	p := bgp.SeenPath{Prefix: prefix("10.68.6.1/32"), Peer: addr("10.68.1.2"), NextHop: addr("10.68.1.2"), OriginAS: asn}
	if rank >= 0 {
		id := addr(host).As4()
		p.LargeCommunities = []bgp.LargeCommunity{{
			Global: asn, Local1: tagBase + uint32(rank), Local2: uint32(id[0])<<24 | uint32(id[1])<<16 | uint32(id[2])<<8 | uint32(id[3]),
		}}
	}
	if change != nil {
		change(&p)
	}
	return p
}

func TestOthers(t *testing.T) {
	t.Parallel()
	const other = "10.68.2.1"
	tests := []struct {
		name string
		role *config.Role
		seen bgp.SeenPath
		want string
	}{
		{"another rank", ranked(1, "manual"), seenPath(65010, 2, other, nil), "10.68.2.1 of AS 65010, rank 2"},
		{"same rank", ranked(2, "manual"), seenPath(65020, 2, other, nil), "10.68.2.1 of AS 65020, rank 2: it has the same rank, 2"},
		{"ourselves", ranked(2, "manual"), seenPath(65010, 2, "10.68.1.1", nil), ""},
		{"our router id in another AS", ranked(2, "manual"), seenPath(65020, 2, "10.68.1.1", nil), "10.68.1.1 of AS 65020, rank 2: it has the same rank, 2"},
		{"no tag, another AS", ranked(2, "manual"), seenPath(65020, -1, other, nil), "a host of AS 65020: it has no rank"},
		{"no tag, own AS", ranked(2, "manual"), seenPath(65010, -1, other, nil), ""},
		{"exclusive", nil, seenPath(65010, 0, other, nil), "10.68.2.1 of AS 65010: nobody else may announce it"},
		{"behind and about to go", ranked(2, "manual"), seenPath(65010, 1001, other, func(p *bgp.SeenPath) { p.Shutdown = true }), "10.68.2.1 of AS 65010, rank 1, behind, about to go"},
	}
	for _, tt := range tests {
		in := sample()
		in.Config.VIPs[0].Role, in.Config.VIPs[0].Exclusive = tt.role, tt.role == nil
		in.BGP.Speakers[0].Seen = []bgp.SeenPath{tt.seen}
		in.BGP.Speakers[1].Seen = []bgp.SeenPath{tt.seen}
		d := Plan(in, t0)
		if d.speaker("en1").Watch == nil {
			t.Errorf("%s: the VIP is not watched", tt.name)
		}
		var got []string
		for _, o := range d.VIPs[0].Others {
			text := o.Text()
			if o.Duplicate != "" {
				text += ": " + o.Duplicate
			}
			got = append(got, text)
		}
		if strings.Join(got, "; ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	in := sample()
	in.BGP.Speakers[0].Seen = []bgp.SeenPath{seenPath(65020, -1, other, nil)}
	if d := Plan(in, t0); d.VIPs[0].Others != nil || d.speaker("en1").Watch != nil {
		t.Error("a VIP that any host may announce is watched")
	}
}

// A host that comes back stays behind while another one is seen that has taken
// over, and does not wait for anybody else.
func TestFailback(t *testing.T) {
	t.Parallel()
	const other = "10.68.2.1"
	type step struct {
		after  time.Duration
		seen   []bgp.SeenPath
		edit   func(*Inputs)
		behind bool
	}
	worse, better := seenPath(65010, 3, other, nil), seenPath(65010, 1, other, nil)
	leaving := seenPath(65010, 3, other, func(p *bgp.SeenPath) { p.Shutdown = true })
	gone := func(in *Inputs) { in.BGP.Speakers = nil }
	order := func(in *Inputs) { in.Overrides.Failback = map[netip.Prefix]bool{prefix("10.68.6.1/32"): true} }
	list := func(p ...bgp.SeenPath) []bgp.SeenPath { return p }
	for _, tt := range []struct {
		name, failback string
		steps          []step
	}{
		{"immediate", "immediate", []step{{0, list(worse), nil, false}}},
		{"alone", "manual", []step{{0, nil, nil, true}, {2 * time.Second, nil, nil, true}, {time.Second, nil, nil, false}, {0, list(worse), nil, false}}},
		{"manual", "manual", []step{{0, list(worse), nil, true}, {time.Hour, list(worse), nil, true}, {0, list(leaving), nil, true}, {time.Hour, list(leaving), nil, true}, {0, list(worse), order, false}, {time.Hour, list(worse), nil, false}}},
		{"idle", "idle", []step{{0, list(worse), nil, true}, {time.Hour, list(worse), nil, true}, {0, list(leaving), nil, true}, {aloneFor, list(leaving), nil, false}}},
		{"the other goes", "manual", []step{{0, list(worse), nil, true}, {0, nil, nil, true}, {aloneFor - 1, nil, nil, true}, {1, nil, nil, false}}},
		{"the other comes again", "manual", []step{{0, nil, nil, true}, {2 * time.Second, list(worse), nil, true}, {2 * time.Second, nil, nil, true}, {2 * time.Second, nil, nil, true}}},
		{"better ranks lose nothing", "manual", []step{{0, list(better), nil, true}, {aloneFor, list(better), nil, false}}},
		{"withheld and back", "manual", []step{{0, nil, nil, true}, {aloneFor, nil, nil, false}, {time.Second, nil, gone, true}, {0, list(worse), nil, true}, {aloneFor, list(worse), nil, true}}},
		{"stopping", "manual", []step{{0, nil, nil, true}, {aloneFor, nil, nil, false}, {0, nil, func(in *Inputs) { gone(in); in.Overrides.Shutdown = true }, false}}},
	} {
		now, history := t0, History{}
		for i, s := range tt.steps {
			now = now.Add(s.after)
			in := sample()
			in.Health = nil
			in.Config.VIPs[0].Checks = nil
			in.Config.VIPs[0].Role, in.History = ranked(2, tt.failback), history
			in.BGP.Speakers[0].Seen = s.seen
			if s.edit != nil {
				s.edit(&in)
			}
			d := Plan(in, now)
			history = d.History
			if d.VIPs[0].Behind != s.behind {
				t.Errorf("%s: step %d: behind is %t", tt.name, i, d.VIPs[0].Behind)
			}
			if d.VIPs[0].Behind && s.seen == nil && d.VIPs[0].Announced && (d.Recheck.IsZero() || d.Recheck.After(now.Add(aloneFor))) {
				t.Errorf("%s: step %d: nobody looks again in time", tt.name, i)
			}
		}
	}
}

// A process that takes over from one that has just ended goes on in front while
// routers keep the routes, and not for longer.
func TestFailbackAdopted(t *testing.T) {
	t.Parallel()
	look := func(after time.Duration, adopted bool) bool {
		in := sample()
		in.Adopted, in.StartedAt, in.BGP = adopted, t0.Add(-after), nil
		in.Config.VIPs[0].Role = ranked(1, "manual")
		in.History.Roles = map[netip.Prefix]RoleHistory{prefix("10.68.6.1/32"): {Front: true}}
		return Plan(in, t0).VIPs[0].Behind
	}
	if look(time.Second, true) {
		t.Error("fell behind although its routes are kept")
	}
	if !look(time.Minute, true) || !look(time.Second, false) {
		t.Error("in front although its routes are gone")
	}
}

// The order waits until it is carried out, and is then forgotten.
func TestFailbackOrder(t *testing.T) {
	t.Parallel()
	var f failbacks
	p := prefix("10.68.6.1/32")
	f.settle(History{})
	if f.list() != nil {
		t.Error("an order that nobody gave")
	}
	f.add(p)
	f.settle(History{Roles: map[netip.Prefix]RoleHistory{p: {}}})
	if !f.list()[p] {
		t.Error("forgotten too early")
	}
	f.settle(History{Roles: map[netip.Prefix]RoleHistory{p: {Front: true}}})
	if f.list() != nil {
		t.Error("not forgotten")
	}
}

func TestRoleTransitions(t *testing.T) {
	t.Parallel()
	vip := func(r *status.Role) *status.Status {
		return &status.Status{VIPs: []status.VIP{{Name: "a", Announced: true, Role: r}}}
	}
	twice := status.Other{ASN: 65020, Duplicate: "it has no rank"}
	for _, tt := range []struct {
		prev, next *status.Role
		want       string
	}{
		{&status.Role{Rank: 1}, &status.Role{Rank: 1, Behind: true}, "vip behind all ranks"},
		{&status.Role{Rank: 1, Behind: true}, &status.Role{Rank: 1}, "vip announced with its rank"},
		{&status.Role{Rank: 1}, &status.Role{Rank: 1, Others: []status.Other{twice}}, "vip claimed by another host"},
		{&status.Role{Rank: 1, Others: []status.Other{twice}}, &status.Role{Rank: 1}, "vip no longer claimed by another host"},
		{&status.Role{Rank: 1, Others: []status.Other{twice}}, &status.Role{Rank: 1, Others: []status.Other{twice}}, ""},
		{&status.Role{Rank: 1}, nil, ""},
	} {
		got := ""
		for _, tr := range transitions(vip(tt.prev), vip(tt.next), troubles{}) {
			got += tr.Event.Message
		}
		if got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
