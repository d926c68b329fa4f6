package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const runtimeBase = `
bgp: {asn: 65010, router_id: 10.68.1.1}
interfaces:
  - name: en1
    peers: [{address: 10.68.1.2, asn: 65001, families: ipv4}]
    path_probe: {target: 10.68.8.1}
  - {name: en5, peers: [{address: 10.68.5.2, asn: 65001, families: ipv4}]}
vips:
  - {name: vipa, address: 10.68.6.1, preferred_source: true}
egress: {import: [10.68.6.96/28]}
runtime_vips: {allowed_prefixes: [10.68.6.0/24, 10.68.8.0/24, "fd68::/64"]}
`

// TestRuntimeVIPs: what is added is as if the file had it; what is refused says
// why, without the words of a file.
func TestRuntimeVIPs(t *testing.T) {
	c, err := Parse([]byte(runtimeBase), "yaml", "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	same, refused := c.WithVIPs(nil)
	if same != c || len(refused) > 0 {
		t.Error("nothing is added, and something changes")
	}
	got, refused := c.WithVIPs([]RuntimeVIP{
		{Name: "one", Spec: []byte(`{"address": "10.68.6.9", "interfaces": ["en5"], "announce": {"communities": ["65010:7"], "med": 5}, "drain": {"time": "1s"}}`)},
		{Name: "two", Spec: []byte(`{"address": "10.68.6.128/28", "role": {"rank": 2}}`)},
	})
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	med := uint32(5)
	text := strings.Replace(runtimeBase, "egress", `  - {name: one, address: 10.68.6.9, interfaces: [en5], announce: {communities: ["65010:7"], med: 5}, drain: {time: 1s}}
  - {name: two, address: 10.68.6.128/28, role: {rank: 2}}
egress`, 1)
	want, err := Parse([]byte(text), "yaml", "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want.VIPs[1].Runtime, want.VIPs[2].Runtime = true, true
	if diff := cmp.Diff(want, got, equalAddresses()); diff != "" {
		t.Errorf("not as in a file:\n%s", diff)
	}
	if len(c.VIPs) != 1 || *got.VIPs[1].Announce.MED != med || got.VIPs[1].Drain.Time != time.Second {
		t.Error("the configuration itself is changed, or nothing of the entry counts")
	}

	for spec, want := range map[string]string{
		`{"address": "10.68.6.1"}`:                              "address: \"10.68.6.1\": is the address of VIP vipa too",
		`{"address": "10.68.6.0/28"}`:                           "address: \"10.68.6.0/28\": overlaps VIP vipa, which is 10.68.6.1/32",
		`{"address": "10.68.7.1"}`:                              "address: \"10.68.7.1\": is not in runtime_vips.allowed_prefixes, which are 10.68.6.0/24, 10.68.8.0/24, fd68::/64",
		`{"address": "10.68.8.0/23"}`:                           "is not in runtime_vips.allowed_prefixes",
		`{"address": "10.68.8.1"}`:                              "address: \"10.68.8.1\": holds the target of interfaces[0].path_probe, which would not be reached any more",
		`{"address": "10.68.6.96/27"}`:                          "address: \"10.68.6.96/27\": holds egress.import[0], which is 10.68.6.96/28: this host itself would answer",
		`{"address": "fd68::1"}`:                                "reaches nobody",
		`{"address": "127.0.0.1"}`:                              "must not touch the loopback addresses",
		`{"address": "10.68.6.7/24"}`:                           "address: \"10.68.6.7/24\"",
		`{}`:                                                    "address: is required",
		`{"address": "10.68.6.7", "preferred_source": true}`:    `preferred_source: true: is set for IPv4 on interface "en1" by VIP vipa already`,
		`{"address": "10.68.6.7", "interfaces": ["en9"]}`:       `interfaces[0]: "en9": is not the name of a listed interface; did you mean`,
		`{"address": "10.68.6.7", "announce": {"prepend": 11}}`: "announce.prepend: 11: must be a number from 0 to 10",
		`{"address": "10.68.6.7", "checks": [{"exec": {"command": ["/bin/sh"]}}]}`: "checks: is not a key of a VIP that is added at run time; those are address, announce,",
		`{"address": "10.68.6.7", "name": "other"}`:                                "name: is not a key of a VIP",
		`{"address": "10.68.6.7", "address": "10.68.6.8"}`:                         "address: is given twice",
		`[]`:           "must be a mapping",
		`{"address": `: "vip x: ",
	} {
		next, not := c.WithVIPs([]RuntimeVIP{{Name: "x", Spec: []byte(spec)}})
		if why := not["x"]; why == nil || !strings.Contains(why.Error(), want) || strings.Contains(why.Error(), "vips[") {
			t.Errorf("%s: %v, want %s", spec, why, want)
		}
		if next != c {
			t.Errorf("%s: has an effect", spec)
		}
	}
	for _, name := range []string{"vipa", "-x", strings.Repeat("x", 65)} {
		if _, not := c.WithVIPs([]RuntimeVIP{{Name: name, Spec: []byte(`{"address": "10.68.6.7"}`)}}); not[name] == nil {
			t.Errorf("name %q is taken", name)
		}
	}
	// The one that is first wins; the others still count.
	got, refused = c.WithVIPs([]RuntimeVIP{
		{Name: "a", Spec: []byte(`{"address": "10.68.6.7"}`)}, {Name: "b", Spec: []byte(`{"address": "10.68.6.7"}`)}, {Name: "c", Spec: []byte(`{"address": "10.68.6.8"}`)},
	})
	if len(got.VIPs) != 3 || len(refused) != 1 || !strings.Contains(fmt.Sprint(refused["b"]), "is the address of VIP a too") {
		t.Errorf("%d VIPs, refused %v", len(got.VIPs), refused)
	}
	c.RuntimeVIPs.AllowedPrefixes = nil
	if _, refused = c.WithVIPs([]RuntimeVIP{{Name: "a", Spec: []byte(`{"address": "10.68.6.7"}`)}}); !strings.Contains(fmt.Sprint(refused["a"]), "is not allowed: runtime_vips.allowed_prefixes is empty") {
		t.Errorf("none is allowed: %v", refused)
	}
}

// TestManyRuntimeVIPs: what many VIPs cost grows with their number, and no faster:
// every order makes the configuration anew.
func TestManyRuntimeVIPs(t *testing.T) {
	text := strings.Replace(runtimeBase, "[10.68.6.0/24", "[10.70.0.0/16, 10.68.6.0/24", 1)
	c, err := Parse([]byte(text), "yaml", "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cost := func(n int) float64 {
		list := make([]RuntimeVIP, n)
		for i := range list {
			list[i] = RuntimeVIP{Name: fmt.Sprint("v", i), Spec: fmt.Appendf(nil, `{"address": "10.70.%d.%d"}`, i/250, i%250)}
		}
		return testing.AllocsPerRun(1, func() {
			if got, refused := c.WithVIPs(list); len(refused) > 0 || len(got.VIPs) != n+1 {
				t.Errorf("%d VIPs, refused %v", len(got.VIPs), refused)
			}
		})
	}
	if few, many := cost(50), cost(500); many > 20*few {
		t.Errorf("50 VIPs take %.0f allocations, 500 take %.0f", few, many)
	}
}
