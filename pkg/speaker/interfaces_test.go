package speaker

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
)

func TestNextHop(t *testing.T) {
	t.Parallel()
	v4, v6 := "10.68.6.1/32", "fd68:6::1/128"
	tests := []struct {
		name      string
		addresses []string
		peers     []string
		vip       string
		want      string // "" for withheld
	}{
		{"IPv4 on IPv4", []string{"10.68.1.1/24"}, []string{"10.68.1.2"}, v4, "self"},
		{"IPv6 on IPv6", []string{"10.68.1.1/24", "fd01::1/64"}, []string{"fd01::2"}, v6, "self"},
		{"IPv6 on IPv4", []string{"10.68.1.1/24", "fe80::1/64", "fd01::1/64"}, []string{"10.68.1.2"}, v6, "fd01::1"},
		{"IPv6 on IPv4 without an IPv6 address", []string{"10.68.1.1/24", "fe80::1/64"}, []string{"10.68.1.2"}, v6, ""},
		{"IPv4 on IPv6 with an IPv4 address", []string{"10.68.1.1/24", "fd01::1/64"}, []string{"fd01::2"}, v4, "10.68.1.1"},
		{"IPv4 on IPv6 only (RFC 8950)", []string{"fd01::1/64"}, []string{"fd01::2"}, v4, "self"},
		{"both, the address that a peer uses", []string{"10.0.0.1/8", "10.68.1.1/24", "fd01::1/64"}, []string{"10.68.1.2", "fd01::2"}, v4, "10.68.1.1"},
		{"both, IPv6", []string{"10.68.1.1/24", "fd00::1/64", "fd01::1/64"}, []string{"10.68.1.2", "fd01::2"}, v6, "fd01::1"},
		{"IPv6 beside an IPv4 peer for IPv4 only", []string{"10.68.1.1/24", "fe80::1/64"}, []string{"4only 10.68.1.2", "fd01::2"}, v6, "self"},
		{"IPv6 on an IPv4 peer for IPv4 only", []string{"10.68.1.1/24", "fe80::1/64"}, []string{"4only 10.68.1.2"}, v6, ""},
		{"never a VIP", []string{"10.68.6.1/24", "fd01::1/64"}, []string{"fd01::2"}, v4, "self"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := sample()
			in.Net.Links[0] = link(2, "en1", tt.addresses...)
			c := in.Config
			c.Interfaces = c.Interfaces[:1]
			template := c.Interfaces[0].Peers[0]
			c.Interfaces[0].Peers = nil
			for _, p := range tt.peers {
				address, only := strings.CutPrefix(p, "4only ")
				template.Address, template.IPv4, template.IPv6 = addr(address), true, !only
				c.Interfaces[0].Peers = append(c.Interfaces[0].Peers, template)
			}
			c.VIPs[0].Prefix, c.VIPs[0].Interfaces = prefix(tt.vip), []string{"en1"}
			in.Bound = []netip.Prefix{prefix(tt.vip)}
			id := vipID()
			in.Health = health.Results{id: healthyResult(id)}
			d := Plan(in, t0)
			got := ""
			if paths := d.speaker("en1").Paths; len(paths) == 1 {
				if got = "self"; paths[0].NextHop.IsValid() {
					got = paths[0].NextHop.String()
				}
			}
			if got != tt.want {
				t.Errorf("next hop = %q, want %q; %s", got, tt.want, render(&d))
			}
			if got == "" && d.VIPs[0].Reason != "no_usable_interface" {
				t.Errorf("reason = %s, want no_usable_interface", d.VIPs[0].Reason)
			}
		})
	}
}

func TestLocalAddress(t *testing.T) {
	t.Parallel()
	tests := []struct {
		addresses []string
		peer      string
		want      string
	}{
		{[]string{"10.68.1.1/24"}, "10.68.1.2", "10.68.1.1"},
		{[]string{"10.68.1.1/24"}, "10.68.2.2", "invalid IP"},
		{[]string{"10.0.0.1/8", "10.68.1.9/24", "10.68.1.1/24"}, "10.68.1.2", "10.68.1.1"},
		{[]string{"10.68.1.0/31"}, "10.68.1.1", "10.68.1.0"},
		{[]string{"10.68.1.2/24"}, "10.68.1.2", "invalid IP"},
		{[]string{"fe80::1/64", "fd01::1/64"}, "fd01::2", "fd01::1"},
		{[]string{"10.0.0.1/32 10.9.0.1/32"}, "10.9.0.1", "10.0.0.1"},
		{[]string{"10.0.0.1/32 10.9.0.1/32"}, "10.9.0.2", "invalid IP"},
		{[]string{"10.9.0.9/24", "10.0.0.1/32 10.9.0.1/32"}, "10.9.0.1", "10.0.0.1"},
		{[]string{"10.9.0.9/24 10.8.0.0/24"}, "10.9.0.1", "invalid IP"},
		{[]string{"fd01::1/128 fd02::1/128"}, "fd02::1", "fd01::1"},
	}
	for _, tt := range tests {
		l := link(1, "en1")
		for _, a := range tt.addresses {
			own, far, is := strings.Cut(a, " ")
			l.Addresses = append(l.Addresses, netmon.Address{Prefix: prefix(own), Usable: true})
			if is {
				l.Addresses[len(l.Addresses)-1].Far = prefix(far)
			}
		}
		n := &Interface{Addresses: ownAddresses(l, never), far: farNetworks(l)}
		if got := n.onLink(addr(tt.peer)).String(); got != tt.want {
			t.Errorf("own address of %v for %s = %s, want %s", tt.addresses, tt.peer, got, tt.want)
		}
	}
}

// A session keeps its own address when one comes that would be preferred for a new
// one, and a new one is made from the address by which routers know the host.
func TestLocalAddressStays(t *testing.T) {
	t.Parallel()
	secondary := func(a string) netmon.Address { return netmon.Address{Prefix: prefix(a), Usable: true, Secondary: true} }
	for _, tt := range []struct {
		name, peer, session string // of what is established, empty for none
		addresses           []string
		more                []netmon.Address
		want                string
	}{
		{"a lower address comes", "10.68.1.2", "10.68.1.5", []string{"10.68.1.5/24", "10.68.1.1/24"}, nil, "10.68.1.5"},
		{"a more specific one comes", "10.68.1.2", "10.68.1.5", []string{"10.68.1.5/24", "10.68.1.1/30"}, nil, "10.68.1.5"},
		{"its own goes", "10.68.1.2", "10.68.1.5", []string{"10.68.1.1/24"}, nil, "10.68.1.1"},
		{"its own reaches the peer no more", "10.68.1.2", "10.68.1.5", []string{"10.68.1.5/32", "10.68.1.1/24"}, nil, "10.68.1.1"},
		{"no session", "10.68.1.2", "", []string{"10.68.1.5/24", "10.68.1.1/24"}, nil, "10.68.1.1"},
		{"a secondary one is lower", "10.68.1.2", "", []string{"10.68.1.5/24"}, []netmon.Address{secondary("10.68.1.1/24")}, "10.68.1.5"},
		{"a temporary one is lower", "fd01::2", "", []string{"fd01::5/64"}, []netmon.Address{secondary("fd01::1/64")}, "fd01::5"},
		{"only a secondary one", "10.68.1.2", "", nil, []netmon.Address{secondary("10.68.1.1/24")}, "10.68.1.1"},
		{"link-local", "fe80::2", "fe80::5%en1", []string{"fe80::5/64", "fe80::1/64"}, nil, "fe80::5%en1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := Plan(edit(func(in *Inputs) {
				in.Config.Interfaces[0].Peers[0].Address = addr(tt.peer)
				in.Net.Links[0] = link(2, "en1", tt.addresses...)
				in.Net.Links[0].Addresses = append(in.Net.Links[0].Addresses, tt.more...)
				in.BGP.Speakers[0].Peers = nil
				if tt.session != "" {
					up := established(tt.peer)
					up.LocalAddress = addr(tt.session)
					in.BGP.Speakers[0].Peers = append(in.BGP.Speakers[0].Peers, up)
				}
			}), t0)
			if got := d.Interfaces[0].Peers[0].LocalAddress; got != addr(tt.want) {
				t.Errorf("session is made from %s, want %s", got, tt.want)
			}
		})
	}
}

func TestRouterID(t *testing.T) {
	t.Parallel()
	c, net := sampleConfig(), sampleNet()
	if got := RouterID(c, net); got != addr("10.68.1.1") {
		t.Errorf("router id = %s, want the lowest address of the listed interfaces, 10.68.1.1", got)
	}
	net.Links[0].Addresses = append(net.Links[0].Addresses, netmon.Address{Prefix: prefix("10.68.6.1/32"), Usable: true})
	net.Links[0].Addresses = net.Links[0].Addresses[1:]
	if got := RouterID(c, net); got != addr("10.68.5.1") {
		t.Errorf("router id = %s, want 10.68.5.1: a VIP is no own address", got)
	}
	if got := RouterID(c, &netmon.State{}); got.IsValid() {
		t.Errorf("router id without addresses = %s, want none", got)
	}
	c.BGP.RouterID = addr("192.0.2.1")
	if got := RouterID(c, net); got != addr("192.0.2.1") {
		t.Errorf("router id = %s, want the configured one", got)
	}
}

// The last resort of outgoing traffic: an interface in its hold-up, else the
// former ones, else all.
func TestLegs(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*Inputs)
		want   []string
	}{
		{"both", func(*Inputs) {}, []string{"en1", "en5"}},
		{"none, the former stay", func(in *Inputs) {
			in.Net.Links[0].Running, in.Net.Links[1].Running, in.Legs = false, false, []string{"en5"}
		}, []string{"en5"}},
		{"none, no former", func(in *Inputs) { in.Net.Links[0].Running, in.Net.Links[1].Running = false, false }, []string{"en1", "en5"}},
		{"none, former no longer listed", func(in *Inputs) {
			in.Net.Links[0].Running, in.Net.Links[1].Running, in.Legs = false, false, []string{"en9"}
		}, []string{"en1", "en5"}},
		{"one in hold-up", func(in *Inputs) {
			in.Net.Links[0].HealthySince, in.Net.Links[1].Running, in.Legs = t0, false, []string{"en5"}
		}, []string{"en1"}},
		{"session missing on one", func(in *Inputs) { in.BGP.Speakers[1].Peers[0].State = bgp.Idle }, []string{"en1"}},
		{"sessions missing on both", func(in *Inputs) { in.BGP = nil }, []string{"en1", "en5"}},
		{"a session only where the link is gone", func(in *Inputs) {
			in.Net.Links[0].Running, in.BGP.Speakers[1].Peers[0].State = false, bgp.Idle
		}, []string{"en5"}},
		{"right after a restart", func(in *Inputs) {
			in.Adopted, in.StartedAt = true, t0.Add(-time.Second)
			in.BGP.Speakers[1].Peers[0].State, in.BGP.Speakers[1].Peers[0].Transitions = bgp.Active, 0
		}, []string{"en1", "en5"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := Plan(edit(tt.change), t0)
			var got []string
			for _, n := range d.Kernel.Interfaces {
				if n.Leg() {
					got = append(got, n.Name)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("legs = %v, want %v", got, tt.want)
			}
		})
	}
}

// What is missing is said of the session that could carry the VIP, not of one of
// the other family.
func TestWaitsForTheSpeaker(t *testing.T) {
	in := edit(func(in *Inputs) {
		in.Config.Interfaces[0].Peers = append(in.Config.Interfaces[0].Peers, config.Peer{Address: addr("fd68:1::2"), ASN: 65000, Port: 179})
		six := established("fd68:1::2")
		six.IPv4 = false
		in.BGP.Speakers[0].Peers = append(in.BGP.Speakers[0].Peers, six)
		in.BGP.Speakers[0].Announced = nil
	})
	if got := Plan(in, t0).VIPs[0].Interfaces[0].Detail; got != "the speaker does not announce it yet" {
		t.Errorf("detail %q", got)
	}
	in.BGP.Speakers[0].Peers[0].IPv4 = false
	if got := Plan(in, t0).VIPs[0].Interfaces[0].Detail; !strings.Contains(got, "10.68.1.2 did not negotiate the address family") {
		t.Errorf("with no session of the family: detail %q", got)
	}
}
