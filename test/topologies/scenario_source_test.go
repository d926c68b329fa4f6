package topologies

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// Both routers learn each VIP, each with its own interface's address as next
// hop, and the client uses both ways.
func TestScenario01DualAnnounce(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	wire := l.Node("host").Capture()
	startSpeaker(t, l)
	waitClientHasBoth(t, l)

	type announcement struct{ To, NextHop, Prefix, ASPath string }
	var got, want []announcement
	for _, m := range wire.Messages() {
		for _, p := range m.Announced {
			if m.Out {
				got = append(got, announcement{m.Dst.Addr().String(), m.NextHop.String(), p.String(), sprint(m.ASPath)})
			}
		}
		if len(m.Withdrawn) > 0 && m.Out {
			t.Errorf("a withdraw while starting: %v", m)
		}
	}
	for _, leg := range legs() {
		want = append(want,
			announcement{leg.peer4.String(), leg.local4.String(), vip4.String(), "[65010]"},
			announcement{leg.peer6.String(), leg.local6.String(), vip6.String(), "[65010]"})
	}
	order := func(a, b announcement) int { return strings.Compare(a.To+a.Prefix, b.To+b.Prefix) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("announcements on the wire (-want +got):\n%s", diff)
	}
	for _, leg := range legs() {
		waitLive(t, l.Node(leg.node), vip4, leg.local4.String()+"@"+leg.dev)
		waitLive(t, l.Node(leg.node), vip6, leg.local6.String()+"@"+leg.dev)
	}
	waitLive(t, l.Node("client"), vip4, "10.68.9.1@e9", "10.68.9.5@e9")
}

func sprint(path []uint32) string {
	var s []string
	for _, asn := range path {
		s = append(s, strconv.FormatUint(uint64(asn), 10))
	}
	return "[" + strings.Join(s, " ") + "]"
}

// source connects from the host without a chosen source and returns the source
// that the kernel chose.
func source(t *testing.T, host *lab.Node, network, to string) netip.Addr {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := host.Dial(ctx, network, netip.AddrPort{}, netip.AddrPortFrom(netip.MustParseAddr(to), 9))
	if err != nil {
		t.Fatalf("%s to %s: %v", network, to, err)
	}
	defer c.Close() //nolint:errcheck // nothing was written
	switch a := c.LocalAddr().(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr()
	case *net.UDPAddr:
		return a.AddrPort().Addr()
	}
	return netip.Addr{}
}

// Programs that choose no source get the VIP, through listed interfaces only.
func TestScenario05UnboundSource(t *testing.T) {
	t.Parallel()
	l, s := startSample(t)
	s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	host := l.Node("host")
	for node, addresses := range map[string][]string{"client": {"10.68.9.9", "fd68:9::9"}, "x7": {"10.68.77.1", "10.68.7.2", "fd68:7::2"}} {
		for _, a := range addresses {
			listener, err := l.Node(node).Listen(netip.AddrPortFrom(netip.MustParseAddr(a), 9))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = listener.Close() })
		}
	}
	wire := host.Capture()
	for _, tc := range []struct{ to, want string }{
		{"10.68.9.9", "10.68.6.1"},
		{"fd68:9::9", "fd68:6::1"},
		{"10.68.7.2", "10.68.7.1"},  // on the network of an interface that is not listed
		{"10.68.77.1", "10.68.7.1"}, // behind it
		{"fd68:7::2", "fd68:7::1"},
	} {
		for _, network := range []string{"tcp", "udp"} {
			if got := source(t, host, network, tc.to); got.String() != tc.want {
				t.Errorf("%s to %s has the source %v, want %s", network, tc.to, got, tc.want)
			}
		}
		r, err := host.RouteGet(tc.to)
		if err != nil {
			t.Fatal(err)
		}
		if r.Source.String() != tc.want {
			t.Errorf("ip route get %s: source %v, want %s", tc.to, r.Source, tc.want)
		}
		synSource(t, wire, tc.to, tc.want)
	}
	// Sessions and whatever else goes to a router keep the interface's address.
	for _, leg := range legs() {
		if r, err := host.RouteGet(leg.peer4.String()); err != nil || r.Source != leg.local4 {
			t.Errorf("ip route get %v: %+v, want source %v: %v", leg.peer4, r, leg.local4, err)
		}
	}
	waitEgress(t, host, 5*time.Second, "en1", "en5")
}

// synSource checks the source of the SYN to an address on the wire.
func synSource(t *testing.T, wire *lab.Capture, to, want string) {
	t.Helper()
	lab.Eventually(t, 5*time.Second, "a SYN to "+to, func() error {
		packets := wire.Packets(func(p lab.Packet) bool {
			return p.Out && p.Flags == lab.SYN && p.DstPort == 9 && p.Dst.String() == to
		})
		for _, p := range packets {
			if p.Src.String() != want {
				t.Errorf("on the wire, want source %s: %v", want, p)
			}
		}
		return lab.That(len(packets) > 0, "none")
	})
}

// A program that binds an address keeps it, and so do the BGP sessions.
func TestScenario06BindWins(t *testing.T) {
	t.Parallel()
	l, s := startSample(t)
	host, client := l.Node("host"), l.Node("client")
	for i, leg := range legs() {
		for _, local := range []netip.Addr{leg.local4, leg.local6} {
			remote := client4
			if local.Is6() {
				remote = client6
			}
			c := lab.StartSession(host, netip.AddrPortFrom(local, 0), client, netip.AddrPortFrom(remote, uint16(9100+i)))
			c.WaitAlive(5 * time.Second)
			if c.Local.Addr() != local {
				t.Errorf("bound to %v, connected from %v", local, c.Local)
			}
			c.Stop()
		}
	}
	bgpAddresses(t, host)
	// The routers reset their sessions; the new ones are no different.
	before := s.WaitStatus(time.Second, "established", lab.Established)
	reset := time.Now()
	l.Node("r1").VTY("clear bgp *")
	l.Node("r5").BIRDC("restart all")
	s.WaitStatus(15*time.Second, "new sessions", func(st *status.Status) error {
		for _, p := range st.Peers {
			if !p.Since.After(reset) {
				return lab.That(false, "session with %v is from %v", p.Address, p.Since)
			}
		}
		return lab.Established(st)
	})
	bgpAddresses(t, host)
	if got := s.WaitStatus(time.Second, "established", lab.Established); len(got.Peers) != len(before.Peers) {
		t.Errorf("%d peers, before %d", len(got.Peers), len(before.Peers))
	}
}

// bgpAddresses checks that the host's ends of all BGP connections are the
// interfaces' own addresses.
func bgpAddresses(t *testing.T, host *lab.Node) {
	t.Helper()
	got, want := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(host.Run("ss", "-Htn", "state", "established", "( sport = :179 or dport = :179 )")) {
		if f := strings.Fields(line); len(f) >= 4 {
			local, err := netip.ParseAddrPort(f[2])
			if err != nil {
				t.Fatalf("ss: %q: %v", line, err)
			}
			got[local.Addr().Unmap().String()] = true
		}
	}
	for _, leg := range legs() {
		want[leg.local4.String()], want[leg.local6.String()] = true, true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("local addresses of BGP connections (-want +got):\n%s", diff)
	}
}

// However the daemon goes, the host's own routes and addresses are what they
// were.
func TestScenario07SafeUnbind(t *testing.T) {
	for name, stop := range map[string]func(*testing.T, *lab.Speaker){
		"stopped": func(t *testing.T, s *lab.Speaker) {
			t.Helper()
			s.Signal(syscall.SIGTERM)
			if code := s.Wait(15 * time.Second); code != 0 {
				t.Errorf("exit code %d", code)
			}
		},
		"killed, then cleaned up": func(t *testing.T, s *lab.Speaker) {
			t.Helper()
			s.Kill()
			if out, err := s.Command("cleanup", "--config", lab.ConfigPath); err != nil {
				t.Errorf("cleanup: %s %v", out, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := lab.Start(t, "vipa")
			host := l.Node("host")
			before := host.State()
			s := startSpeaker(t, l)
			st, err := s.Status()
			if err != nil {
				t.Fatal(err)
			}
			stop(t, s)
			if diff := cmp.Diff(before, host.State()); diff != "" {
				t.Errorf("the host is not what it was (-before +after):\n%s", diff)
			}
			for _, i := range st.Interfaces {
				lab.Eventually(t, 5*time.Second, "the speaker process of "+i.Name+" ends", func() error {
					_, err := os.Stat("/proc/" + strconv.Itoa(i.Speaker.PID))
					return lab.That(os.IsNotExist(err), "pid %d: %v", i.Speaker.PID, err)
				})
			}
		})
	}
}

// A VIP is taken out of the configuration: no route of the host goes with it.
func TestScenario07VIPRemoved(t *testing.T) {
	l, s := startSample(t)
	host := l.Node("host")
	routes := func() string { return host.Run("ip", "-4", "route") + host.Run("ip", "-6", "route") }
	before := routes()
	config, err := os.ReadFile("vipa/host/vipspeaker.yaml")
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(config), "vips:")
	host.WriteFile(lab.ConfigPath, head+"vips:\n  - {name: vipa6, address: \"fd68:6::1/128\", preferred_source: true}\n")
	s.Signal(syscall.SIGHUP)
	lab.Eventually(t, 10*time.Second, "the VIP is unbound", func() error {
		out := host.Run("ip", "-4", "addr")
		return lab.That(!strings.Contains(out, vip4.Addr().String()), "%s", out)
	})
	if diff := cmp.Diff(before, routes()); diff != "" {
		t.Errorf("routes of the main table (-before +after):\n%s", diff)
	}
	waitLive(t, l.Node("client"), vip4)
	if r, err := host.RouteGet(client4.String()); err != nil || (r.Source != legs()[0].local4 && r.Source != legs()[1].local4) {
		t.Errorf("source after the VIP is gone: %+v, %v", r, err)
	}
	waitLive(t, l.Node("r1"), vip6, "fd68:1::1@e1")
}
