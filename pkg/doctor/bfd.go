package doctor

import "fmt"

// lookBFD looks for BGP sessions that are established while the BFD session beside them
// is not up. BFD that never came up does not hold BGP back (RFC 5882 section 4.2), so
// nothing else shows that a router does not speak it.
func lookBFD(e *exam) {
	check := func(where string, p *Peer) {
		if !p.BFD || p.Has == nil || p.BFDState == "" || p.BFDState == "Up" {
			return
		}
		e.find(&Finding{
			Subject: p.Address.String(),
			Found:   fmt.Sprintf("the session with %s (%s) is established, and its BFD session is %s", p.Address, where, p.BFDState),
			Command: "# on the router: enable BFD for this host (FRR: neighbor … bfd; BIRD: bfd on), with the same kind (single hop or multihop) and authentication",
		})
	}
	for i := range e.in.Interfaces {
		n := &e.in.Interfaces[i]
		for j := range n.Peers {
			check(n.Name, &n.Peers[j])
		}
	}
	for i := range e.in.Peers {
		check("no interface", &e.in.Peers[i])
	}
}
