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

// publish makes the picture of a pass, logs how it differs from the one before,
// and hands it out.
func (l *Loop) publish(ctx context.Context, in *Inputs, d *Desired) {
	now := time.Now()
	s := &status.Status{
		Version: l.opt.Version, StartedAt: l.startedAt, Time: now,
		ASN: in.Config.BGP.ASN, RouterID: in.RouterID, Stopping: l.shutdown,
		VIPs: l.reportVIPs(in, d, now), Interfaces: reportInterfaces(in, d, l.picture, now), Peers: reportPeers(in, d),
		Kernel: status.Kernel{
			Device: l.actual.DeviceName, DeviceKind: l.actual.DeviceKind,
			Repaired: maps.Clone(l.repaired), Resyncs: l.opt.Network.Resyncs(),
			Problems: append([]string{}, l.actual.Problems...),
		},
		Passes: l.passes,
	}
	if s.Kernel.Device == "" {
		s.Kernel.Device = in.Config.VirtualInterface.Name
	}
	if l.opt.ConfigStatus != nil {
		s.Config = l.opt.ConfigStatus()
	}
	l.tell(ctx, transitions(l.picture, s, l.told))
	l.picture = s
	l.opt.Publish(s)
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
			Reason: v.Reason, Detail: v.Detail, Degraded: v.Degraded, Penalty: v.Penalty, PreferredSource: c.PreferredSource, Source: []string{},
			Interfaces: make([]status.VIPInterface, len(v.Interfaces)), Checks: reportChecks(in, c, now),
		}
		if c.PreferredSource {
			out.Source = append(out.Source, sources[v.Prefix.Addr()]...)
		}
		for j := range v.Interfaces {
			pl := &v.Interfaces[j]
			out.Interfaces[j] = status.VIPInterface{
				Interface: pl.Interface, Wanted: pl.Wanted, Announced: pl.Announced, Reason: pl.Reason,
				Detail: pl.Detail, NextHop: pl.NextHop, Peers: append([]netip.Addr{}, pl.Peers...),
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
			Speaker:  status.Speaker{Phase: string(bgp.Stopped)},
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
		if s, ok := in.BGP.Speaker(n.Name); ok {
			out.Speaker = status.Speaker{
				Phase: string(s.Phase), PID: s.PID, Since: s.Since, Restarts: s.Restarts,
				LastExit: s.LastExit, Error: s.Error,
			}
		}
		list[i] = out
	}
	return list
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
	for i := range d.Interfaces {
		n := &d.Interfaces[i]
		s, _ := in.BGP.Speaker(n.Name)
		for j := range n.Peers {
			p := &n.Peers[j]
			out := status.Peer{
				Address: p.Address, Interface: n.Name, ASN: p.ASN, LocalAddress: p.LocalAddress,
				State: string(bgp.Idle), Announced: announced[key{n.Name, p.Address}],
			}
			if k := slices.IndexFunc(s.Peers, func(b bgp.PeerState) bool { return b.Address == p.Address }); k >= 0 {
				b := &s.Peers[k]
				out.State, out.Since, out.Transitions = string(b.State), b.Since, b.Transitions
				out.Received, out.LastError, out.LastErrorAt = b.Received, b.LastError, b.LastErrorAt
			}
			if !p.Wanted {
				out.State = stateDown
				if out.LastError == "" || p.dead {
					out.LastError = p.Detail
				}
			}
			if in.Config.Interfaces[i].Peers[j].BFD != nil {
				out.BFD = reportBFD(in, n.Name, p)
			}
			list = append(list, out)
		}
	}
	return list
}

// reportBFD is the BFD session with a peer. One that is not to run is AdminDown
// (RFC 5880 section 6.8.16).
func reportBFD(in *Inputs, name string, p *Peer) *status.BFD {
	s, ok := in.BFD.Session(p.Address, p.LocalAddress, name)
	if !ok {
		return &status.BFD{State: string(bfd.AdminDown)}
	}
	return &status.BFD{
		State: string(s.Status), Since: s.Since, Diagnostic: s.Diagnostic,
		RemoteState: string(s.RemoteStatus), RemoteDiagnostic: s.RemoteDiagnostic, Downs: s.Downs,
		TxInterval: s.TxInterval, DetectionTime: s.DetectionTime,
		Sent: s.Sent, Received: s.Received, Dropped: s.Dropped, LastDrop: s.LastDrop, Error: s.Error,
	}
}
