package lab

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

func (n *Node) birdNeighbors() ([]Neighbor, error) {
	protocols, err := n.birdProtocols()
	if err != nil {
		return nil, err
	}
	var list []Neighbor
	for _, v := range protocols {
		list = append(list, v)
	}
	return list, nil
}

// birdProtocols returns the sessions by the names of their protocols.
func (n *Node) birdProtocols() (map[string]Neighbor, error) {
	out, err := n.Try("birdc", "-s", "/run/bird/bird.ctl", "show protocols all")
	if err != nil {
		return nil, err
	}
	return parseBIRDProtocols(out), nil
}

func parseBIRDProtocols(out string) map[string]Neighbor {
	list := map[string]Neighbor{}
	name := ""
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) > 1 && line[0] != ' ' {
			name = words[0]
			if words[1] != "BGP" {
				name = ""
			}
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		v := list[name]
		switch key {
		case "BGP state":
			v.Established = strings.TrimSpace(value) == "Established"
		case "Neighbor address":
			address, _, _ := strings.Cut(strings.TrimSpace(value), "%")
			v.Address, _ = netip.ParseAddr(address)
		default:
			continue
		}
		if name != "" {
			list[name] = v
		}
	}
	return list
}

func (n *Node) birdPaths(prefix netip.Prefix) ([]Path, error) {
	protocols, err := n.birdProtocols()
	if err != nil {
		return nil, err
	}
	out, err := n.Try("birdc", "-s", "/run/bird/bird.ctl", "show route "+prefix.String()+" all")
	if err != nil && !strings.Contains(out, "Network not found") {
		return nil, err
	}
	return parseBIRD(out, protocols), nil
}

// birdRoute is the first line of a route: its protocol is in brackets.
var birdRoute = regexp.MustCompile(`^\S* +\S+ \[(\S+) `)

func parseBIRD(out string, protocols map[string]Neighbor) []Path {
	var list []Path
	for line := range strings.Lines(out) {
		if m := birdRoute.FindStringSubmatch(line); m != nil {
			list = append(list, Path{Peer: protocols[m[1]].Address})
			continue
		}
		key, value, found := strings.Cut(strings.TrimSpace(line), ": ")
		if !found || len(list) == 0 {
			continue
		}
		p := &list[len(list)-1]
		switch key {
		case "BGP.as_path":
			p.ASPath = asNumbers(value)
		case "BGP.next_hop":
			// Of a global one that is none and a link-local one, the latter.
			for word := range strings.FieldsSeq(value) {
				if a := address(word); !p.NextHop.IsValid() || p.NextHop.IsUnspecified() {
					p.NextHop = a
				}
			}
		case "BGP.med":
			p.MED = number32(value)
		case "BGP.local_pref":
			p.LocalPref = number32(value)
		case "BGP.community":
			p.Communities = birdTuples(value)
		case "BGP.large_community":
			p.LargeCommunities = birdTuples(value)
		}
	}
	return list
}

func number32(s string) *uint32 {
	v, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	if err != nil {
		return nil
	}
	n := uint32(v)
	return &n
}

// birdTuples turns "(65010,100) (65535, 0)" into texts with colons.
func birdTuples(s string) []string {
	var list []string
	for part := range strings.SplitSeq(s, ")") {
		if part = strings.TrimLeft(part, " (\n"); part != "" {
			list = append(list, strings.ReplaceAll(strings.ReplaceAll(part, " ", ""), ",", ":"))
		}
	}
	return list
}
