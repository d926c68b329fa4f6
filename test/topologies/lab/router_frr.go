package lab

import (
	"fmt"
	"net/netip"
)

func (n *Node) frrNeighbors() ([]Neighbor, error) {
	out, err := n.Try("vtysh", "-c", "show bgp neighbors json")
	if err != nil {
		return nil, err
	}
	var neighbors map[string]struct {
		State   string `json:"bgpState"`
		Address string `json:"bgpNeighborAddr"`
	}
	if err := unmarshal(out, &neighbors); err != nil {
		return nil, fmt.Errorf("node %s: show bgp neighbors: %w", n.Name, err)
	}
	var list []Neighbor
	for key, v := range neighbors {
		if v.Address == "" {
			v.Address = key
		}
		list = append(list, Neighbor{Address: address(v.Address), Established: v.State == "Established"})
	}
	return list, nil
}

func (n *Node) frrPaths(prefix netip.Prefix) ([]Path, error) {
	family := "ipv6"
	if prefix.Addr().Is4() {
		family = "ipv4"
	}
	out, err := n.Try("vtysh", "-c", fmt.Sprintf("show bgp %s unicast %v json", family, prefix))
	if err != nil {
		return nil, err
	}
	list, err := parseFRR(out)
	if err != nil {
		return nil, fmt.Errorf("node %s: show bgp: %w", n.Name, err)
	}
	return list, nil
}

func parseFRR(out string) ([]Path, error) {
	var route struct {
		Paths []struct {
			ASPath         struct{ String string }
			Metric         *uint32
			LocPrf         *uint32
			Stale          bool
			AddPathRxID    uint32 `json:"addpathRxId"`
			Community      struct{ List []string }
			LargeCommunity struct{ List []string }
			Nexthops       []struct{ IP string }
			Peer           struct{ PeerID string }
		}
	}
	if err := unmarshal(out, &route); err != nil {
		return nil, err
	}
	var list []Path
	for _, p := range route.Paths {
		path := Path{
			Peer: address(p.Peer.PeerID), ID: p.AddPathRxID, ASPath: asNumbers(p.ASPath.String), MED: p.Metric, LocalPref: p.LocPrf,
			Communities: communities(p.Community.List), LargeCommunities: p.LargeCommunity.List, Stale: p.Stale,
		}
		if len(p.Nexthops) > 0 {
			path.NextHop = address(p.Nexthops[0].IP)
		}
		list = append(list, path)
	}
	return list, nil
}
