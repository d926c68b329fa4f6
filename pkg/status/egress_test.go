package status

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// withEgress adds what peers told: one route with a leg of two, one whose last leg
// stays, and one that nobody sends.
func withEgress(s *Status) *Status {
	leg := func(name, hop string, used bool, reason string) Leg {
		weight := 0
		if used {
			weight = 1
		}
		return Leg{Interface: name, NextHop: netip.MustParseAddr(hop), Peer: netip.MustParseAddr(hop), Used: used, Weight: weight, Reason: reason}
	}
	s.Egress = &Egress{Install: "source", Routes: []Route{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Legs: []Leg{
			leg("en1", "10.68.1.2", true, ""), leg("en5", "10.68.5.2", false, "session with 10.68.5.2 is down"),
			leg("", "192.0.2.1", false, "next hop 192.0.2.1 is on the network of no listed interface"),
		}},
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Static: true, Legs: []Leg{leg("en1", "10.68.1.2", true, "BFD with 10.68.1.2 down")}},
		{Prefix: netip.MustParsePrefix("::/0"), Legs: []Leg{}},
	}}
	return s
}

func TestEgress(t *testing.T) {
	t.Parallel()
	s := withEgress(sample())
	var b strings.Builder
	if err := WriteText(&b, s, Style{}, s.Time.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	words := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"LEARNED INTERFACE NEXT HOP PEER WEIGHT USED WHY 0.0.0.0/0 en1 10.68.1.2 10.68.1.2 1 yes",
		"en5 10.68.5.2 10.68.5.2 - no session with 10.68.5.2 is down", "- 192.0.2.1 192.0.2.1 - no next hop 192.0.2.1 is on",
		"10.0.0.0/8 en1 10.68.1.2 10.68.1.2 1 yes the last leg stays: BFD with 10.68.1.2 down", "::/0 - - - - no no peer sends it",
	} {
		if !strings.Contains(words, want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	store, reg := newRegistry(t)
	store.Publish(s)
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP vipspeaker_egress_legs Legs in use of the route learned from peers, on the interface.
# TYPE vipspeaker_egress_legs gauge
vipspeaker_egress_legs{interface="en1",prefix="0.0.0.0/0"} 1
vipspeaker_egress_legs{interface="en1",prefix="10.0.0.0/8"} 1
vipspeaker_egress_legs{interface="en1",prefix="::/0"} 0
vipspeaker_egress_legs{interface="en5",prefix="0.0.0.0/0"} 0
vipspeaker_egress_legs{interface="en5",prefix="10.0.0.0/8"} 0
vipspeaker_egress_legs{interface="en5",prefix="::/0"} 0
# HELP vipspeaker_egress_routes Routes learned from peers that have a leg in use.
# TYPE vipspeaker_egress_routes gauge
vipspeaker_egress_routes 2
# HELP vipspeaker_egress_static 1 if all legs of the learned route look dead and the last ones stay.
# TYPE vipspeaker_egress_static gauge
vipspeaker_egress_static{prefix="0.0.0.0/0"} 0
vipspeaker_egress_static{prefix="10.0.0.0/8"} 1
vipspeaker_egress_static{prefix="::/0"} 0
`), "vipspeaker_egress_routes", "vipspeaker_egress_legs", "vipspeaker_egress_static"); err != nil {
		t.Error(err)
	}
}
