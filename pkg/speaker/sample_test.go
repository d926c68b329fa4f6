package speaker

import (
	"net/netip"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
)

// t0 is now in the tests of Plan.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// sampleConfig is the sample of two interfaces and one checked VIP.
func sampleConfig() *config.Config {
	timers := config.Timers{HoldTime: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: time.Second}
	iface := func(name, peer string) config.Interface {
		return config.Interface{
			Name: name, HoldUp: 2 * time.Second,
			Peers: []config.Peer{{Address: addr(peer), ASN: 65000, Port: 179, Timers: timers, MaxPrefixes: 16}},
		}
	}
	return &config.Config{
		BGP: config.BGP{
			ASN: 65010, ListenPort: 179, Timers: timers,
			GracefulRestart: config.GracefulRestart{Enabled: true, RestartTime: 30 * time.Second},
		},
		VirtualInterface: config.VirtualInterface{Name: "vi0", Kind: "auto"},
		Interfaces:       []config.Interface{iface("en1", "10.68.1.2"), iface("en5", "10.68.5.2")},
		VIPs: []config.VIP{{
			Name: "vipa", Prefix: prefix("10.68.6.1/32"), Interfaces: []string{"en1", "en5"}, PreferredSource: true,
			Checks: webCheck("10.68.6.1"),
		}},
		Host:     config.Host{Sysctls: "set"},
		Shutdown: config.Shutdown{Mode: "drain", Time: 10 * time.Second, Wait: 2 * time.Second},
	}
}

// webCheck is the one check of a VIP.
func webCheck(vip string) []config.Check {
	return []config.Check{{
		Name: "web", Kind: "tcp", TCP: &config.TCPCheck{Address: netip.AddrPortFrom(addr(vip), 80)},
		Interval: time.Second, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 2,
	}}
}

// webID is the ID of the one check of a VIP.
func webID(vip string) string { return CheckID(&webCheck(vip)[0]) }

// vipID is the ID of that check of the sample's VIP.
func vipID() string { return webID("10.68.6.1") }

// never is true of no address.
func never(netip.Addr) bool { return false }

func link(index int, name string, addresses ...string) netmon.Link {
	l := netmon.Link{Index: index, Name: name, Up: true, Running: true, OperState: "up"}
	for _, a := range addresses {
		p := prefix(a)
		l.Addresses = append(l.Addresses, netmon.Address{Prefix: p, Usable: true, LinkLocal: p.Addr().IsLinkLocalUnicast()})
	}
	return l
}

// sampleNet has both interfaces up, and a third that is not listed.
func sampleNet() *netmon.State {
	return &netmon.State{Links: []netmon.Link{
		link(2, "en1", "10.68.1.1/24", "fe80::1/64"),
		link(3, "en5", "10.68.5.1/24", "fe80::5/64"),
		link(4, "en7", "10.1.7.1/24"),
		link(9, "vi0", "10.68.6.1/32"),
	}}
}

func established(address string) bgp.PeerState {
	return bgp.PeerState{Address: addr(address), ASN: 65000, State: bgp.Established, Transitions: 1, IPv4: true, IPv6: true}
}

func speaking(name, peer string, announced ...string) bgp.SpeakerState {
	s := bgp.SpeakerState{Name: name, Phase: bgp.Running, Peers: []bgp.PeerState{established(peer)}}
	for _, a := range announced {
		s.Announced = append(s.Announced, prefix(a))
	}
	return s
}

func healthyResult(id string) health.Result {
	return health.Result{
		ID: id, Kind: "tcp", Verdict: health.Healthy, Since: t0.Add(-time.Minute), Checked: t0.Add(-time.Second),
		Expires: t0.Add(2500 * time.Millisecond),
	}
}

// sample is the steady state: everything works and is announced.
func sample() Inputs {
	return Inputs{
		Config: sampleConfig(), Net: sampleNet(),
		Health:    health.Results{vipID(): healthyResult(vipID())},
		BGP:       &bgp.State{Speakers: []bgp.SpeakerState{speaking("en1", "10.68.1.2", "10.68.6.1/32"), speaking("en5", "10.68.5.2", "10.68.6.1/32")}},
		Bound:     []netip.Prefix{prefix("10.68.6.1/32")},
		RouterID:  addr("10.68.1.1"),
		StartedAt: t0.Add(-time.Hour),
	}
}

// edit changes a copy of the sample. Net links and speakers may be changed in
// place: each sample is new.
func edit(change func(*Inputs)) Inputs {
	in := sample()
	change(&in)
	return in
}

func (d *Desired) speaker(name string) *bgp.SpeakerConfig {
	for i := range d.BGP.Speakers {
		if d.BGP.Speakers[i].Name == name {
			return &d.BGP.Speakers[i]
		}
	}
	return nil
}

// compare makes cmp understand addresses.
var compare = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}
