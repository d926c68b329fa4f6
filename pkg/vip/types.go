// Package vip makes the kernel hold the VIPs and prefer them as source: virtual
// interface, addresses, policy rules, source tables and sysctls. It is the only
// writer to the kernel.
//
// Every call reads the kernel first and writes the difference. It touches only
// what is ours, marked by protocol number (routes, rules), by IFA_PROTO or, on
// kernels before 5.18, by metric (addresses), or by alias (the device), or what
// its state file records.
//
// Routing, per address family: the return table (6801) mirrors main's routes
// through the usable listed interfaces and serves what is sent from a VIP; one
// source table (6802, ...) per distinct source VIP serves look-ups that have no
// source yet. Both have a multipath default of their own. The main table is
// not edited but for learned routes, if that is wanted, and a look-up that is none of our business goes on to it.
package vip

import (
	"net/netip"
	"slices"
	"time"
)

// Protocol is the rtnetlink protocol number that marks our routes, rules and
// addresses. FRR adopts routes of protocol 186 (bgp), so it is another.
const Protocol = 68

// Desired is everything that the kernel should hold of ours.
type Desired struct {
	Device Device
	// VIPs are bound: a host prefix as an address of the device, a shorter one
	// as a local route (AnyIP).
	VIPs []netip.Prefix
	// MTU is that of the paths from a VIP to remote networks; VIPs that are not in
	// it have that of the interface. At most MaxMTUs different ones per family.
	MTU map[netip.Prefix]uint32
	// Interfaces are the listed interfaces in the order of the configuration.
	Interfaces []Interface
	// Exclude are destinations that never get a VIP as source; the BGP peers
	// are among them.
	Exclude []netip.Prefix
	// Sysctls says what to do with the host settings that the promise needs.
	Sysctls SysctlMode
	// SourceRules are further preferred sources, for a part of the traffic each.
	SourceRules []SourceRule
	// Fallbacks are (local address, peer) pairs for which, when the main table
	// has no route, the table of the VIPs is consulted: so the last words of a
	// session whose interface failed leave by a path that is left.
	Fallbacks []Fallback
	// Learned are the routes that the host's routers told it.
	Learned []Learned
	// MainMetric is the metric with which the main table gets them too, 0 for not.
	MainMetric uint32
	// Drained are the VIPs whose connections are counted.
	Drained []Drained
}

// Drained is a VIP whose connections are to end.
type Drained struct {
	Prefix netip.Prefix
	// Close tells that those that are left are to be reset.
	Close bool
}

// Fallback is a BGP session's pair of addresses.
type Fallback struct {
	Local, Peer netip.Addr
	// First tells that the main table may still have the way to Peer by an
	// interface behind which it is known to be dead: the table of the VIPs is then
	// consulted before main, for TCP. It has no way by interfaces that are not
	// Usable. The network of one that is Usable it has as main has, so nothing
	// changes for a peer on it. Sockets that are bound to an interface are not
	// affected.
	First bool
}

// Device is the virtual interface.
type Device struct {
	Name string
	Kind DeviceKind
}

// DeviceKind selects the kind of device.
type DeviceKind string

// The kinds of virtual interface.
const (
	KindAuto     DeviceKind = "auto" // dummy, else bridge, else ifb, else lo
	KindDummy    DeviceKind = "dummy"
	KindBridge   DeviceKind = "bridge"
	KindExisting DeviceKind = "existing" // must exist, is never created or deleted
)

// Interface is a listed interface: a physical path to the network.
type Interface struct {
	Name string
	// Usable tells whether traffic may leave by it. Never false for all
	// interfaces: the last usable one is kept.
	Usable bool
	// Silent tells that the link works but no router on it answers: its own
	// network is still reached directly, nothing beyond it. Never true for all
	// usable interfaces.
	Silent bool
	// Silent4 and Silent6 are Silent for one family alone. Never true for all
	// usable interfaces that have the family.
	Silent4, Silent6 bool
	// Source4 and Source6 are the preferred sources for traffic that leaves by
	// this interface and names none; zero for none (or not yet, or no more).
	Source4, Source6 netip.Addr
	// Gateways are the configured next hops for the default route of the source
	// table; if none of a family, those of the main table's default route.
	Gateways []netip.Addr
	// Dead are next hops that are not to be taken from the main table's default
	// route while that has another one on this interface.
	Dead []netip.Addr
	// Routers are next hops for the case that neither Gateways nor the main
	// table names one of the family on this interface.
	Routers []netip.Addr
	// Weight is the share of a default route with several legs, 1 to 256; 0 counts
	// as 1 where another interface has one.
	Weight int
}

// Leg tells whether traffic to beyond the interface's own network may leave by
// it.
func (i *Interface) Leg() bool { return i.Usable && !i.Silent }

// SysctlMode selects how host settings are treated.
type SysctlMode string

// The sysctl modes.
const (
	SysctlSet   SysctlMode = "set"   // set, remember, restore if still ours
	SysctlCheck SysctlMode = "check" // left alone; pkg/doctor reports them
	SysctlOff   SysctlMode = "off"
)

// Actual is what the kernel really holds after a call.
type Actual struct {
	// DeviceName and DeviceKind are what was found or made; for a fallback to
	// lo they tell so.
	DeviceName string
	DeviceKind string
	// Bound are the VIPs that are really there and usable (not tentative, not
	// dadfailed, device up), in the order of Desired.
	Bound []netip.Prefix
	// Sources are the source addresses really in effect per interface.
	Sources []SourceState
	// Main are the learned prefixes that are in the main table too.
	Main []netip.Prefix
	// Connections is how many TCP connections from elsewhere the VIPs of
	// Desired.Drained have; nothing of one that could not be read.
	Connections map[netip.Prefix]int
	// Problems are conditions that break a promise, in words.
	Problems []string
	// Repaired counts what was found missing or altered though we had it in
	// place before, by object: address, route, rule, link, sysctl.
	Repaired map[string]int
	// Writes is how many changes this call made.
	Writes int
	// Read is when the kernel was read.
	Read time.Time
}

// IsBound tells whether the VIP is bound and usable.
func (a *Actual) IsBound(p netip.Prefix) bool {
	return a != nil && slices.Contains(a.Bound, p)
}

// SourceState is a preferred source that is in effect.
type SourceState struct {
	Interface string
	Address   netip.Addr
}
