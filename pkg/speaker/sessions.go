package speaker

import (
	"net/netip"
	"slices"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
)

// holdSessions keeps the sessions of an interface back after a start that
// adopted a former process's state, until the VIPs are bound and their checks
// have verdicts. A router that keeps our routes by graceful restart (RFC 4724)
// drops those that a new session does not bring at once. The wait ends at half
// the restart time, so that the router's patience does not run out.
func (p *planner) holdSessions() {
	half := p.in.StartedAt.Add(p.in.Config.BGP.GracefulRestart.RestartTime / 2)
	if p.graceUntil.IsZero() || p.in.Overrides.Shutdown || !half.After(p.now) {
		return
	}
	waiting := map[string]string{}
	for i := range p.out.VIPs {
		for j := range p.out.VIPs[i].Interfaces {
			pl := &p.out.VIPs[i].Interfaces[j]
			if pl.Reason == status.CheckUnknown || pl.Reason == status.NotBound {
				waiting[pl.Interface] = "held until " + p.out.VIPs[i].Name + " is ready to be announced: " + pl.Detail
			}
		}
	}
	for i := range p.out.Interfaces {
		if n := &p.out.Interfaces[i]; n.fresh {
			p.hold(n.Peers, waiting[n.Name], half)
		}
	}
	s, _ := p.in.BGP.Speaker(status.TopLevel)
	if !slices.ContainsFunc(s.Peers, func(peer bgp.PeerState) bool { return peer.Transitions > 0 }) {
		p.hold(p.out.Remote, waiting[status.TopLevel], half)
	}
}

// hold keeps sessions back until a time, if there is a reason to.
func (p *planner) hold(peers []Peer, why string, until time.Time) {
	if why == "" {
		return
	}
	p.mayChange(until)
	for i := range peers {
		if peers[i].Wanted {
			peers[i].Wanted, peers[i].Detail = false, why
		}
	}
}

// speakers makes the wanted state of each interface's speaker. Without a router
// id none can run.
func (p *planner) speakers() {
	if !p.in.RouterID.IsValid() {
		return
	}
	p.out.BGP.Speakers = make([]bgp.SpeakerConfig, 0, len(p.out.Interfaces))
	paths := p.paths()
	for i := range p.out.Interfaces {
		if len(p.out.Interfaces[i].Peers) > 0 {
			p.out.BGP.Speakers = append(p.out.BGP.Speakers, p.speaker(i, paths[i]))
		}
	}
	if len(p.out.Remote) > 0 {
		p.out.BGP.Speakers = append(p.out.BGP.Speakers, p.remoteSpeaker())
	}
}

// bareSpeaker is what all speakers have in common.
func (p *planner) bareSpeaker(name string) bgp.SpeakerConfig {
	b := &p.in.Config.BGP
	return bgp.SpeakerConfig{
		Name: name, ASN: b.ASN, RouterID: p.in.RouterID, ListenPort: b.ListenPort, Watch: p.watched(), Fence: p.fence(), Import: p.in.Config.Egress.Import,
		Reflected: uint32(len(p.configured) + len(p.lingering())), //nolint:gosec // a file holds fewer
		GracefulRestart: bgp.GracefulRestart{
			Enabled: b.GracefulRestart.Enabled, RestartTime: b.GracefulRestart.RestartTime, LongLived: b.GracefulRestart.LongLived,
		},
	}
}

func (p *planner) speaker(at int, paths []bgp.Path) bgp.SpeakerConfig {
	n := &p.out.Interfaces[at]
	s := p.bareSpeaker(n.Name)
	s.Paths = paths
	s.DownReason = "interface " + n.Name + ": session no longer configured"
	for i := range n.Peers {
		if local := n.Peers[i].LocalAddress; local.IsValid() {
			s.ListenAddresses = append(s.ListenAddresses, local)
		} else {
			s.DownReason = "interface " + n.Name + ": " + n.Peers[i].Detail
		}
		switch peer := &n.Peers[i]; {
		case peer.Wanted:
			s.Peers = append(s.Peers, p.session(peer, n.Name))
		case n.Usable && peer.held != "":
			if s.DownReasons == nil {
				s.DownReasons = map[netip.Addr]string{}
			}
			s.DownReasons[peer.Address] = peer.held
		}
	}
	slices.SortFunc(s.ListenAddresses, netip.Addr.Compare)
	s.ListenAddresses = slices.Compact(s.ListenAddresses)
	if !n.Usable {
		s.DownReason = cut(n.why())
	}
	return s
}

// session is one wanted session, pinned to an interface if one is named.
func (p *planner) session(peer *Peer, iface string) bgp.Peer {
	c := peer.config
	s := bgp.Peer{
		Address: peer.Address, ASN: c.ASN, LocalAddress: peer.LocalAddress, Interface: iface,
		Port: c.Port, Password: bgp.Secret(c.Password), TTLSecurity: c.TTLSecurity,
		HoldTime: c.Timers.HoldTime, Keepalive: c.Timers.Keepalive, ConnectRetry: c.Timers.ConnectRetry,
		MaxPrefixes: c.MaxPrefixes, Passive: c.Passive, External: c.External, RouterID: c.RouterID,
		Attributes: p.attributes(c),
	}
	if c.External {
		s.ASN = 0
	}
	if c.IPv4 != c.IPv6 {
		s.Families = bgp.Families{IPv4: c.IPv4, IPv6: c.IPv6}
	}
	return s
}

// attributes are the changes for one peer, nil for none. What everything is
// announced with that is about to go stands above them.
func (p *planner) attributes(c *config.Peer) *bgp.Attributes {
	a := &c.Announce
	out := bgp.Attributes{
		MED: a.MED, Prepend: a.Prepend, Communities: a.Communities,
		LargeCommunities: largeCommunities(a.LargeCommunities), ExtendedCommunities: extendedCommunities(a.ExtendedCommunities),
		Origin: a.Origin,
	}
	if internal := !c.External && c.ASN == p.in.Config.BGP.ASN; internal && !p.in.Overrides.Leaving {
		out.LocalPref = a.LocalPref
	}
	if out.MED == nil && out.LocalPref == nil && out.Origin == nil && out.Prepend == 0 && len(out.Communities)+len(out.LargeCommunities)+len(out.ExtendedCommunities) == 0 {
		return nil
	}
	return &out
}
