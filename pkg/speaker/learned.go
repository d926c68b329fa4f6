package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// learnPatience is how long a session that has just come up may be without a
// path that was known before, until the path counts as withdrawn.
const learnPatience = 5 * time.Second

// Learned is the decision about one prefix of egress.import.
type Learned struct {
	Prefix netip.Prefix
	// Static tells that all legs look dead. The last ones stay then: a wrong guess
	// costs nothing, and no route at all costs everything.
	Static bool
	// Legs are in the order of interfaces, peers and next hops.
	Legs []LearnedLeg
}

// LearnedLeg is one path that a peer sent, as a way out.
type LearnedLeg struct {
	LearnedPath

	// Weight is 1 to 256, 0 for one that is not used.
	Weight int
	// Why tells why it is not used, or looks dead.
	Why string
	// external tells that the peer is in another AS, asn in which.
	external bool
	asn      uint32
}

// LearnedPath is a path that a peer sent: what was seen of it at the last look.
type LearnedPath struct {
	// Speaker is the one whose peer sent it: an interface or status.TopLevel.
	Speaker string
	// Interface is the one by which its next hop is reached, empty for none.
	Interface string
	// Path is what was sent; its Peer is zero for one that a former process knew.
	Path bgp.ReceivedPath
	// Used tells that it was a leg.
	Used bool
}

// learned decides about the routes that peers tell.
func (p *planner) learned() {
	var next []LearnedPath
	for _, prefix := range p.in.Config.Egress.Import {
		l := p.learn(prefix)
		if len(l.Legs) > 0 {
			p.out.Learned = append(p.out.Learned, l)
		}
		for i := range l.Legs {
			next = append(next, l.Legs[i].LearnedPath)
		}
		if legs := kernelLegs(l.Legs); len(legs) > 0 {
			p.out.Kernel.Learned = append(p.out.Kernel.Learned, vip.Learned{Prefix: prefix, Legs: legs, Static: l.Static})
		}
	}
	p.out.History.Learned = next
	if p.in.Config.Egress.Install == installMain && len(p.in.Config.Egress.Import) > 0 {
		p.out.Kernel.MainMetric = p.in.Config.Egress.Metric
	}
}

// installMain is the value of egress.install that has the main table changed.
const installMain = "main"

// kernelLegs are the legs in use, each next hop once.
func kernelLegs(legs []LearnedLeg) []vip.LearnedLeg {
	var out []vip.LearnedLeg
	for i := range legs {
		l := &legs[i]
		same := func(o vip.LearnedLeg) bool { return o.Interface == l.Interface && o.Gateway == l.Path.NextHop }
		if l.Used && !slices.ContainsFunc(out, same) {
			out = append(out, vip.LearnedLeg{Interface: l.Interface, Gateway: l.Path.NextHop, Weight: l.Weight})
		}
	}
	return out
}

// learn decides about one prefix: which of the paths to it are legs.
func (p *planner) learn(prefix netip.Prefix) Learned {
	l := Learned{Prefix: prefix, Legs: p.sent(prefix)}
	l.Legs = append(l.Legs, p.remembered(prefix, l.Legs)...)
	slices.SortStableFunc(l.Legs, p.compareLegs)
	live := false
	before := make([]bool, len(l.Legs))
	for i := range l.Legs {
		leg := &l.Legs[i]
		before[i], leg.Used = leg.Used, leg.Why == ""
		live = live || leg.Used
	}
	if live {
		better(l.Legs)
		p.share(l.Legs)
		return l
	}
	some := slices.Contains(before, true)
	for i := range l.Legs {
		// A path that never was a leg is no last resort.
		l.Legs[i].Used = before[i] || !some && l.Legs[i].Path.Peer == (netip.Addr{})
		l.Static = l.Static || l.Legs[i].Used
	}
	p.share(l.Legs)
	return l
}

func (p *planner) compareLegs(a, b LearnedLeg) int {
	at := func(l *LearnedLeg) int {
		if i, ok := p.byName[l.Interface]; ok {
			return i
		}
		return len(p.byName)
	}
	if d := at(&a) - at(&b); d != 0 {
		return d
	}
	if d := a.Path.Peer.Compare(b.Path.Peer); d != 0 {
		return d
	}
	return a.Path.NextHop.Compare(b.Path.NextHop)
}

// sent are the paths to a prefix that peers have sent and not taken back, with
// what is against each.
func (p *planner) sent(prefix netip.Prefix) []LearnedLeg {
	var out []LearnedLeg
	if p.in.BGP == nil {
		return nil
	}
	for i := range p.in.BGP.Speakers {
		s := &p.in.BGP.Speakers[i]
		for j := range s.Received {
			r := &s.Received[j]
			if r.Prefix != prefix {
				continue
			}
			leg := LearnedLeg{LearnedPath: LearnedPath{Speaker: s.Name, Interface: p.reaches(s.Name, r.NextHop), Path: *r}}
			leg.Used = slices.ContainsFunc(p.in.History.Learned, func(h LearnedPath) bool { return h.Used && samePath(&h, &leg.LearnedPath) })
			leg.Why = p.against(&leg)
			out = append(out, leg)
		}
	}
	return out
}

// samePath tells whether two paths are of one peer, or one is that of a former
// process by the same next hop.
func samePath(a, b *LearnedPath) bool {
	if a.Path.Prefix != b.Path.Prefix {
		return false
	}
	unknown := netip.Addr{}
	if a.Path.Peer == unknown || b.Path.Peer == unknown {
		return a.Interface == b.Interface && a.Path.NextHop == b.Path.NextHop
	}
	return a.Speaker == b.Speaker && sameAddress(a.Path.Peer, b.Path.Peer)
}

// reaches is the interface on whose link a next hop is, empty for none. One that
// a peer of an interface told is looked for only there.
func (p *planner) reaches(speaker string, hop netip.Addr) string {
	if speaker != status.TopLevel {
		return speaker
	}
	for i := range p.out.Interfaces {
		if n := &p.out.Interfaces[i]; !hop.IsLinkLocalUnicast() && n.onLink(hop).IsValid() {
			return n.Name
		}
	}
	return ""
}

// remembered are the paths of the last look that nobody has sent anew and nobody
// has taken back: those of sessions that are down.
func (p *planner) remembered(prefix netip.Prefix, sent []LearnedLeg) []LearnedLeg {
	var out []LearnedLeg
	for _, h := range p.in.History.Learned {
		at, ok := p.byName[h.Interface]
		anew := func(l LearnedLeg) bool { return samePath(&h, &l.LearnedPath) }
		if h.Path.Prefix != prefix || !ok || slices.ContainsFunc(sent, anew) || !p.configuredFor(&h) {
			continue
		}
		leg := LearnedLeg{LearnedPath: h}
		n := &p.out.Interfaces[at]
		since, up := p.upSince(&h)
		waits := up && since.Add(learnPatience).After(p.now)
		switch {
		case waits:
			p.mayChange(since.Add(learnPatience))
			leg.Why = "not sent again yet"
		case up:
			continue // taken back
		default:
			if leg.Why = p.against(&leg); leg.Why == "" {
				leg.Why = "session is down"
			}
		}
		// After a start, what a former process used stays until the sessions that
		// said so have had the time to come back.
		if h.Used && n.Leg && p.graceUntil.After(p.now) && (n.fresh || waits) {
			leg.Why = ""
		}
		out = append(out, leg)
	}
	return out
}

// configuredFor tells whether the configuration still has the peer of a path.
func (p *planner) configuredFor(h *LearnedPath) bool {
	if h.Path.Peer == (netip.Addr{}) {
		return len(p.tellers(h)) > 0
	}
	peers := p.in.Config.Peers
	if at, ok := p.byName[h.Speaker]; ok {
		peers = p.in.Config.Interfaces[at].Peers
	}
	return slices.ContainsFunc(peers, func(c config.Peer) bool { return mayBe(&c, h.Path.Peer) })
}

// tellers are the speakers whose peers may have told of a path: of an unknown peer
// it may belong to the interface or to none.
func (p *planner) tellers(h *LearnedPath) []string {
	if h.Path.Peer != (netip.Addr{}) {
		return []string{h.Speaker}
	}
	var out []string
	if at, ok := p.byName[h.Interface]; ok && len(p.in.Config.Interfaces[at].Peers) > 0 {
		out = append(out, h.Interface)
	}
	if len(p.in.Config.Peers) > 0 {
		out = append(out, status.TopLevel)
	}
	return out
}

// upSince tells whether the session is established that told of a path, and since
// when. For an unknown peer that is any session of each speaker that may have told
// of it: while one of them has none, nobody can know that the path was taken back.
func (p *planner) upSince(h *LearnedPath) (since time.Time, up bool) {
	for _, name := range p.tellers(h) {
		at, ok := p.speakerUp(name, h.Path.Peer)
		if !ok {
			return time.Time{}, false
		}
		if !up || at.After(since) {
			since, up = at, true
		}
	}
	return since, up
}

// speakerUp tells since when a speaker has an established session with a peer; for
// the zero address, with any. Of one that seems to be still to come it is not known,
// but long ago: the clock was set back since, and "now" would be so at each look.
func (p *planner) speakerUp(name string, peer netip.Addr) (since time.Time, up bool) {
	s, _ := p.in.BGP.Speaker(name)
	for i := range s.Peers {
		q := &s.Peers[i]
		if q.State != bgp.Established || peer != (netip.Addr{}) && !sameAddress(q.Address, peer) {
			continue
		}
		at := p.past(q.Since)
		if q.Since.After(p.now) {
			at = time.Time{}
		}
		if !up || at.Before(since) {
			since, up = at, true
		}
	}
	return since, up
}

// against tells why a path cannot be a leg, empty if it can. It notes who the
// peer is.
func (p *planner) against(l *LearnedLeg) string {
	hop := l.Path.NextHop
	peers := p.out.Remote
	if at, ok := p.byName[l.Speaker]; ok {
		peers = p.out.Interfaces[at].Peers
	}
	k := slices.IndexFunc(peers, func(q Peer) bool { return q.Address.IsValid() && sameAddress(q.Address, l.Path.Peer) })
	at, ok := p.byName[l.Interface]
	if !ok {
		return fmt.Sprintf("next hop %s is on the network of no listed interface", hop)
	}
	n, kernel := &p.out.Interfaces[at], &p.out.Kernel.Interfaces[at]
	ipv4 := l.Path.Prefix.Addr().Is4()
	switch {
	case !n.Usable && !n.Leg:
		return n.why()
	case k < 0 && l.Path.Peer.IsValid():
		return "peer " + l.Path.Peer.String() + " is no longer there"
	case k >= 0 && peers[k].held != "":
		return peers[k].held
	case k >= 0 && !peers[k].Wanted:
		return peers[k].Detail
	case k >= 0 && !l.established(p.in.BGP):
		return "session with " + l.Path.Peer.String() + " is down"
	case p.isVIP(hop) || slices.ContainsFunc(n.Addresses, func(a netip.Prefix) bool { return a.Addr() == hop }):
		return fmt.Sprintf("next hop %s is this host", hop)
	case !n.towards(hop).IsValid():
		return fmt.Sprintf("next hop %s is not on the network of %s", hop, n.Name)
	case n.fails(hop):
		return fmt.Sprintf("next hop %s does not answer", hop)
	case !kernel.Leg() || kernel.Silent4 && ipv4 || kernel.Silent6 && !ipv4:
		return "interface " + n.Name + " is not used for outgoing traffic"
	}
	if k >= 0 {
		l.asn = peers[k].ASN
		l.external = l.asn != p.in.Config.BGP.ASN
	}
	return ""
}

// established tells whether the session with the peer is.
func (l *LearnedLeg) established(state *bgp.State) bool {
	s, _ := state.Speaker(l.Speaker)
	return slices.ContainsFunc(s.Peers, func(q bgp.PeerState) bool {
		return q.State == bgp.Established && sameAddress(q.Address, l.Path.Peer)
	})
}

// learnedHops are the next hops of a family by which a learned default left an
// interface at the last look.
func (p *planner) learnedHops(name string, ipv4 bool) []netip.Addr {
	var out []netip.Addr
	for i := range p.in.History.Learned {
		h := &p.in.History.Learned[i]
		if h.Used && h.Interface == name && h.Path.Prefix.Bits() == 0 && h.Path.Prefix.Addr().Is4() == ipv4 && h.Path.NextHop.Is4() == ipv4 {
			out = append(out, h.Path.NextHop)
		}
	}
	return out
}

// lacks tells whether a leg of a route is missing in a list.
func lacks(list []vip.Learned, route *vip.Learned) bool {
	k := slices.IndexFunc(list, func(o vip.Learned) bool { return o.Prefix == route.Prefix })
	return k < 0 || slices.ContainsFunc(route.Legs, func(l vip.LearnedLeg) bool {
		return !slices.ContainsFunc(list[k].Legs, func(o vip.LearnedLeg) bool { return o.Interface == l.Interface && o.Gateway == l.Gateway })
	})
}

// adoptLearned is the history of a process that starts: the legs that a former
// one left. The kernel does not tell whose peer sent them.
func adoptLearned(list []vip.Learned) []LearnedPath {
	var out []LearnedPath
	for _, route := range list {
		for _, l := range route.Legs {
			path := bgp.ReceivedPath{Prefix: route.Prefix, NextHop: l.Gateway}
			out = append(out, LearnedPath{Speaker: l.Interface, Interface: l.Interface, Path: path, Used: true})
		}
	}
	return out
}
