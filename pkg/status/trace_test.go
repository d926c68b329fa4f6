package status

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTraceText compares what is printed of traces.
func TestTraceText(t *testing.T) {
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		trace Trace
		want  string
	}{
		"out": {
			Trace{
				Direction: TraceOut, To: addr("192.0.2.1"), From: addr("10.68.6.1"), VIP: "vipa", Reason: SourcePreferred, Detail: "what leaves by en1",
				Steps: []TraceStep{{
					Name: "packet", Rules: []string{"0: from all lookup local", "32101: from 10.68.6.1 lookup 6801"}, Table: "6801",
					Route: "default via 10.68.1.2 dev en1", MTU: 1400,
					Hops: []TraceHop{{
						Interface: "en1", Gateway: addr("10.68.1.2"), Neighbour: "reachable", LinkAddress: "02:00:00:00:00:01",
						Sessions: []TracePeer{{"10.68.1.2", "Established"}},
					}},
				}},
			},
			`192.0.2.1 from 10.68.6.1 (vipa): preferred_source: what leaves by en1

STEP    WHAT       VALUE
packet  rule       0: from all lookup local
        rule       32101: from 10.68.6.1 lookup 6801
        table      6801
        route      default via 10.68.1.2 dev en1
        interface  en1 via 10.68.1.2
        neighbour  10.68.1.2 reachable 02:00:00:00:00:01
        session    10.68.1.2 Established
`,
		},
		"not reached": {
			Trace{Direction: TraceOut, To: addr("192.0.2.1"), Reason: SourceUnreachable, Detail: "blackhole", Steps: []TraceStep{{Name: "source", Unreachable: "blackhole"}}},
			`192.0.2.1 is not reached: unreachable: blackhole

STEP    WHAT   VALUE
source  route  blackhole
`,
		},
		"no VIP": {
			Trace{Direction: TraceOut, To: addr("192.0.2.1"), From: addr("10.1.0.1"), Reason: SourceNone, Detail: "no VIP is a preferred source of it"},
			`192.0.2.1 from 10.1.0.1: no_source: no VIP is a preferred source of it

STEP  WHAT  VALUE
`,
		},
		"in": {
			Trace{
				Direction: TraceIn, To: addr("10.68.6.1"), VIP: "vipa", Reason: CheckFailed, Detail: "check web",
				Steps: []TraceStep{
					{Name: "announced", Reason: CheckFailed, Detail: "check web", Hops: []TraceHop{{Interface: "en1", Sessions: []TracePeer{{"10.68.1.2", "Idle"}}}}},
					{Name: "announced", Announced: true, NextHop: addr("10.68.5.1"), Hops: []TraceHop{{Interface: "en5"}}},
					{Name: "delivery", Rules: []string{"0: from all lookup local"}, Table: "local", Route: "local 10.68.6.1 dev vi0", Hops: []TraceHop{{Interface: "vi0"}}},
				},
			},
			`vipa 10.68.6.1 is withheld: check_failed: check web

STEP       WHAT       VALUE
announced  interface  en1
           path       withheld: check_failed: check web
           session    10.68.1.2 Idle
announced  interface  en5
           path       announced, next hop 10.68.5.1
delivery   rule       0: from all lookup local
           table      local
           route      local 10.68.6.1 dev vi0
           interface  vi0
`,
		},
	} {
		var b strings.Builder
		if err := c.trace.WriteText(&b, Style{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, b.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
