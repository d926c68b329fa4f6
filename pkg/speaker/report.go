package speaker

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"
)

// stateDown is the state of a session that is not to run.
const stateDown = "Down"

// problems are those of the kernel writer and of the host.
func (l *Loop) problems() []string {
	list := append([]string{}, l.actual.Problems...)
	if l.opt.HostProblems != nil {
		list = append(list, l.opt.HostProblems()...)
	}
	return list
}

// publish makes the picture of a pass, logs how it differs from the one before,
// and hands it out.
func (l *Loop) publish(ctx context.Context, in *Inputs, d *Desired) {
	now := time.Now()
	s := &status.Status{
		Version: l.opt.Version, StartedAt: l.startedAt, Time: now,
		ASN: in.Config.BGP.ASN, RouterID: in.RouterID, Stopping: l.shutdown || l.leaving,
		VIPs: l.reportVIPs(in, d, now), Interfaces: reportInterfaces(in, d, l.picture, now), Peers: reportPeers(in, d),
		Kernel: status.Kernel{
			Device: l.actual.DeviceName, DeviceKind: l.actual.DeviceKind,
			Repaired: maps.Clone(l.repaired), Resyncs: l.opt.Network.Resyncs(),
			Problems: l.problems(),
		},
		Passes: l.passes,
	}
	if len(in.Config.Peers) > 0 {
		top := reportSpeaker(in, status.TopLevel)
		s.TopLevel = &top
	}
	s.Egress = reportEgress(in, d, l.actual.Main)
	if s.Kernel.Device == "" {
		s.Kernel.Device = in.Config.VirtualInterface.Name
	}
	if l.opt.ConfigStatus != nil {
		s.Config = l.opt.ConfigStatus()
	}
	l.tell(ctx, transitions(l.picture, s, l.told))
	l.picture = s
	l.opt.Publish(s)
	l.viewers.show()
}

func (l *Loop) reportVIPs(in *Inputs, d *Desired, now time.Time) []status.VIP {
	sources := map[netip.Addr][]string{}
	for _, s := range l.actual.Sources {
		sources[s.Address] = append(sources[s.Address], s.Interface)
	}
	list := make([]status.VIP, len(d.VIPs))
	for i := range d.VIPs {
		v, c := &d.VIPs[i], &in.Config.VIPs[i]
		out := status.VIP{
			Name: v.Name, Prefix: v.Prefix, Bound: v.Bound, Wanted: v.Wanted, Announced: v.Announced,
			Reason: v.Reason, Detail: v.Detail, Degraded: v.Degraded, Penalty: v.Penalty, Drain: reportDrain(v.Drain), Parted: reportParted(v),
			Interfaces: make([]status.VIPInterface, len(v.Interfaces)), Checks: reportChecks(in, c, now),
			Role: reportRole(in, v, c),
		}
		reportSource(c, sources, &out)
		for j := range v.Interfaces {
			pl := &v.Interfaces[j]
			out.Interfaces[j] = status.VIPInterface{
				Interface: pl.Interface, Wanted: pl.Wanted, Announced: pl.Announced, Reason: pl.Reason,
				Detail: pl.Detail, NextHop: pl.NextHop, Peers: append([]netip.Addr{}, pl.Peers...), Paths: pl.Paths,
			}
		}
		list[i] = out
	}
	return list
}

func reportChecks(in *Inputs, c *config.VIP, now time.Time) []status.Check {
	list := make([]status.Check, len(c.Checks))
	ids := in.CheckIDs[c.Prefix]
	for i := range c.Checks {
		r, known := in.Health[ids[i]]
		out := status.Check{
			Name: c.Checks[i].Name, Kind: c.Checks[i].Kind, Reason: r.Reason,
			Since: r.Since, Checked: r.Checked, Duration: r.Duration,
		}
		switch verdictReason(r, known, now) {
		case status.CheckFailed:
			out.Verdict = string(health.Unhealthy)
		case status.CheckStale:
			out.Verdict = verdictStale
		case status.CheckUnknown:
			out.Verdict = string(health.Unknown)
		default:
			out.Verdict = string(health.Healthy)
		}
		list[i] = out
	}
	return list
}

func reportInterfaces(in *Inputs, d *Desired, prev *status.Status, now time.Time) []status.Interface {
	list := make([]status.Interface, len(d.Interfaces))
	for i := range d.Interfaces {
		n := &d.Interfaces[i]
		out := status.Interface{
			Name: n.Name, Index: n.Index, Usable: n.Usable, Reason: n.Reason, Detail: n.Detail,
			Since: now, Addresses: append([]netip.Prefix{}, n.Addresses...),
			Failures: append([]status.Failure{}, n.Failures...), Probes: reportProbes(in, d, n.Name, now), Penalty: n.Penalty,
		}
		if n.Usable && !n.Leg {
			out.Detail = "no session here, so outgoing traffic uses other interfaces"
		}
		if prev != nil {
			for j := range prev.Interfaces {
				if old := &prev.Interfaces[j]; old.Name == n.Name && old.Usable == n.Usable {
					out.Since = old.Since
				}
			}
		}
		out.Speaker = reportSpeaker(in, n.Name)
		list[i] = out
	}
	return list
}

func reportSpeaker(in *Inputs, name string) status.Speaker {
	s, ok := in.BGP.Speaker(name)
	if !ok {
		return status.Speaker{Phase: string(bgp.Stopped)}
	}
	return status.Speaker{
		Phase: string(s.Phase), PID: s.PID, Since: s.Since, Restarts: s.Restarts, LastExit: s.LastExit, Error: s.Error,
	}
}

func reportProbes(in *Inputs, d *Desired, name string, now time.Time) []status.Probe {
	list := []status.Probe{}
	for i := range d.Probes {
		b := &d.Probes[i]
		if b.Interface != name {
			continue
		}
		r, known := in.Health[b.ID]
		list = append(list, status.Probe{
			Layer: b.Layer, Target: b.Target.String(), Verdict: probeVerdict(r, known, b.Failures, now), Reason: r.Reason,
			Since: r.Since, Checked: r.Checked, Passed: r.Passed, Duration: r.Duration,
		})
	}
	return list
}

func reportPeers(in *Inputs, d *Desired) []status.Peer {
	type key struct {
		name string
		peer netip.Addr
	}
	announced := map[key]int{}
	for i := range d.VIPs {
		for j := range d.VIPs[i].Interfaces {
			for _, peer := range d.VIPs[i].Interfaces[j].Peers {
				announced[key{d.VIPs[i].Interfaces[j].Interface, peer}]++
			}
		}
	}
	list := []status.Peer{}
	add := func(name string, peers []Peer) {
		s, _ := in.BGP.Speaker(name)
		for i := range peers {
			out := reportPeer(in, name, &peers[i], s.Peers)
			out.Announced = announced[key{name, peers[i].Address}]
			list = append(list, out)
		}
	}
	for i := range d.Interfaces {
		add(d.Interfaces[i].Name, d.Interfaces[i].Peers)
	}
	add(status.TopLevel, d.Remote)
	return list
}

// reportPeer is one session with what its speaker says of it.
func reportPeer(in *Inputs, name string, p *Peer, states []bgp.PeerState) status.Peer {
	out := status.Peer{
		Address: p.Address, Found: p.Found, Interface: name, ASN: p.ASN, LocalAddress: p.LocalAddress,
		State: string(bgp.Idle),
	}
	if k := slices.IndexFunc(states, func(b bgp.PeerState) bool { return sameAddress(b.Address, p.Address) }); k >= 0 && p.Address.IsValid() {
		b := &states[k]
		out.State, out.Since, out.Transitions = string(b.State), b.Since, b.Transitions
		out.Received, out.LastError, out.LastErrorAt = b.Received, b.LastError, b.LastErrorAt
		if b.State == bgp.Established {
			out.Negotiated = negotiated(b)
			if out.ASN == 0 {
				out.ASN = b.ASN
			}
		}
	}
	if !p.Wanted {
		out.State = stateDown
		if out.LastError == "" || p.dead {
			out.LastError = p.Detail
		}
	}
	if p.config.BFD != nil {
		out.BFD = reportBFD(in, name, p)
	}
	return out
}

func negotiated(b *bgp.PeerState) *status.Negotiated {
	out := &status.Negotiated{
		Families: []string{}, RouterID: b.RouterID, HoldTime: b.HoldTime, AddPath: b.AddPath,
		ExtendedNextHop: b.ExtendedNextHop, GracefulRestart: b.GracefulRestart, LongLived: b.LongLived,
	}
	if b.IPv4 {
		out.Families = append(out.Families, "ipv4")
	}
	if b.IPv6 {
		out.Families = append(out.Families, "ipv6")
	}
	return out
}

// reportBFD is the BFD session with a peer. One that is not to run is AdminDown
// (RFC 5880 section 6.8.16).
func reportBFD(in *Inputs, name string, p *Peer) *status.BFD {
	s, ok := bfdState(in.BFD, name, p)
	if !ok {
		return &status.BFD{State: string(bfd.AdminDown)}
	}
	return &status.BFD{
		State: string(s.Status), Since: s.Since, Diagnostic: s.Diagnostic,
		RemoteState: string(s.RemoteStatus), RemoteDiagnostic: s.RemoteDiagnostic, Downs: s.Downs,
		TxInterval: s.TxInterval, DetectionTime: s.DetectionTime,
		Sent: s.Sent, Received: s.Received, Dropped: s.Dropped, LastDrop: s.LastDrop, Rotating: s.Rotating, Error: s.Error,
	}
}
