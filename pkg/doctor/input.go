package doctor

import (
	"net/netip"
	"time"
)

// The modes of host.sysctls.
const (
	SysctlSet   = "set"
	SysctlCheck = "check"
	SysctlOff   = "off"
)

// Input is what the host is examined for.
type Input struct {
	// Interfaces are the listed ones.
	Interfaces []Interface
	// Peers are those that belong to no interface.
	Peers []Peer
	VIPs  []VIP
	// Device is the virtual interface, DeviceKind how it is made: auto, dummy,
	// bridge or existing.
	Device, DeviceKind string
	// Sysctls is the mode of host.sysctls.
	Sysctls string
	// Table and Priority are the first of the routing tables and of the rules of
	// ours, Protocol is the mark of our routes and rules.
	Table, Priority int
	Protocol        int
	// InstallMain tells that routes are put into the main table too, MainMetric
	// with which metric.
	InstallMain bool
	MainMetric  int
	// ListenPort is the BGP port, 0 for none.
	ListenPort uint16
	// Daemon is nil if none runs.
	Daemon *Daemon
	// Inside tells that the daemon itself asks: what it reports anyway is left out.
	Inside bool
	// Unfit are what of the configuration cannot work on this host as it is, in
	// words.
	Unfit []string
	// Unsynchronised tells whether the clock is; nil asks the kernel.
	Unsynchronised func() (bool, error)
	// Root is the directory that stands for / where files of the host are read or
	// written, for tests; usually empty.
	Root string
}

// Interface is a listed interface.
type Interface struct {
	Name     string
	Gateways []netip.Addr
	Peers    []Peer
}

// Peer is one router.
type Peer struct {
	// Address is zero while a router that is found by itself is not known.
	Address netip.Addr
	Port    uint16
	// Passive tells that the router connects to us and never we to it.
	Passive bool
	// BFD and Multihop tell whether there is a BFD session and of which kind.
	BFD, Multihop bool
	// BFDState is the state of that session, empty if no daemon tells.
	BFDState string
	// Wants is what is configured for the session, Has what was negotiated; Has is
	// nil unless the session is established.
	Wants Capabilities
	Has   *Capabilities
}

// Capabilities are what two ends of a session can agree on.
type Capabilities struct {
	IPv4, IPv6 bool
	// AddPath is RFC 7911, ExtendedNextHop RFC 8950, GracefulRestart RFC 4724,
	// LongLived RFC 9494.
	AddPath, ExtendedNextHop, GracefulRestart, LongLived bool
}

// VIP is one virtual address or prefix.
type VIP struct {
	Name            string
	Prefix          netip.Prefix
	Interfaces      []string
	PreferredSource bool
	// Ports are the TCP ports of its services, as far as its checks name them.
	Ports []uint16
	// Away tells that the daemon does not bind it on purpose: another host owns it,
	// or an operator has taken it out of use.
	Away bool
}

// Daemon is the daemon that runs.
type Daemon struct {
	// PID is its process, 0 if that is not known; Speakers are those that hold the
	// BGP port.
	PID      int
	Speakers []int
	// Started is when it started, by the clock of that time.
	Started time.Time
	// Problems are what it reports of the kernel.
	Problems []string
}
