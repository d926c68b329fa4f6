package topologies

import (
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// birdRewrite changes BIRD's configuration and has it read anew.
func birdRewrite(t *testing.T, n *lab.Node, replace ...string) {
	t.Helper()
	const path = "/etc/bird/bird.conf"
	text := n.Run("cat", path)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("node %s: no %q in\n%s", n.Name, replace[i], text)
		}
	}
	n.WriteFile(path, strings.NewReplacer(replace...).Replace(text))
	if out := n.BIRDC("configure"); !strings.Contains(out, "econfigur") {
		t.Fatalf("birdc configure: %s", out)
	}
}

const overIPv6 = `
interfaces:
  - name: en1
    hold_up: 1s
    peers:
      - {address: "fd68:1::2", asn: 65000}
`

// A router that did not offer to take IPv4 with an IPv6 next hop is not sent any
// (RFC 8950 section 4), and once it does it is.
func TestFabricIPv6NextHop(t *testing.T) {
	t.Parallel()
	for topology, tt := range map[string]struct{ families, capability func(*testing.T, *lab.Node) }{
		"onerouter-frr": {
			func(_ *testing.T, n *lab.Node) {
				frrConfigure(n, "router bgp 65000", "address-family ipv4 unicast", "neighbor fd68:1::1 activate")
			},
			func(_ *testing.T, n *lab.Node) {
				frrConfigure(n, "router bgp 65000", "neighbor fd68:1::1 capability extended-nexthop")
			},
		},
		"onerouter-bird": {
			func(t *testing.T, n *lab.Node) {
				t.Helper()
				birdRewrite(t, n, "neighbor fd68:1::1 as 65010;", "neighbor fd68:1::1 as 65010;\n  ipv4 {\n    import all;\n    export none;\n  };")
			},
			func(t *testing.T, n *lab.Node) {
				t.Helper()
				birdRewrite(t, n, "as 65010;\n  ipv4 {\n    import all;\n    export none;\n  };", "as 65010;\n  ipv4 {\n    import all;\n    export none;\n    extended next hop on;\n  };")
			},
		},
	} {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t, topology)
			host, router := l.Node("host"), l.Node("router")
			host.Run("ip", "addr", "del", "10.68.1.1/24", "dev", "en1") // it would be the next hop
			tt.families(t, router)
			wire := host.Capture()
			host.WriteFile(lab.ConfigPath, fabricHead+overIPv6+fabricVIPs)
			s := lab.StartSpeaker(host, binary(t))
			st := s.WaitStatus(20*time.Second, "IPv6 is announced", func(st *status.Status) error {
				return lab.That(len(st.VIPs) == 2 && st.VIPs[1].Announced, "%+v", st.VIPs)
			})
			waitLegs(t, router, vip6, "e1")
			if n := st.Peers[0].Negotiated; n == nil || n.ExtendedNextHop || !slices.Equal(n.Families, []string{"ipv4", "ipv6"}) {
				t.Errorf("negotiated: %+v", n)
			}
			if v := st.VIPs[0]; v.Announced || !strings.Contains(v.Detail, "did not negotiate extended next hop") {
				t.Errorf("VIP: %+v", v)
			}
			for _, m := range wire.Messages() {
				if m.Announces(vip4) {
					t.Errorf("sent %v", m)
				}
			}
			waitLegs(t, router, vip4)

			tt.capability(t, router)
			s.WaitStatus(20*time.Second, "both are announced", lab.Established)
			waitLegs(t, router, vip4, "e1")
			waitLegs(t, router, vip6, "e1")
		})
	}
}
