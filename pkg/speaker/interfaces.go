package speaker

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
)

// interfaces decides which interfaces are usable, and by which own address
// their peers are reached.
func (p *planner) interfaces() {
	p.out.Interfaces = make([]Interface, len(p.in.Config.Interfaces))
	for i := range p.in.Config.Interfaces {
		c := &p.in.Config.Interfaces[i]
		p.byName[c.Name] = i
		p.out.Interfaces[i] = p.look(c)
	}
	p.damp()
	for i := range p.out.Interfaces {
		p.out.Interfaces[i].admit()
	}
	p.legs()
}

// look judges one interface by itself.
func (p *planner) look(c *config.Interface) Interface {
	n := Interface{Name: c.Name, fresh: true}
	link, detail := p.link(c.Name)
	n.Index = link.Index
	n.Addresses, n.far = ownAddresses(link, p.isVIP), farNetworks(link)
	n.Peers = p.expand(c, &n, link)
	if slices.ContainsFunc(c.Peers, func(peer config.Peer) bool { return peer.Unnumbered }) {
		p.out.Discover = append(p.out.Discover, n.Name)
	}
	n.gateways = p.nextHops(c, &n, link)
	probes := probesOf(c, &n)
	p.out.Probes = append(p.out.Probes, probes...)
	layer := p.probed(&n, probes)
	failed := p.watch(c.HoldUp, &n, link)
	if n.Reason, n.Detail = status.InterfaceAbsent, detail; detail == "" {
		n.Reason, n.Detail = judge(c, &n, link)
	}
	p.judgeHistory(c, &n, link, layer, failed)
	if n.Reason == status.InterfaceAbsent || n.Reason == status.InterfaceDown || n.Reason == status.InterfaceCarrier {
		n.Failures = nil // what is behind a link that is gone cannot answer
	}
	name := c.Name
	if len(c.Peers) == 0 {
		name = status.TopLevel // whose sessions are all that it has
	}
	if s, ok := p.in.BGP.Speaker(name); ok {
		for i := range s.Peers {
			up := s.Peers[i].State == bgp.Established
			n.established = n.established || up
			n.answering = n.answering || up && (len(c.Peers) == 0 || slices.ContainsFunc(n.Peers, func(peer Peer) bool {
				return sameAddress(peer.Address, s.Peers[i].Address) && peer.LocalAddress.IsValid() && peer.held == ""
			}))
			n.fresh = n.fresh && s.Peers[i].Transitions == 0
		}
	}
	return n
}

// replacedPause is how long a link that was replaced counts as absent. Sockets
// and sessions still belong to the one that is gone, and must end.
const replacedPause = 100 * time.Millisecond

// link returns the link of an interface, or one without anything and why there
// is none.
func (p *planner) link(name string) (link netmon.Link, why string) {
	link, ok := p.in.Net.Link(name)
	h := p.in.History.Interfaces[name]
	if ok && h.Index != 0 && h.Index != link.Index {
		h.Replaced = p.now
	}
	h.Index = link.Index
	end := h.Replaced.Add(replacedPause)
	if h.Replaced.IsZero() || !end.After(p.now) {
		h.Replaced = time.Time{}
	}
	if _, known := p.in.History.Interfaces[name]; known {
		p.rememberInterface(name, h)
	}
	switch {
	case !ok:
		return netmon.Link{}, "no such link"
	case !h.Replaced.IsZero():
		p.mayChange(end)
		return netmon.Link{}, "the link was replaced by another one"
	}
	return link, ""
}

// judge gives the reason why a link cannot be used, empty if it can.
func judge(c *config.Interface, n *Interface, link netmon.Link) (status.Reason, string) {
	switch {
	case !link.Up:
		return status.InterfaceDown, "administratively down"
	case !link.Running:
		return status.InterfaceCarrier, "no carrier"
	}
	reachable := false
	for i := range n.Peers {
		// The router of an unnumbered peer may come later.
		reachable = reachable || n.Peers[i].LocalAddress.IsValid() || n.Peers[i].Found == foundRouter && linkLocal(n).IsValid()
	}
	for _, g := range c.Gateways {
		reachable = reachable || n.onLink(g).IsValid()
	}
	if len(c.Peers) == 0 && len(c.Gateways) == 0 {
		reachable = global(n.Addresses, true).IsValid() || global(n.Addresses, false).IsValid()
	}
	if !reachable {
		return status.InterfaceAddress, unreachable(c, n)
	}
	return "", ""
}

// judgeHistory judges what is behind the link, and then by what was before: an
// interface that comes back waits for its hold-up, and each time that it goes is
// a flap. Layer is what the probes close, failed tells that BFD has just lost a
// peer.
func (p *planner) judgeHistory(c *config.Interface, n *Interface, link netmon.Link, layer status.Reason, failed bool) {
	h, known := p.out.History.Interfaces[c.Name]
	if !known {
		h.Index = link.Index
	}
	cause := string(n.Reason)
	if n.Reason == "" && layer != "" {
		var text string
		n.Reason = layer
		cause, text = failing(n, string(layer), p.now)
		// The text says for how long. Made anew each time, it would make each look
		// differ from the one before.
		if n.Detail = h.Detail; h.Cause != cause {
			n.Detail = text
		}
	}
	h.Cause, h.Detail = cause, n.Detail
	open := n.Reason == ""
	lost := slices.ContainsFunc(n.Peers, func(peer Peer) bool { return peer.dead })
	closed := known && h.Open && !open && !h.Excused && !lost // what BFD found counts as BFD's
	if (failed || closed) && !p.in.Overrides.Shutdown {
		h.Penalty = h.Penalty.flap(&c.Damping, p.now)
	}
	h.Penalty = h.Penalty.look(&c.Damping, p.now)
	switch {
	case !open:
		h.Opened = time.Time{}
	case known && !h.Open:
		h.Opened = p.now
	}
	h.Open, h.Excused = open, false
	if n.router.IsValid() {
		h.Router = n.router
	}
	p.rememberInterface(c.Name, h)
	n.Penalty = h.Penalty.show(&c.Damping, p.now, false)
	if !open {
		return
	}
	// The monitor sees what is over before the next look. What was healthy at the
	// start of the process has no such time: it did not just come back.
	back := h.Opened
	if link.HealthySince.After(back) {
		back = link.HealthySince
	}
	if until := back.Add(c.HoldUp); !back.IsZero() && until.After(p.now) {
		p.mayChange(until)
		n.Reason, n.Detail = status.InterfaceHoldUp, fmt.Sprintf("healthy again, held for %s", c.HoldUp)
	}
}

// damp takes interfaces out of use that flapped too often, if another one that
// did not has a session: the last resort is never taken away.
func (p *planner) damp() {
	var suppressed []int
	other := false
	for i := range p.out.Interfaces {
		n := &p.out.Interfaces[i]
		penalty := p.out.History.Interfaces[n.Name].Penalty
		if penalty.Suppressed {
			p.mayChange(penalty.until(&p.in.Config.Interfaces[i].Damping))
		}
		switch {
		case n.Reason != "":
		case penalty.Suppressed:
			suppressed = append(suppressed, i)
		default:
			other = other || n.answering
		}
	}
	if !other {
		return
	}
	for _, i := range suppressed {
		n, c := &p.out.Interfaces[i], &p.in.Config.Interfaces[i]
		penalty := p.out.History.Interfaces[n.Name].Penalty
		n.Reason, n.Detail = status.Damped, dampedText(penalty.until(&c.Damping))
		n.Penalty = penalty.show(&c.Damping, p.now, true)
	}
}

// admit decides which sessions of an interface may run.
func (n *Interface) admit() {
	n.Usable = n.Reason == ""
	n.answering = n.answering && n.Usable
	for i := range n.Peers {
		peer := &n.Peers[i]
		peer.Wanted = n.Usable && peer.LocalAddress.IsValid() && peer.held == ""
		switch {
		case peer.Wanted:
		case !n.Usable:
			peer.Detail = n.why()
		case peer.held != "":
			peer.Detail = peer.held
		default:
			peer.Detail = peer.missing
		}
	}
}

// why tells why the interface is not usable, with its name and the layer.
func (n *Interface) why() string { return "interface " + n.Name + ": " + n.cause() }

// cause is why without the name.
func (n *Interface) cause() string {
	if n.Reason == status.InterfaceAttachment || n.Reason == status.InterfacePath {
		return string(n.Reason) + ": " + n.Detail
	}
	return n.Detail
}

// lost tells whether BFD found the paths to all peers dead that the interface
// reaches.
func (n *Interface) lost() bool {
	found := false
	for i := range n.Peers {
		if n.Peers[i].LocalAddress.IsValid() {
			if !n.Peers[i].dead {
				return false
			}
			found = true
		}
	}
	return found
}

// unreachable tells why no address of an interface reaches what it should.
func unreachable(c *config.Interface, n *Interface) string {
	var names, others []string
	for i := range n.Peers {
		switch peer := &n.Peers[i]; {
		case peer.Found == foundRouter:
			others = append(others, noLinkLocal)
		case peer.Address.IsValid():
			names = append(names, bare(peer.Address).String())
		default:
			others = append(others, peer.missing)
		}
	}
	for _, g := range c.Gateways {
		if !slices.Contains(names, g.String()) {
			names = append(names, g.String())
		}
	}
	if len(c.Peers) == 0 && len(c.Gateways) == 0 {
		return "no usable address"
	}
	if len(names) > 0 {
		others = append([]string{"no usable address on-link with " + strings.Join(names, " or ")}, others...)
	}
	return strings.Join(others, "; ")
}

// legs decides by which interfaces outgoing traffic may leave. Where a session
// is established the path is known to work, so an interface whose routers are
// silent gives way to one whose routers answer, and one whose routers BFD lost
// to any other. The last resort is never taken away: first interfaces that only
// wait for their hold-up, then the former legs, then all.
func (p *planner) legs() {
	list := p.out.Interfaces
	mark := func(want func(*Interface) bool) bool {
		found := false
		for i := range list {
			list[i].Leg = want(&list[i])
			found = found || list[i].Leg
		}
		return found
	}
	answering := func(n *Interface) bool { return n.answering }
	// Sessions that a former process had are not yet back right after a start.
	starting := p.graceUntil.After(p.now)
	if mark(answering) {
		mark(func(n *Interface) bool { return answering(n) || n.Usable && n.fresh && starting })
		return
	}
	_ = mark(func(n *Interface) bool { return n.Usable && !n.lost() }) ||
		mark(func(n *Interface) bool { return n.Usable }) ||
		mark(func(n *Interface) bool { return n.Reason == status.InterfaceHoldUp }) ||
		mark(func(n *Interface) bool { return slices.Contains(p.in.Legs, n.Name) }) ||
		mark(func(*Interface) bool { return true })
}
