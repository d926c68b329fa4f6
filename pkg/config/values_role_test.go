package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRoleValues(t *testing.T) {
	t.Parallel()
	file := `bgp: {asn: 65010}
interfaces: [{name: en1, peers: [{address: 10.68.1.2, asn: 65001}]}]
vips:
  - {address: 10.69.0.1, role: {rank: 1}}
  - address: 10.69.0.2
    exclusive: true
    role:
      rank: 254
      failback: manual
      tag: false
      announce: {med: 0, local_pref: 1, prepend: 10, communities: ["65010:1"], large_communities: ["65010:1:2"], extended_communities: ["rt:65010:100"]}
  - {address: 10.69.0.3}
`
	cfg, err := Parse([]byte(file), "yaml", "f")
	if err != nil {
		t.Fatal(err)
	}
	zero, one, ten := uint32(0), uint32(1), 10
	want := []*Role{
		{Rank: 1, Failback: "immediate", Tag: true},
		{
			Rank: 254, Failback: "manual", MED: &zero, LocalPref: &one, Prepend: &ten, Communities: []uint32{65010<<16 | 1},
			LargeCommunities: []LargeCommunity{{65010, 1, 2}}, ExtendedCommunities: []ExtendedCommunity{{0, 2, 0xfd, 0xf2, 0, 0, 0, 100}},
		},
		nil,
	}
	for i, w := range want {
		if diff := cmp.Diff(w, cfg.VIPs[i].Role); diff != "" {
			t.Errorf("vips[%d].role (-want +got):\n%s", i, diff)
		}
		if cfg.VIPs[i].Exclusive != (i == 1) {
			t.Errorf("vips[%d].exclusive is %t", i, cfg.VIPs[i].Exclusive)
		}
	}
}
