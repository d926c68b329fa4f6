package lab

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// frrPath is where Debian's package has FRR's daemons.
const frrPath = "/usr/lib/frr"

// bfdDaemon is FRR's for BFD.
const bfdDaemon = "bfdd"

// startImage starts what a container of the image would.
func (n *Node) startImage(image string) {
	n.lab.t.Helper()
	switch {
	case strings.Contains(image, "/frr"):
		n.startFRR()
	case strings.Contains(image, "/bird"):
		n.startBIRD()
	}
}

// StartFRR runs FRR in a node whose image is another one, with the daemons,
// vtysh.conf and frr.conf of dir.
func (n *Node) StartFRR(dir string) {
	n.lab.t.Helper()
	spec := &NodeSpec{}
	for _, f := range []string{"daemons", "vtysh.conf", "frr.conf"} {
		spec.Binds = append(spec.Binds, f+":/etc/frr/"+f)
	}
	n.bind(dir, spec)
	n.startFRR()
}

// startFRR starts the daemons that /etc/frr/daemons says, then loads frr.conf
// as FRR's own init script does. They run as root, not as the user frr: a
// process that changes its user forgets that it is to die with the test.
func (n *Node) startFRR() {
	n.lab.t.Helper()
	require(n.lab.t, filepath.Join(frrPath, "zebra"), "vtysh")
	n.Run("mkdir", "-p", "/run/frr")
	for _, name := range wantedDaemons(n.Run("cat", "/etc/frr/daemons"), n.Run("cat", "/etc/frr/frr.conf")) {
		n.StartFRRDaemon(name)
	}
	n.Run("vtysh", "-b")
}

// StartFRRDaemon starts one of FRR's daemons, also beside those that run, and
// waits until it takes commands.
func (n *Node) StartFRRDaemon(name string) *Process {
	n.lab.t.Helper()
	require(n.lab.t, filepath.Join(frrPath, name))
	p := n.StartProcess(name, filepath.Join(frrPath, name),
		"-u", "root", "-g", "frrvty", "-A", "127.0.0.1", "--log", "stdout", "--log-level", "notifications")
	sockets := []string{"/run/frr/" + name + ".vty"}
	if name == "zebra" {
		// The others look for it when they start, and then only every 10 s.
		sockets = append(sockets, "/run/frr/zserv.api")
	}
	n.waitListening(p, sockets...)
	return p
}

// wantedDaemons reads lines such as bgpd=yes. A configuration that speaks of
// bfd, in a section of its own or at a neighbour, wants bfdd too.
func wantedDaemons(file, config string) []string {
	var names []string
	for s := bufio.NewScanner(strings.NewReader(file)); s.Scan(); {
		if name, ok := strings.CutSuffix(strings.TrimSpace(s.Text()), "=yes"); ok {
			names = append(names, name)
		}
	}
	if slices.Contains(names, bfdDaemon) {
		return names
	}
	for s := bufio.NewScanner(strings.NewReader(config)); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) > 0 && words[0] != "!" && words[0] != "no" && slices.Contains(words, "bfd") && words[0] != "description" {
			return append(names, bfdDaemon)
		}
	}
	return names
}

func (n *Node) startBIRD() {
	n.lab.t.Helper()
	require(n.lab.t, "bird", "birdc")
	n.Run("mkdir", "-p", "/run/bird")
	p := n.StartProcess("bird", "bird", "-f", "-c", "/etc/bird/bird.conf", "-s", "/run/bird/bird.ctl")
	n.waitListening(p, "/run/bird/bird.ctl")
}

// waitListening waits until p listens at Unix sockets of the node.
func (n *Node) waitListening(p *Process, sockets ...string) {
	n.lab.t.Helper()
	Eventually(n.lab.t, 10*time.Second, p.Name+" on "+n.Name, func() error {
		if err := p.ended(); err != nil {
			n.lab.t.Fatal(err)
		}
		for _, path := range sockets {
			if err := n.answers(path); err != nil {
				return err
			}
		}
		return nil
	})
}

// answers tells whether somebody listens at a Unix socket of the node.
func (n *Node) answers(path string) error {
	var d net.Dialer
	c, err := d.DialContext(n.lab.ctx, "unix", n.Path(path))
	if err != nil {
		return err
	}
	return c.Close()
}

// VTY runs a command of FRR's shell in the node.
func (n *Node) VTY(command string) string {
	n.lab.t.Helper()
	return n.Run("vtysh", "-c", command)
}

// BIRDC runs a command of BIRD's shell in the node.
func (n *Node) BIRDC(command string) string {
	n.lab.t.Helper()
	return n.Run("birdc", "-s", "/run/bird/bird.ctl", command)
}

// Daemon returns the running daemon of that name.
func (n *Node) Daemon(name string) *Process {
	n.lab.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.daemons {
		if d.Name == name && d.Running() {
			return d
		}
	}
	n.lab.t.Fatalf("node %s: no daemon %s runs", n.Name, name)
	return nil
}

// Freeze stops the node's daemons in their tracks (SIGSTOP), as a router whose
// control plane hangs; its links and its forwarding stay.
func (n *Node) Freeze() { n.signalAll(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (n *Node) Thaw() { n.signalAll(syscall.SIGCONT) }

func (n *Node) signalAll(sig syscall.Signal) {
	n.lab.t.Helper()
	n.mu.Lock()
	daemons := append([]*Process(nil), n.daemons...)
	n.mu.Unlock()
	for _, d := range daemons {
		if d.Running() {
			d.Signal(sig)
		}
	}
}

// StopDaemons kills the node's daemons (SIGKILL), as a router that dies.
func (n *Node) StopDaemons() {
	n.mu.Lock()
	daemons := append([]*Process(nil), n.daemons...)
	n.mu.Unlock()
	for _, d := range daemons {
		d.Kill()
	}
}

// Sessions returns the router's view of its BGP sessions: the peer's address
// (FRR) or the protocol's name (BIRD) and whether it is established.
func (n *Node) Sessions() (map[string]bool, error) {
	if n.Router() == BIRD {
		return n.birdSessions()
	}
	return n.frrSessions()
}

func (n *Node) birdSessions() (map[string]bool, error) {
	out, err := n.Try("birdc", "-s", "/run/bird/bird.ctl", "show protocols")
	if err != nil {
		return nil, err
	}
	sessions := map[string]bool{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 5 && f[1] == "BGP" {
			sessions[f[0]] = f[len(f)-1] == "Established"
		}
	}
	return sessions, nil
}

func (n *Node) frrSessions() (map[string]bool, error) {
	out, err := n.Try("vtysh", "-c", "show bgp neighbors json")
	if err != nil {
		return nil, err
	}
	var neighbours map[string]struct {
		State string `json:"bgpState"`
	}
	if err := unmarshal(out, &neighbours); err != nil {
		return nil, fmt.Errorf("node %s: show bgp neighbors: %w", n.Name, err)
	}
	sessions := map[string]bool{}
	for address, peer := range neighbours {
		sessions[address] = peer.State == "Established"
	}
	return sessions, nil
}

// BFDSessions returns the router's view of its BFD sessions: the peer's address
// and whether it is up.
func (n *Node) BFDSessions() (map[string]bool, error) {
	if n.Router() != BIRD {
		return n.frrBFD()
	}
	out, err := n.Try("birdc", "-s", "/run/bird/bird.ctl", "show bfd sessions")
	if err != nil {
		return nil, err
	}
	sessions := map[string]bool{}
	for line := range strings.Lines(out) {
		// Address, interface, state, since, interval, timeout.
		if f := strings.Fields(line); len(f) == 6 && isAddress(f[0]) {
			sessions[f[0]] = f[2] == "Up"
		}
	}
	return sessions, nil
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func (n *Node) frrBFD() (map[string]bool, error) {
	out, err := n.Try("vtysh", "-d", bfdDaemon, "-c", "show bfd peers json")
	if err != nil {
		return nil, err
	}
	var peers []struct {
		Peer   string `json:"peer"`
		Status string `json:"status"`
	}
	if err := unmarshal(out, &peers); err != nil {
		return nil, fmt.Errorf("node %s: show bfd peers: %w", n.Name, err)
	}
	sessions := map[string]bool{}
	for _, p := range peers {
		sessions[p.Peer] = p.Status == "up"
	}
	return sessions, nil
}
