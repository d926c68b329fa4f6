package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
)

// exaBGPEvents is where the helper of the configuration writes what ExaBGP tells
// it, one event of JSON in a line.
const exaBGPEvents = "/run/exabgp/received.json"

func (n *Node) startExaBGP() {
	n.lab.t.Helper()
	require(n.lab.t, "exabgp")
	n.Run("mkdir", "-p", "/run/exabgp")
	// Its own user may not write there, and its shell needs named pipes.
	p := n.StartProcess("exabgp", "env", "exabgp.daemon.user=root", "exabgp.api.cli=false", "exabgp", "/etc/exabgp/exabgp.conf")
	Eventually(n.lab.t, 20*time.Second, "exabgp on "+n.Name, func() error {
		if err := p.ended(); err != nil {
			n.lab.t.Fatal(err)
		}
		return That(strings.Contains(p.Log(), "loaded new configuration successfully"), "it has not loaded its configuration")
	})
}

// exaBGPEvent is what ExaBGP tells its helper.
type exaBGPEvent struct {
	Type     string
	Neighbor struct {
		Address struct{ Peer string }
		State   string
		Message struct {
			Update struct {
				Attribute struct {
					ASPath      []uint32 `json:"as-path"`
					MED         *uint32
					LocalPref   *uint32     `json:"local-preference"`
					Communities [][2]uint32 `json:"community"`
					Large       [][3]uint32 `json:"large-community"`
				}
				Announce map[string]map[string][]exaBGPRoute // by family and next hop
				Withdraw map[string][]exaBGPRoute
			}
		}
	}
}

type exaBGPRoute struct {
	NLRI string
	ID   string `json:"path-information"`
}

func (r exaBGPRoute) id() uint32 {
	a, err := netip.ParseAddr(r.ID)
	if err != nil || !a.Is4() {
		return 0
	}
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// exaBGPTable is what all events together come to.
type exaBGPTable struct {
	neighbors map[netip.Addr]bool
	paths     map[exaBGPKey]Path
}

type exaBGPKey struct {
	peer netip.Addr
	nlri string
	id   uint32
}

// exaBGP reads the events. ExaBGP itself has no table to ask for.
func (n *Node) exaBGP() (*exaBGPTable, error) {
	data, err := os.ReadFile(n.Path(exaBGPEvents))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	t, err := parseExaBGP(string(data))
	if err != nil {
		return nil, fmt.Errorf("node %s: %s: %w", n.Name, exaBGPEvents, err)
	}
	return t, nil
}

func parseExaBGP(events string) (*exaBGPTable, error) {
	t := &exaBGPTable{neighbors: map[netip.Addr]bool{}, paths: map[exaBGPKey]Path{}}
	for line := range strings.Lines(events) {
		if !strings.HasSuffix(line, "\n") {
			break // not written to its end yet
		}
		var e exaBGPEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			// End-of-RIB has the family's number for a table of families.
			if _, other := errors.AsType[*json.UnmarshalTypeError](err); !other {
				return nil, fmt.Errorf("%w in %s", err, line)
			}
			continue
		}
		t.take(&e)
	}
	return t, nil
}

func (t *exaBGPTable) take(e *exaBGPEvent) {
	peer := address(e.Neighbor.Address.Peer)
	switch e.Type {
	case "state":
		t.neighbors[peer] = e.Neighbor.State == "up"
		for key := range t.paths {
			if key.peer == peer && e.Neighbor.State == "down" {
				delete(t.paths, key)
			}
		}
	case "update":
		u := &e.Neighbor.Message.Update
		for _, routes := range u.Withdraw {
			for _, r := range routes {
				delete(t.paths, exaBGPKey{peer, r.NLRI, r.id()})
			}
		}
		path := Path{Peer: peer, ASPath: u.Attribute.ASPath, MED: u.Attribute.MED, LocalPref: u.Attribute.LocalPref}
		for _, c := range u.Attribute.Communities {
			path.Communities = append(path.Communities, fmt.Sprintf("%d:%d", c[0], c[1]))
		}
		for _, c := range u.Attribute.Large {
			path.LargeCommunities = append(path.LargeCommunities, fmt.Sprintf("%d:%d:%d", c[0], c[1], c[2]))
		}
		for _, hops := range u.Announce {
			for hop, routes := range hops {
				for _, r := range routes {
					path.NextHop, path.ID = address(hop), r.id()
					t.paths[exaBGPKey{peer, r.NLRI, r.id()}] = path
				}
			}
		}
	}
}

func (n *Node) exaBGPNeighbors() ([]Neighbor, error) {
	t, err := n.exaBGP()
	if err != nil {
		return nil, err
	}
	var list []Neighbor
	for peer, up := range t.neighbors {
		list = append(list, Neighbor{Address: peer, Established: up})
	}
	return list, nil
}

func (n *Node) exaBGPPaths(prefix netip.Prefix) ([]Path, error) {
	t, err := n.exaBGP()
	if err != nil {
		return nil, err
	}
	var list []Path
	for key, p := range t.paths {
		if key.nlri == prefix.String() {
			list = append(list, p)
		}
	}
	return list, nil
}
