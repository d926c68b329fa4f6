package status

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Build says what program this is, for the build_info metric.
type Build struct {
	Version, Revision, GoVersion string
}

// Collector computes all metrics from the picture of the last pass when they
// are scraped. So no series outlives its object, no scrape waits for GoBGP or
// the kernel, and label values come from the configuration and from fixed words.
// Events are counted where they are kept: see Events.
type Collector struct {
	store *Store
	build Build
	descs descs
}

// descs are the descriptions of the metrics; docs/metrics.md lists them.
type descs struct {
	buildInfo, configReloadSuccessful                                    *prometheus.Desc
	vipBound, vipDesired, vipAnnounced, vipWithheld                      *prometheus.Desc
	interfaceUsable, speakerUp, speakerRestarts, peerUp, peerTransitions *prometheus.Desc
	checkHealthy, checkDuration                                          *prometheus.Desc
	passes, lastPass, driftRepaired, netlinkResyncs, kernelProblems      *prometheus.Desc
	bfdUp, bfdDowns, bfdPackets                                          *prometheus.Desc
	interfaceUnusable, probeHealthy, probeDuration, vipDegraded          *prometheus.Desc
	vipRank, vipBehind, vipDuplicates, vipHeld, etcdUp, ownershipRefused *prometheus.Desc
	drainConnections                                                     *prometheus.Desc
	egressRoutes, egressLegs, egressStatic                               *prometheus.Desc
	vipDamping, interfaceDamping                                         damping
}

// damping are the descriptions of what tells about a penalty.
type damping struct{ penalty, suppressed, flaps *prometheus.Desc }

// NewCollector returns a collector over the store.
func NewCollector(store *Store, build Build) *Collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("vipspeaker_"+name, help, labels, nil)
	}
	return &Collector{store: store, build: build, descs: descs{
		buildInfo:              d("build_info", "Always 1; the labels say what program this is.", "version", "revision", "goversion"),
		configReloadSuccessful: d("config_reload_successful", "1 if the configuration in force is the file as last read, 0 if the last reload was refused."),
		vipBound:               d("vip_bound", "1 if the kernel holds the VIP.", "vip"),
		vipDesired:             d("vip_announce_desired", "1 if the VIP should be announced on the interface.", "vip", "interface"),
		vipAnnounced:           d("vip_announced", "1 if the session is established and carries the VIP.", "vip", "interface", "peer"),
		vipWithheld:            d("vip_withheld", "1 for the reason why the VIP is announced nowhere; absent while it is announced.", "vip", "reason"),
		interfaceUsable:        d("interface_usable", "1 if the interface may carry traffic.", "interface"),
		speakerUp:              d("speaker_up", "1 if the interface's speaker process runs and answers.", "interface"),
		speakerRestarts:        d("speaker_restarts_total", "Unplanned ends of the interface's speaker process.", "interface"),
		peerUp:                 d("peer_up", "1 if the session is established.", "peer", "interface"),
		peerTransitions:        d("peer_transitions_total", "Times the session was established or lost.", "peer", "interface"),
		checkHealthy:           d("check_healthy", "1 if the check's verdict is healthy; unknown and stale count as 0.", "vip", "check"),
		checkDuration:          d("check_duration_seconds", "How long the check's last run took, in seconds.", "vip", "check"),
		passes:                 d("passes_total", "Finished passes of the control loop.", "result"),
		lastPass:               d("last_pass_timestamp_seconds", "When the last pass ended, in seconds since 1970."),
		driftRepaired:          d("drift_repaired_total", "Things of ours that somebody else removed or changed in the kernel, and that were put back.", "object"),
		netlinkResyncs:         d("netlink_resyncs_total", "Full re-reads of the kernel.", "cause"),
		kernelProblems:         d("kernel_problems", "Conditions of the host that break a promise; `vipspeaker status` shows them in words."),

		bfdUp:             d("bfd_up", "1 if the BFD session with the peer is Up.", "peer", "interface"),
		bfdDowns:          d("bfd_downs_total", "Times the BFD session lost the peer, other than on an order of either end.", "peer", "interface"),
		bfdPackets:        d("bfd_packets_total", "Packets of the BFD session; dropped are those for it that were not taken.", "peer", "interface", "direction"),
		interfaceUnusable: d("interface_unusable", "1 for the reason why the interface may not carry traffic; absent while it may.", "interface", "reason"),
		probeHealthy:      d("probe_healthy", "1 if the probe's verdict is healthy; unknown and stale count as 0.", "interface", "layer", "target"),
		probeDuration:     d("probe_duration_seconds", "How long the probe's last run took, in seconds.", "interface", "layer", "target"),
		vipDegraded:       d("vip_degraded", "1 if the VIP's checks fail and it is announced, or would be, with the attributes for that.", "vip"),
		vipRank:           d("vip_rank", "Rank of this host for the VIP; absent for a VIP without one.", "vip"),
		vipBehind:         d("vip_behind", "1 if the VIP is announced, or would be, as worse than any rank, because another host has taken over.", "vip"),
		vipHeld:           d("vip_held", "1 if this host may announce the VIP by its lease; absent for a VIP without one owner.", "vip"),
		etcdUp:            d("etcd_up", "1 if etcd answered the last time; absent without ownership."),
		ownershipRefused:  d("ownership_refused", "1 if this host can own no VIP, because another machine has its name in etcd; absent without ownership."),
		drainConnections:  d("vip_drain_connections", "TCP connections from elsewhere that a VIP still has that is drained or was handed over; absent for any other, and before they were counted.", "vip"),
		vipDuplicates:     d("vip_duplicate_claims", "Other hosts that announce the VIP and must not.", "vip"),
		egressRoutes:      d("egress_routes", "Routes learned from peers that have a leg in use."),
		egressLegs:        d("egress_legs", "Legs in use of the route learned from peers, on the interface.", "prefix", "interface"),
		egressStatic:      d("egress_static", "1 if all legs of the learned route look dead and the last ones stay.", "prefix"),
		vipDamping: damping{
			d("vip_penalty", "Penalty of the VIP for its flaps (RFC 2439) at the last pass; a flap costs 1000.", "vip"),
			d("vip_suppressed", "1 while the VIP is withheld for its flaps.", "vip"),
			d("vip_flaps_total", "Flaps of the VIP's checks.", "vip"),
		},
		interfaceDamping: damping{
			d("interface_penalty", "Penalty of the interface for its flaps (RFC 2439) at the last pass; a flap costs 1000.", "interface"),
			d("interface_suppressed", "1 while the interface is not used for its flaps.", "interface"),
			d("interface_flaps_total", "Flaps of the interface.", "interface"),
		},
	}}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	d := &c.descs
	for _, desc := range []*prometheus.Desc{
		d.buildInfo, d.configReloadSuccessful, d.vipBound, d.vipDesired, d.vipAnnounced, d.vipWithheld,
		d.interfaceUsable, d.speakerUp, d.speakerRestarts, d.peerUp, d.peerTransitions,
		d.checkHealthy, d.checkDuration, d.passes, d.lastPass, d.driftRepaired, d.netlinkResyncs, d.kernelProblems,
		d.bfdUp, d.bfdDowns, d.bfdPackets, d.interfaceUnusable, d.probeHealthy, d.probeDuration, d.vipDegraded,
		d.vipRank, d.vipBehind, d.vipDuplicates, d.vipHeld, d.etcdUp, d.ownershipRefused, d.drainConnections,
		d.egressRoutes, d.egressLegs, d.egressStatic,
		d.vipDamping.penalty, d.vipDamping.suppressed, d.vipDamping.flaps,
		d.interfaceDamping.penalty, d.interfaceDamping.suppressed, d.interfaceDamping.flaps,
	} {
		ch <- desc
	}
	c.store.passDuration.Describe(ch)
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	m := sink{ch}
	m.gauge(c.descs.buildInfo, 1, c.build.Version, c.build.Revision, c.build.GoVersion)
	c.store.passDuration.Collect(ch)
	s := c.store.Load()
	if s == nil {
		return
	}
	d := &c.descs
	m.flag(d.configReloadSuccessful, s.Config.ReloadOK)
	m.count(d.passes, s.Passes.OK, "ok")
	m.count(d.passes, s.Passes.Error, "error")
	m.gauge(d.lastPass, float64(s.Time.UnixNano())/1e9)
	m.gauge(d.kernelProblems, float64(len(s.Kernel.Problems)))
	for object, n := range s.Kernel.Repaired {
		m.count(d.driftRepaired, n, object)
	}
	for cause, n := range s.Kernel.Resyncs {
		m.count(d.netlinkResyncs, n, cause)
	}
	c.etcd(m, s)
	for i := range s.VIPs {
		c.vip(m, s, &s.VIPs[i])
	}
	for i := range s.Interfaces {
		c.iface(m, &s.Interfaces[i])
	}
	c.egress(m, s)
	if s.TopLevel != nil {
		c.speaker(m, TopLevel, s.TopLevel)
	}
	for i := range s.Peers {
		c.peer(m, &s.Peers[i])
	}
}

func (c *Collector) iface(m sink, n *Interface) {
	d := &c.descs
	m.flag(d.interfaceUsable, n.Usable, n.Name)
	if !n.Usable && n.Reason != "" {
		m.gauge(d.interfaceUnusable, 1, n.Name, string(n.Reason))
	}
	c.speaker(m, n.Name, &n.Speaker)
	m.damping(&d.interfaceDamping, n.Penalty, n.Name)
	for i := range n.Probes {
		p := &n.Probes[i]
		same := func(o Probe) bool { return o.Layer == p.Layer && o.Target == p.Target }
		if slices.ContainsFunc(n.Probes[:i], same) {
			continue // a series given twice would fail the whole scrape
		}
		m.flag(d.probeHealthy, p.Verdict == "healthy", n.Name, p.Layer, p.Target)
		if !p.Checked.IsZero() {
			m.gauge(d.probeDuration, p.Duration.Seconds(), n.Name, p.Layer, p.Target)
		}
	}
}

func (c *Collector) speaker(m sink, name string, p *Speaker) {
	m.flag(c.descs.speakerUp, p.Phase == "running", name)
	m.count(c.descs.speakerRestarts, uint64(max(p.Restarts, 0)), name)
}

func (c *Collector) peer(m sink, p *Peer) {
	d := &c.descs
	peer := p.Name()
	m.flag(d.peerUp, p.State == established, peer, p.Interface)
	m.count(d.peerTransitions, p.Transitions, peer, p.Interface)
	if p.BFD == nil {
		return
	}
	m.flag(d.bfdUp, p.BFD.State == bfdUp, peer, p.Interface)
	m.count(d.bfdDowns, p.BFD.Downs, peer, p.Interface)
	m.count(d.bfdPackets, p.BFD.Sent, peer, p.Interface, "sent")
	m.count(d.bfdPackets, p.BFD.Received, peer, p.Interface, "received")
	m.count(d.bfdPackets, p.BFD.Dropped, peer, p.Interface, "dropped")
}

func (c *Collector) vip(m sink, s *Status, v *VIP) {
	d := &c.descs
	m.flag(d.vipBound, v.Bound, v.Name)
	m.flag(d.vipDegraded, v.Degraded, v.Name)
	m.damping(&d.vipDamping, v.Penalty, v.Name)
	c.role(m, v)
	if out := cmp.Or(v.Drain, v.Parted); out != nil && out.Connections != nil {
		m.gauge(d.drainConnections, float64(*out.Connections), v.Name)
	}
	if !v.Announced && v.Reason != "" {
		m.gauge(d.vipWithheld, 1, v.Name, string(v.Reason))
	}
	for i := range v.Interfaces {
		on := &v.Interfaces[i]
		m.flag(d.vipDesired, on.Wanted, v.Name, on.Interface)
		for j := range s.Peers {
			if p := &s.Peers[j]; p.Interface == on.Interface {
				m.flag(d.vipAnnounced, slices.Contains(on.Peers, p.Address), v.Name, on.Interface, p.Name())
			}
		}
	}
	for i := range v.Checks {
		k := &v.Checks[i]
		m.flag(d.checkHealthy, k.Verdict == "healthy", v.Name, k.Name)
		if !k.Checked.IsZero() {
			m.gauge(d.checkDuration, k.Duration.Seconds(), v.Name, k.Name)
		}
	}
}

// sink writes constant metrics to a channel.
type sink struct{ ch chan<- prometheus.Metric }

func (m sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m sink) count(d *prometheus.Desc, v uint64, labels ...string) {
	m.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (m sink) flag(d *prometheus.Desc, v bool, labels ...string) {
	if v {
		m.gauge(d, 1, labels...)
	} else {
		m.gauge(d, 0, labels...)
	}
}

func (m sink) damping(d *damping, p Penalty, name string) {
	m.gauge(d.penalty, float64(p.Value), name)
	m.flag(d.suppressed, p.Suppressed, name)
	m.count(d.flaps, p.Flaps, name)
}
