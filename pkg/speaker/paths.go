package speaker

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"
)

// vips decides about each VIP, and on which interfaces it is announced.
func (p *planner) vips() {
	p.out.VIPs = make([]VIP, len(p.in.Config.VIPs))
	for i := range p.in.Config.VIPs {
		p.out.VIPs[i] = p.decide(&p.in.Config.VIPs[i])
	}
	p.removed()
}

// decide asks the gates of one VIP in the order in which they explain most.
func (p *planner) decide(c *config.VIP) VIP {
	v := VIP{Name: c.Name, Prefix: c.Prefix, Bound: p.bound[c.Prefix], Interfaces: make([]Placement, 0, len(c.Interfaces)+1)}
	holding := p.held(c)
	v.Drain = p.drain(c, holding)
	v.Parted = p.parted(c, holding.Left, v.Drain)
	reason, detail := p.checked(c)
	h := p.seen(c, reason, v.Drain.gone())
	suppressed := h.Penalty.Suppressed
	v.Penalty = h.Penalty.show(&c.Damping, p.now, suppressed)
	if suppressed {
		p.mayChange(v.Penalty.Until)
		if reason == "" {
			reason, detail = status.Damped, dampedText(v.Penalty.Until)
		}
	}
	degraded := ""
	if c.Degrade != nil && (reason == status.CheckFailed || reason == status.CheckStale || reason == status.Damped) && p.everPassed(c) {
		v.Degraded, degraded = true, joinNonEmpty(": ", "degraded", detail)
		reason, detail = "", ""
	}
	if v.Drain.gone() {
		v.Degraded, degraded = false, ""
		reason, detail = status.Drained, v.Drain.text()
	}
	if p.in.Overrides.Shutdown {
		reason, detail = status.Shutdown, "the daemon is stopping"
	}
	ready := reason == ""
	if ready {
		reason, detail = p.ownership(c)
	}
	for _, name := range c.Interfaces {
		// One without peers of its own serves the sessions without an interface.
		if at, ok := p.byName[name]; !ok || len(p.in.Config.Interfaces[at].Peers) > 0 || len(p.out.Remote) == 0 {
			v.Interfaces = append(v.Interfaces, p.place(c, name, v.Bound, reason, detail))
		}
	}
	if len(p.out.Remote) > 0 {
		v.Interfaces = append(v.Interfaces, p.placeRemote(c, v.Bound, reason, detail))
	}
	for i := range v.Interfaces {
		v.Wanted = v.Wanted || v.Interfaces[i].Wanted
		v.Announced = v.Announced || v.Interfaces[i].Announced
	}
	v.Others = p.others(c)
	v.Behind = p.behind(c, &v)
	if p.leased(c) {
		p.want(c, &v, holding, ready)
	}
	if v.Detail = degraded; !v.Announced {
		v.Reason, v.Detail = explain(&v, reason, detail)
		v.Detail = joinNonEmpty("; ", degraded, v.Detail)
	}
	return v
}

// seen notes whether the checks of a VIP pass, and counts a flap when they have
// just ceased to. A check that is not known yet says nothing of its service, nor
// does one that fails while the VIP is out of use.
func (p *planner) seen(c *config.VIP, reason status.Reason, gone bool) VIPHistory {
	h := p.in.History.VIPs[c.Prefix]
	if h.Open && (reason == status.CheckFailed || reason == status.CheckStale) && !p.in.Overrides.Shutdown && !gone {
		h.Penalty = h.Penalty.flap(&c.Damping, p.now)
	}
	h.Open = reason == ""
	h.Penalty = h.Penalty.look(&c.Damping, p.now)
	p.rememberVIP(c.Prefix, h)
	return h
}

// checked tells why the checks withhold the VIP; an empty reason if they do not.
// A check that failed explains more than one that is silent.
func (p *planner) checked(c *config.VIP) (status.Reason, string) {
	order := []status.Reason{status.CheckFailed, status.CheckStale, status.CheckUnknown}
	worst, detail, passing := len(order), "", 0
	ids := p.checkIDs(c)
	for i := range c.Checks {
		r, known := p.in.Health[ids[i]]
		if r.Verdict == health.Healthy {
			p.mayChange(r.Expires)
		}
		rank := slices.Index(order, verdictReason(r, known, p.now))
		if rank < 0 {
			passing++
		} else if rank < worst {
			worst, detail = rank, joinNonEmpty(": ", "check "+c.Checks[i].Name, r.Reason)
		}
	}
	if worst == len(order) || c.ChecksMode == anyCheck && passing > 0 {
		return "", ""
	}
	return order[worst], detail
}

// everPassed tells whether the checks of a VIP have passed since the start, each
// for itself: a service that was never seen to work is not announced at all.
func (p *planner) everPassed(c *config.VIP) bool {
	passed := 0
	for _, id := range p.checkIDs(c) {
		if r := p.in.Health[id]; r.Verdict == health.Healthy || !r.Passed.IsZero() {
			passed++
		}
	}
	return passed == len(c.Checks) || c.ChecksMode == anyCheck && passed > 0
}

// anyCheck is the value of checks_mode for a VIP of which one check must pass.
const anyCheck = "any"

// checkIDs are the IDs of a VIP's checks in the order of the configuration.
func (p *planner) checkIDs(c *config.VIP) []string {
	if ids := p.in.CheckIDs[c.Prefix]; len(ids) == len(c.Checks) {
		return ids
	}
	return checkIDs(c)
}

// verdictReason is the reason word of a verdict, empty for one that is healthy
// and has not expired. Unknown is not healthy.
func verdictReason(r health.Result, known bool, now time.Time) status.Reason {
	switch {
	case !known || (r.Verdict != health.Healthy && r.Verdict != health.Unhealthy):
		return status.CheckUnknown
	case r.Verdict == health.Unhealthy:
		return status.CheckFailed
	case !now.Before(r.Expires):
		return status.CheckStale
	}
	return ""
}

// place decides about one VIP on one interface. Reason is that of the gates
// which are the same everywhere.
func (p *planner) place(c *config.VIP, name string, bound bool, reason status.Reason, detail string) Placement {
	pl := Placement{Interface: name, Reason: reason, Detail: detail}
	at, ok := p.byName[name]
	if !ok {
		pl.Reason, pl.Detail = status.NoUsableInterface, "interface "+name+" is not configured"
		return pl
	}
	n := &p.out.Interfaces[at]
	hop, hasHop := p.nextHop(at, c.Prefix.Addr().Is4())
	pl.NextHop = hop
	if pl.Reason != "" {
		return pl
	}
	switch {
	case !n.Usable:
		pl.Reason, pl.Detail = status.NoUsableInterface, n.cause()
	case !hasHop:
		pl.Reason, pl.Detail = status.NoUsableInterface, "no usable IPv6 address to be the next hop"
	case !p.in.RouterID.IsValid():
		pl.Reason, pl.Detail = status.NoSession, "no router id: no listed interface has an IPv4 address; set bgp.router_id"
	case !bound:
		pl.Wanted = true
		pl.Reason, pl.Detail = status.NotBound, p.whyUnbound(c.Prefix)
	default:
		pl.Wanted = true
		p.carry(&pl, n.Peers, c.Prefix)
	}
	return pl
}

// carry notes which sessions have the prefix, if any.
func (p *planner) carry(pl *Placement, peers []Peer, prefix netip.Prefix) {
	pl.Peers, pl.Detail = p.carriers(pl, peers, prefix)
	pl.Announced = len(pl.Peers) > 0
	pl.Reason = status.NoSession
	if pl.Announced {
		pl.Reason, pl.Detail = "", ""
	}
}

// carriers are the peers that have the prefix from us now: established, of the
// prefix's family, and served by a speaker that holds it. If there are none, it
// says what their sessions do.
func (p *planner) carriers(pl *Placement, own []Peer, prefix netip.Prefix) (peers []netip.Addr, why string) {
	s, ok := p.in.BGP.Speaker(pl.Interface)
	if !ok {
		return nil, "the speaker has not started"
	}
	inRIB := p.carried[pl.Interface][prefix]
	var states []string
	waits := false // for the speaker, not for a session
	for i := range own {
		peer := &own[i]
		if peer.held != "" || peer.missing != "" {
			states = append(states, joinNonEmpty("; ", peer.missing, peer.held))
		}
	}
	for i := range s.Peers {
		peer := &s.Peers[i]
		at := slices.IndexFunc(own, func(o Peer) bool { return sameAddress(o.Address, peer.Address) })
		if at < 0 || own[at].held != "" || own[at].missing != "" {
			continue // it is to end
		}
		switch why := refuses(peer, hopFor(pl, peer, prefix), prefix); {
		case peer.State != bgp.Established:
			states = append(states, joinNonEmpty(": ", peer.Address.String()+" "+string(peer.State), peer.LastError))
		case why != "":
			states = append(states, peer.Address.String()+" "+why)
		case inRIB:
			peers = append(peers, own[at].Address)
		default:
			waits = true
		}
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	slices.Sort(states)
	if waits || len(states) == 0 {
		return peers, joinNonEmpty(": ", "the speaker does not announce it yet", s.Error)
	}
	return peers, strings.Join(states, "; ")
}

// explain gives the one reason why a VIP is announced nowhere.
func explain(v *VIP, reason status.Reason, detail string) (status.Reason, string) {
	if reason != "" {
		return reason, detail
	}
	// A gate that is further on explains more: no_session on one interface
	// means that this one would do.
	for _, word := range []status.Reason{status.NotBound, status.NoSession, status.NoUsableInterface} {
		var details []string
		for i := range v.Interfaces {
			if pl := &v.Interfaces[i]; pl.Reason == word {
				if word == status.NotBound {
					return word, pl.Detail // the same everywhere
				}
				details = append(details, pl.Interface+": "+pl.Detail)
			}
		}
		if len(details) > 0 {
			return word, strings.Join(details, "; ")
		}
	}
	return status.NoUsableInterface, "no interface is selected"
}

// paths are the announcements of each interface's speaker, by the interface's
// place: what is wanted everywhere but for the state of the interface, and bound.
// They stay loaded while the interface is down, so that they are there before its
// sessions are: see loaded.
func (p *planner) paths() [][]bgp.Path {
	lists, internal := make([][]bgp.Path, len(p.out.Interfaces)), make([]bool, len(p.out.Interfaces))
	for at := range lists {
		if len(p.out.Interfaces[at].Peers) > 0 {
			lists[at] = make([]bgp.Path, 0, len(p.out.VIPs))
		}
		internal[at] = p.internalAt(at)
	}
	for i := range p.out.VIPs {
		v := &p.out.VIPs[i]
		c := &p.in.Config.VIPs[i]
		if !p.loaded(c, v) {
			continue
		}
		for j := range v.Interfaces {
			pl := &v.Interfaces[j]
			at, ok := p.byName[pl.Interface]
			if !ok || lists[at] == nil || withheldEverywhere(pl.Reason) {
				continue
			}
			if hop, ok := p.nextHop(at, v.Prefix.Addr().Is4()); ok {
				lists[at] = append(lists[at], v.part(&c.Drain, internal[at], p.rolePath(c, v, internal[at], p.path(c, 0, hop, v.Degraded))))
			}
		}
	}
	return lists
}

// withheldEverywhere tells whether a reason keeps a VIP out of the RIB. The
// others are about sessions, to which the RIB goes once they run.
func withheldEverywhere(r status.Reason) bool {
	return r != "" && r != status.NoUsableInterface && r != status.NoSession
}

// gracefulShutdown is the community GRACEFUL_SHUTDOWN (RFC 8326 section 4.1).
const gracefulShutdown = 65535 << 16

// path is one announcement with the configured attributes.
func (p *planner) path(c *config.VIP, id uint32, hop netip.Addr, degraded bool) bgp.Path {
	a := &c.Announce
	out := bgp.Path{
		Prefix: c.Prefix, ID: id, NextHop: hop, MED: a.MED, LocalPref: a.LocalPref, Prepend: a.Prepend,
		Communities: a.Communities, Origin: a.Origin,
	}
	large, extended := a.LargeCommunities, a.ExtendedCommunities
	if d := c.Degrade; degraded && d != nil {
		if d.MED != nil {
			out.MED = d.MED
		}
		if d.LocalPref != nil {
			out.LocalPref = d.LocalPref
		}
		if d.Origin != nil {
			out.Origin = *d.Origin
		}
		out.Prepend += d.Prepend
		out.Communities = union(a.Communities, d.Communities)
		large = union(large, d.LargeCommunities)
		extended = union(extended, d.ExtendedCommunities)
	}
	out.LargeCommunities, out.ExtendedCommunities = largeCommunities(large), extendedCommunities(extended)
	if p.in.Overrides.Leaving {
		last := uint32(0) // for internal peers, which need not know the community
		out.LocalPref = &last
		out.Communities = union(out.Communities, []uint32{gracefulShutdown})
	}
	return out
}

func largeCommunities(list []config.LargeCommunity) (out []bgp.LargeCommunity) {
	for _, c := range list {
		out = append(out, bgp.LargeCommunity(c))
	}
	return out
}

func extendedCommunities(list []config.ExtendedCommunity) (out []bgp.ExtendedCommunity) {
	for _, c := range list {
		out = append(out, bgp.ExtendedCommunity(c))
	}
	return out
}

// union is a and then what of b is not in it, in a slice of its own.
func union[T comparable](a, b []T) []T {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// joinNonEmpty joins the parts that are not empty.
func joinNonEmpty(sep string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), sep)
}
