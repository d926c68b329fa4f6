package speaker

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/ndp"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"

	"github.com/google/go-cmp/cmp"
)

// byGateway makes the peer of en1 its default gateway, whatever that is.
func byGateway(in *Inputs) {
	peer := &in.Config.Interfaces[0].Peers[0]
	peer.Address, peer.Gateway = netip.Addr{}, true
	in.Config.Interfaces[0].GatewayProbe = config.GatewayProbe{Enabled: true, Interval: time.Second, Failures: 3}
	in.Net.Links[0] = link(2, "en1", "10.68.1.1/24", "fe80::1/64", "fd01::1/64")
}

func defaultRoute(index int, metric uint32, gateways ...string) netmon.Route {
	r := netmon.Route{Table: 254, Type: 1, Metric: metric}
	for _, g := range gateways {
		a := addr(g)
		r.Prefix = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if a.Is6() {
			r.Prefix = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		r.NextHops = append(r.NextHops, netmon.NextHop{LinkIndex: index, Gateway: a})
	}
	return r
}

// sessions lists the sessions of a speaker as "peer from local".
func sessionsOf(s *bgp.SpeakerConfig) (list []string) {
	for _, p := range s.Peers {
		list = append(list, p.Address.String()+" from "+p.LocalAddress.String())
	}
	return list
}

func targetsOf(d *Desired, name string) (list []string) {
	for _, b := range d.Probes {
		if b.Interface == name {
			list = append(list, b.Target.String())
		}
	}
	return list
}

func TestGatewayPeers(t *testing.T) {
	t.Parallel()
	routes := func(list ...netmon.Route) func(*Inputs) { return func(in *Inputs) { in.Net.Routes = list } }
	ours := defaultRoute(2, 0, "10.68.1.9")
	ours.Protocol = vip.Protocol
	other := defaultRoute(2, 0, "10.68.1.9")
	other.Table = 100
	for name, tt := range map[string]struct {
		change func(*Inputs)
		want   []string
		detail string
	}{
		"no default route":         {routes(), nil, "no default gateway on en1"},
		"through another link":     {routes(defaultRoute(3, 0, "10.68.5.2")), nil, "no default gateway on en1"},
		"not on the link":          {routes(defaultRoute(2, 0, "10.99.1.2")), nil, "no default gateway on en1"},
		"of another table":         {routes(other), nil, "no default gateway on en1"},
		"our own route":            {routes(ours), nil, "no default gateway on en1"},
		"IPv4":                     {routes(defaultRoute(2, 100, "10.68.1.2")), []string{"10.68.1.2 from 10.68.1.1"}, ""},
		"the best of two":          {routes(defaultRoute(2, 200, "10.68.1.9"), defaultRoute(2, 100, "10.68.1.2")), []string{"10.68.1.2 from 10.68.1.1"}, ""},
		"two of equal worth":       {routes(defaultRoute(2, 0, "10.68.1.3", "10.68.1.2")), []string{"10.68.1.2 from 10.68.1.1", "10.68.1.3 from 10.68.1.1"}, ""},
		"both families":            {routes(defaultRoute(2, 0, "fe80::2"), defaultRoute(2, 0, "10.68.1.2")), []string{"10.68.1.2 from 10.68.1.1", "fe80::2%en1 from fe80::1%en1"}, ""},
		"IPv6 global":              {routes(defaultRoute(2, 0, "fd01::2")), []string{"fd01::2 from fd01::1"}, ""},
		"a leg of a multipath one": {routes(netmon.Route{Table: 254, Type: 1, Prefix: prefix("0.0.0.0/0"), NextHops: []netmon.NextHop{{LinkIndex: 3, Gateway: addr("10.68.5.2")}, {LinkIndex: 2, Gateway: addr("10.68.1.2")}}}), []string{"10.68.1.2 from 10.68.1.1"}, ""},
		"configured gateways come before": {func(in *Inputs) {
			in.Config.Interfaces[0].Gateways = []netip.Addr{addr("10.68.1.7")}
			in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "10.68.1.2"), defaultRoute(2, 0, "fe80::2")}
		}, []string{"10.68.1.7 from 10.68.1.1", "fe80::2%en1 from fe80::1%en1"}, ""},
		"of the family that is asked for": {func(in *Inputs) {
			in.Config.Interfaces[0].Peers[0].IPv4 = true
			in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "10.68.1.2"), defaultRoute(2, 0, "fe80::2")}
		}, []string{"10.68.1.2 from 10.68.1.1"}, ""},
		"a peer of its own": {func(in *Inputs) {
			own := in.Config.Interfaces[0].Peers[0]
			own.Gateway, own.Address = false, addr("10.68.1.2")
			in.Config.Interfaces[0].Peers = append(in.Config.Interfaces[0].Peers, own)
			in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "10.68.1.2")}
		}, []string{"10.68.1.2 from 10.68.1.1"}, "the default gateway on en1 is a peer of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := edit(byGateway)
			tt.change(&in)
			d := Plan(in, t0)
			if diff := cmp.Diff(tt.want, sessionsOf(d.speaker("en1"))); diff != "" {
				t.Errorf("sessions (-want +got):\n%s", diff)
			}
			n := d.Interfaces[0]
			if tt.detail != "" && (n.Peers[0].Wanted || !strings.HasSuffix(n.Peers[0].Detail, tt.detail) || n.Peers[0].Found != "gateway") {
				t.Errorf("%+v, want it down for %q", n.Peers[0], tt.detail)
			}
			if n.Usable != (tt.want != nil) {
				t.Errorf("usable: %t (%s %s)", n.Usable, n.Reason, n.Detail)
			}
		})
	}
}

// The gateway is another one: the old session goes, the new one comes, and the
// probe follows.
func TestGatewayChanges(t *testing.T) {
	t.Parallel()
	in := edit(byGateway)
	in.Net.Routes = []netmon.Route{defaultRoute(2, 0, "10.68.1.2")}
	f := &film{in: in, now: t0}
	d := f.look(0, nil)
	if diff := cmp.Diff([]string{"10.68.1.2"}, targetsOf(&d, "en1")); diff != "" {
		t.Errorf("probes (-want +got):\n%s", diff)
	}
	d = f.look(time.Second, func(in *Inputs) { in.Net.Routes[0] = defaultRoute(2, 0, "10.68.1.3") })
	if diff := cmp.Diff([]string{"10.68.1.3 from 10.68.1.1"}, sessionsOf(d.speaker("en1"))); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"10.68.1.3"}, targetsOf(&d, "en1")); diff != "" {
		t.Errorf("probes (-want +got):\n%s", diff)
	}
	if !d.Interfaces[0].Usable {
		t.Errorf("unusable: %s", d.Interfaces[0].Detail)
	}
}

// unnumbered makes en1 an interface without IPv4 and its peer the router there.
func unnumbered(in *Inputs) {
	peer := &in.Config.Interfaces[0].Peers[0]
	peer.Address, peer.Unnumbered, peer.External, peer.ASN = netip.Addr{}, true, true, 0
	in.Config.Interfaces[0].GatewayProbe = config.GatewayProbe{Enabled: true, Interval: time.Second, Failures: 3}
	in.Net.Links[0] = link(2, "en1", "fe80::1/64")
	heard(in, router("fe80::2", 0))
	in.BGP.Speakers[0].Peers = []bgp.PeerState{established("fe80::2%en1")}
	in.BGP.Speakers[0].Peers[0].ExtendedNextHop = true
}

func router(address string, ago time.Duration) ndp.Router {
	return ndp.Router{Address: addr(address).WithZone("en1"), ByAdvertisement: true, Heard: t0.Add(-ago)}
}

func heard(in *Inputs, routers ...ndp.Router) {
	in.NDP = &ndp.State{Interfaces: []ndp.Interface{{Name: "en1", Index: 2, Routers: routers}}}
}

func TestUnnumbered(t *testing.T) {
	t.Parallel()
	in := edit(unnumbered)
	in.Config.VIPs = append(in.Config.VIPs, config.VIP{Name: "six", Prefix: prefix("fd68:6::1/128"), Interfaces: []string{"en1"}})
	in.Bound = append(in.Bound, prefix("fd68:6::1/128"))
	in.BGP.Speakers[0].Announced = append(in.BGP.Speakers[0].Announced, prefix("fd68:6::1/128"))
	d := Plan(in, t0)
	s := d.speaker("en1")
	want := bgp.Peer{
		Address: addr("fe80::2%en1"), External: true, LocalAddress: addr("fe80::1%en1"), Interface: "en1", Port: 179,
		HoldTime: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: time.Second, MaxPrefixes: 16,
	}
	if diff := cmp.Diff([]bgp.Peer{want}, s.Peers, compare...); diff != "" {
		t.Errorf("session (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]netip.Addr{addr("fe80::1%en1")}, s.ListenAddresses, compare...); diff != "" {
		t.Errorf("listen (-want +got):\n%s", diff)
	}
	for _, p := range s.Paths {
		if p.NextHop.IsValid() {
			t.Errorf("%s has next hop %s, want the session's own", p.Prefix, p.NextHop)
		}
	}
	if len(s.Paths) != 2 || !d.VIPs[0].Interfaces[0].Announced || !d.VIPs[1].Announced {
		t.Errorf("%d paths, announced %+v, %+v", len(s.Paths), d.VIPs[0].Interfaces[0], d.VIPs[1])
	}
	if diff := cmp.Diff([]string{"en1"}, d.Discover); diff != "" {
		t.Errorf("discover (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"fe80::2%en1"}, targetsOf(&d, "en1")); diff != "" {
		t.Errorf("probes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]netip.Addr{addr("fe80::2")}, d.Kernel.Interfaces[0].Routers, compare...); diff != "" {
		t.Errorf("next hops of the kernel (-want +got):\n%s", diff)
	}
	for _, e := range d.Kernel.Exclude {
		if e.Addr().IsLinkLocalUnicast() {
			t.Errorf("%s is excluded, which every link-local address is", e)
		}
	}
}

// A router that is a peer of its own has one session, and an unnumbered peer takes
// another one, if there is one.
func TestUnnumberedBesideOwn(t *testing.T) {
	t.Parallel()
	in := edit(func(in *Inputs) {
		unnumbered(in)
		own := in.Config.Interfaces[0].Peers[0]
		own.Unnumbered, own.Address = false, addr("fe80::2")
		in.Config.Interfaces[0].Peers = append(in.Config.Interfaces[0].Peers, own)
	})
	const lacks = "the router on en1 is a peer of its own"
	d := Plan(in, t0)
	if got := sessionsOf(d.speaker("en1")); len(got) != 1 || d.Interfaces[0].Peers[0].Detail != lacks {
		t.Errorf("one router: sessions %v, the unnumbered peer %q, want %q", got, d.Interfaces[0].Peers[0].Detail, lacks)
	}
	heard(&in, router("fe80::2", 0), router("fe80::3", 0))
	d = Plan(in, t0)
	if diff := cmp.Diff([]string{"fe80::3%en1 from fe80::1%en1", "fe80::2%en1 from fe80::1%en1"}, sessionsOf(d.speaker("en1"))); diff != "" {
		t.Errorf("two routers (-want +got):\n%s", diff)
	}
}

// What an unnumbered interface lacks is said, and only what it needs counts.
func TestUnnumberedLacks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*Inputs)
		reason status.Reason
		detail string // of the peer
		why    string // of the VIP on the interface
	}{
		"nothing heard yet": {func(in *Inputs) { in.NDP = nil }, "", "no router heard on en1 yet", "no router heard on en1 yet"},
		"cannot hear": {func(in *Inputs) {
			in.NDP = &ndp.State{Interfaces: []ndp.Interface{{Name: "en1", Error: "needs CAP_NET_RAW"}}}
		}, "", "no router heard on en1 yet: needs CAP_NET_RAW", "no router heard on en1 yet: needs CAP_NET_RAW"},
		"no link-local address": {
			func(in *Inputs) { in.Net.Links[0] = link(2, "en1", "10.68.1.1/24") },
			status.InterfaceAddress, "interface en1: no usable IPv6 link-local address", "no usable IPv6 link-local address",
		},
		"link-local address not usable": {
			func(in *Inputs) { in.Net.Links[0].Addresses[0].Usable = false },
			status.InterfaceAddress, "interface en1: no usable IPv6 link-local address", "no usable IPv6 link-local address",
		},
		"no extended next hop": {
			func(in *Inputs) { in.BGP.Speakers[0].Peers[0].ExtendedNextHop = false },
			"", "", "fe80::2%en1 did not negotiate extended next hop",
		},
		"IPv4 on the interface is of no use": {func(in *Inputs) {
			in.Net.Links[0] = link(2, "en1", "fe80::1/64", "10.68.1.1/24")
			in.BGP.Speakers[0].Peers[0].ExtendedNextHop = false
		}, "", "", "fe80::2%en1 did not negotiate extended next hop"},
		"all is well": {func(*Inputs) {}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := edit(unnumbered)
			tt.change(&in)
			d := Plan(in, t0)
			n, pl := d.Interfaces[0], d.VIPs[0].Interfaces[0]
			if n.Reason != tt.reason || n.Peers[0].Detail != tt.detail || pl.Detail != tt.why {
				t.Errorf("interface %q, peer %q, VIP %q", n.Reason, n.Peers[0].Detail, pl.Detail)
			}
			if pl.Announced != (tt.why == "") || n.Peers[0].Wanted != (tt.detail == "") {
				t.Errorf("announced: %t, session wanted: %t", pl.Announced, n.Peers[0].Wanted)
			}
		})
	}
}

// A router stays the peer while it lives, and is followed when it is another one.
func TestRouterChanges(t *testing.T) {
	t.Parallel()
	f := &film{in: edit(unnumbered), now: t0}
	expect := func(when, want string, d Desired) {
		t.Helper()
		got := ""
		if s := d.speaker("en1"); len(s.Peers) > 0 {
			got = s.Peers[0].Address.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	expect("at first", "fe80::2%en1", f.look(0, nil))
	expect("another one appears", "fe80::2%en1", f.look(0, func(in *Inputs) { heard(in, router("fe80::3", -time.Second), router("fe80::2", 0)) }))
	expect("the link is down", "", f.look(0, func(in *Inputs) { in.Net.Links[0].Running = false; in.NDP = nil }))
	d := f.look(time.Second, func(in *Inputs) {
		in.Net.Links[0].Running = true
		heard(in, router("fe80::3", 0), router("fe80::2", 0))
	})
	expect("the link is back, hold-up", "", d)
	expect("in use again", "fe80::2%en1", f.look(2*time.Second, nil))
	silentRouter := func(in *Inputs) { in.Health["attachment/en1/fe80::2%en1"] = silent("") }
	expect("it is silent, but its session is up", "fe80::2%en1", f.look(0, func(in *Inputs) {
		in.Config.Interfaces[0].GatewayProbe.Enabled = false
		silentRouter(in)
		heard(in, router("fe80::3", -5*time.Second), router("fe80::2", 0))
	}))
	f.in.Config.Interfaces[0].GatewayProbe.Enabled = true
	f.in.BGP.Speakers[0].Peers[0].State = bgp.Active
	heard(&f.in, router("fe80::3", 0), router("fe80::2", 0))
	expect("it is silent, and so is the other", "", f.look(0, silentRouter))
	expect("the other was heard since, hold-up", "", f.look(3*time.Second, func(in *Inputs) {
		heard(in, router("fe80::3", -10*time.Second), router("fe80::2", 0))
	}))
	expect("it is used", "fe80::3%en1", f.look(2*time.Second, nil))
	expect("its time is over", "fe80::4%en1", f.look(0, func(in *Inputs) { heard(in, router("fe80::4", 0)) }))
	plain := router("fe80::5", 0)
	plain.ByAdvertisement = false
	f.look(0, func(in *Inputs) { heard(in, plain) })
	expect("a neighbour that does not advertise itself", "fe80::5%en1", f.look(0, nil))
	expect("a router does", "fe80::6%en1", f.look(0, func(in *Inputs) { heard(in, router("fe80::6", -time.Hour), plain) }))
}

// A link-local address in the configuration is of the interface's link.
func TestLinkLocalPeer(t *testing.T) {
	t.Parallel()
	in := edit(bfdPeers)
	in.Config.Interfaces[0].Peers[0].Address = addr("fe80::2")
	in.BGP.Speakers[0].Peers = []bgp.PeerState{established("fe80::2")} // whether it tells the zone or not
	d := Plan(in, t0)
	if diff := cmp.Diff([]string{"fe80::2%en1 from fe80::1%en1"}, sessionsOf(d.speaker("en1"))); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
	if b := d.BFD[0]; b.Peer != addr("fe80::2") || b.Local != addr("fe80::1") || b.Interface != "en1" {
		t.Errorf("BFD with %s from %s on %s", b.Peer, b.Local, b.Interface)
	}
	pl := d.VIPs[0].Interfaces[0]
	if pl.NextHop != addr("10.68.1.1") || !pl.Announced || pl.Peers[0] != addr("fe80::2%en1") {
		t.Errorf("%+v, want it announced with the interface's IPv4 address", pl)
	}
	in.Net.Links[0].Addresses = in.Net.Links[0].Addresses[1:]
	if pl = Plan(in, t0).VIPs[0].Interfaces[0]; pl.NextHop.IsValid() || pl.Detail != "fe80::2 did not negotiate extended next hop" {
		t.Errorf("without IPv4: %+v", pl)
	}
	in.BGP.Speakers[0].Peers[0].ExtendedNextHop = true
	if pl = Plan(in, t0).VIPs[0].Interfaces[0]; !pl.Announced {
		t.Errorf("with extended next hop: %+v", pl)
	}
}
