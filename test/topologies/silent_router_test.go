package topologies

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// bfdTimers are those of BFD on both sides.
type bfdTimers struct {
	interval   time.Duration
	multiplier int
}

// usual is what most networks run.
var usual = bfdTimers{50 * time.Millisecond, 3}

// detection is how long a silence is until the path is taken for dead.
func (b bfdTimers) detection() time.Duration { return time.Duration(b.multiplier) * b.interval }

// host is the value of a peer's key bfd.
func (b bfdTimers) host(more ...string) string {
	words := append([]string{fmt.Sprintf("min_tx: %v, min_rx: %v, multiplier: %d", b.interval, b.interval, b.multiplier)}, more...)
	return "{" + strings.Join(words, ", ") + "}"
}

// bfdMode is what a router's BFD has to do with its BGP.
type bfdMode string

const (
	withBGP bfdMode = "on" // BGP asks for the session and ends with it
	// graceful has BGP keep the routes of graceful restart when the session goes
	// down with the daemon (RFC 5882 section 4.3).
	graceful bfdMode = "graceful"
)

// speakBFD makes a router, FRR or BIRD, run BFD with those of its BGP neighbours
// that are the host's addresses.
func speakBFD(t *testing.T, n *lab.Node, b bfdTimers, mode bfdMode, addresses ...netip.Addr) {
	t.Helper()
	if n.Router() == lab.BIRD {
		birdBFD(t, n, b, mode, addresses)
		return
	}
	startBFDD(t, n)
	ms := b.interval.Milliseconds()
	lines := []string{
		"bfd", "profile host", fmt.Sprintf("transmit-interval %d", ms), fmt.Sprintf("receive-interval %d", ms),
		fmt.Sprintf("detect-multiplier %d", b.multiplier), "exit", "exit", "router bgp",
	}
	for _, a := range addresses {
		line := fmt.Sprintf("neighbor %v bfd", a)
		if mode == graceful {
			lines = append(lines, line+" check-control-plane-failure")
		}
		lines = append(lines, line+" profile host")
	}
	frrConfigure(n, lines...)
}

// frrConfigure enters lines in FRR's configuration.
func frrConfigure(n *lab.Node, lines ...string) {
	args := []string{"vtysh", "-c", "configure terminal"}
	for _, line := range lines {
		args = append(args, "-c", line)
	}
	n.Run(args...)
}

// startBFDD starts FRR's bfdd beside the daemons that run already.
func startBFDD(t *testing.T, n *lab.Node) *lab.Process {
	t.Helper()
	p := n.StartProcess("bfdd", "/usr/lib/frr/bfdd", "-u", "root", "-g", "frrvty", "-A", "127.0.0.1", "--log", "stdout", "--log-level", "notifications")
	lab.Eventually(t, 10*time.Second, "bfdd on "+n.Name, func() error {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "unix", n.Path("/run/frr/bfdd.vty"))
		if err != nil {
			return err
		}
		return c.Close()
	})
	return p
}

// birdBFD adds to BIRD's configuration a protocol bfd, and asks for it in the
// protocols of the neighbours.
func birdBFD(t *testing.T, n *lab.Node, b bfdTimers, mode bfdMode, addresses []netip.Addr) {
	t.Helper()
	const path = "/etc/bird/bird.conf"
	text := n.Run("cat", path)
	for _, a := range addresses {
		neighbour := fmt.Sprintf("neighbor %v as 65010;", a)
		if !strings.Contains(text, neighbour) {
			t.Fatalf("node %s: no %q in %s", n.Name, neighbour, path)
		}
		text = strings.Replace(text, neighbour, fmt.Sprintf("%s\n  bfd %s;", neighbour, mode), 1)
	}
	ms := b.interval.Milliseconds()
	text += fmt.Sprintf("\nprotocol bfd bfd1 {\n  interface \"*\" { min rx interval %d ms; min tx interval %d ms; idle tx interval 200 ms; multiplier %d; };\n}\n", ms, ms, b.multiplier)
	n.WriteFile(path, text)
	if out := n.BIRDC("configure"); !strings.Contains(out, "Reconfig") {
		t.Fatalf("node %s: %s", n.Name, out)
	}
}

// prompt lets the routers run as soon as they want to when all processors of this
// machine are busy, for real ones have processors of their own. Where that is not
// permitted they stay as they are.
func prompt(t *testing.T, l *lab.Lab, nodes ...string) {
	t.Helper()
	for _, name := range nodes {
		n, daemons := l.Node(name), []string{"bird"}
		if n.Router() == "frr" {
			daemons = []string{"zebra", "bgpd", "bfdd"}
		}
		for _, d := range daemons {
			tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", n.Daemon(d).PID))
			if err != nil {
				t.Fatal(err)
			}
			for _, task := range tasks {
				id, err := strconv.Atoi(task.Name())
				if err == nil {
					err = unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}, 0)
				}
				if err != nil {
					t.Logf("%s on %s: %v", d, name, err)
				}
			}
		}
	}
}

// bfdSample is the topology vipa with BFD on both sides of both paths. FRR's
// sessions may have been down once by then: when BGP connects for the first time,
// bgpd gives bfdd its own address, and bfdd says Down and makes another session. So
// what follows counts from here.
func bfdSample(t *testing.T, b bfdTimers, mode bfdMode) (*lab.Lab, *lab.Speaker) {
	t.Helper()
	l := lab.Start(t, "vipa")
	for _, p := range legs() {
		speakBFD(t, l.Node(p.node), b, mode, p.local4, p.local6)
	}
	prompt(t, l, "r1", "r5", "client")
	// Without damping: a path may fail often, until enough tries count.
	s := startPaths(t, l, pathConfig{bfd: b.host(), more: "damping: {enabled: false}\n"})
	waitBFD(t, s, b)
	s.WaitStatus(20*time.Second, "everything is announced", lab.Established)
	waitClientHasBoth(t, l)
	return l, s
}

// startPaths starts the daemon of topology vipa with a configuration.
func startPaths(t *testing.T, l *lab.Lab, c pathConfig) *lab.Speaker {
	t.Helper()
	l.Node("host").WriteFile(lab.ConfigPath, c.String())
	return startSpeaker(t, l)
}

// waitBFD waits until all BFD sessions are up with these timers.
func waitBFD(t *testing.T, s *lab.Speaker, b bfdTimers) *status.Status {
	t.Helper()
	return s.WaitStatus(15*time.Second, "all BFD sessions are up", func(st *status.Status) error {
		for _, p := range st.Peers {
			if p.BFD == nil || p.BFD.State != "Up" || p.BFD.RemoteState != "Up" || p.BFD.DetectionTime != b.detection() {
				return fmt.Errorf("peer %v: %+v", p.Address, p.BFD)
			}
		}
		return nil
	})
}

// holdUp is how long an interface must look healthy again in these tests.
const holdUp = 500 * time.Millisecond

// pathConfig is the configuration of a host with en1 and en5, in words about how
// failures are seen. The zero value is what the sample has.
type pathConfig struct {
	bfd        string                // the value of bfd of each peer, empty for none
	onlyDial   bool                  // listen_port 0
	interfaces map[string]string     // further keys of an interface
	peers      map[netip.Addr]string // further keys of a peer
	more       string                // further sections
	// onlyIPv4Gateway leaves out the IPv6 gateways.
	onlyIPv4Gateway bool
}

func (c pathConfig) String() string {
	var b strings.Builder
	port := 179
	if c.onlyDial {
		port = 0
	}
	fmt.Fprintf(&b, `bgp:
  asn: 65010
  router_id: 10.68.1.1
  listen_port: %d
  timers: {hold_time: 9s, keepalive: 3s, connect_retry: 1s}
  graceful_restart: {enabled: true, restart_time: 30s}
interfaces:
`, port)
	for _, p := range legs() {
		gateways := fmt.Sprintf("%v, %q", p.peer4, p.peer6)
		if c.onlyIPv4Gateway {
			gateways = p.peer4.String()
		}
		fmt.Fprintf(&b, "  - name: %s\n    hold_up: %v\n    gateway: [%s]\n", p.ifc, holdUp, gateways)
		if more := c.interfaces[p.ifc]; more != "" {
			fmt.Fprintf(&b, "    %s\n", more)
		}
		b.WriteString("    peers:\n")
		for _, a := range []netip.Addr{p.peer4, p.peer6} {
			words := []string{fmt.Sprintf("address: %q, asn: 65000", a)}
			if c.bfd != "" {
				words = append(words, "bfd: "+c.bfd)
			}
			if more := c.peers[a]; more != "" {
				words = append(words, more)
			}
			fmt.Fprintf(&b, "      - {%s}\n", strings.Join(words, ", "))
		}
	}
	fmt.Fprintf(&b, "vips:\n  - %s\n%s", strings.Join(sampleVIPs(), "\n  - "), c.more)
	return b.String()
}
