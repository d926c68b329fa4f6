package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"
)

// Probe is one wanted probe of an interface. Two are the same if they are equal.
type Probe struct {
	// ID is that of its result, the same for as long as interface, layer and
	// target are.
	ID        string
	Interface string
	// Layer is attachment: does the target, a gateway or a peer, answer on the
	// link? Or path: does it answer an ICMP echo from Source out of Interface?
	Layer          string
	Target, Source netip.Addr
	// Interval is the time between two probes, Timeout bounds one; Failures is
	// how many in a row must fail.
	Interval, Timeout time.Duration
	Failures          int
}

const (
	// neighbourTimeout bounds how long the answer of a neighbour is waited for.
	neighbourTimeout = 250 * time.Millisecond
	// pathRise is how many answers make a path that was dead good again: one may
	// be of many packets that got through by chance.
	pathRise = 2
)

// spec is the probe as a check.
func (b *Probe) spec(checker health.Checker) health.Spec {
	s := health.Spec{
		ID: b.ID, Key: b.ID + " from " + b.Source.String(), Kind: "neighbour", Checker: checker,
		Interval: b.Interval, Timeout: b.Timeout, Rise: 1, Fall: b.Failures,
	}
	if b.Layer == status.LayerPath {
		s.Kind, s.Rise = "icmp", pathRise
	}
	return s
}

func probeID(layer, name string, target netip.Addr) string {
	return fmt.Sprintf("%s/%s/%s", layer, name, target)
}

// probesOf are the wanted probes of an interface. Per family these are its
// gateways: those that are configured, or else those of the main table's default
// route and the peers. They go on while the link is down, so that what they know
// outlives a short loss of it.
func probesOf(c *config.Interface, n *Interface) []Probe {
	var list []Probe
	add := func(layer string, target, source netip.Addr, b Probe) {
		b.ID = probeID(layer, n.Name, target)
		b.Interface, b.Layer, b.Target, b.Source = n.Name, layer, target, source
		if !slices.ContainsFunc(list, func(o Probe) bool { return o.ID == b.ID }) {
			list = append(list, b)
		}
	}
	if g := &c.GatewayProbe; g.Enabled {
		schedule := Probe{Interval: g.Interval, Timeout: min(g.Interval/2, neighbourTimeout), Failures: g.Failures}
		for _, gateway := range n.gateways {
			add(status.LayerAttachment, gateway, n.towards(gateway), schedule)
		}
		for i := range n.Peers {
			if peer := &n.Peers[i]; peer.LocalAddress.IsValid() && !configured(c, peer.Address.Is4()) {
				add(status.LayerAttachment, peer.Address, peer.LocalAddress, schedule)
			}
		}
	}
	if t := c.PathProbe; t != nil {
		// Without an address of the target's family there is nothing to send from.
		if source := global(n.Addresses, t.Target.Is4()); source.IsValid() {
			add(status.LayerPath, t.Target, source, Probe{Interval: t.Interval, Timeout: t.Timeout, Failures: t.Failures})
		}
	}
	return list
}

// probed notes what the probes of an interface found, and tells which layer that
// closes; empty if none. Nothing known is nothing bad known.
func (p *planner) probed(n *Interface, probes []Probe) status.Reason {
	path := false
	for i := range probes {
		b := &probes[i]
		r, known := p.in.Health[b.ID]
		switch probeVerdict(r, known, b.Failures, p.now) {
		case string(health.Healthy):
			n.attached = n.attached || b.Layer == status.LayerAttachment
		case string(health.Unhealthy):
			n.Failures = append(n.Failures, probeFailure(b, r))
			path = path || b.Layer == status.LayerPath
		default:
			if known && r.Verdict == health.Unhealthy {
				// Nobody wakes us when the failures are enough.
				p.mayChange(p.now.Add(b.Interval))
			}
			continue
		}
		p.mayChange(r.Expires)
	}
	switch {
	case !n.attached && slices.ContainsFunc(n.Failures, func(f status.Failure) bool { return f.Layer == status.LayerAttachment }):
		return status.InterfaceAttachment
	case path:
		return status.InterfacePath
	}
	return ""
}

// verdictStale is the verdict that expired, in words.
const verdictStale = "stale"

// probeVerdict is the verdict of a probe in words. One that has never been
// answered is not taken for dead before it has failed as often as any other
// must: right after a start a single packet that is lost says nothing.
func probeVerdict(r health.Result, known bool, failures int, now time.Time) string {
	switch {
	case !known || r.Verdict != health.Healthy && r.Verdict != health.Unhealthy:
		return string(health.Unknown)
	case !now.Before(r.Expires):
		return verdictStale
	case r.Verdict == health.Unhealthy && r.Passed.IsZero() && r.Streak < failures:
		return string(health.Unknown)
	}
	return string(r.Verdict)
}

func probeFailure(b *Probe, r health.Result) status.Failure {
	f := status.Failure{
		Layer: b.Layer, Target: b.Target.String(), Since: r.Passed,
		Failed: min(r.Streak, b.Failures), Of: b.Failures, Reason: r.Reason,
	}
	if f.Since.IsZero() {
		f.Since = r.Since
	}
	return f
}

// failing gives cause and text of the failures of one layer.
func failing(n *Interface, layer string, now time.Time) (cause, text string) {
	var targets, texts []string
	for i := range n.Failures {
		if f := &n.Failures[i]; f.Layer == layer {
			targets = append(targets, f.Target)
			texts = append(texts, f.Text(now))
		}
	}
	return layer + " " + strings.Join(targets, " "), strings.Join(texts, "; ")
}
