//go:build long

package topologies

import (
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

var updateInterop = flag.Bool("update-interop", false, "write docs/interoperability.md from the results of TestLongInterop")

// The host's addresses of the topology interop, as the router's neighbours have
// them.
var (
	interop4       = netip.MustParseAddr("10.68.11.1")
	interop6       = netip.MustParseAddr("fd68:11::1")
	interop8950    = netip.MustParseAddr("fd68:12::1")
	interopWrong   = netip.MustParseAddr("10.68.13.1")
	interopGTSM    = netip.MustParseAddr("10.68.14.1")
	interopTTL     = netip.MustParseAddr("fd68:14::1")
	interopBFD     = netip.MustParseAddr("10.68.15.1")
	interopMD5     = netip.MustParseAddr("10.68.16.1")
	interopAddPath = netip.MustParseAddr("10.68.255.1")
	// twoWays is a VIP on two interfaces only.
	twoWays = netip.MustParsePrefix("10.68.6.2/32")
)

// interopRun is the topology with one routing software in it.
type interopRun struct {
	l            *lab.Lab
	host, router *lab.Node
	s            *lab.Speaker
	software     lab.Software
}

// feature is a column of the matrix.
type feature struct {
	name, title string
	// what a "yes" means.
	meaning string
	check   func(t *testing.T, r *interopRun)
}

func interopFeatures() []feature {
	return []feature{
		{"ipv4", "IPv4", "IPv4 VIP over an IPv4 session: next hop, AS path, MED, community, large community.", checkIPv4},
		{"ipv6", "IPv6", "IPv6 VIP over an IPv6 session, with the same.", checkIPv6},
		{"rfc8950", "RFC 8950", "Both VIPs over an IPv6 session on a link without IPv4: the IPv4 VIP has an IPv6 next hop.", checkRFC8950},
		{"unnumbered", "unnumbered", "Session between link-local addresses that nobody configured, both VIPs, the link-local address is the next hop.", checkUnnumbered},
		{"md5", "MD5", "Session with the right TCP MD5 password up, and one with a wrong password not.", checkMD5},
		{"gtsm", "GTSM", "Session with TTL security on both sides up, and one where the router has none not: the host drops its packets.", checkGTSM},
		{"bfd", "BFD", "BFD session up; when the path loses all frames, the router ends the BGP session long before its hold time.", checkBFD},
		{"addpath", "ADD-PATH", "Two paths of one VIP, with IDs and next hops of their own, over a session of several hops; when one interface fails, its path goes and the other stays.", checkAddPath},
		{"gr", "GR", "The daemon is killed and started again: the router keeps the path while the session is down, and is never without it.", checkGR},
		{"gshut", "GSHUT", "A stop is announced by the community GRACEFUL_SHUTDOWN, for which the router lowers the local preference to 0, before the withdraw.", checkGSHUT},
	}
}

// TestLongInterop lets every routing software that Debian has peer with the daemon in
// all the ways that both speak, and looks at the router's side. The results are
// docs/interoperability.md.
func TestLongInterop(t *testing.T) {
	m := newMatrix(t)
	for _, software := range interopSoftware() {
		t.Run(string(software), func(t *testing.T) {
			t.Parallel()
			r := startInterop(t, software)
			m.version(software, r.router.Version(software))
			for _, f := range interopFeatures() {
				check, not := f.check, silence(software, f.name)
				if not != nil {
					check = not.proof
				}
				t.Run(f.name, func(t *testing.T) {
					defer func() { m.result(software, f.name, !t.Failed()) }()
					check(t, r)
				})
			}
		})
	}
}

// startInterop starts the daemon, and when the router's kernel knows the host by
// its link-local address the routing software: GoBGP looks only once.
func startInterop(t *testing.T, software lab.Software) *interopRun {
	t.Helper()
	l := lab.Start(t, "interop")
	r := &interopRun{l: l, host: l.Node("host"), router: l.Node("router"), software: software}
	r.s = lab.StartSpeaker(r.host, binary(t))
	lab.Eventually(t, 20*time.Second, "the host advertises itself on the unnumbered link", func() error {
		out, err := r.router.Try("ip", "-6", "neigh", "show", "dev", "e3")
		if err != nil {
			return err
		}
		return lab.That(strings.Contains(out, "fe80:"), "neighbours of e3: %q", out)
	})
	r.router.StartRouter(software, "interop/"+string(software))
	return r
}

// path waits until the router has exactly one path of the VIP from a neighbour,
// as it was announced but for the next hop, and returns it.
func (r *interopRun) path(t *testing.T, from netip.Addr, vip netip.Prefix, hop netip.Addr) lab.Path {
	t.Helper()
	var got lab.Path
	lab.Eventually(t, 30*time.Second, fmt.Sprintf("%s has %v from %v", r.software, vip, from), func() error {
		list, err := r.router.PathsFrom(from, vip)
		if err != nil {
			return err
		}
		if len(list) != 1 {
			return fmt.Errorf("%d paths: %v", len(list), list)
		}
		got = list[0]
		switch {
		case got.NextHop != hop.WithZone(""):
			return fmt.Errorf("another next hop than %v: %v", hop, got)
		case !slices.Equal(got.ASPath, []uint32{65010}), got.MED == nil || *got.MED != 68,
			!slices.Contains(got.Communities, "65010:100"), !slices.Equal(got.LargeCommunities, []string{"65010:1:2"}):
			return fmt.Errorf("other attributes: %v", got)
		}
		return nil
	})
	return got
}

// routed waits until the router's kernel has a leg to the VIP by the interface, if
// the router is one that has routes in the kernel.
func (r *interopRun) routed(t *testing.T, vip netip.Prefix, dev string) {
	t.Helper()
	if r.software != lab.FRR && r.software != lab.BIRD {
		return
	}
	lab.Eventually(t, 10*time.Second, fmt.Sprintf("the router's route for %v has a leg by %s", vip, dev), func() error {
		hops, err := r.router.Route(vip)
		if err != nil {
			return err
		}
		return lab.That(slices.Contains(lab.LiveDevs(hops), dev), "legs %v", hops)
	})
}

// peer is the daemon's picture of its session with a router's address.
func (r *interopRun) peer(t *testing.T, ok func(*status.Peer) error, what string, is func(*status.Peer) bool) status.Peer {
	t.Helper()
	var found status.Peer
	r.s.WaitStatus(30*time.Second, what, func(st *status.Status) error {
		for i := range st.Peers {
			if is(&st.Peers[i]) {
				found = st.Peers[i]
				return ok(&found)
			}
		}
		return fmt.Errorf("no such peer among %d", len(st.Peers))
	})
	return found
}

// peerAt waits until the daemon's session with an address is as wanted.
func (r *interopRun) peerAt(t *testing.T, address string, what string, ok func(*status.Peer) error) status.Peer {
	t.Helper()
	return r.peer(t, ok, what, func(p *status.Peer) bool { return p.Address == netip.MustParseAddr(address) })
}

func established(p *status.Peer) error {
	return lab.That(p.State == "Established", "%v is %s: %s", p.Address, p.State, p.LastError)
}

// down fails the test if either side says that the session is up, and waits until
// the host's kernel has counted packets that it dropped for the reason.
func (r *interopRun) down(t *testing.T, neighbor netip.Addr, peer, counter string) {
	t.Helper()
	lab.Eventually(t, 30*time.Second, "the host drops packets: "+counter, func() error {
		n, err := r.counter(counter)
		if err != nil {
			return err
		}
		return lab.That(n > 0, "none yet")
	})
	if up, err := r.router.Up(neighbor); up || err != nil {
		t.Errorf("the router's session with %v is up: %t, %v", neighbor, up, err)
	}
	p := r.peerAt(t, peer, "it has tried", func(p *status.Peer) error { return lab.That(p.LastError != "", "%s", p.State) })
	if p.State == "Established" || p.Transitions > 0 {
		t.Errorf("the session with %s has come up: %+v", peer, p)
	}
	t.Logf("%s: %s: %s", peer, p.State, p.LastError)
}

// counter reads one of the host's TcpExt counters of /proc/net/netstat.
func (r *interopRun) counter(name string) (int, error) {
	out, err := r.host.Try("cat", "/proc/net/netstat")
	if err != nil {
		return 0, err
	}
	lines := strings.Split(out, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		at := slices.Index(strings.Fields(lines[i]), name)
		if values := strings.Fields(lines[i+1]); at > 0 && at < len(values) {
			var n int
			_, err := fmt.Sscan(values[at], &n)
			return n, err
		}
	}
	return 0, fmt.Errorf("no counter %s", name)
}
