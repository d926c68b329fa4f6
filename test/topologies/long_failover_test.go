//go:build long

package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// announcer makes the host announce the VIPs.
type announcer struct {
	name  string
	start func(t *testing.T, l *lab.Lab)
}

// frrAnnouncer is the yardstick: the VIPs on a device of their own, announced by
// FRR, with what an operator sets so that the kernel leaves a dead link.
var frrAnnouncer = announcer{name: "frr", start: func(_ *testing.T, l *lab.Lab) {
	host := l.Node("host")
	host.Run("ip", "link", "add", "vi0", "type", "bridge")
	host.Run("ip", "link", "set", "vi0", "up")
	host.Run("ip", "addr", "add", vip4.String(), "dev", "vi0")
	host.Run("ip", "addr", "add", vip6.String(), "dev", "vi0", "nodad")
	host.Run("sysctl", "-qw", "net.ipv4.conf.all.ignore_routes_with_linkdown=1", "net.ipv6.conf.all.ignore_routes_with_linkdown=1")
	host.StartFRR("announcer-frr")
}}

var vipspeakerAnnouncer = announcer{name: "vipspeaker", start: func(t *testing.T, l *lab.Lab) { startSpeaker(t, l) }}

// failover is what one failure of en1 costs.
type failover struct {
	// moved4 and moved6 are the times from the failure until the router's kernel
	// has the other leg only, gap is the longest that a client got no answer, and
	// stall the longest that the client itself was held up by this machine.
	moved4, moved6, gap, stall time.Duration
	lost                       int
	failed                     time.Time
}

func (f failover) String() string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
	return fmt.Sprintf("route moved after %s (IPv6 %s), longest gap of a client %s (noise %s), %d probes lost",
		ms(f.moved4), ms(f.moved6), ms(f.gap), ms(f.stall), f.lost)
}

// oneRouter are the topologies with one router on both links: at the far end of
// the cables, and behind a switch that keeps the router's carrier.
func oneRouter() []string {
	return []string{"onerouter-frr", "onerouter-bird", "switched-frr", "switched-bird"}
}

// measureFailover lays out a topology with one router on both links, lets en1
// fail, and measures.
func measureFailover(t *testing.T, topology string, a announcer, f failure) failover {
	t.Helper()
	l := lab.Start(t, topology)
	host, router, client := l.Node("host"), l.Node("router"), l.Node("client")
	a.start(t, l)
	v4, v6 := router.WatchRoute(vip4), router.WatchRoute(vip6)
	// By interface: routers may prefer a link-local next hop.
	legs := func(devs ...string) func([]lab.Hop) bool {
		return func(h []lab.Hop) bool { return slices.Equal(lab.LiveDevs(h), devs) }
	}
	v4.Wait(20*time.Second, time.Now(), "two legs", legs("e1", "e5"))
	v6.Wait(20*time.Second, time.Now(), "two legs", legs("e1", "e5"))

	server := netip.AddrPortFrom(vip4.Addr(), 7)
	ports := slices.Concat(portsVia(t, router, "iif e9 from "+client4.String(), server, "e1", 2), portsVia(t, router, "iif e9 from "+client4.String(), server, "e5", 2))
	probe := lab.StartProbe(client, host, server, lab.ProbeOptions{Ports: ports})
	probe.WaitAnswered(5 * time.Second)

	failed := time.Now()
	f.fail(l, "en1")
	moved4 := v4.Wait(30*time.Second, failed, "en5 only", legs("e5"))
	moved6 := v6.Wait(30*time.Second, failed, "en5 only", legs("e5"))
	probe.WaitAnswered(10 * time.Second)
	r := probe.Stop()
	return failover{
		moved4: moved4.Time.Sub(failed), moved6: moved6.Time.Sub(failed),
		gap: r.Gap(failed), stall: r.Stall(failed), lost: r.Lost(), failed: failed,
	}
}

// portsVia returns n UDP source ports whose flows to server leave node by dev.
// how is added to `ip route get`.
func portsVia(t *testing.T, node *lab.Node, how string, server netip.AddrPort, dev string, n int) []uint16 {
	t.Helper()
	var flows []string
	const first, count = 40001, 100
	for port := first; port < first+count; port++ {
		flows = append(flows, fmt.Sprintf("%v %s ipproto udp sport %d dport %d", server.Addr(), how, port, server.Port()))
	}
	ways, err := node.RouteGets(flows...)
	if err != nil {
		t.Fatal(err)
	}
	var ports []uint16
	for i, way := range ways {
		if way.Dev == dev && len(ports) < n {
			ports = append(ports, uint16(first+i))
		}
	}
	if len(ports) < n {
		t.Fatalf("node %s: only ports %v of 100 leave by %s", node.Name, ports, dev)
	}
	return ports
}

// margin is how much longer than with FRR as the announcer a router may need.
const margin = 100 * time.Millisecond

// TestLongFailover compares the daemon with FRR as the announcer, for the same
// router and the same failure. On a busy machine a single time may be anything:
// of the daemon's, the best of three counts.
func TestLongFailover(t *testing.T) {
	for _, topology := range oneRouter() {
		for _, f := range failures() {
			t.Run(topology+"/"+f.name, func(t *testing.T) {
				yardstick := measureFailover(t, topology, frrAnnouncer, f)
				t.Logf("FRR announces:        %v", yardstick)
				rounds(t, 3, margin/5, func(r *round) {
					got := measureFailover(t, topology, vipspeakerAnnouncer, f)
					t.Logf("vipspeaker announces: %v", got)
					if moved := got.moved(); moved > yardstick.moved4+margin {
						r.errorf(got.failed, got.failed.Add(moved), "the router needs more than %v longer than with FRR", margin)
					}
				})
			})
		}
	}
}

// moved is judged for IPv6 by what FRR needs for IPv4: there it takes its hold time
// when carrier is lost.
func (f failover) moved() time.Duration { return max(f.moved4, f.moved6) }

// TestLongFailoverSessions lets TCP sessions to and from the VIPs outlive the
// failure of one interface, and then of the other.
func TestLongFailoverSessions(t *testing.T) {
	for _, topology := range oneRouter() {
		for _, f := range failures() {
			t.Run(topology+"/"+f.name, func(t *testing.T) {
				l := lab.Start(t, topology)
				s := startSpeaker(t, l)
				waitBothLegs(t, l.Node("router"))
				sessions := startSessions(t, l, netip.AddrPort{})
				wire := l.Node("host").Capture()
				for _, ifc := range []string{"en1", "en5"} {
					rounds(t, 1, longestOutage/20, func(r *round) {
						waitAllAlive(sessions, time.Now())
						failed := time.Now()
						f.fail(l, ifc)
						gap := waitAllAlive(sessions, failed)
						t.Logf("%s fails: longest silence of %d sessions %v", ifc, len(sessions), gap.Round(time.Millisecond))
						if gap > longestOutage {
							r.errorf(failed, time.Now(), "a session was silent for %v", gap)
						}
						f.heal(l, ifc)
						s.WaitStatus(60*time.Second, "all is back", lab.Established)
						waitBothLegs(t, l.Node("router"))
					})
				}
				waitAllAlive(sessions, time.Now())
				noResets(t, wire, sessions)
			})
		}
	}
}

// waitBothLegs waits until the one router reaches the VIPs by both links.
func waitBothLegs(t *testing.T, router *lab.Node) {
	t.Helper()
	waitLive(t, router, vip4, "10.68.1.1@e1", "10.68.5.1@e5")
	waitLive(t, router, vip6, "fd68:1::1@e1", "fd68:5::1@e5")
}
