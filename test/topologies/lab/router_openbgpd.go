package lab

import (
	"fmt"
	"net/netip"
	"time"
)

// openBGPD is where Debian's package has the daemon, which it calls bgpd as FRR
// does.
const openBGPD = "/usr/sbin/bgpd"

func (n *Node) startOpenBGPD() {
	n.lab.t.Helper()
	require(n.lab.t, openBGPD, "bgpctl")
	n.Run("mkdir", "-p", "/run/openbgpd")
	const file = "/etc/openbgpd/bgpd.conf"
	n.Run("chmod", "600", file) // it refuses one that others can read
	p := n.StartProcess("openbgpd", openBGPD, "-d", "-v", "-f", file)
	Eventually(n.lab.t, 10*time.Second, "openbgpd on "+n.Name, func() error {
		if err := p.ended(); err != nil {
			n.lab.t.Fatal(err)
		}
		_, err := n.Try("bgpctl", "show")
		return err
	})
}

func (n *Node) openBGPDNeighbors() ([]Neighbor, error) {
	out, err := n.Try("bgpctl", "-j", "show", "neighbor")
	if err != nil {
		return nil, err
	}
	var all struct {
		Neighbors []struct {
			Address string `json:"remote_addr"`
			State   string
		}
	}
	if err := unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("node %s: show neighbor: %w", n.Name, err)
	}
	var list []Neighbor
	for _, v := range all.Neighbors {
		list = append(list, Neighbor{Address: address(v.Address), Established: v.State == "Established"})
	}
	return list, nil
}

func (n *Node) openBGPDPaths(prefix netip.Prefix) ([]Path, error) {
	out, err := n.Try("bgpctl", "-j", "show", "rib", "detail", prefix.String())
	if err != nil {
		return nil, err
	}
	list, err := parseOpenBGPD(out)
	if err != nil {
		return nil, fmt.Errorf("node %s: show rib: %w", n.Name, err)
	}
	return list, nil
}

func parseOpenBGPD(out string) ([]Path, error) {
	var all struct {
		RIB []struct {
			ASPath   string
			NextHop  string `json:"exit_nexthop"`
			Neighbor struct {
				Address string `json:"remote_addr"`
			}
			PathID           uint32 `json:"path_id"`
			Stale            bool
			Metric           uint32
			LocalPref        uint32
			Communities      []string
			LargeCommunities []string `json:"large_communities"`
		}
	}
	if err := unmarshal(out, &all); err != nil {
		return nil, err
	}
	var list []Path
	for _, p := range all.RIB {
		list = append(list, Path{
			Peer: address(p.Neighbor.Address), ID: p.PathID, NextHop: address(p.NextHop), ASPath: asNumbers(p.ASPath),
			MED: &p.Metric, LocalPref: &p.LocalPref, Communities: communities(p.Communities), LargeCommunities: p.LargeCommunities, Stale: p.Stale,
		})
	}
	return list, nil
}
