package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

const unnumberedOnly = `
interfaces:
  - name: en1
    hold_up: 1s
    peers:
      - {unnumbered: true, asn: external}
  - name: en5
    hold_up: 1s
    peers:
      - {address: 10.68.5.2, asn: 65000}
      - {address: "fd68:5::2", asn: 65000}
`

// A session without addresses carries both families, and outlives the loss of its
// link, another router in the place of the old one, and another interface in the
// place of its own.
func TestFabricUnnumbered(t *testing.T) {
	t.Parallel()
	l, s := startFabric(t, unnumberedOnly)
	leaf := l.Node("leaf")
	both := func(when string) {
		t.Helper()
		for _, vip := range []netip.Prefix{vip4, vip6} {
			waitLegs(t, leaf, vip, "e1", "e5")
		}
		t.Logf("%s: both families over both links", when)
	}
	both("at first")
	st := s.WaitStatus(20*time.Second, "negotiated", lab.Established)
	p := st.Peers[0]
	if p.Found != "unnumbered" || p.Address.Zone() != "en1" || !p.Address.IsLinkLocalUnicast() || p.ASN != 65000 || p.LocalAddress.Zone() != "en1" {
		t.Errorf("unnumbered peer: %+v", p)
	}
	if n := p.Negotiated; n == nil || !n.ExtendedNextHop || !slices.Equal(n.Families, []string{"ipv4", "ipv6"}) || n.RouterID != netip.MustParseAddr("10.68.5.2") || n.HoldTime != 9*time.Second {
		t.Errorf("negotiated: %+v", n)
	}
	hops, err := leaf.Route(vip6)
	if err != nil || !slices.ContainsFunc(hops, func(h lab.Hop) bool { return h.Dev == "e1" && h.Via == p.LocalAddress.WithZone("") }) {
		t.Errorf("route of %v: %v %v, want one leg via %v", vip6, hops, err, p.LocalAddress)
	}

	failed := time.Now()
	l.Unplug("host", "en1")
	waitLegs(t, leaf, vip4, "e5")
	t.Logf("unplugged: moved after %s", time.Since(failed).Round(time.Millisecond))
	l.Plug("host", "en1")
	s.WaitStatus(20*time.Second, "the link is back", lab.Established)
	both("the link is back")

	// Another router: the same cable, another link-local address.
	leaf.Run("ip", "link", "set", "e1", "down")
	leaf.Run("ip", "link", "set", "e1", "address", "02:00:00:00:68:02")
	leaf.Run("ip", "-6", "addr", "flush", "dev", "e1")
	leaf.Run("ip", "link", "set", "e1", "up")
	s.WaitStatus(30*time.Second, "another router", func(st *status.Status) error {
		if st.Peers[0].Address.WithZone("") != netip.MustParseAddr("fe80::ff:fe00:6802") {
			return fmt.Errorf("peer is still %v", st.Peers[0].Address)
		}
		return lab.Established(st)
	})
	both("another router")

	// Another interface in the place of the host's: other index, other address.
	host := l.Node("host")
	was := p.LocalAddress
	host.Run("ip", "link", "del", "en1")
	waitLegs(t, leaf, vip4, "e5")
	recreate(l, "2000")
	st = s.WaitStatus(30*time.Second, "another interface", func(st *status.Status) error {
		if own := st.Peers[0].LocalAddress; !own.IsValid() || own == was {
			return fmt.Errorf("local address %v", own)
		}
		return lab.Established(st)
	})
	both("another interface")
	if p := st.Peers[0]; p.Found != "unnumbered" || p.Address.Zone() != "en1" {
		t.Errorf("unnumbered peer: %+v", p)
	}
}

// recreate makes the cable between en1 and e1 anew, whose ends have gone.
func recreate(l *lab.Lab, index string) {
	host, leaf := l.Node("host"), l.Node("leaf")
	host.Run("ip", "link", "add", "en1", "index", index, "type", "veth", "peer", "name", "e1", "netns", namespace(leaf))
	host.LinkUp("en1")
	leaf.LinkUp("e1")
}

// The AS of an unnumbered router may be given, or be the own one.
func TestFabricUnnumberedAS(t *testing.T) {
	t.Parallel()
	for asn, own := range map[string]string{"65000": "65010", "internal": "65000"} {
		t.Run(asn, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t, "fabric-frr")
			host, leaf := l.Node("host"), l.Node("leaf")
			if asn == "internal" {
				frrConfigure(leaf, "router bgp 65000", "neighbor e1 interface remote-as internal")
			}
			config := strings.Replace(fabricHead, "65010", own, 1) + `
interfaces:
  - {name: en1, hold_up: 1s, peers: [{unnumbered: true, asn: ` + asn + `}]}
` + fabricVIPs
			host.WriteFile(lab.ConfigPath, config)
			s := lab.StartSpeaker(host, binary(t))
			st := s.WaitStatus(20*time.Second, "established", lab.Established)
			waitLegs(t, leaf, vip4, "e1")
			waitLegs(t, leaf, vip6, "e1")
			if p := st.Peers[0]; p.ASN != 65000 || p.Negotiated == nil || !p.Negotiated.ExtendedNextHop {
				t.Errorf("unnumbered peer: %+v", p)
			}
		})
	}
}

// silentRouters are routers without router advertisements, and how they are told
// of the host's link-local address.
func silentRouters() map[string]struct {
	node  string
	speak func(*testing.T, *lab.Node)
} {
	return map[string]struct {
		node  string
		speak func(*testing.T, *lab.Node)
	}{
		"fabric-frr": {"leaf", func(_ *testing.T, n *lab.Node) {
			frrConfigure(n, "router bgp 65000", "no neighbor e1 interface remote-as external",
				"neighbor fe80::68:1 remote-as 65010", "neighbor fe80::68:1 interface e1", "neighbor fe80::68:1 timers connect 1",
				"neighbor fe80::68:1 capability extended-nexthop",
				"address-family ipv4 unicast", "neighbor fe80::68:1 activate", "exit-address-family",
				"address-family ipv6 unicast", "neighbor fe80::68:1 activate")
			frrConfigure(n, "interface e1", "ipv6 nd suppress-ra")
		}},
		"onerouter-bird": {"router", func(t *testing.T, n *lab.Node) {
			t.Helper()
			birdRewrite(t, n, "neighbor fd68:1::1 as 65010;\n",
				"neighbor fe80::68:1 as 65010;\n  interface \"e1\";\n  ipv4 {\n    import all;\n    export none;\n    extended next hop on;\n  };\n")
		}},
	}
}

// A router that sends no advertisements is found when it looks for the host.
func TestFabricUnnumberedSilentRouter(t *testing.T) {
	t.Parallel()
	for topology, router := range silentRouters() {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t, topology)
			host, n := l.Node("host"), l.Node(router.node)
			host.Run("ip", "-6", "addr", "add", "fe80::68:1/64", "dev", "en1", "nodad")
			host.Run("ip", "-6", "addr", "del", linkLocal(t, host, "en1"), "dev", "en1")
			wire := host.Capture()
			router.speak(t, n)
			host.WriteFile(lab.ConfigPath, fabricHead+`
interfaces:
  - {name: en1, hold_up: 1s, peers: [{unnumbered: true, asn: external}]}
`+fabricVIPs)
			began := time.Now()
			s := lab.StartSpeaker(host, binary(t))
			st := s.WaitStatus(30*time.Second, "established", lab.Established)
			waitLegs(t, n, vip4, "e1")
			waitLegs(t, n, vip6, "e1")
			if p := st.Peers[0]; p.Found != "unnumbered" || p.LocalAddress != netip.MustParseAddr("fe80::68:1%en1") {
				t.Errorf("unnumbered peer: %+v", p)
			}
			const icmp6, advertisement = 58, 134
			for _, packet := range wire.Packets(func(p lab.Packet) bool {
				return !p.Out && p.Proto == icmp6 && p.ICMP == advertisement && p.Time.After(began)
			}) {
				t.Errorf("the router has advertised itself: %v", packet)
			}
		})
	}
}

// linkLocal is the IPv6 link-local address that an interface has made for itself,
// with its length.
func linkLocal(t *testing.T, n *lab.Node, ifc string) string {
	t.Helper()
	for word := range strings.FieldsSeq(n.Run("ip", "-6", "-o", "addr", "show", "dev", ifc, "scope", "link")) {
		if strings.HasPrefix(word, "fe80::") && word != "fe80::68:1/64" {
			return word
		}
	}
	t.Fatalf("%s has no link-local address of its own", ifc)
	return ""
}
