package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
)

// Lab is a topology that is laid out and running.
type Lab struct {
	t     testing.TB
	ctx   context.Context //nolint:containedctx // a lab lives as long as its test, Cleanup included
	topo  *Topology
	nodes map[string]*Node
	order []*Node
	logs  string
	// probes counts those that take the next port.
	probes atomic.Uint32
}

// Start lays out dir/topology.clab.yml and starts its routers. It returns when
// they run, not when their sessions are up.
func Start(tb testing.TB, dir string) *Lab {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatalf("lab %s: network and mount namespaces with routers in them need root", dir)
	}
	watched()
	require(tb, "unshare", "nsenter", "ip", "nft", "sysctl")
	topo, err := Load(dir)
	if err != nil {
		tb.Fatalf("lab: %v", err)
	}
	// Context is cancelled before Cleanup runs, which still needs the nodes.
	l := &Lab{t: tb, ctx: context.WithoutCancel(tb.Context()), topo: topo, nodes: map[string]*Node{}, logs: tb.TempDir()}
	tb.Cleanup(l.stop)
	for _, name := range topo.order {
		if _, shared := topo.Topology.Nodes[name].sharedWith(); !shared {
			n := newNode(l, name)
			l.nodes[name] = n
			l.order = append(l.order, n)
		}
	}
	for _, name := range topo.order {
		spec := topo.Topology.Nodes[name]
		if of, shared := spec.sharedWith(); shared {
			l.nodes[name] = l.nodes[of]
		}
		l.nodes[name].bind(dir, spec)
	}
	for i, link := range topo.Topology.Links {
		l.cable(link, firstIndex+i)
	}
	for _, name := range topo.order {
		for _, line := range topo.Topology.Nodes[name].Exec {
			l.nodes[name].Run(strings.Fields(line)...)
		}
	}
	for _, name := range topo.order {
		l.nodes[name].startImage(topo.Topology.Nodes[name].Image)
	}
	return l
}

// Node returns a node by its name in the topology file.
func (l *Lab) Node(name string) *Node {
	l.t.Helper()
	n := l.nodes[name]
	if n == nil {
		l.t.Fatalf("lab %s: no node %q", l.topo.Name, name)
	}
	return n
}

// Peer returns the other end of the link at node's interface ifc.
func (l *Lab) Peer(node, ifc string) (*Node, string) {
	l.t.Helper()
	for _, link := range l.topo.Topology.Links {
		a, b := link.ends()
		if (b == Endpoint{Node: node, Interface: ifc}) {
			a, b = b, a
		}
		if (a == Endpoint{Node: node, Interface: ifc}) {
			return l.Node(b.Node), b.Interface
		}
	}
	l.t.Fatalf("lab %s: no link at %s:%s", l.topo.Name, node, ifc)
	return nil, ""
}

// firstIndex is the interface index of the first end of the first link. The
// kernel reports carrier changes of a veth at once only if its two ends have
// different indexes (linkwatch_urgent_event), and the other end gets a small one;
// else up to a second late, when another link of this machine has changed lately.
const firstIndex = 1000

// cable makes a veth pair across two nodes, both ends up.
func (l *Lab) cable(link LinkSpec, index int) {
	l.t.Helper()
	a, b := link.ends()
	na, nb := l.Node(a.Node), l.Node(b.Node)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = a.Interface, index
	attrs.Namespace = netlink.NsPid(na.pid)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Interface, PeerNamespace: netlink.NsPid(nb.pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		l.t.Fatalf("lab: link %v: %v", link.Endpoints, err)
	}
	na.LinkUp(a.Interface)
	nb.LinkUp(b.Interface)
}

// stop ends everything, the last started first. After a failed test it first
// shows what the nodes know.
func (l *Lab) stop() {
	if l.t.Failed() {
		for _, n := range l.order {
			l.t.Log(n.report())
		}
	}
	for _, n := range slices.Backward(l.order) {
		n.close()
	}
}

// Log returns the log of the named daemon of a node ("bgpd", "zebra", "bird",
// "vipspeaker"), empty if there is none.
func (l *Lab) log(node, daemon string) string {
	data, err := os.ReadFile(l.logPath(node, daemon))
	if err != nil {
		return ""
	}
	return string(data)
}

func (l *Lab) logPath(node, daemon string) string {
	return filepath.Join(l.logs, node+"-"+daemon+".log")
}

// require fails the test when a tool is missing, or skips it when the tester
// has said so by naming the tool in VIPSPEAKER_SKIP, a list with commas.
func require(tb testing.TB, tools ...string) {
	tb.Helper()
	for _, tool := range tools {
		_, err := exec.LookPath(tool)
		if err == nil {
			continue
		}
		if slices.Contains(strings.Split(os.Getenv("VIPSPEAKER_SKIP"), ","), filepath.Base(tool)) {
			tb.Skipf("%s is missing and VIPSPEAKER_SKIP names it", tool)
		}
		tb.Fatalf("%s is missing (`make deps` installs it): %v", tool, err)
	}
}

// That turns a condition into what Eventually wants.
func That(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}
