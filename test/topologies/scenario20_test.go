package topologies

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestScenario20PinnedSession: a session never uses another interface than its
// own, even if its router can be reached there too.
func TestScenario20PinnedSession(t *testing.T) {
	t.Parallel()
	frr := pinned{router: "r1", dev: "en1", host: netip.MustParseAddr("10.68.1.1"), peer: r1v4, other: "10.68.5.2"}
	bird := pinned{router: "r5", dev: "en5", host: netip.MustParseAddr("10.68.5.1"), peer: r5v4, other: "10.68.1.2"}
	t.Run("interface fails, FRR", frr.interfaceFails)
	t.Run("interface fails, BIRD", bird.interfaceFails)
	t.Run("path fails, FRR", frr.pathFails)
	t.Run("path fails, BIRD", bird.pathFails)
	t.Run("internal, FRR", func(t *testing.T) { internalIsPinned(t, "onerouter-frr") })
	t.Run("internal, BIRD", func(t *testing.T) { internalIsPinned(t, "onerouter-bird") })
}

// pinned is the session that is looked at: that of router and host by dev.
type pinned struct {
	router, dev string
	host, peer  netip.Addr
	other       string // the router of the other interface, as the host sees it
}

// detour lets host and router reach each other by the other interface and the
// other router, which are used as soon as nothing nearer is left.
func (p pinned) detour(l *lab.Lab) {
	if p.router == "r1" {
		l.Node("r5").Run("ip", "route", "add", "10.68.1.0/24", "via", "10.68.9.1")
		l.Node("r5").Run("ip", "route", "add", p.host.String(), "via", "10.68.5.1")
		l.Node("r1").Run("ip", "route", "add", p.host.String(), "via", "10.68.9.5")
		return
	}
	l.Node("r1").Run("ip", "route", "add", "10.68.5.0/24", "via", "10.68.9.5")
	l.Node("r1").Run("ip", "route", "add", p.host.String(), "via", "10.68.1.1")
	l.Node("r5").Run("ip", "route", "add", p.host.String(), "via", "10.68.9.1")
}

func (p pinned) interfaceFails(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host, router := l.Node("host"), l.Node(p.router)
	wire := host.Capture()
	s := startWith(t, l, hostConfig{vips: sampleVIPs()})
	ownAddresses(t, host)
	p.ownTTL(t, wire)

	p.detour(l)
	failed := time.Now()
	host.LinkDown(p.dev)
	s.WaitStatus(5*time.Second, p.dev+" is down", p.down)
	reachable(t, host, netip.AddrPortFrom(p.host, 0), router, netip.AddrPortFrom(p.peer, 7))
	p.noSession(t, router)
	waitQuiet(t, wire, p.others()...)
	s.WaitStatus(time.Second, p.dev+" is down", p.down)
	if list := p.opened(wire, failed); len(list) > 0 {
		t.Errorf("connections to %s while %s is down: %v", p.router, p.dev, list)
	}

	router.Run("ip", "route", "flush", p.host.String())
	host.LinkUp(p.dev)
	s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
	p.pathOfSYNs(t, wire)
}

func (p pinned) pathFails(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host, router := l.Node("host"), l.Node(p.router)
	wire := host.Capture()
	s := startWith(t, l, hostConfig{vips: sampleVIPs(), holdTime: 3, unprobed: true})

	// The link loses everything and keeps its carrier.
	p.detour(l)
	l.DropFrames("host", p.dev)
	// The NOTIFICATION itself stays in the host: TCP still waits for an answer to
	// what it sent before.
	s.WaitStatus(10*time.Second, "the session is down", p.down)
	down := time.Now()
	heard := lastHeard(wire, p.peer, down)
	if d := down.Sub(heard); d < 3*time.Second {
		t.Errorf("the session was ended %v after the router's last message, want its hold time of 3 s", d)
	}
	lab.Within(t, "the end of the session after the router's last message", heard, down.Sub(heard), 5*time.Second)
	p.attempts(t, wire, time.Now())
	p.pathOfSYNs(t, wire)

	// Even if the host is told to go the other way, the router does not answer.
	host.Run("ip", "route", "add", p.peer.String(), "via", p.other)
	reachable(t, host, netip.AddrPortFrom(p.host, 0), router, netip.AddrPortFrom(p.peer, 7))
	p.noSession(t, router)
	p.attempts(t, wire, time.Now())
	s.WaitStatus(time.Second, "the session is down", p.down)
	p.ownTTL(t, wire)

	host.Run("ip", "route", "del", p.peer.String(), "via", p.other)
	router.Run("ip", "route", "flush", p.host.String())
	l.PassFrames("host", p.dev)
	s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
}

// internalIsPinned: packets of an internal session have no TTL that keeps them on
// their link. Here the router is one hop away by both interfaces, and both sides
// are told to use the wrong one.
func internalIsPinned(t *testing.T, topology string) {
	t.Parallel()
	l := lab.Start(t, topology)
	host, router := l.Node("host"), l.Node("router")
	p := pinned{router: "router", dev: "en5", host: netip.MustParseAddr("10.68.5.1"), peer: r5v4, other: "10.68.1.2"}
	if router.Router() == lab.FRR {
		args := []string{"vtysh", "-c", "configure terminal", "-c", "router bgp 65000"}
		for _, address := range []string{"10.68.1.1", "10.68.5.1", "fd68:1::1", "fd68:5::1"} {
			args = append(args, "-c", "neighbor "+address+" remote-as 65000")
		}
		router.Run(args...)
	} else {
		router.WriteFile("/run/internal.conf", strings.ReplaceAll(router.Run("cat", "/etc/bird/bird.conf"), "as 65010", "as 65000"))
		router.BIRDC(`configure "/run/internal.conf"`)
	}
	wire := host.Capture()
	s := startWith(t, l, hostConfig{vips: sampleVIPs(), asn: 65000, holdTime: 3, unprobed: true})

	l.DropFrames("host", p.dev)
	host.Run("ip", "route", "add", p.peer.String(), "via", p.other, "dev", "en1")
	router.Run("ip", "route", "add", p.host.String(), "via", "10.68.1.1", "dev", "e1")
	reachable(t, host, netip.AddrPortFrom(p.host, 0), router, netip.AddrPortFrom(p.peer, 7))
	s.WaitStatus(10*time.Second, "the session is down", p.down)
	down := time.Now()
	p.noSession(t, router)
	p.attempts(t, wire, down)
	s.WaitStatus(time.Second, "the session is down", p.down)
	p.pathOfSYNs(t, wire)
}

// attempts waits until the host has tried to connect to the router.
func (p pinned) attempts(t *testing.T, wire *lab.Capture, since time.Time) {
	t.Helper()
	lab.Eventually(t, 10*time.Second, "an attempt to connect to "+p.router, func() error {
		return lab.That(len(p.opened(wire, since)) > 0, "none yet")
	})
}

// lastHeard is when the host had the last message from a peer before a time.
func lastHeard(wire *lab.Capture, peer netip.Addr, before time.Time) (last time.Time) {
	for _, m := range wire.Messages() {
		if !m.Out && m.Src.Addr() == peer && m.Time.Before(before) && m.Time.After(last) {
			last = m.Time
		}
	}
	return last
}

// opened are the connections that the host has tried to open to the router.
func (p pinned) opened(wire *lab.Capture, since time.Time) []lab.Packet {
	return wire.Packets(func(q lab.Packet) bool {
		return q.Out && q.Proto == 6 && q.Dst == p.peer && q.DstPort == 179 && q.Flags&(lab.SYN|lab.ACK) == lab.SYN && q.Time.After(since)
	})
}

// pathOfSYNs checks that the host has connected to the router by its interface only.
func (p pinned) pathOfSYNs(t *testing.T, wire *lab.Capture) {
	t.Helper()
	for _, q := range p.opened(wire, time.Time{}) {
		if q.Dev != p.dev {
			t.Errorf("SYN to %s by another interface: %v", p.router, q)
		}
	}
}

// ownTTL checks that what the host says to the router cannot pass another one:
// TTL 1, or 255 where the other side looks at that (RFC 5082). The last words of
// a session whose interface failed are the exception.
func (p pinned) ownTTL(t *testing.T, wire *lab.Capture) {
	t.Helper()
	list := wire.Packets(func(q lab.Packet) bool {
		return q.Out && q.Proto == 6 && q.Dst == p.peer && (q.SrcPort == 179 || q.DstPort == 179) && (q.Flags&lab.PSH != 0 || q.DstPort == 179)
	})
	for _, q := range list {
		if q.TTL != 1 && q.TTL != 255 {
			t.Errorf("TTL %d: %v", q.TTL, q)
		}
	}
	if len(list) == 0 {
		t.Error("no packets to look at")
	}
}

// others are the peers of the other interface.
func (p pinned) others() []netip.Addr {
	return slices.DeleteFunc(allPeers(), func(a netip.Addr) bool { return (a == r1v4 || a == r1v6) == (p.router == "r1") })
}

// down is a condition for WaitStatus: the session is not established.
func (p pinned) down(st *status.Status) error {
	for _, peer := range st.Peers {
		if peer.Address == p.peer {
			return lab.That(peer.State != "Established", "%v is %s", peer.Address, peer.State)
		}
	}
	return fmt.Errorf("no peer %v in the status", p.peer)
}

// noSession checks that a router that comes by the other path is not talked to:
// if it gets a connection at all, no OPEN reaches it.
func (p pinned) noSession(t *testing.T, router *lab.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	conn, err := router.Dial(ctx, "tcp", netip.AddrPortFrom(p.peer, 0), netip.AddrPortFrom(p.host, 179))
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // of a test
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, err := conn.Read(buf); err == nil {
		t.Errorf("the host talks to %s by the other path: % x", p.router, buf[:n])
	}
}

// ownAddresses checks that no BGP connection of the node uses a VIP.
func ownAddresses(t *testing.T, host *lab.Node) {
	t.Helper()
	var list string
	// Where both ends have connected, one of the two connections ends when the
	// session is up (RFC 4271 section 6.8).
	lab.Eventually(t, 5*time.Second, "four BGP connections", func() error {
		list = host.Run("ss", "-Htn", "state", "established", "( sport = :179 or dport = :179 )")
		return lab.That(strings.Count(list, "\n") == 4, "%s", list)
	})
	for _, vip := range []netip.Addr{vip4.Addr(), vip6.Addr()} {
		if strings.Contains(list, vip.String()) {
			t.Errorf("a session uses a VIP:\n%s", list)
		}
	}
}

// reachable proves that the other path exists: another program can use it.
func reachable(t *testing.T, from *lab.Node, local netip.AddrPort, at *lab.Node, remote netip.AddrPort) {
	t.Helper()
	listener, err := at.Listen(remote)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // of a test
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", local, remote)
	if err != nil {
		t.Errorf("%s does not reach %v from %v by the other path, so the test proves nothing: %v", from.Name, remote, local, err)
		return
	}
	conn.Close() //nolint:errcheck // of a test
}
