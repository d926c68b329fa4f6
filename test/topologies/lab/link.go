package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// LinkUp sets an interface of the node administratively up.
func (n *Node) LinkUp(name string) {
	n.lab.t.Helper()
	if err := n.nl.LinkSetUp(n.link(name)); err != nil {
		n.lab.t.Fatalf("node %s: set %s up: %v", n.Name, name, err)
	}
}

// LinkDown sets an interface of the node administratively down.
func (n *Node) LinkDown(name string) {
	n.lab.t.Helper()
	if err := n.nl.LinkSetDown(n.link(name)); err != nil {
		n.lab.t.Fatalf("node %s: set %s down: %v", n.Name, name, err)
	}
}

func (n *Node) link(name string) netlink.Link {
	n.lab.t.Helper()
	l, err := n.nl.LinkByName(name)
	if err != nil {
		n.lab.t.Fatalf("node %s: %s: %v", n.Name, name, err)
	}
	return l
}

// Unplug pulls the cable at node's interface: carrier is lost there while it
// stays administratively up. The far end, a router or a switch port, is set
// down, so that a router at the far end notices as well.
func (l *Lab) Unplug(node, ifc string) {
	l.t.Helper()
	far, name := l.Peer(node, ifc)
	far.LinkDown(name)
}

// Plug undoes Unplug.
func (l *Lab) Plug(node, ifc string) {
	l.t.Helper()
	far, name := l.Peer(node, ifc)
	far.LinkUp(name)
}

// DropFrames loses every frame on the link of node's interface, both ways,
// while carrier stays at both ends.
func (l *Lab) DropFrames(node, ifc string) {
	l.t.Helper()
	far, name := l.Peer(node, ifc)
	far.Run("nft", fmt.Sprintf(`add table netdev lab_%[1]s
add chain netdev lab_%[1]s in { type filter hook ingress device %[1]s priority 0; policy drop; }
add chain netdev lab_%[1]s out { type filter hook egress device %[1]s priority 0; policy drop; }`, name))
}

// PassFrames undoes DropFrames.
func (l *Lab) PassFrames(node, ifc string) {
	l.t.Helper()
	far, name := l.Peer(node, ifc)
	far.Run("nft", "delete table netdev lab_"+name)
}

// RouteGet is what the kernel answers to `ip route get`.
type RouteGet struct {
	Dev     string     `json:"dev"`
	Gateway netip.Addr `json:"gateway"`
	Source  netip.Addr `json:"prefsrc"`
}

// RouteGet asks the node's kernel which way a packet goes, with the arguments
// of `ip route get`: "10.68.6.1 ipproto udp sport 4000 dport 7".
func (n *Node) RouteGet(flow string) (RouteGet, error) {
	answers, err := n.RouteGets(flow)
	if err != nil {
		return RouteGet{}, err
	}
	return answers[0], nil
}

// RouteGets is RouteGet for many flows at once.
func (n *Node) RouteGets(flows ...string) ([]RouteGet, error) {
	cmd := n.Command("ip", "-j", "-batch", "-")
	var in, stderr bytes.Buffer
	for _, f := range flows {
		fmt.Fprintf(&in, "route get %s\n", f)
	}
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("node %s: ip route get: %w: %s", n.Name, err, stderr.String())
	}
	// One list of one route for each flow, one behind the other.
	var answers []RouteGet
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var list []RouteGet
		if err := d.Decode(&list); err != nil {
			return nil, fmt.Errorf("node %s: ip route get: %w", n.Name, err)
		}
		answers = append(answers, list...)
	}
	if len(answers) != len(flows) {
		return nil, fmt.Errorf("node %s: ip route get: %d answers for %d flows", n.Name, len(answers), len(flows))
	}
	return answers, nil
}

func unmarshal(s string, into any) error { return json.Unmarshal([]byte(s), into) }
