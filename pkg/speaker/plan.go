// Package speaker decides what is announced, bound and preferred as source, and
// drives the writers to it.
//
// Plan is the decision: a pure function from snapshots of the world to the
// whole desired state. Loop is the control loop around it. It is level
// triggered: channels carry wake-ups, snapshots carry data, and nothing is
// remembered that can be read. It is the only caller of the packages that write
// to the kernel and to BGP.
package speaker

import (
	"net/netip"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/ndp"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// Inputs is everything that a decision depends on. Plan changes none of it.
type Inputs struct {
	Config *config.Config
	// Net, Health, BGP and BFD are the newest snapshots of the world.
	Net    *netmon.State
	Health health.Results
	BGP    *bgp.State
	BFD    *bfd.State
	// NDP are the routers heard on the interfaces of Desired.Discover.
	NDP *ndp.State
	// Owners are the owners of exclusive VIPs, at the time Boot of its clock; nil if
	// nothing asks for them.
	Owners *owner.State
	Boot   time.Duration
	// CheckIDs are the IDs of each VIP's checks in the order of the configuration.
	// Those of a VIP that is not in it are made, which costs more.
	CheckIDs map[netip.Prefix][]string
	// History is Desired.History of the look before this one; empty at the first.
	History History
	// Bound are the VIPs that the kernel holds, as far as known.
	Bound []netip.Prefix
	// BindErrors are what went wrong when the VIPs were bound the last time.
	BindErrors []string
	// RouterID is the BGP identifier in force, see RouterID.
	RouterID netip.Addr
	// Overrides are orders that stand above the configuration.
	Overrides Overrides
	// Connections is how many connections drained VIPs have, as far as known.
	Connections map[netip.Prefix]int
	// Legs are the interfaces that carried outgoing traffic by the decision
	// before this one; nil if there was none.
	Legs []string
	// Lingering are VIPs that were configured and no longer are, with the time
	// until which they stay bound because routers may still send to them.
	Lingering map[netip.Prefix]time.Time
	// StartedAt is when the process started.
	StartedAt time.Time
	// Adopted tells that the process took over the kernel state of a former one
	// that did not stop cleanly, AdoptedSources which VIPs were source then.
	Adopted        bool
	AdoptedSources []netip.Addr
}

// Overrides are orders of an operator.
type Overrides struct {
	// Shutdown withholds all VIPs and takes them off as source. They stay bound.
	Shutdown bool
	// Failback are VIPs that are to be announced with their rank although another
	// host is seen.
	Failback map[netip.Prefix]bool
	// Leaving announces everything as about to go (GRACEFUL_SHUTDOWN, RFC 8326).
	Leaving bool
	// Orders are the operator's; nil for none. They say which VIPs are drained.
	Orders *orders.Orders
}

// Desired is a decision: what kernel and BGP should hold, and why the rest is
// withheld.
type Desired struct {
	Kernel vip.Desired
	BGP    bgp.Desired
	// BFD are the wanted sessions, Probes the wanted probes of gateways and paths.
	BFD    []bfd.SessionConfig
	Probes []Probe
	// VIPs, Interfaces and Remote, the sessions that belong to no interface, are
	// in the order of the configuration.
	VIPs       []VIP
	Interfaces []Interface
	Remote     []Peer
	// Learned are the routes that peers told, in the order of egress.import.
	Learned []Learned
	// Discover are the interfaces on which routers must be heard.
	Discover []string
	// Owners is what others are told about the VIPs that must have one owner.
	Owners []owner.Want
	// History is what the next look needs to know of this one.
	History History
	// Recheck is when the decision may change although no input does: a hold-up
	// ends or a verdict expires. Zero for never.
	Recheck time.Time
}

// VIP is the decision about one VIP.
type VIP struct {
	Name   string
	Prefix netip.Prefix
	Bound  bool
	// Wanted tells that every gate but being bound is open on an interface.
	Wanted bool
	// Announced tells that an established session carries it now.
	Announced bool
	// Reason and Detail say why it is not announced; Reason is empty when it is,
	// and Detail too unless it is degraded.
	Reason status.Reason
	Detail string
	// Degraded tells that it is announced, or would be, with the attributes for a
	// VIP whose checks fail.
	Degraded bool
	// Behind tells that it is announced, or would be, as worse than any rank.
	Behind bool
	// Others are the hosts that routers say announce it, too.
	Others  []status.Other
	Penalty status.Penalty
	// Drain is nil for a VIP that nobody has taken out of use.
	Drain *Drain
	// Parted is nil but for one that this host has handed over, and of which it still
	// serves connections; with a drain, that tells how many.
	Parted *Drain
	// Kept is until when a router may have it whose session was lost, of one that must
	// have one owner; zero if none may.
	Kept time.Time
	// Interfaces are in the order of VIP.Interfaces of the configuration, then
	// one for the sessions that belong to no interface, if there are any.
	Interfaces []Placement
}

// Placement is the decision about one VIP on one interface.
type Placement struct {
	// Interface is its name, or status.TopLevel.
	Interface string
	Wanted    bool
	Announced bool
	Reason    status.Reason
	Detail    string
	// NextHop is the next hop to announce; zero for each session's own address.
	NextHop netip.Addr
	// Paths are those of status.TopLevel, the best one first.
	Paths []status.Path
	// Peers are the peers that have it now.
	Peers []netip.Addr
}

// Interface is the decision about one listed interface.
type Interface struct {
	Name  string
	Index int // of the link, 0 if there is none
	// Usable tells that sessions may run here.
	Usable bool
	Reason status.Reason
	Detail string
	// Leg tells that outgoing traffic may leave here.
	Leg bool
	// Addresses are the interface's own usable addresses.
	Addresses []netip.Prefix
	Peers     []Peer
	// Failures are the probes and BFD sessions that found something dead.
	Failures []status.Failure
	Penalty  status.Penalty
	// router is the one that an unnumbered peer is, zero for none.
	router netip.Addr
	// attached tells that a probed gateway or peer answers on the link.
	attached bool
	// gateways are the next hops of traffic from a VIP, if there are any besides
	// the peers; link-local ones have their zone.
	gateways []netip.Addr
	// far are the networks of the addresses that are those of a point-to-point link.
	far map[netip.Addr]netip.Prefix
	// established tells that a session is, answering that one is which is to go
	// on, fresh that none has been so far.
	established, answering, fresh bool
}

// Peer is the decision about one session.
type Peer struct {
	// Address is zero while a peer that is found by itself has not been; a
	// link-local one has its zone.
	Address netip.Addr
	// Found is how the address is found: gateway or unnumbered, empty for a
	// configured one.
	Found string
	ASN   uint32
	// LocalAddress is the own address that the session uses: the interface's on
	// the link with the peer. Zero if there is none.
	LocalAddress netip.Addr
	// Wanted tells that the session should run, Detail why not.
	Wanted bool
	Detail string
	// dead tells that BFD found the path to the peer dead, held what BFD has
	// against the session; empty if nothing.
	dead bool
	held string
	// missing is why there is no address or no local one.
	missing string
	config  *config.Peer
}

// planner holds what the parts of one decision share.
type planner struct {
	in  Inputs
	now time.Time
	out Desired
	// bound and carried index the snapshots: the VIPs in the kernel, and per
	// speaker those in its RIB.
	bound   map[netip.Prefix]bool
	carried map[string]map[netip.Prefix]bool
	// seenPaths are what peers send, by prefix, nil until somebody asks.
	seenPaths map[netip.Prefix][]bgp.SeenPath
	// linger is lingering, saidOf what the last Bind said of a word and whys
	// whyUnbound, of those that were asked for; nil until somebody asks. All are
	// the same for every interface, and there can be thousands.
	linger []netip.Prefix
	saidOf map[string]string
	whys   map[netip.Prefix]string
	// configured are the VIPs, nets those of them that are more than one address.
	configured map[netip.Prefix]bool
	nets       []netip.Prefix
	// byName finds an entry of out.Interfaces.
	byName map[string]int
	// drains are the operator's orders that are in force.
	drains *orders.InForce
	// watching is how many BFD sessions this look has decided about.
	watching int
	// own tells which maps of out.History are copies of this look.
	own owned
	// graceUntil is how long what a former process left is trusted.
	graceUntil time.Time
}

// Plan decides. It is pure: the same inputs give the same decision, whatever
// the order inside the snapshots. Config must not be nil.
func Plan(in Inputs, now time.Time) Desired {
	p := &planner{
		in: in, now: now, drains: in.Overrides.Orders.At(now),
		bound:      make(map[netip.Prefix]bool, len(in.Bound)),
		carried:    map[string]map[netip.Prefix]bool{},
		configured: make(map[netip.Prefix]bool, len(in.Config.VIPs)),
		byName:     make(map[string]int, len(in.Config.Interfaces)),
	}
	p.out.History = in.History
	for _, b := range in.Bound {
		p.bound[b] = true
	}
	for i := range in.Config.VIPs {
		v := in.Config.VIPs[i].Prefix
		p.configured[v] = true
		if !v.IsSingleIP() {
			p.nets = append(p.nets, v)
		}
	}
	if in.BGP != nil {
		for i := range in.BGP.Speakers {
			p.index(&in.BGP.Speakers[i])
		}
	}
	if in.Adopted && in.Config.BGP.GracefulRestart.Enabled {
		p.graceUntil = in.StartedAt.Add(in.Config.BGP.GracefulRestart.RestartTime)
		p.mayChange(p.graceUntil)
	}
	p.interfaces()
	p.remotes()
	p.forgetBFD()
	p.vips()
	p.holdSessions()
	p.speakers()
	p.kernel()
	return p.out
}

// index notes what a speaker has in its RIB.
func (p *planner) index(s *bgp.SpeakerState) {
	rib := make(map[netip.Prefix]bool, len(s.Announced))
	for _, prefix := range s.Announced {
		rib[prefix] = true
	}
	p.carried[s.Name] = rib
}

// mayChange notes a time at which the decision may change by itself.
func (p *planner) mayChange(at time.Time) {
	if at.After(p.now) && (p.out.Recheck.IsZero() || at.Before(p.out.Recheck)) {
		p.out.Recheck = at
	}
}

// isVIP tells whether a is, or lies in, a VIP: then it is never taken for an
// interface's own address.
func (p *planner) isVIP(a netip.Addr) bool {
	if p.configured[netip.PrefixFrom(a, a.BitLen())] {
		return true
	}
	for _, n := range p.nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
