package speaker

import (
	"net/netip"
	"slices"

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
		n := &p.out.Interfaces[i]
		why, wait := waiting[n.Name]
		if !wait || !n.fresh {
			continue
		}
		p.mayChange(half)
		for j := range n.Peers {
			if n.Peers[j].Wanted {
				n.Peers[j].Wanted, n.Peers[j].Detail = false, why
			}
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
	for i := range p.out.Interfaces {
		if len(p.out.Interfaces[i].Peers) > 0 {
			p.out.BGP.Speakers = append(p.out.BGP.Speakers, p.speaker(i))
		}
	}
}

func (p *planner) speaker(at int) bgp.SpeakerConfig {
	n := &p.out.Interfaces[at]
	b := &p.in.Config.BGP
	s := bgp.SpeakerConfig{
		Name: n.Name, ASN: b.ASN, RouterID: p.in.RouterID, ListenPort: b.ListenPort,
		GracefulRestart: bgp.GracefulRestart{Enabled: b.GracefulRestart.Enabled, RestartTime: b.GracefulRestart.RestartTime},
		Paths:           p.paths(at),
		DownReason:      "interface " + n.Name + ": session no longer configured",
	}
	for i := range n.Peers {
		if local := n.Peers[i].LocalAddress; local.IsValid() {
			s.ListenAddresses = append(s.ListenAddresses, local)
		} else {
			s.DownReason = "interface " + n.Name + ": " + n.Peers[i].Detail
		}
		switch peer := &n.Peers[i]; {
		case peer.Wanted:
			s.Peers = append(s.Peers, session(n, i, &p.in.Config.Interfaces[at].Peers[i]))
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

// session is one wanted session.
func session(n *Interface, i int, c *config.Peer) bgp.Peer {
	return bgp.Peer{
		Address: c.Address, ASN: c.ASN, LocalAddress: n.Peers[i].LocalAddress, Interface: n.Name,
		Port: c.Port, Password: bgp.Secret(c.Password), TTLSecurity: c.TTLSecurity,
		HoldTime: c.Timers.HoldTime, Keepalive: c.Timers.Keepalive, ConnectRetry: c.Timers.ConnectRetry,
		MaxPrefixes: c.MaxPrefixes,
	}
}
