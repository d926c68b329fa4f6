package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

func (n *Node) startGoBGP() {
	n.lab.t.Helper()
	require(n.lab.t, "gobgpd", "gobgp")
	p := n.StartProcess("gobgpd", "gobgpd", "-f", "/etc/gobgp/gobgpd.toml", "--api-hosts", "127.0.0.1:50051", "--pprof-disable")
	Eventually(n.lab.t, 20*time.Second, "gobgpd on "+n.Name, func() error {
		if err := p.ended(); err != nil {
			n.lab.t.Fatal(err)
		}
		_, err := n.Try("gobgp", "global")
		return err
	})
}

func (n *Node) goBGPNeighbors() ([]Neighbor, error) {
	out, err := n.Try("gobgp", "-j", "neighbor")
	if err != nil {
		return nil, err
	}
	var all []struct {
		State struct {
			Address string `json:"neighbor_address"`
			Session int    `json:"session_state"`
		}
	}
	if err := unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("node %s: neighbor: %w", n.Name, err)
	}
	var list []Neighbor
	for _, v := range all {
		// PeerState.SessionState of its API.
		const established = 6
		list = append(list, Neighbor{Address: address(v.State.Address), Established: v.State.Session == established})
	}
	return list, nil
}

func (n *Node) goBGPPaths(prefix netip.Prefix) ([]Path, error) {
	family := "ipv6"
	if prefix.Addr().Is4() {
		family = "ipv4"
	}
	out, err := n.Try("gobgp", "-j", "global", "rib", "-a", family, prefix.String())
	if strings.Contains(out, "Network not in table") || err != nil && strings.Contains(err.Error(), "Network not in table") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := parseGoBGP(out)
	if err != nil {
		return nil, fmt.Errorf("node %s: global rib: %w", n.Name, err)
	}
	count := map[netip.Addr]int{}
	for _, p := range list {
		count[p.Peer]++
	}
	for peer, paths := range count {
		if paths < 2 {
			continue
		}
		// The table as JSON is without the IDs.
		out, err := n.Try("gobgp", "neighbor", peer.String(), "adj-in", "-a", family)
		if err != nil {
			return nil, err
		}
		for i := range list {
			if list[i].Peer == peer {
				list[i].ID = goBGPID(out, prefix, list[i].NextHop)
			}
		}
	}
	return list, nil
}

// goBGPID finds a path's ID in a table with the columns ID, Network, Next Hop.
func goBGPID(table string, prefix netip.Prefix, hop netip.Addr) uint32 {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == prefix.String() && f[2] == hop.String() {
			if id := number32(f[0]); id != nil {
				return *id
			}
		}
	}
	return 0
}

// goBGPAttribute is a path attribute; Type is its number.
type goBGPAttribute struct {
	Type        uint8
	ASPaths     []struct{ ASNs []uint32 } `json:"as_paths"`
	NextHop     string
	Metric      *uint32
	Communities []uint32
	Value       json.RawMessage
}

func parseGoBGP(out string) ([]Path, error) {
	var all map[string][]struct {
		Attrs    []goBGPAttribute
		Stale    bool
		Neighbor string `json:"neighbor-ip"`
	}
	if err := unmarshal(out, &all); err != nil {
		return nil, err
	}
	var list []Path
	for _, paths := range all {
		for _, p := range paths {
			path := Path{Peer: address(p.Neighbor), Stale: p.Stale}
			for _, a := range p.Attrs {
				if err := path.goBGP(&a); err != nil {
					return nil, err
				}
			}
			list = append(list, path)
		}
	}
	return list, nil
}

func (p *Path) goBGP(a *goBGPAttribute) error {
	switch a.Type {
	case 2:
		for _, s := range a.ASPaths {
			p.ASPath = append(p.ASPath, s.ASNs...)
		}
	case 3, 14:
		p.NextHop = address(a.NextHop)
	case 4:
		p.MED = a.Metric
	case 5:
		return json.Unmarshal(a.Value, &p.LocalPref)
	case 8:
		for _, c := range a.Communities {
			p.Communities = append(p.Communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
		}
	case 32:
		var large []struct{ ASN, LocalData1, LocalData2 uint32 }
		if err := json.Unmarshal(a.Value, &large); err != nil {
			return err
		}
		for _, c := range large {
			p.LargeCommunities = append(p.LargeCommunities, fmt.Sprintf("%d:%d:%d", c.ASN, c.LocalData1, c.LocalData2))
		}
	}
	return nil
}
