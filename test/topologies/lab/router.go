package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Software is a routing software that a node can run.
type Software string

// The routing software that is packaged for Debian.
const (
	FRR      Software = "frr"
	BIRD     Software = "bird"
	OpenBGPD Software = "openbgpd"
	ExaBGP   Software = "exabgp"
	GoBGP    Software = "gobgp"
)

// Neighbor is a BGP session as a router tells it.
type Neighbor struct {
	// Address is the neighbour's; of a session over link-local addresses it may
	// be invalid while it is down.
	Address     netip.Addr
	Established bool
}

// Path is what a router has heard of a prefix from a neighbour.
type Path struct {
	Peer netip.Addr // of the neighbour, without a zone
	// ID is that of ADD-PATH (RFC 7911 section 3) as it was received, 0 without.
	// BIRD does not show it.
	ID      uint32
	NextHop netip.Addr
	ASPath  []uint32
	MED     *uint32 // nil where there is none, with OpenBGPD 0
	// LocalPref is what the router made of it, nil if it has said nothing.
	LocalPref        *uint32
	Communities      []string // "65010:100"
	LargeCommunities []string // "65010:1:2"
	// Stale says that the session is gone and the router keeps the path for
	// graceful restart. BIRD and ExaBGP do not show it.
	Stale bool
}

// StartRouter runs a routing software in a node whose image is another one, with
// the files of dir below /etc, as its own image has them.
func (n *Node) StartRouter(s Software, dir string) {
	n.lab.t.Helper()
	n.copyFiles(dir, s.directory())
	switch s {
	case FRR:
		n.startFRR()
	case BIRD:
		n.startBIRD()
	case OpenBGPD:
		n.startOpenBGPD()
	case ExaBGP:
		n.startExaBGP()
	case GoBGP:
		n.startGoBGP()
	default:
		n.lab.t.Fatalf("lab: no routing software %q", s)
	}
}

// directory is where the software's files are.
func (s Software) directory() string {
	switch s {
	case OpenBGPD:
		return "/etc/openbgpd"
	case GoBGP:
		return "/etc/gobgp"
	case FRR, BIRD, ExaBGP:
	}
	return "/etc/" + string(s)
}

// copyFiles copies the files of a directory of this machine to one of the node.
func (n *Node) copyFiles(from, to string) {
	n.lab.t.Helper()
	files, err := os.ReadDir(from)
	if err != nil {
		n.lab.t.Fatalf("lab: node %s: %v", n.Name, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(from, f.Name())) //nolint:gosec // the test names the directory
		if err != nil {
			n.lab.t.Fatalf("lab: node %s: %v", n.Name, err)
		}
		n.WriteFile(filepath.Join(to, f.Name()), string(data))
	}
}

// Router tells which routing software runs in the node, "" for none.
func (n *Node) Router() Software {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.daemons {
		switch d.Name {
		case "bird":
			return BIRD
		case "bgpd":
			return FRR
		case "openbgpd":
			return OpenBGPD
		case "exabgp":
			return ExaBGP
		case "gobgpd":
			return GoBGP
		}
	}
	return ""
}

var versionNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)+`)

// Version returns the version of a routing software of this machine.
func (n *Node) Version(s Software) string {
	n.lab.t.Helper()
	command := map[Software][]string{
		FRR:      {filepath.Join(frrPath, "bgpd"), "--version"},
		BIRD:     {"bird", "--version"},
		OpenBGPD: {"dpkg-query", "-W", "-f", "'${Version}'", "openbgpd"}, // bgpd itself does not tell in 7.7
		ExaBGP:   {"exabgp", "--version"},
		GoBGP:    {"gobgpd", "--version"},
	}[s]
	// BIRD writes it to its standard error.
	out := n.Run("sh", "-c", strings.Join(command, " ")+" 2>&1")
	v := versionNumber.FindString(out)
	if v == "" {
		n.lab.t.Fatalf("lab: no version of %s in %q", s, out)
	}
	return v
}

// Refusal returns what the software says about a configuration that it does not
// take, "" if it takes it.
func (n *Node) Refusal(s Software, config string) string {
	n.lab.t.Helper()
	const file = "/run/refused.conf"
	n.WriteFile(file, config)
	command := map[Software][]string{
		BIRD:     {"bird", "-p", "-c", file},
		OpenBGPD: {openBGPD, "-n", "-f", file},
		ExaBGP:   {"exabgp", "--test", file},
		GoBGP:    {"gobgpd", "--dry-run", "-f", file},
	}[s]
	if command == nil {
		n.lab.t.Fatalf("lab: %s cannot check a configuration alone", s)
	}
	if s == OpenBGPD {
		n.Run("chmod", "600", file)
	}
	if _, err := n.Try(command...); err != nil {
		return err.Error()
	}
	return ""
}

// Neighbors returns the router's BGP sessions.
func (n *Node) Neighbors() ([]Neighbor, error) {
	switch n.Router() {
	case FRR:
		return n.frrNeighbors()
	case BIRD:
		return n.birdNeighbors()
	case OpenBGPD:
		return n.openBGPDNeighbors()
	case ExaBGP:
		return n.exaBGPNeighbors()
	case GoBGP:
		return n.goBGPNeighbors()
	}
	return nil, fmt.Errorf("node %s: no routing software runs", n.Name)
}

// Up tells whether the router's session with a neighbour is established.
func (n *Node) Up(neighbor netip.Addr) (bool, error) {
	list, err := n.Neighbors()
	return slices.Contains(list, Neighbor{Address: neighbor.WithZone(""), Established: true}), err
}

// Paths returns the paths of exactly prefix that the router has, from whichever
// neighbour and chosen or not, in a fixed order.
func (n *Node) Paths(prefix netip.Prefix) ([]Path, error) {
	var list []Path
	var err error
	switch n.Router() {
	case FRR:
		list, err = n.frrPaths(prefix)
	case BIRD:
		list, err = n.birdPaths(prefix)
	case OpenBGPD:
		list, err = n.openBGPDPaths(prefix)
	case ExaBGP:
		list, err = n.exaBGPPaths(prefix)
	case GoBGP:
		list, err = n.goBGPPaths(prefix)
	default:
		err = fmt.Errorf("node %s: no routing software runs", n.Name)
	}
	slices.SortFunc(list, func(a, b Path) int {
		return cmp.Or(a.Peer.Compare(b.Peer), cmp.Compare(a.ID, b.ID), a.NextHop.Compare(b.NextHop))
	})
	return list, err
}

// PathsFrom is Paths from one neighbour.
func (n *Node) PathsFrom(neighbor netip.Addr, prefix netip.Prefix) ([]Path, error) {
	list, err := n.Paths(prefix)
	return slices.DeleteFunc(list, func(p Path) bool { return p.Peer != neighbor.WithZone("") }), err
}

// String tells the path on one line.
func (p Path) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "from %v id %d via %v path %v", p.Peer, p.ID, p.NextHop, p.ASPath)
	if p.MED != nil {
		fmt.Fprintf(&b, " med %d", *p.MED)
	}
	if p.LocalPref != nil {
		fmt.Fprintf(&b, " local_pref %d", *p.LocalPref)
	}
	fmt.Fprintf(&b, " %v %v", p.Communities, p.LargeCommunities)
	if p.Stale {
		b.WriteString(" stale")
	}
	return b.String()
}

// address reads an address and forgets its zone; invalid for another text.
func address(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a.WithZone("").Unmap()
}

// asNumbers reads AS numbers between spaces, and leaves out what is none.
func asNumbers(s string) []uint32 {
	var list []uint32
	for word := range strings.FieldsSeq(s) {
		if v, err := strconv.ParseUint(word, 10, 32); err == nil {
			list = append(list, uint32(v))
		}
	}
	return list
}

// gracefulShutdown is the community of RFC 8326 section 5 as numbers, which the
// routers have words for.
const gracefulShutdown = "65535:0"

// communities puts numbers in place of the routers' words.
func communities(list []string) []string {
	for i, c := range list {
		switch c {
		case "gracefulShutdown", "graceful-shutdown", "GRACEFUL_SHUTDOWN":
			list[i] = gracefulShutdown
		}
	}
	return list
}
