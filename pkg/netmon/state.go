// Package netmon knows which links, addresses, routes, rules and neighbours
// exist now, and gives a wake-up when that changed.
//
// It only reads. Events say that something happened, never what: after an
// event the affected tables are dumped again, because the kernel deletes IPv4
// routes silently and drops messages under load.
package netmon

import (
	"net/netip"
	"time"
)

// State is an immutable picture of the kernel's network configuration in the
// network namespace of the process. Its one writer is Monitor.
type State struct {
	Links      []Link // by index
	Routes     []Route
	Rules      []Rule
	Neighbours []Neighbour
	// Generation grows by one with each published change.
	Generation uint64
}

// Link returns the link of that name, or false.
func (s *State) Link(name string) (Link, bool) {
	if s != nil {
		for i := range s.Links {
			if s.Links[i].Name == name {
				return s.Links[i], true
			}
		}
	}
	return Link{}, false
}

// Link is a network device.
type Link struct {
	Index       int
	Name        string
	Alias       string
	Kind        string // "veth", "bridge", "dummy", ...; empty for a physical card
	MasterIndex int
	MTU         int
	// Up is the administrative state (IFF_UP); Running tells that frames can
	// pass (IFF_RUNNING): an operational state of up or unknown. Carrier loss
	// clears Running only.
	Up, Running bool
	// OperState is the RFC 2863 state in words: up, down, lowerlayerdown, ...
	OperState string
	// HealthySince is when the link last became Up and Running as seen by this
	// process; zero when it was so at the first dump, or is not so now.
	HealthySince time.Time
	Addresses    []Address
}

// Healthy tells whether frames can pass: IFF_UP and IFF_RUNNING.
func (l Link) Healthy() bool { return l.Up && l.Running }

// Address is an address of a link.
type Address struct {
	Prefix netip.Prefix // the address with the length of its on-link prefix
	// Far is the network at the other end of a point-to-point link, as of
	// 'ip address add 192.0.2.1 peer 192.0.2.2/32': that is on-link then, and not the
	// address's own. Zero for all other addresses.
	Far netip.Prefix
	// Usable is false while the address is tentative, failed duplicate address
	// detection, or is deprecated by dadfailed.
	Usable    bool
	LinkLocal bool
	// Secondary tells that another address of its network is to be preferred:
	// this one is secondary (IPv4), temporary (IPv6, RFC 8981) or deprecated (RFC
	// 4862 section 5.5.4).
	Secondary bool
	Protocol  uint8 // IFA_PROTO, 0 if unset or unknown to the kernel
	Label     string
}

// Route is a route of any table, as far as decisions need it.
type Route struct {
	Table    uint32
	Prefix   netip.Prefix // 0.0.0.0/0 or ::/0 for a default route
	Type     uint8        // RTN_UNICAST, ...
	Protocol uint8        // RTPROT_...
	Metric   uint32
	Source   netip.Addr // preferred source, zero if none
	NextHops []NextHop
}

// NextHop is one leg of a route.
type NextHop struct {
	LinkIndex int
	Gateway   netip.Addr // zero when on-link
	Dead      bool       // RTNH_F_DEAD or RTNH_F_LINKDOWN
}

// Rule is a policy routing rule.
type Rule struct {
	IPv6     bool
	Priority uint32
	Table    uint32
	Protocol uint8
	Source   netip.Prefix
	Dest     netip.Prefix
}

// Neighbour is an entry of the neighbour table (ARP or neighbour discovery).
type Neighbour struct {
	LinkIndex int
	Address   netip.Addr
	State     uint16 // NUD_...
}
