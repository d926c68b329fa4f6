package doctor

import (
	"net"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// A host on which all is well gives neither findings nor notes.
func TestHealthyHost(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.clean()
		l.becomes("packets arrive", func() bool { return l.arrives(client4, vip4, "en5") && l.arrives(client6, vip6, "en5") })
	})
}

// What comes by en5 while the way back is by en1 is dropped.
func TestStrictReversePathFilter(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.IP("route replace default proto 68 table 6801 via 10.68.1.2 dev en1")
		ns.Sysctl("net/ipv4/conf/en5/rp_filter", "1")
		f := l.finding("rp-filter", Bad, "net.ipv4.conf.en5.rp_filter is 1")
		if l.arrives(client4, vip4, "en5") {
			t.Error("the packet arrives")
		}
		l.run(&f)
		l.becomes("the packet arrives", func() bool { return l.arrives(client4, vip4, "en5") })
		ns.Sysctl("net/ipv4/conf/en5/rp_filter", "0")
		ns.Sysctl("net/ipv4/conf/all/rp_filter", "1") // counts for all
		l.finding("rp-filter", Bad, "net.ipv4.conf.en5.rp_filter is 1")
		l.fix("rp-filter")
	})
}

// With host.sysctls: check settings are reported and left alone, with off not
// looked at, and with set 'run' is trusted to set them.
func TestSysctlModes(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.Sysctl("net/ipv4/conf/en1/rp_filter", "1")
		l.in.Sysctls = SysctlCheck
		r, err := Fix(t.Context(), l.in)
		if err != nil || len(r.Fixed) > 0 || len(r.Findings) != 1 || r.Findings[0].Remedy != ByHand || !strings.Contains(r.Findings[0].Why, "host.sysctls is check") {
			t.Errorf("check: %+v, %v", r, err)
		}
		l.in.Sysctls = SysctlOff
		if r := l.examine("rp-filter"); len(r.All()) > 0 || len(r.NotSeen) != 1 || r.NotSeen[0].Reason != "host.sysctls is off" {
			t.Errorf("off: %+v", r)
		}
		l.in.Sysctls, l.in.Daemon = SysctlSet, nil
		if f := l.finding("rp-filter", Note, "rp_filter is 1"); !strings.Contains(f.Why, "'vipspeaker run' sets it") {
			t.Errorf("before the start: %+v", f)
		}
		l.fix()
	})
}

// Without a route back even the loose filter drops.
func TestNoWayBack(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		for _, table := range []string{"main", "6801", "6802"} {
			ns.IP("route del default table %s", table)
		}
		l.in.Interfaces = l.in.Interfaces[:1]
		f := l.finding("no-way-back", Bad, "net.ipv4.conf.en1.rp_filter is 2, and no default route leads back")
		if l.arrives(client4, vip4, "en1") {
			t.Error("the packet arrives")
		}
		l.run(&f)
		l.becomes("the packet arrives", func() bool { return l.arrives(client4, vip4, "en1") })
	})
}

// A router without a route to the VIP does not answer ARP requests from it.
func TestARPAnnounce(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.far.Sysctl("net/ipv4/conf/all/rp_filter", "1")
		ns.Sysctl("net/ipv4/conf/en1/arp_announce", "0")
		ns.IP("route del default table 6801")
		f := l.finding("arp-announce", Warning, "net.ipv4.conf.en1.arp_announce is 0")
		if from := l.leavesAs(vip4, client4); from != "" {
			t.Errorf("a packet arrives from %q", from)
		}
		ns.IP("neigh flush dev en1")
		l.far.IP("neigh flush dev p1")
		l.run(&f)
		// Its own filter would drop the packet itself, for which it has a route by now.
		l.routeTo(vip4, "en1")
		l.leaves(vip4)
		ns.Sysctl("net/ipv4/conf/en1/arp_announce", "0")
		l.fix("arp-announce")
	})
}

// A route without carrier is used as long as the setting is 0.
func TestLinkdown(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.routeTo(vip4, "en5")
		ns.IP("route replace default proto 68 table 6801 via 10.68.1.2 dev en1")
		ns.IP("route add default proto 68 table 6801 metric 9 via 10.68.5.2 dev en5")
		ns.Sysctl("net/ipv4/conf/en1/ignore_routes_with_linkdown", "0")
		l.far.IP("link set dev p1 down")
		l.becomes("the route has no carrier", func() bool { return strings.Contains(ns.IP("route show table 6801"), "linkdown") })
		f := l.finding("linkdown", Warning, "net.ipv4.conf.en1.ignore_routes_with_linkdown is 0")
		if out := ns.IP("route get 10.68.9.9 from 10.68.6.1"); !strings.Contains(out, "dev en1") {
			t.Errorf("route without carrier is not used: %s", out)
		}
		l.run(&f)
		if out := ns.IP("route get 10.68.9.9 from 10.68.6.1"); !strings.Contains(out, "dev en5") {
			t.Errorf("route with carrier is not used: %s", out)
		}
		ns.Sysctl("net/ipv6/conf/all/ignore_routes_with_linkdown", "1") // sets all, and counts for none later
		ns.Sysctl("net/ipv6/conf/en5/ignore_routes_with_linkdown", "0")
		l.finding("linkdown", Warning, "net.ipv6.conf.en5.ignore_routes_with_linkdown is 0")
		l.fix("linkdown")
	})
}

// With the hash of addresses all connections of two hosts share one interface.
func TestMultipathHash(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		spread := func() bool {
			seen := map[string]bool{}
			for _, port := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20"} {
				out := ns.IP("route get 10.68.9.9 from 10.68.6.1 ipproto tcp sport 999 dport %s", port)
				_, rest, _ := strings.Cut(out, "dev ")
				seen[strings.Fields(rest)[0]] = true
			}
			return len(seen) == 2
		}
		ns.Sysctl("net/ipv4/fib_multipath_hash_policy", "0")
		ns.Sysctl("net/ipv6/fib_multipath_hash_policy", "0")
		f := l.finding("multipath-hash", Note, "net.ipv4.fib_multipath_hash_policy is 0, net.ipv6.fib_multipath_hash_policy is 0")
		if spread() {
			t.Error("connections are spread")
		}
		l.run(&f)
		if !spread() {
			t.Error("connections are not spread")
		}
		ns.Sysctl("net/ipv4/fib_multipath_hash_policy", "0")
		l.fix("multipath-hash")
	})
}

// Another host with the same VIP cannot be heard from it.
func TestAcceptLocal(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.far.IP("addr add 10.68.6.1/32 dev lo") // the twin
		ns.IP("route add 10.68.6.1/32 via 10.68.5.2 proto bgp")
		f := l.finding("accept-local", Warning, "net.ipv4.conf.en1.accept_local is 0")
		if !strings.Contains(f.Why, "another host has 10.68.6.1 too (route by 10.68.5.2 dev en5)") {
			t.Errorf("why: %s", f.Why)
		}
		heard := func() bool {
			server, err := net.ListenPacket("udp", "10.68.5.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close() //nolint:errcheck // of a test
			return l.fromTwin(server)
		}
		ns.Sysctl("net/ipv4/conf/en1/rp_filter", "0")
		ns.Sysctl("net/ipv4/conf/en5/rp_filter", "0")
		if heard() {
			t.Error("the twin is heard")
		}
		l.run(&f)
		l.becomes("the twin is heard", func() bool { return heard() })
		ns.Sysctl("net/ipv4/conf/en5/accept_local", "0")
		l.fix("accept-local")
	})
}
