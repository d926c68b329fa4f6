package lab

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func parsed(t *testing.T, got any, err error, want any) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseFRR(t *testing.T) {
	got, err := parseFRR(`{"prefix":"10.68.6.1/32","paths":[
{"aspath":{"string":"65010 65010","length":2},"origin":"IGP","metric":68,"locPrf":0,"valid":true,"stale":true,
 "community":{"string":"65010:100 graceful-shutdown","list":["65010:100","gracefulShutdown"]},
 "largeCommunity":{"string":"65010:1:2","list":["65010:1:2"]},
 "nexthops":[{"ip":"fe80::1","afi":"ipv6","scope":"global"}],"peer":{"peerId":"fe80::1","interface":"e3"}},
{"aspath":{"string":"65010"},"addpathRxId":2,"nexthops":[{"ip":"10.68.16.1"}],"peer":{"peerId":"10.68.255.1"}}]}`)
	parsed(t, got, err, []Path{
		{
			Peer: address("fe80::1"), NextHop: address("fe80::1"), ASPath: []uint32{65010, 65010}, MED: new(uint32(68)), LocalPref: new(uint32(0)),
			Communities: []string{"65010:100", "65535:0"}, LargeCommunities: []string{"65010:1:2"}, Stale: true,
		},
		{Peer: address("10.68.255.1"), ID: 2, NextHop: address("10.68.16.1"), ASPath: []uint32{65010}},
	})
	got, err = parseFRR("{}\n")
	parsed(t, got, err, []Path(nil))
}

const birdSessions = `BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
kernel4    Kernel     master4    up     19:52:46.907
on_ipv4    BGP        ---        up     19:52:48.849  Established
  BGP state:          Established
    Neighbor address: 10.68.11.1
    Neighbor AS:      65010
on_wrong   BGP        ---        start  19:52:46.907  Connect
  BGP state:          Connect
    Neighbor address: 10.68.13.1
unnumbered_1 BGP        ---        up     19:52:51.905  Established
  BGP state:          Established
    Neighbor address: fe80::1%e3
`

func TestParseBIRD(t *testing.T) {
	protocols := parseBIRDProtocols(birdSessions)
	parsed(t, protocols, nil, map[string]Neighbor{
		"on_ipv4": {address("10.68.11.1"), true}, "on_wrong": {address("10.68.13.1"), false}, "unnumbered_1": {address("fe80::1"), true},
	})
	got := parseBIRD(`BIRD 2.0.12 ready.
Table master4:
10.68.6.1/32         unicast [on_ipv4 19:52:48.856] * (100) [AS65010i]
	via 10.68.11.1 on e1
	Type: BGP univ
	BGP.origin: IGP
	BGP.as_path: 65010
	BGP.next_hop: 10.68.11.1
	BGP.med: 68
	BGP.local_pref: 100
	BGP.community: (65010,100) (65535,0)
	BGP.large_community: (65010, 1, 2)
                     unreachable [unnumbered_1 19:52:51.915 from fe80::1] (100) [AS65010i]
	BGP.as_path: 65010
	BGP.next_hop: :: fe80::1
	BGP.local_pref: 0
`, protocols)
	parsed(t, got, nil, []Path{
		{
			Peer: address("10.68.11.1"), NextHop: address("10.68.11.1"), ASPath: []uint32{65010}, MED: new(uint32(68)), LocalPref: new(uint32(100)),
			Communities: []string{"65010:100", "65535:0"}, LargeCommunities: []string{"65010:1:2"},
		},
		{Peer: address("fe80::1"), NextHop: address("fe80::1"), ASPath: []uint32{65010}, LocalPref: new(uint32(0))},
	})
}

func TestParseOpenBGPD(t *testing.T) {
	got, err := parseOpenBGPD(`{"rib":[{"prefix":"10.68.6.1/32","aspath":"65010","exit_nexthop":"10.68.16.1","true_nexthop":"10.68.16.2",
"neighbor":{"remote_addr":"10.68.255.1","bgp_id":"10.68.255.1"},"path_id":2,"valid":true,"stale":true,"origin":"IGP","metric":68,"localpref":0,
"communities":["65010:100","GRACEFUL_SHUTDOWN"],"large_communities":["65010:1:2"]}]}`)
	parsed(t, got, err, []Path{{
		Peer: address("10.68.255.1"), ID: 2, NextHop: address("10.68.16.1"), ASPath: []uint32{65010}, MED: new(uint32(68)), LocalPref: new(uint32(0)),
		Communities: []string{"65010:100", "65535:0"}, LargeCommunities: []string{"65010:1:2"}, Stale: true,
	}})
	got, err = parseOpenBGPD("{\n\n}\n")
	parsed(t, got, err, []Path(nil))
}

// ExaBGP's events come to a table: what is announced again replaces, what is
// withdrawn goes, and a session that ends takes its paths along.
func TestParseExaBGP(t *testing.T) {
	const (
		peer = `"neighbor": { "address": { "local": "10.68.255.2", "peer": "10.68.255.1" }, "asn": { "local": 65000, "peer": 65010 } , `
		up   = `{ "type": "state", ` + peer + `"state": "up" } }` + "\n"
		down = `{ "type": "state", ` + peer + `"state": "down", "reason": "peer reset" } }` + "\n"
		head = `{ "type": "update", ` + peer + `"direction": "receive", "message": `
		two  = head + `{ "update": { "attribute": { "origin": "igp", "as-path": [ 65010 ], "confederation-path": [], "med": 68, "community": [ [ 65010, 100 ] ], "large-community": [ [ 65010, 1 , 2 ] ] }, "announce": { "ipv4 unicast": { "10.68.11.1": [ { "nlri": "10.68.6.2/32", "path-information": "0.0.0.1" } ], "10.68.16.1": [ { "nlri": "10.68.6.2/32", "path-information": "0.0.1.2" } ] } } } } } }` + "\n"
		eor  = head + `{ "eor": { "afi" : "ipv4", "safi" : "unicast" } } } }` + "\n"
		gone = head + `{ "update": { "withdraw": { "ipv4 unicast": [ { "nlri": "10.68.6.2/32", "path-information": "0.0.0.1" } ] } } } } }` + "\n"
	)
	path := Path{
		Peer: address("10.68.255.1"), ID: 258, NextHop: address("10.68.16.1"), ASPath: []uint32{65010}, MED: new(uint32(68)),
		Communities: []string{"65010:100"}, LargeCommunities: []string{"65010:1:2"},
	}
	for name, tt := range map[string]struct {
		events string
		up     bool
		want   []Path
	}{
		"both":         {up + two + eor, true, []Path{{Peer: path.Peer, ID: 1, NextHop: address("10.68.11.1"), ASPath: path.ASPath, MED: path.MED, Communities: path.Communities, LargeCommunities: path.LargeCommunities}, path}},
		"one is gone":  {up + two + eor + gone, true, []Path{path}},
		"down":         {up + two + eor + down, false, nil},
		"half a line":  {up + two + gone + down[:20], true, []Path{path}},
		"up and empty": {up, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := parseExaBGP(tt.events)
			if err != nil {
				t.Fatal(err)
			}
			if table.neighbors[path.Peer] != tt.up {
				t.Errorf("neighbours %v", table.neighbors)
			}
			var got []Path
			for _, id := range []uint32{1, 258} {
				if p, ok := table.paths[exaBGPKey{path.Peer, "10.68.6.2/32", id}]; ok {
					got = append(got, p)
				}
			}
			parsed(t, got, nil, tt.want)
		})
	}
	if _, err := parseExaBGP("{ broken\n"); err == nil {
		t.Error("a broken line is taken")
	}
}

func TestParseGoBGP(t *testing.T) {
	got, err := parseGoBGP(`{"10.68.6.1/32":[{"nlri":{"prefix":"10.68.6.1/32"},"age":1,"best":true,"attrs":[{"type":1,"value":0},
{"type":2,"as_paths":[{"segment_type":2,"num":1,"asns":[65010]}]},{"type":4,"metric":68},{"type":5,"value":1},{"type":8,"communities":[4260495460,4294901760]},
{"type":32,"value":[{"ASN":65010,"LocalData1":1,"LocalData2":2}]},{"type":14,"nexthop":"fd68:12::1","afi":1,"safi":1,"value":[{"prefix":"10.68.6.1/32"}]}],
"stale":true,"source-id":"10.68.255.1","neighbor-ip":"fe80::1%e3"}]}`)
	parsed(t, got, err, []Path{{
		Peer: address("fe80::1"), NextHop: address("fd68:12::1"), ASPath: []uint32{65010}, MED: new(uint32(68)), LocalPref: new(uint32(1)),
		Communities: []string{"65010:100", "65535:0"}, LargeCommunities: []string{"65010:1:2"}, Stale: true,
	}})
	id := goBGPID("   ID  Network  Next Hop  AS_PATH\n   3   10.68.6.2/32  10.68.11.1  65010\n   4   10.68.6.2/32  10.68.16.1  65010\n", netip.MustParsePrefix("10.68.6.2/32"), address("10.68.16.1"))
	if id != 4 {
		t.Errorf("ID %d, want 4", id)
	}
}
