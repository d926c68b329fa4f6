package status

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestDrainIsShown: the table has a line for each VIP that is out of use or on its
// way, and a gate says why.
func TestDrainIsShown(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	three, none := 3, 0
	vip := func(name string, announced bool, d *Drain) VIP {
		v := VIP{Name: name, Prefix: netip.MustParsePrefix("10.68.6.1/32"), Bound: true, Announced: announced, Drain: d, Interfaces: []VIPInterface{
			{Interface: "en1", Wanted: announced, Announced: announced},
		}}
		if !announced {
			v.Reason, v.Interfaces[0].Reason = Drained, Drained
		}
		return v
	}
	s := &Status{Interfaces: []Interface{{Name: "en1", Usable: true}}, VIPs: []VIP{
		vip("a", true, &Drain{Phase: DrainLeaving, Reason: "new disks", Since: at(-10), Withdraw: at(20), Deadline: at(80), Until: at(7200), Connections: &three}),
		vip("b", false, &Drain{Phase: DrainWaiting, Since: at(-40), Withdraw: at(-10), Deadline: at(50), Connections: &three}),
		vip("c", false, &Drain{Phase: DrainDone, Since: at(-400), Withdraw: at(-370), Deadline: at(-310), Connections: &none}),
		vip("d", false, &Drain{Phase: DrainWaiting, Reason: "orders.json is damaged"}),
		vip("e", true, nil),
	}}
	var b strings.Builder
	writeDrains(&b, s, Style{}, now)
	want := `
DRAIN  PHASE    FOR    UNTIL      CONNECTIONS  NEXT              REASON
a      leaving  10s    in 2h00m   3            withdrawn in 20s  new disks
b      waiting  40s    undrained  3            reset in 50s
c      drained  6m40s  undrained  0            -
d      waiting  -      undrained  -            -                 orders.json is damaged
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("table:\n%s", diff)
	}
	if got := pathCell(&s.VIPs[0], "en1").text + " " + pathCell(&s.VIPs[1], "en1").text; got != "draining drained" {
		t.Errorf("cells %q", got)
	}
	gates := map[string]string{}
	for _, v := range s.VIPs {
		e, err := s.Explain(v.Name, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range e.Gates {
			if g.Name == "drained" {
				gates[v.Name] = string(g.State) + " " + g.Detail
			}
		}
		if answer := e.answer(Style{}); v.Name == "a" && answer != "announced, draining, on en1" {
			t.Errorf("answer %q", answer)
		}
	}
	if diff := cmp.Diff(map[string]string{
		"a": "ok leaving for 10s, 3 connections left, withdrawn in 20s, ends by itself in 2h00m: new disks",
		"b": "no waiting for 40s, 3 connections left, reset in 50s",
		"c": "no drained for 6m40s, 0 connections left",
		"d": "no waiting: orders.json is damaged",
	}, gates); diff != "" {
		t.Errorf("gates:\n%s", diff)
	}
	b.Reset()
	writeDrains(&b, &Status{VIPs: s.VIPs[4:]}, Style{}, now)
	if b.Len() > 0 {
		t.Errorf("nothing is drained: %q", &b)
	}
}
