package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// floodPrefixes is how many prefixes a router sends that is out of its mind.
const floodPrefixes = 10_000

// TestScenario21ImportSafety: whatever a router sends, the host's routes stay
// what they are, no other router hears of it, and a router that sends too much
// loses its session and nothing else.
func TestScenario21ImportSafety(t *testing.T) {
	t.Parallel()
	t.Run("FRR", func(t *testing.T) { importSafety(t, "r1", r1v4, floodFromFRR) })
	t.Run("BIRD", func(t *testing.T) { importSafety(t, "r5", r5v4, floodFromBIRD) })
}

// hostile are the routes that a router should not send: a default, our VIP, a
// network of the host's, and n others.
func hostile(n int) []string {
	list := []string{"0.0.0.0/0", vip4.String(), "10.68.7.0/24", "10.68.77.0/24"}
	for i := range n {
		list = append(list, fmt.Sprintf("100.%d.%d.0/24", 64+i/256, i%256))
	}
	return list
}

// floodFromFRR makes FRR announce the prefixes of hostile(n) to the host: it
// redistributes static routes of the kernel.
func floodFromFRR(t *testing.T, r1 *lab.Node, n int) {
	t.Helper()
	var batch strings.Builder
	for _, p := range hostile(n) {
		// FRR installs the host's own announcement of the VIP with metric 20.
		fmt.Fprintf(&batch, "route replace %s via 10.68.9.5 proto static metric 5\n", p)
	}
	r1.WriteFile("/run/routes", batch.String())
	r1.Run("ip", "-batch", "/run/routes")
	r1.Run("vtysh", "-c", "configure terminal", "-c", "router bgp 65000", "-c", "address-family ipv4 unicast",
		"-c", "redistribute kernel", "-c", "neighbor 10.68.1.1 default-originate")
}

// floodFromBIRD does the same with BIRD, by a static protocol.
func floodFromBIRD(t *testing.T, r5 *lab.Node, n int) {
	t.Helper()
	var b strings.Builder
	b.WriteString(r5.Run("cat", "/etc/bird/bird.conf"))
	b.WriteString("protocol static flood {\n  ipv4 { preference 250; };\n")
	for _, p := range hostile(n) {
		fmt.Fprintf(&b, "  route %s via 10.68.9.1;\n", p)
	}
	b.WriteString("}\n")
	r5.WriteFile("/run/flood.conf", b.String())
	if out := r5.BIRDC(`configure "/run/flood.conf"`); !strings.Contains(out, "Reconfigured") && !strings.Contains(out, "Reconfiguration in progress") {
		t.Fatal(out)
	}
}

func importSafety(t *testing.T, router string, peer netip.Addr, flood func(*testing.T, *lab.Node, int)) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host, node := l.Node("host"), l.Node(router)
	wire := host.Capture()
	s := startWith(t, l, hostConfig{vips: sampleVIPs()})
	st := s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	settled(t, host)
	before, up := host.State(), uptimes(st)
	received := receivedFrom(st, peer)

	// Below the limit the session stays and the routes are ignored.
	flood(t, node, 100)
	s.WaitStatus(15*time.Second, "the routes were received", func(st *status.Status) error {
		got := receivedFrom(st, peer)
		return lab.That(got >= received+100, "%d prefixes received", got)
	})
	for _, p := range hostile(0) {
		wire.WaitMessage(10*time.Second, p+" from "+router, func(m lab.Message) bool {
			return !m.Out && m.Src.Addr() == peer && m.Announces(netip.MustParsePrefix(p))
		})
	}
	waitQuiet(t, wire, allPeers()...)
	st, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(up, uptimes(st)); diff != "" {
		t.Errorf("sessions were touched by 100 routes:\n%s", diff)
	}
	if diff := cmp.Diff(before, host.State()); diff != "" {
		t.Errorf("100 routes of a router changed the host:\n%s", diff)
	}

	// Above it the session ends, and is left alone for a while.
	since := time.Now()
	flood(t, node, floodPrefixes)
	cease := waitSent(t, wire, 30*time.Second, "NOTIFICATION 6/1", peer, since, func(m lab.Message) bool { return m.Type == lab.Notification })
	if cease.Code != 6 || cease.Subcode != 1 {
		t.Errorf("want Cease/Maximum Number of Prefixes Reached, got %v", cease)
	}
	s.WaitStatus(5*time.Second, "the session is down and says why", func(st *status.Status) error {
		for _, p := range st.Peers {
			if p.Address == peer {
				return lab.That(p.State != "Established" && strings.Contains(p.LastError, "Maximum Number of Prefixes"), "%s %s", p.State, p.LastError)
			}
		}
		return fmt.Errorf("no peer %v", peer)
	})
	others := slices.DeleteFunc(allPeers(), func(a netip.Addr) bool { return a == peer })
	waitQuiet(t, wire, others...)
	st, err = s.Status()
	if err != nil {
		t.Fatal(err)
	}
	now := uptimes(st)
	for name, start := range up {
		if !strings.Contains(name, peer.String()+" ") && !now[name].Equal(start) {
			t.Errorf("another session was touched: %s, now %v", name, now)
		}
	}
	if diff := cmp.Diff(before, host.State()); diff != "" {
		t.Errorf("%d routes of a router changed the host:\n%s", floodPrefixes, diff)
	}
	waitQuiet(t, wire, others...)
	if n := len(openedAfter(wire, peer, cease.Time)); n > 0 {
		t.Errorf("%d connections to the router right after it has sent too much", n)
	}
	for _, m := range wire.Messages() {
		for _, p := range m.Announced {
			if m.Out && p != vip4 && p != vip6 {
				t.Fatalf("sent to %v: %v", m.Dst.Addr(), m)
			}
		}
	}
}

// receivedFrom is how many prefixes the status says a peer has sent.
func receivedFrom(st *status.Status, peer netip.Addr) uint64 {
	for _, p := range st.Peers {
		if p.Address == peer {
			return p.Received
		}
	}
	return 0
}

// openedAfter are the OPENs that the peer has got since then.
func openedAfter(wire *lab.Capture, peer netip.Addr, since time.Time) []lab.Message {
	return to(wire, peer, since, func(m lab.Message) bool { return m.Type == lab.Open })
}
