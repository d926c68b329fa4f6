package status

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The gate of a role names who else is seen, and is closed for a duplicate.
func TestRoleGate(t *testing.T) {
	other := Other{Host: netip.MustParseAddr("10.68.2.1"), ASN: 65010, Rank: 2, Leaving: true}
	twice := Other{ASN: 65020, Duplicate: "it has no rank"}
	for _, tt := range []struct {
		role  *Role
		state GateState
		want  string
	}{
		{&Role{Rank: 1, Failback: "idle"}, GateOK, "rank 1, failback idle; no other host is seen"},
		{&Role{Rank: 1, Failback: "manual", Behind: true, Others: []Other{other}}, GateOK, "rank 1, failback manual; behind all ranks; seen: 10.68.2.1 of AS 65010, rank 2, about to go"},
		{&Role{Exclusive: true, Others: []Other{twice}}, GateNo, "exclusive; seen: a host of AS 65020: it has no rank"},
		{&Role{Exclusive: true, Leased: true, Owner: "b", Epoch: 7, Ready: []string{"b", "a"}}, GateOK, "exclusive; owned by b (epoch 7); ready: b, a; no other host is seen"},
		{
			&Role{Exclusive: true, Leased: true, Held: true, Owner: "b", Epoch: 7, KeptUntil: noon.Add(8 * time.Second)}, GateOK,
			"exclusive; owned by b (epoch 7); kept for 8s at most, as a router whose session was lost may still have it from here; nobody is ready; no other host is seen",
		},
		{&Role{Exclusive: true, Leased: true, Held: true, Owner: "b", Epoch: 7, KeptUntil: noon}, GateOK, "exclusive; owned by b (epoch 7); nobody is ready; no other host is seen"},
		{&Role{Exclusive: true, Leased: true, Refused: "no name", Trouble: "no answer"}, GateNo, "exclusive; nobody owns it; nobody is ready; no name; no answer; no other host is seen"},
	} {
		s := sample()
		s.VIPs[0].Role = tt.role
		e, err := s.Explain("vipa", noon)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, g := range e.Gates {
			if g.Name == "role" {
				found = true
				if g.State != tt.state || g.Detail != tt.want {
					t.Errorf("gate %+v, want %s: %s", g, tt.state, tt.want)
				}
			}
		}
		if !found {
			t.Errorf("no gate for %+v", tt.role)
		}
	}
	e, err := sample().Explain("vipa", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range e.Gates {
		if strings.Contains(g.Name, "role") {
			t.Error("a gate without a role")
		}
	}
}
