// Package config turns a configuration file into an immutable, validated
// Config, or says everything that is wrong with it.
//
// It is the only user of viper, and uses it to choose the decoder for a format.
// viper's key store lower-cases keys, splits them at dots and converts types
// weakly, so the file's own tree is checked and decoded here instead.
//
// The package reads the file and the secrets it names, and looks up the users
// whose names it has. It never looks at the state of the host.
package config

import (
	"net/netip"
	"time"
)

// Config is a valid configuration with all defaults filled in. Nobody changes
// it after Load or Parse.
type Config struct {
	BGP              BGP
	VirtualInterface VirtualInterface
	// Interfaces is the interface list, at least one, in the order of the file.
	Interfaces []Interface
	// Peers are sessions that belong to no interface; may be empty. They always
	// have an Address, which no other peer has and no VIP holds.
	Peers []Peer
	// VIPs are in the order of the file; no two overlap.
	VIPs []VIP
	// RuntimeVIPs says which others may be added at run time.
	RuntimeVIPs RuntimeVIPs
	// Ownership is nil without the key: then nobody asks etcd anything.
	Ownership *Ownership
	Damping   Damping
	Egress    Egress
	Host      Host
	HTTP      HTTP
	Control   Control
	Shutdown  Shutdown
	Log       Log
}

// BGP holds what all sessions share.
type BGP struct {
	// ASN is the own autonomous system number, 1 to 4294967294.
	ASN uint32
	// RouterID is an IPv4 address; the zero value means the lowest IPv4 address
	// of the listed interfaces at start.
	RouterID netip.Addr
	// ListenPort is 0 to 65535; 0 means never to listen.
	ListenPort      int
	Timers          Timers
	GracefulRestart GracefulRestart
}

// Timers are those of a session, in whole seconds.
type Timers struct {
	// HoldTime is 3 s to 65535 s, Keepalive at most a third of it (RFC 4271
	// section 4.4), ConnectRetry 1 s to 65535 s.
	HoldTime, Keepalive, ConnectRetry time.Duration
}

// GracefulRestart holds the parameters of RFC 4724.
type GracefulRestart struct {
	Enabled bool
	// RestartTime is 1 s to 4095 s, in whole seconds.
	RestartTime time.Duration
	// LongLived is how long routers keep routes after that as a last resort
	// (RFC 9494), 0 s to 16777215 s, in whole seconds; 0 for never.
	LongLived time.Duration
}

// VirtualInterface names the device that holds the VIPs.
type VirtualInterface struct {
	Name string
	// Kind is auto, dummy, bridge or existing.
	Kind string
}

// Interface is a physical path to the network.
type Interface struct {
	Name string
	// HoldUp is how long the interface must look healthy again before it is
	// used, 0 s to 1 h.
	HoldUp time.Duration
	// Gateways are next hops for traffic that leaves by this interface, at most
	// one per family; empty for none configured.
	Gateways []netip.Addr
	// Weight is its share of a route with several legs, 1 to 256; 0 for none given.
	Weight       int
	GatewayProbe GatewayProbe
	// PathProbe is nil for none.
	PathProbe *PathProbe
	// Damping is Config.Damping where the interface has none of its own.
	Damping Damping
	// Peers has at least one entry, unless Config.Peers has.
	Peers []Peer
}

// GatewayProbe asks the gateways of an interface, or without one its peers on
// the link, for their link-layer address.
type GatewayProbe struct {
	Enabled bool
	// Interval is the time between two probes, 100 ms to 1 min; Failures is how
	// many in a row must stay without an answer, 1 to 100.
	Interval time.Duration
	Failures int
}

// PathProbe sends ICMP echo requests to a target beyond the first hop, from the
// interface's own address and out of the interface.
type PathProbe struct {
	// Target is a unicast address, neither link-local nor in a VIP.
	Target netip.Addr
	// Interval is 100 ms to 1 min, Timeout 10 ms to Interval.
	Interval, Timeout time.Duration
	// Failures is how many probes in a row must fail, 1 to 100.
	Failures int
}

// Damping suppresses what flaps, in the terms of RFC 2439 section 4.2.
type Damping struct {
	Enabled bool
	// HalfLife is the time in which a penalty decays by half, 1 s to 1 h. A flap
	// costs 1000.
	HalfLife time.Duration
	// Suppress is the penalty above which a subject is suppressed, 1001 to
	// 1000000; Reuse that below which it is used again, at least 1 and below
	// Suppress.
	Suppress, Reuse int
	// MaxSuppress bounds the time of a suppression, HalfLife to 24 h. The ceiling
	// that follows, Reuse × 2^(MaxSuppress/HalfLife), is above Suppress.
	MaxSuppress time.Duration
}

// Peer is one router: on the interface's network, or anywhere if it is one of
// Config.Peers. What bgp.defaults has is filled in.
type Peer struct {
	// Address is a unicast address without a zone, unique on its interface; zero
	// with Gateway and Unnumbered. It may be link-local on an interface.
	Address netip.Addr
	// Gateway takes the interface's default gateways for the peer, one session
	// for each: Interface.Gateways, else those of the main table. Unnumbered takes the router on the link by its IPv6 link-local
	// address, which it tells by router advertisements or its first packet. At
	// most one peer of an interface has either.
	Gateway, Unnumbered bool
	// ASN is the peer's number; BGP.ASN for a peer that is internal, and 0 with
	// External, which takes any number but BGP.ASN.
	ASN      uint32
	External bool
	// RouterID is the only BGP identifier that the peer may have; zero for any.
	RouterID netip.Addr
	// Passive waits for the peer's connection.
	Passive bool
	// IPv4 and IPv6 are the families to negotiate, at least one.
	IPv4, IPv6 bool
	// LocalAddress is what the session is made from, not in a VIP; zero for that of
	// the first usable interface. Of Config.Peers only.
	LocalAddress netip.Addr
	// TTL is that of packets to a peer of Config.Peers, 1 to 255; 0 for peers of
	// an interface.
	TTL uint8
	// AddPath offers a peer of Config.Peers one path per interface (RFC 7911).
	AddPath bool
	// Announce changes the attributes of what this peer gets.
	Announce PeerAnnounce
	// Port is 1 to 65535.
	Port uint16
	// Password is the TCP MD5 key (RFC 2385) out of the password file, at most
	// 80 bytes; empty for none, and always with Unnumbered or a link-local Address.
	// A Gateway may turn out to be link-local.
	Password Secret
	// TTLSecurity demands TTL 255 from the peer (RFC 5082); never of Config.Peers.
	TTLSecurity bool
	Timers      Timers
	// MaxPrefixes is how many prefixes of one family the peer may send, at
	// least 1.
	MaxPrefixes uint32
	// BFD is nil for none, and multihop with Config.Peers.
	BFD *BFD
}

// BFD holds the parameters of a peer's BFD session (RFC 5880).
type BFD struct {
	// MinTx and MinRx are 10 ms to 60 s, Multiplier is 1 to 255.
	MinTx, MinRx time.Duration
	Multiplier   uint8
	// Required holds the BGP session back until the BFD session is up.
	Required bool
	// Passive waits for the router's first packet.
	Passive bool
	// Multihop is RFC 5883; MinTTL is then the least TTL taken, 1 to 255, and 0
	// without.
	Multihop bool
	MinTTL   uint8
	// Auth is nil for none.
	Auth *BFDAuth
}

// BFDAuth is the authentication of a BFD session (RFC 5880 section 6.7).
type BFDAuth struct {
	// Type is simple, keyed_md5, meticulous_keyed_md5, keyed_sha1 or
	// meticulous_keyed_sha1.
	Type  string
	KeyID uint8
	// Key is 1 to 16 bytes, with SHA1 to 20, out of the key file.
	Key Secret
}

// VIP is one virtual address or prefix.
type VIP struct {
	// Name is unique; the address if the file gives none.
	Name string
	// Prefix is masked: a single address has a host mask.
	Prefix netip.Prefix
	// Interfaces are names of Config.Interfaces, never empty.
	Interfaces []string
	// PreferredSource makes the VIP the source of traffic that names none. At
	// most one VIP has it per interface and family, and only a single address.
	// Source does so for parts of it, and says when.
	PreferredSource bool
	Source          Source
	// MTU is that of paths from the VIP to remote networks, 68 to 65535, for IPv6
	// at least 1280; 0 for that of the interface.
	MTU      uint32
	Announce Announce
	// Role is nil for a VIP without a rank.
	Role *Role
	// Exclusive tells that nobody else may announce it.
	Exclusive bool
	// Checks decide whether the VIP is announced; none means always.
	Checks []Check
	// ChecksMode is all or any: how many of Checks must pass.
	ChecksMode string
	// Degrade is nil for a VIP that is withdrawn when its checks fail; else it
	// stays announced with these attributes.
	Degrade *Degrade
	// Damping is Config.Damping where the VIP has none of its own.
	Damping Damping
	Drain   Drain
	// On are the commands that are run when it changes its state.
	On Hooks
	// Runtime tells that it is not in the file, but was added at run time.
	Runtime bool
}

// Degrade holds what changes in the path attributes of a VIP whose checks failed.
type Degrade struct {
	// MED and LocalPref take the place of those of Announce; nil for none.
	MED, LocalPref *uint32
	// Prepend is added to that of Announce; the sum is at most 10.
	Prepend int
	// The communities come on top of those of Announce.
	Communities         []uint32
	LargeCommunities    []LargeCommunity
	ExtendedCommunities []ExtendedCommunity
	// Origin takes the place of that of Announce; nil for none.
	Origin *uint8
}

// Announce holds the path attributes of a VIP.
type Announce struct {
	// Communities are RFC 1997 values, LargeCommunities RFC 8092; no doubles.
	Communities      []uint32
	LargeCommunities []LargeCommunity
	// MED and LocalPref are nil for none. LocalPref reaches internal peers only.
	MED, LocalPref *uint32
	// Prepend is how often the own AS is added in front, 0 to 10.
	Prepend             int
	ExtendedCommunities []ExtendedCommunity
	// Origin is ORIGIN (RFC 4271 section 5.1.1): 0 IGP, 1 EGP, 2 incomplete.
	Origin uint8
}

// PeerAnnounce holds what changes in the path attributes for one peer.
type PeerAnnounce struct {
	// MED and LocalPref take the place of those of the VIP; nil for none.
	// LocalPref is at least 1, and nil for a peer that is not internal.
	MED, LocalPref *uint32
	// Prepend is added to that of the VIP, and to that of Degrade; the sum is at
	// most 10. It is 0 for an internal peer.
	Prepend int
	// The communities come on top of those of the VIP, which may have some of them
	// already; at most 32 of each kind. The extended ones are route targets and
	// route origins.
	Communities         []uint32
	LargeCommunities    []LargeCommunity
	ExtendedCommunities []ExtendedCommunity
	// Origin takes the place of that of the VIP, in all states; nil for none.
	Origin *uint8
}

// ExtendedCommunity is one RFC 4360 value, in the order of the wire.
type ExtendedCommunity [8]byte

// LargeCommunity is one RFC 8092 value.
type LargeCommunity struct {
	Global, Local1, Local2 uint32
}

// Egress holds what concerns outgoing traffic.
type Egress struct {
	// Exclude are masked destinations that never get a VIP as source.
	Exclude []netip.Prefix
	// Import are the masked prefixes that are taken from peers, at most 64, none of
	// which lies in a VIP.
	Import []netip.Prefix
	// Install is source or main: whether the main table gets them too, with Metric,
	// which is at least 1.
	Install string
	Metric  uint32
}

// Host says how settings of the host are treated.
type Host struct {
	// Sysctls is set, check or off.
	Sysctls string
}

// HTTP is the listener for metrics, health and the status page.
type HTTP struct {
	// Listen is address:port; empty for no listener.
	Listen string
}

// Control is the Unix socket for the commands.
type Control struct {
	// Socket is an absolute path of at most 107 bytes.
	Socket string
}

// Shutdown says how the daemon ends.
type Shutdown struct {
	// Mode is drain or restart.
	Mode string
	// Time bounds the whole stop, 1 s to 10 min. Wait is the time between the
	// withdraw and the end of the sessions, below Time.
	Time, Wait time.Duration
	// GracefulShutdown is how long before the withdraw everything is announced
	// with GRACEFUL_SHUTDOWN (RFC 8326), 0 s to below Time-Wait; 0 for not at all.
	GracefulShutdown time.Duration
}

// Log says what is logged.
type Log struct {
	// Level is debug, info, warn or error; Format is text or json.
	Level, Format string
}
