package speaker

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// reflector adds a peer that belongs to no interface, with its session.
func reflector(in *Inputs) {
	peer := in.Config.Interfaces[0].Peers[0]
	peer.Address, peer.ASN, peer.TTL, peer.AddPath = addr("10.255.0.9"), 65010, 64, true
	in.Config.Peers = []config.Peer{peer}
	in.BGP.Speakers = append(in.BGP.Speakers, speaking(status.TopLevel, "10.255.0.9", "10.68.6.1/32"))
}

// pathsIn lists the paths of a speaker as "prefix ID next hop".
func pathsIn(s *bgp.SpeakerConfig) (list []string) {
	for _, p := range s.Paths {
		list = append(list, fmt.Sprintf("%s %d %s", p.Prefix, p.ID, p.NextHop))
	}
	return list
}

func TestTopLevelPeer(t *testing.T) {
	t.Parallel()
	d := Plan(edit(reflector), t0)
	s := d.speaker(status.TopLevel)
	want := bgp.SpeakerConfig{
		Name: status.TopLevel, ASN: 65010, RouterID: addr("10.68.1.1"),
		GracefulRestart: bgp.GracefulRestart{Enabled: true, RestartTime: 30 * time.Second},
		Peers: []bgp.Peer{{
			Address: addr("10.255.0.9"), ASN: 65010, LocalAddress: addr("10.68.1.1"), Port: 179, HoldTime: 9 * time.Second,
			Keepalive: 3 * time.Second, ConnectRetry: time.Second, MaxPrefixes: 16, MultihopTTL: 64, AddPath: true,
		}},
		Paths: []bgp.Path{
			{Prefix: prefix("10.68.6.1/32"), ID: 1, NextHop: addr("10.68.1.1")},
			{Prefix: prefix("10.68.6.1/32"), ID: 2, NextHop: addr("10.68.5.1")},
		},
		Reflected: 1, DownReason: "session no longer configured",
	}
	if diff := cmp.Diff(&want, s, compare...); diff != "" {
		t.Errorf("speaker (-want +got):\n%s", diff)
	}
	pl := d.VIPs[0].Interfaces[2]
	wantPl := Placement{
		Interface: status.TopLevel, Wanted: true, Announced: true, NextHop: addr("10.68.1.1"), Peers: []netip.Addr{addr("10.255.0.9")},
		Paths: []status.Path{{Interface: "en1", ID: 1, NextHop: addr("10.68.1.1")}, {Interface: "en5", ID: 2, NextHop: addr("10.68.5.1")}},
	}
	if diff := cmp.Diff(wantPl, pl, compare...); diff != "" {
		t.Errorf("placement (-want +got):\n%s", diff)
	}
	if len(d.Kernel.Exclude) != 3 || d.Kernel.Exclude[2] != prefix("10.255.0.9/32") {
		t.Errorf("excluded: %v", d.Kernel.Exclude)
	}
}

// Exactly the path of an interface that is no longer usable goes, and it alone.
func TestTopLevelPaths(t *testing.T) {
	t.Parallel()
	both := []string{"10.68.6.1/32 1 10.68.1.1", "10.68.6.1/32 2 10.68.5.1"}
	for name, tt := range map[string]struct {
		change func(*Inputs)
		want   []string
	}{
		"all is well":         {func(*Inputs) {}, both},
		"en1 has no carrier":  {func(in *Inputs) { in.Net.Links[0].Running = false }, both[1:]},
		"en5 is gone":         {func(in *Inputs) { in.Net.Links[1].Name = "en5x" }, both[:1]},
		"none is left":        {func(in *Inputs) { in.Net.Links = nil }, nil},
		"the VIP is on en5":   {func(in *Inputs) { in.Config.VIPs[0].Interfaces = []string{"en5"} }, both[1:]},
		"order of the VIP":    {func(in *Inputs) { in.Config.VIPs[0].Interfaces = []string{"en5", "en1"} }, both},
		"its check fails":     {func(in *Inputs) { in.Health = nil }, nil},
		"it is not bound":     {func(in *Inputs) { in.Bound = nil }, nil},
		"the daemon stops":    {func(in *Inputs) { in.Overrides.Shutdown = true }, nil},
		"an interface behind": {func(in *Inputs) { in.Config.Interfaces = append(in.Config.Interfaces, config.Interface{Name: "en7"}) }, both},
		"IPv6 only on en1": {func(in *Inputs) {
			in.Net.Links[0] = link(2, "en1", "fd01::1/64", "fe80::1/64")
		}, both[1:]}, // en1's own peer is of IPv4: it is not usable
		"an interface without peers of its own": {func(in *Inputs) {
			in.Config.Interfaces = append(in.Config.Interfaces, config.Interface{Name: "en7"})
			in.Config.VIPs[0].Interfaces = append(in.Config.VIPs[0].Interfaces, "en7")
		}, append(both[:2:2], "10.68.6.1/32 3 10.1.7.1")},
		"and without IPv4": {func(in *Inputs) {
			in.Config.Interfaces = append(in.Config.Interfaces, config.Interface{Name: "en7"})
			in.Config.VIPs[0].Interfaces = append(in.Config.VIPs[0].Interfaces, "en7")
			in.Net.Links[2] = link(4, "en7", "fd07::1/64")
		}, append(both[:2:2], "10.68.6.1/32 3 fd07::1")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := edit(reflector)
			tt.change(&in)
			d := Plan(in, t0)
			if diff := cmp.Diff(tt.want, pathsIn(d.speaker(status.TopLevel))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, pl := range d.VIPs[0].Interfaces {
				if pl.Interface == status.TopLevel && pl.Announced != (tt.want != nil) {
					t.Errorf("announced: %t, %s %s", pl.Announced, pl.Reason, pl.Detail)
				}
			}
		})
	}
}

// The session's address stays with its interface while that is usable, and moves
// when it is not; a configured one must be there.
func TestTopLevelLocalAddress(t *testing.T) {
	t.Parallel()
	f := &film{in: edit(reflector), now: t0}
	expect := func(when, local, detail string, d Desired) {
		t.Helper()
		got := ""
		if s := d.speaker(status.TopLevel); len(s.Peers) > 0 {
			got = s.Peers[0].LocalAddress.String()
		}
		if got != local || d.Remote[0].Detail != detail {
			t.Errorf("%s: from %q (%s), want %q (%s)", when, got, d.Remote[0].Detail, local, detail)
		}
		if reason := d.speaker(status.TopLevel).DownReasons[addr("10.255.0.9")]; reason != detail {
			t.Errorf("%s: told %q", when, reason)
		}
	}
	expect("at first", "10.68.1.1", "", f.look(0, nil))
	expect("en1 is down", "10.68.5.1", "", f.look(0, func(in *Inputs) { in.Net.Links[0].Running = false }))
	expect("en1 is back", "10.68.5.1", "", f.look(time.Hour, func(in *Inputs) { in.Net.Links[0].Running = true }))
	expect("both are down", "", "no usable interface has an IPv4 address", f.look(0, func(in *Inputs) {
		in.Net.Links[0].Up, in.Net.Links[1].Up = false, false
	}))
	loopback := func(in *Inputs) {
		in.Net.Links[0].Up, in.Net.Links[1].Up = true, true
		in.Net.Links = append(in.Net.Links, link(1, "lo", "127.0.0.1/8", "10.255.0.1/32"))
		in.Config.Peers[0].LocalAddress = addr("10.255.0.1")
	}
	f.look(0, loopback)
	d := f.look(time.Hour, nil)
	expect("a loopback address", "10.255.0.1", "", d)
	if s := d.speaker(status.TopLevel); s.ListenPort != 179 || len(s.ListenAddresses) != 1 || s.ListenAddresses[0] != addr("10.255.0.1") {
		t.Errorf("listens on %v, port %d", s.ListenAddresses, s.ListenPort)
	}
	expect("en1 is down", "10.255.0.1", "", f.look(0, func(in *Inputs) { in.Net.Links[0].Up = false }))
	expect("no interface is left", "", "no interface is usable", f.look(0, func(in *Inputs) { in.Net.Links[1].Up = false }))
	expect("it is not here", "", "local address 10.255.0.1 is not on this host", f.look(time.Hour, func(in *Inputs) {
		in.Net.Links[0].Up, in.Net.Links[1].Up = true, true
		in.Net.Links = in.Net.Links[:4]
	}))
	own := func(in *Inputs) { in.Config.Peers[0].LocalAddress = addr("10.68.1.1") }
	expect("that of an interface", "10.68.1.1", "", f.look(time.Hour, own))
	expect("which is down", "", "interface en1: no carrier", f.look(0, func(in *Inputs) { in.Net.Links[0].Running = false }))
	expect("a VIP", "", "local address 10.68.6.1 is a VIP, which may go elsewhere", f.look(0, func(in *Inputs) {
		in.Config.Peers[0].LocalAddress = addr("10.68.6.1")
	}))
}

func TestTopLevelDetails(t *testing.T) {
	t.Parallel()
	const passive = "passive, and the speaker of an interface takes the connections to 10.68.1.1: set local_address"
	for name, tt := range map[string]struct {
		change func(*Inputs)
		want   string // about the VIP
	}{
		"no router id": {func(in *Inputs) { in.RouterID = netip.Addr{} }, "no router id: no listed interface has an IPv4 address; set bgp.router_id"},
		"not started":  {func(in *Inputs) { in.BGP.Speakers = in.BGP.Speakers[:2] }, "the speaker has not started"},
		"not up":       {func(in *Inputs) { in.BGP.Speakers[2].Peers[0].State = bgp.Active }, "10.255.0.9 Active"},
		"passive":      {func(in *Inputs) { in.Config.Peers[0].Passive = true; in.BGP.Speakers[2].Peers = nil }, passive},
		"no interface": {func(in *Inputs) { in.Net.Links = nil }, "no interface to be the next hop; interface en1: no such link; interface en5: no such link"},
		"IPv6 next hop for IPv4": {func(in *Inputs) {
			in.Config.Interfaces = append(in.Config.Interfaces, config.Interface{Name: "en7"})
			in.Config.VIPs[0].Interfaces = []string{"en7"}
			in.Net.Links[2] = link(4, "en7", "fd07::1/64")
		}, "10.255.0.9 did not negotiate extended next hop"},
		"no family": {func(in *Inputs) { in.BGP.Speakers[2].Peers[0].IPv4 = false }, "10.255.0.9 did not negotiate the address family"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := edit(reflector)
			tt.change(&in)
			d := Plan(in, t0)
			pl := d.VIPs[0].Interfaces[len(d.VIPs[0].Interfaces)-1]
			if pl.Announced || pl.Detail != tt.want || pl.Reason == "" {
				t.Errorf("announced: %t, %s, %q; want %q", pl.Announced, pl.Reason, pl.Detail, tt.want)
			}
		})
	}
}

// BFD with a peer that is some hops away has no interface, and ends the session.
func TestTopLevelBFD(t *testing.T) {
	t.Parallel()
	in := edit(reflector)
	in.Config.Peers[0].BFD = &config.BFD{MinTx: time.Second, MinRx: time.Second, Multiplier: 3, Multihop: true, MinTTL: 60}
	f := &film{in: in, now: t0}
	d := f.look(0, nil)
	want := []bfd.SessionConfig{{
		Peer: addr("10.255.0.9"), Local: addr("10.68.1.1"), Multihop: true, MinTTL: 60, MinTx: time.Second, MinRx: time.Second, Multiplier: 3,
	}}
	if diff := cmp.Diff(want, d.BFD, compare...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s := bfd.SessionState{Peer: want[0].Peer, Local: want[0].Local, Multihop: true, Status: bfd.Up, Since: t0}
	f.look(time.Second, func(in *Inputs) { in.BFD = &bfd.State{Sessions: []bfd.SessionState{s}} })
	s.Status, s.Downs, s.DownSince, s.Diagnostic = bfd.Down, 1, t0.Add(time.Minute), "control detection time expired"
	d = f.look(time.Minute, func(in *Inputs) { in.BFD = &bfd.State{Sessions: []bfd.SessionState{s}} })
	const text = "BFD with 10.255.0.9 down: control detection time expired"
	if r := d.Remote[0]; r.Wanted || r.Detail != text || len(d.speaker(status.TopLevel).Peers) != 0 {
		t.Errorf("wanted: %t, %q", r.Wanted, r.Detail)
	}
	if pl := d.VIPs[0].Interfaces[2]; pl.Announced || !strings.Contains(pl.Detail, text) {
		t.Errorf("%+v", pl)
	}
	if !d.VIPs[0].Announced || !d.Interfaces[0].Usable {
		t.Error("it concerns the interfaces")
	}
}

// An interface without peers of its own carries outgoing traffic while a session
// elsewhere works.
func TestTopLevelOnly(t *testing.T) {
	t.Parallel()
	in := edit(reflector)
	in.Config.Interfaces[0].Peers, in.Config.Interfaces[1].Peers = nil, nil
	in.BGP.Speakers = in.BGP.Speakers[2:]
	d := Plan(in, t0)
	if len(d.BGP.Speakers) != 1 || !d.VIPs[0].Announced || len(d.VIPs[0].Interfaces) != 1 {
		t.Errorf("%d speakers, %+v", len(d.BGP.Speakers), d.VIPs[0])
	}
	for i, n := range d.Interfaces {
		if !n.Usable || !n.Leg || d.Kernel.Interfaces[i].Source4 != addr("10.68.6.1") {
			t.Errorf("%s: usable %t, leg %t, source %s", n.Name, n.Usable, n.Leg, d.Kernel.Interfaces[i].Source4)
		}
	}
	in.Net.Links[0] = netmon.Link{Index: 2, Name: "en1", Up: true, Running: true}
	if n := Plan(in, t0).Interfaces[0]; n.Reason != status.InterfaceAddress || n.Detail != "no usable address" {
		t.Errorf("without an address: %s %s", n.Reason, n.Detail)
	}
}
