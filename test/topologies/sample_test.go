package topologies

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// leg is one of the host's paths in the topology vipa.
type leg struct {
	router string // the software at the far end
	// ifc is the host's interface, with its addresses.
	ifc            string
	local4, local6 netip.Addr
	// node is the router with its interface towards the host, peers are its
	// addresses there, and via4 is its address towards the client.
	node, dev    string
	peer4, peer6 netip.Addr
	via4         netip.Addr
}

// legs are the paths of the topology vipa, one with each routing software.
func legs() []leg {
	a := netip.MustParseAddr
	return []leg{
		{"frr", "en1", a("10.68.1.1"), a("fd68:1::1"), "r1", "e1", a("10.68.1.2"), a("fd68:1::2"), a("10.68.9.1")},
		{"bird", "en5", a("10.68.5.1"), a("fd68:5::1"), "r5", "e5", a("10.68.5.2"), a("fd68:5::2"), a("10.68.9.5")},
	}
}

// eachLeg runs a test once for each path, with the path that fails and the one
// that stays.
func eachLeg(t *testing.T, test func(t *testing.T, fails, stays leg)) {
	t.Helper()
	for i, fails := range legs() {
		t.Run(fails.router, func(t *testing.T) { test(t, fails, legs()[1-i]) })
	}
}

// startSample starts the topology vipa and the daemon in it, and waits until the
// client has both ways to both VIPs.
func startSample(t *testing.T) (*lab.Lab, *lab.Speaker) {
	t.Helper()
	l := lab.Start(t, "vipa")
	s := startSpeaker(t, l)
	waitClientHasBoth(t, l)
	return l, s
}

func waitClientHasBoth(t *testing.T, l *lab.Lab) {
	t.Helper()
	client := l.Node("client")
	lab.Eventually(t, 15*time.Second, "the client has two ways to each VIP", func() error {
		for _, vip := range []netip.Prefix{vip4, vip6} {
			hops, err := client.Route(vip)
			if err != nil || len(lab.Live(hops)) != 2 {
				return fmt.Errorf("%v: %v: %w", vip, hops, err)
			}
		}
		return nil
	})
}

// waitLive waits until a node's live legs to prefix are those wanted.
func waitLive(t *testing.T, n *lab.Node, prefix netip.Prefix, want ...string) {
	t.Helper()
	lab.Eventually(t, 15*time.Second, fmt.Sprintf("%s has %v via %v", n.Name, prefix, want), func() error {
		hops, err := n.Route(prefix)
		if err != nil {
			return err
		}
		return lab.That(slices.Equal(lab.Live(hops), want), "it has %v", hops)
	})
}

// localVia returns an address of the client from which its packets to service4
// go by the router that has the address via.
func localVia(t *testing.T, client *lab.Node, via netip.Addr) netip.AddrPort {
	t.Helper()
	var flows []string
	const first, count = 42001, 100
	for port := first; port < first+count; port++ {
		flows = append(flows, fmt.Sprintf("%v from %v ipproto tcp sport %d dport %d", service4.Addr(), client4, port, service4.Port()))
	}
	var found netip.AddrPort
	// A path may be away for a moment, when the machine stood still.
	lab.Eventually(t, 20*time.Second, fmt.Sprintf("a port leads to %v via %v", service4, via), func() error {
		ways, err := client.RouteGets(flows...)
		if err != nil {
			return err
		}
		for i, way := range ways {
			if way.Gateway == via {
				found = netip.AddrPortFrom(client4, uint16(first+i))
				return nil
			}
		}
		return errors.New("none of 100")
	})
	return found
}

// service4 and service6 are where the host serves.
var (
	service4 = netip.AddrPortFrom(vip4.Addr(), 8080)
	service6 = netip.AddrPortFrom(vip6.Addr(), 8080)
)

// startSessions opens TCP sessions to the VIPs, the IPv4 one from the client's
// address local, and from the host without a chosen source, which must be the VIP.
func startSessions(t *testing.T, l *lab.Lab, local netip.AddrPort) []*lab.Session {
	t.Helper()
	host, client := l.Node("host"), l.Node("client")
	// The source comes on after the announcement: routers may have the routes
	// first.
	lab.Eventually(t, 10*time.Second, "the VIPs are the host's source", func() error {
		for to, want := range map[netip.Addr]netip.Addr{client4: vip4.Addr(), client6: vip6.Addr()} {
			got, err := host.RouteGet(to.String())
			if err != nil {
				return err
			}
			if got.Source != want {
				return fmt.Errorf("source towards %v is %v, want %v", to, got.Source, want)
			}
		}
		return nil
	})
	sessions := []*lab.Session{
		lab.StartSession(client, local, host, service4),
		lab.StartSession(client, netip.AddrPort{}, host, service6),
	}
	// Several, so that some leave by each interface.
	for port := uint16(9001); port <= 9004; port++ {
		sessions = append(sessions, outSession(t, l, netip.AddrPortFrom(client4, port), vip4), outSession(t, l, netip.AddrPortFrom(client6, port), vip6))
	}
	for _, s := range sessions {
		s.WaitAlive(10 * time.Second)
	}
	return sessions
}

// outSession opens a session from the host to the client, whose source must be the
// VIP.
func outSession(t *testing.T, l *lab.Lab, to netip.AddrPort, vip netip.Prefix) *lab.Session {
	t.Helper()
	for began := time.Now(); ; {
		s := lab.StartSession(l.Node("host"), netip.AddrPort{}, l.Node("client"), to)
		if s.Local.Addr() == vip.Addr() {
			return s
		}
		// The VIP is no source while BFD finds both paths dead, for which it takes a
		// machine that stood still.
		if lab.Busy(began.Add(-10*time.Second), time.Now(), usual.detection()/2) == "" || time.Since(began) > 30*time.Second {
			t.Fatalf("a session from the host to %v has the source %v, want %v", to, s.Local, vip)
		}
		s.Stop()
		<-time.After(100 * time.Millisecond)
	}
}

// waitAllAlive waits until all sessions carry data, and returns the longest gap
// since the given time.
func waitAllAlive(sessions []*lab.Session, since time.Time) time.Duration {
	var gap time.Duration
	for _, s := range sessions {
		// Its retransmissions come at twice the time each, of two minutes at the most.
		s.WaitAlive(150 * time.Second)
		gap = max(gap, s.Gap(since))
	}
	return gap
}

// egress returns the interfaces by which 40 flows from the VIPs to the client
// leave the host.
func egress(host *lab.Node) ([]string, error) {
	var flows []string
	for port := 50001; port <= 50020; port++ {
		flows = append(flows,
			fmt.Sprintf("%v from %v ipproto tcp sport %d dport 80", client4, vip4.Addr(), port),
			fmt.Sprintf("%v from %v ipproto tcp sport %d dport 80", client6, vip6.Addr(), port))
	}
	ways, err := host.RouteGets(flows...)
	if err != nil {
		return nil, err
	}
	var devs []string
	for _, way := range ways {
		devs = append(devs, way.Dev)
	}
	slices.Sort(devs)
	return slices.Compact(devs), nil
}

// waitEgress waits until flows from the VIP leave by exactly these interfaces.
func waitEgress(t *testing.T, host *lab.Node, d time.Duration, want ...string) {
	t.Helper()
	lab.Eventually(t, d, fmt.Sprintf("flows from the VIP leave by %v", want), func() error {
		got, err := egress(host)
		if err != nil {
			return err
		}
		return lab.That(slices.Equal(got, want), "they leave by %v", got)
	})
}
