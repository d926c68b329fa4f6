package topologies

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// fabricHead is what the configurations of a fabric's host have in common.
const fabricHead = `
bgp:
  asn: 65010
  router_id: 10.68.5.1
  timers: {hold_time: 9s, keepalive: 3s, connect_retry: 1s}
`

const fabricVIPs = `
vips:
  - {name: vipa, address: 10.68.6.1/32, preferred_source: true}
  - {name: vipa6, address: "fd68:6::1/128", preferred_source: true}
`

// startFabric starts the daemon with a configuration and waits until all is up.
func startFabric(t *testing.T, config string) (*lab.Lab, *lab.Speaker) {
	t.Helper()
	l := lab.Start(t, "fabric-frr")
	host := l.Node("host")
	host.WriteFile(lab.ConfigPath, fabricHead+config+fabricVIPs)
	s := lab.StartSpeaker(host, binary(t))
	s.WaitStatus(20*time.Second, "established", lab.Established)
	return l, s
}

// waitLegs waits until the router's route has exactly these live legs, "device"
// or "device via address".
func waitLegs(t *testing.T, n *lab.Node, prefix netip.Prefix, want ...string) {
	t.Helper()
	lab.Eventually(t, 10*time.Second, fmt.Sprintf("%v on %s", prefix, n.Name), func() error {
		hops, err := n.Route(prefix)
		if err != nil {
			return err
		}
		devs := lab.LiveDevs(hops)
		return lab.That(slices.Equal(devs, want), "%v, want %v", hops, want)
	})
}

// The default gateway is the peer, and another one takes its place.
func TestFabricGateway(t *testing.T) {
	t.Parallel()
	l, s := startFabric(t, `
interfaces:
  - name: en5
    hold_up: 1s
    peers:
      - {address: gateway, asn: external, router_id: 10.68.5.2}
`)
	host, leaf := l.Node("host"), l.Node("leaf")
	st, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range st.Peers {
		got[p.Address.String()] = p.Found
	}
	if len(got) != 2 || got["10.68.5.2"] != "gateway" || got["fd68:5::2"] != "gateway" {
		t.Errorf("peers %v, want the gateways of both families", got)
	}
	waitLegs(t, leaf, vip4, "e5")
	waitLegs(t, leaf, vip6, "e5")

	leaf.Run("ip", "addr", "add", "10.68.5.3/24", "dev", "e5")
	host.Run("ip", "route", "replace", "default", "via", "10.68.5.3")
	s.WaitStatus(10*time.Second, "another gateway", func(st *status.Status) error {
		return lab.That(st.Peers[0].Address == netip.MustParseAddr("10.68.5.3"), "peers: %v", st.Peers[0].Address)
	})
	host.Run("ip", "route", "del", "default")
	s.WaitStatus(10*time.Second, "no gateway of IPv4", func(st *status.Status) error {
		return lab.That(len(st.Peers) == 1 && st.Peers[0].Address == netip.MustParseAddr("fd68:5::2"), "%d peers", len(st.Peers))
	})
	host.Run("ip", "-6", "route", "del", "default")
	st = s.WaitStatus(10*time.Second, "no gateway at all", func(st *status.Status) error {
		return lab.That(len(st.Peers) == 1 && !st.Peers[0].Address.IsValid(), "%d peers", len(st.Peers))
	})
	if p := st.Peers[0]; p.State != "Down" || !strings.HasSuffix(p.LastError, "no default gateway on en5") {
		t.Errorf("%s: %s", p.State, p.LastError)
	}
	host.Run("ip", "route", "add", "default", "via", "10.68.5.2")
	host.Run("ip", "-6", "route", "append", "default", "via", "fd68:5::2") // beside that of the leaf's advertisements
	s.WaitStatus(20*time.Second, "the gateways are back", lab.Established)
	waitLegs(t, leaf, vip4, "e5")
}

// reflected are the next hops of the VIP's paths at the route reflector.
func reflected(n *lab.Node) ([]string, error) {
	var route struct {
		Paths []struct{ Nexthops []struct{ IP string } }
	}
	if err := json.Unmarshal([]byte(n.VTY("show bgp ipv4 unicast 10.68.6.1/32 json")), &route); err != nil {
		return nil, err
	}
	var hops []string
	for _, p := range route.Paths {
		for _, h := range p.Nexthops {
			hops = append(hops, h.IP)
		}
	}
	slices.Sort(hops)
	return hops, nil
}

func waitReflected(t *testing.T, n *lab.Node, want ...string) {
	t.Helper()
	lab.Eventually(t, 10*time.Second, "paths at the reflector", func() error {
		got, err := reflected(n)
		if err != nil {
			return err
		}
		return lab.That(slices.Equal(got, want), "next hops %v, want %v", got, want)
	})
}

// A route reflector some hops away gets one path per usable interface, and
// exactly that of a dead one goes.
func TestFabricReflector(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		addPath bool
		both    []string
	}{
		"ADD-PATH":         {true, []string{"10.68.1.1", "10.68.5.1"}},
		"without ADD-PATH": {false, []string{"10.68.1.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t, "fabric-frr")
			host, leaf, rr := l.Node("host"), l.Node("leaf"), l.Node("rr")
			host.Run("ip", "addr", "add", "10.68.1.1/24", "dev", "en1")
			host.Run("ip", "addr", "add", "10.68.255.1/32", "dev", "lo")
			leaf.Run("ip", "addr", "add", "10.68.1.2/24", "dev", "e1")
			leaf.Run("ip", "route", "add", "10.68.255.1/32", "via", "10.68.5.1")
			host.WriteFile(lab.ConfigPath, fabricHead+fmt.Sprintf(`
interfaces:
  - {name: en1, hold_up: 1s, gateway: 10.68.1.2, peers: []}
  - {name: en5, hold_up: 1s, gateway: 10.68.5.2, peers: []}
peers:
  - {address: 10.255.0.9, asn: internal, local_address: 10.68.255.1, ttl: 8, add_path: %t}
vips:
  - {name: vipa, address: 10.68.6.1/32, preferred_source: true, announce: {local_pref: 200, extended_communities: ["rt:65010:100"], origin: incomplete}}
`, tt.addPath))
			wire := host.Capture()
			s := lab.StartSpeaker(host, binary(t))
			st := s.WaitStatus(20*time.Second, "established", lab.Established)
			waitReflected(t, rr, tt.both...)
			out := rr.VTY("show bgp ipv4 unicast 10.68.6.1/32")
			for _, want := range []string{"localpref 200", "RT:65010:100", "Origin incomplete"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if n := st.Peers[0].Negotiated; n == nil || n.AddPath != tt.addPath {
				t.Errorf("negotiated: %+v", n)
			}
			if v := st.VIPs[0].Interfaces; len(v) != 1 || v[0].Interface != status.TopLevel || len(v[0].Paths) != 2 {
				t.Errorf("%+v", v)
			}
			began, changed := st.Peers[0].Transitions, time.Now()
			l.Unplug("host", "en1")
			waitReflected(t, rr, "10.68.5.1")
			l.Plug("host", "en1")
			waitReflected(t, rr, tt.both...)
			if st, err := s.Status(); err != nil || st.Peers[0].Transitions != began {
				t.Errorf("the session was lost: %v, %+v", err, st.Peers[0])
			}
			sent := wire.Packets(func(p lab.Packet) bool {
				return p.Out && p.Dst == netip.MustParseAddr("10.255.0.9") && p.Time.After(changed)
			})
			if len(sent) == 0 || slices.ContainsFunc(sent, func(p lab.Packet) bool { return p.TTL != 8 }) {
				t.Errorf("packets to the reflector, want TTL 8: %v", sent)
			}
		})
	}
}

// BFD over several hops finds the way to a route reflector dead while every link
// of the host is fine, and ends that session long before its hold time is over.
func TestFabricReflectorBFD(t *testing.T) {
	l := lab.Start(t, "fabric-frr")
	host, leaf, rr := l.Node("host"), l.Node("leaf"), l.Node("rr")
	host.Run("ip", "addr", "add", "10.68.255.1/32", "dev", "lo")
	leaf.Run("ip", "route", "add", "10.68.255.1/32", "via", "10.68.5.1")
	rr.StartFRRDaemon("bfdd")
	frrConfigure(rr, "bfd", "peer 10.68.255.1 multihop local-address 10.255.0.9",
		"detect-multiplier 3", "transmit-interval 50", "receive-interval 50")
	host.WriteFile(lab.ConfigPath, fabricHead+`
interfaces:
  - {name: en5, hold_up: 1s, gateway: 10.68.5.2, peers: []}
peers:
  - {address: 10.255.0.9, asn: internal, local_address: 10.68.255.1, ttl: 8, bfd: {min_tx: 50ms, min_rx: 50ms, multiplier: 3}}
vips:
  - {name: vipa, address: 10.68.6.1/32}
`)
	s := lab.StartSpeaker(host, binary(t))
	s.WaitStatus(20*time.Second, "BFD is up", func(st *status.Status) error {
		if b := st.Peers[0].BFD; b == nil || b.State != "Up" {
			return fmt.Errorf("BFD: %+v", b)
		}
		return lab.Established(st)
	})
	waitReflected(t, rr, "10.68.5.1")
	failed := time.Now()
	l.DropFrames("rr", "e2")
	st := s.WaitStatus(5*time.Second, "BFD ended the session", func(st *status.Status) error {
		p := st.Peers[0]
		return lab.That(p.State == "Down" && strings.Contains(p.LastError, "BFD with 10.255.0.9 down"), "%s: %s", p.State, p.LastError)
	})
	t.Logf("the way is lost: session ended after %s: %s", time.Since(failed).Round(time.Millisecond), st.Peers[0].LastError)
	if !st.Interfaces[0].Usable {
		t.Errorf("en5: %+v", st.Interfaces[0])
	}
}

// A stop with graceful_shutdown tells routers ahead: the route has the community
// and stays for that long.
func TestFabricGracefulShutdown(t *testing.T) {
	l, s := startFabric(t, unnumberedOnly+`
shutdown: {mode: drain, time: 10s, wait: 1s, graceful_shutdown: 2s}
`)
	leaf := l.Node("leaf")
	waitLegs(t, leaf, vip4, "e1", "e5")
	watch := leaf.WatchRoute(vip4)
	wire := l.Node("host").Capture()
	began := time.Now()
	s.Signal(syscall.SIGTERM)
	var told time.Duration
	lab.Eventually(t, 20*time.Second, "GRACEFUL_SHUTDOWN at the leaf", func() error {
		out, err := leaf.Ask("show bgp ipv4 unicast 10.68.6.1/32")
		told = time.Since(began)
		if why := lab.Busy(began, time.Now(), 500*time.Millisecond); why != "" && strings.Contains(out, "not in table") {
			t.Logf("nobody could look while the route had the community, for %s", why)
			return nil
		}
		return errors.Join(err, lab.That(strings.Count(out, "graceful-shutdown") >= 2, "%s", out))
	})
	waitLegs(t, leaf, vip4)
	gone := time.Since(began)
	t.Logf("told after %s, gone after %s", told.Round(time.Millisecond), gone.Round(time.Millisecond))
	if gone < 2*time.Second {
		t.Errorf("withdrawn %v after the order to stop, want 2 s: %v\n%v", gone, watch, wire.Messages())
	}
	lab.Within(t, "the withdraw after the order to stop", began, gone, 4*time.Second)
	waitSent(t, wire, 5*time.Second, "GRACEFUL_SHUTDOWN", r5v4, began, func(m lab.Message) bool {
		return m.Announces(vip4) && slices.Contains(m.Communities, gracefulShutdown)
	})
}

// The keys of a peer reach the wire: a link-local address, families, router id,
// passive, what is announced to it alone, and what a VIP has whose checks fail.
func TestFabricPeerKeys(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "fabric-frr")
	host, leaf := l.Node("host"), l.Node("leaf")
	leaf.Run("ip", "-6", "addr", "add", "fe80::68:2/64", "dev", "e1", "nodad")
	host.Run("ip", "-6", "addr", "add", "fe80::68:1/64", "dev", "en1", "nodad")
	frrConfigure(leaf, "router bgp 65000", "bgp long-lived-graceful-restart stale-time 60",
		"neighbor fe80::68:1 remote-as 65010", "neighbor fe80::68:1 interface e1", "neighbor fe80::68:1 timers connect 1",
		"neighbor fe80::68:1 capability extended-nexthop", "address-family ipv4 unicast", "neighbor fe80::68:1 activate")
	const config = fabricHead + `  graceful_restart: {enabled: true, restart_time: 30s, long_lived: 1h}
interfaces:
  - name: en1
    hold_up: 1s
    peers:
      - address: "fe80::68:2"
        asn: 65000
        families: ipv4
        announce: {origin: incomplete, med: 7, prepend: 2, communities: ["65010:7"], large_communities: ["65010:7:7"], extended_communities: ["rt:65010:7"]}
  - name: en5
    hold_up: 1s
    peers:
      - {address: 10.68.5.2, asn: external, passive: true, router_id: %s}
vips:
  - name: vipa
    address: 10.68.6.1/32
    announce: {origin: egp, extended_communities: ["soo:65010:1"]}
    checks: [{exec: {command: [/usr/bin/test, "-e", /run/fine]}, interval: 100ms, rise: 1, fall: 1}]
    on_failure: {degrade: {extended_communities: ["rt:65010:666"]}}
`
	host.WriteFile(lab.ConfigPath, fmt.Sprintf(config, "10.9.9.9"))
	host.WriteFile("/run/fine", "")
	s := lab.StartSpeaker(host, binary(t))
	s.WaitStatus(20*time.Second, "a check that passes", func(st *status.Status) error {
		return lab.That(len(st.VIPs) == 1 && st.VIPs[0].Announced && !st.VIPs[0].Degraded, "%+v", st.VIPs)
	})
	host.Run("rm", "/run/fine")
	st := s.WaitStatus(20*time.Second, "en1 up, en5 refused", func(st *status.Status) error {
		return lab.That(len(st.Peers) == 2 && st.Peers[0].State == "Established" && strings.Contains(st.Peers[1].LastError, "router id is 10.68.5.2"), "%+v", st.Peers)
	})
	if n := st.Peers[0].Negotiated; !slices.Equal(n.Families, []string{"ipv4"}) || !n.ExtendedNextHop || !n.GracefulRestart || !n.LongLived {
		t.Errorf("negotiated: %+v", n)
	}
	route := func() string { return leaf.VTY("show bgp ipv4 unicast 10.68.6.1/32") }
	lab.Eventually(t, 5*time.Second, "attributes for en1's peer", func() error {
		out := route()
		for _, want := range []string{"65010 65010 65010", "Origin incomplete, metric 7", "Community: 65010:7", "65010:7:7", "RT:65010:7 ", "RT:65010:666", "SoO:65010:1"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("no %q in\n%s", want, out)
			}
		}
		return nil
	})
	host.WriteFile(lab.ConfigPath, fmt.Sprintf(config, "10.68.5.2"))
	if out, err := s.Command("reload"); err != nil {
		t.Fatalf("reload: %v\n%s", err, out)
	}
	st = s.WaitStatus(20*time.Second, "en5 up", func(st *status.Status) error {
		return lab.That(st.Peers[1].State == "Established", "%+v", st.Peers[1])
	})
	if st.Peers[0].Transitions != 1 || st.Peers[1].ASN != 65000 {
		t.Errorf("%+v", st.Peers)
	}
	// A session is up before its first path is with the router.
	lab.Eventually(t, 5*time.Second, "what is for one peer is for that alone", func() error {
		out := route()
		for text, times := range map[string]int{"RT:65010:7 ": 1, "Origin incomplete": 1, "Origin EGP": 1, "SoO:65010:1": 2} {
			if n := strings.Count(out, text); n != times {
				return fmt.Errorf("%d of %q, want %d:\n%s", n, text, times, out)
			}
		}
		return nil
	})
}

// BFD runs over link-local addresses, and finds a path dead that keeps its carrier.
func TestFabricUnnumberedBFD(t *testing.T) {
	l := lab.Start(t, "fabric-frr")
	host, leaf := l.Node("host"), l.Node("leaf")
	startBFDD(t, leaf)
	frrConfigure(leaf, "bfd", "profile host", "transmit-interval 50", "receive-interval 50", "exit", "exit",
		"router bgp 65000", "neighbor e1 bfd", "neighbor e1 bfd profile host")
	host.WriteFile(lab.ConfigPath, fabricHead+strings.Replace(unnumberedOnly, "asn: external}", "asn: external, bfd: "+usual.host()+"}", 1)+fabricVIPs)
	s := lab.StartSpeaker(host, binary(t))
	up := func(st *status.Status) error {
		if b := st.Peers[0].BFD; b == nil || b.State != "Up" {
			return fmt.Errorf("BFD: %+v", b)
		}
		return lab.Established(st)
	}
	s.WaitStatus(20*time.Second, "BFD is up", up)
	waitLegs(t, leaf, vip4, "e1", "e5")
	waitLegs(t, leaf, vip6, "e1", "e5")
	failed := time.Now()
	l.DropFrames("host", "en1")
	waitLegs(t, leaf, vip4, "e5")
	t.Logf("frames are lost: moved after %s", time.Since(failed).Round(time.Millisecond))
	s.WaitStatus(5*time.Second, "BFD ended the session", func(st *status.Status) error {
		p := st.Peers[0]
		return lab.That(p.State == "Down" && strings.Contains(p.LastError, "BFD with "+p.Address.String()+" down"), "%s: %s", p.State, p.LastError)
	})
	l.PassFrames("host", "en1")
	s.WaitStatus(20*time.Second, "frames pass", up)
	waitLegs(t, leaf, vip4, "e1", "e5")
}
