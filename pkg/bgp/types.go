// Package bgp makes BGP peers and paths equal to what is wanted, and tells what
// is. It is the only package that imports GoBGP.
//
// GoBGP parses what strangers send and a panic in one of its goroutines cannot
// be recovered. So every interface gets a speaker process of its own: the same
// binary, re-executed without privileges, that holds one GoBGP server and talks
// with the daemon over an inherited socket pair. Manager starts and supervises
// these processes; Serve is what runs inside one; Speaker is the plain
// in-process speaker that both the process and unit tests wrap.
//
// The package never decides what is announced: its caller does, by handing over
// the whole desired state each time.
package bgp

import (
	"cmp"
	"log/slog"
	"net/netip"
	"time"
)

// Desired is everything that BGP should hold: one entry per speaker. It is a
// complete statement; what is not in it is withdrawn or stopped.
type Desired struct {
	Speakers []SpeakerConfig
}

// SpeakerConfig is the wanted state of one speaker, which serves one interface.
type SpeakerConfig struct {
	// Name is the name of the interface in the configuration; unique.
	Name string
	// ASN is the local autonomous system number, 1 to 4294967295 (RFC 6793).
	ASN uint32
	// RouterID is the BGP Identifier (RFC 4271 section 4.2), an IPv4 address.
	RouterID netip.Addr
	// ListenPort is the TCP port to listen on, 0 for never.
	ListenPort int
	// ListenAddresses are the interface's own addresses on which peers may
	// connect. A change that needs a new listener restarts the speaker only
	// while none of its sessions is established. An IPv6 link-local address has
	// its interface as zone, the same for all, and with it all listeners are bound
	// to that device.
	ListenAddresses []netip.Addr
	// GracefulRestart is RFC 4724 as restarting speaker.
	GracefulRestart GracefulRestart
	// Peers are the wanted sessions; none while the interface is not usable.
	Peers []Peer
	// Paths are the wanted announcements, sent to every peer of this speaker.
	Paths []Path
	// Reflected is how many prefixes a router may have from this host and send
	// back by another session. They come on top of each peer's MaxPrefixes. It
	// must not become lower before routers have had time to forget what is gone.
	Reflected uint32
	// Fence is until when fenced paths are announced, on CLOCK_BOOTTIME. A speaker
	// process withdraws them then by itself, without a word from the daemon.
	Fence time.Duration
	// Watch are prefixes of which SpeakerState.Seen tells what peers send.
	Watch []netip.Prefix
	// Import are the prefixes, at most 64, that are taken from peers and reported
	// as Received: exactly these, nothing inside them. They are never sent on. All
	// else that peers send is refused.
	Import []netip.Prefix
	// DownReasons are texts for single peers, which come before DownReason. A
	// change of either alone has no effect.
	DownReasons map[netip.Addr]string
	// DownReason is the text of the Cease (RFC 9003, cut to 128 octets) that
	// peers get which are no longer in Peers, such as "interface en1: link down".
	// Without any they are told that they were removed.
	DownReason string
}

// downReason is what a peer is told that is no longer in Peers.
func (c *SpeakerConfig) downReason(peer netip.Addr) string {
	if text := c.DownReasons[peer]; text != "" {
		return text
	}
	return cmp.Or(c.DownReason, "peer removed from the configuration")
}

// GracefulRestart holds the RFC 4724 parameters.
type GracefulRestart struct {
	Enabled bool
	// RestartTime is how long routers keep our routes, 1 s to 4095 s.
	RestartTime time.Duration
	// LongLived is how long they keep them after that as a last resort (RFC 9494),
	// 1 s to 16777215 s; 0 for never.
	LongLived time.Duration
}

// Peer is one wanted session of a speaker. What changes at run time is told by
// GoBGP's rules: remote AS, LocalAddress, Interface where it binds, Password,
// Families, AddPath and graceful restart reset this session and no other, with
// the reason in the log and in the Cease. Timers, Port and Passive count from the
// next session on. Everything else has effect at once.
//
// An unnumbered peer (RFC 8950, session over the link-local addresses of a link)
// has Address fe80::x%eth0, learned from router advertisements or neighbours, and
// LocalAddress fe80::y%eth0, the interface's own, which belongs into
// ListenAddresses too. Zones are names of interfaces; an interface made anew needs
// nothing. TCP MD5 and MultihopTTL are not possible then.
type Peer struct {
	// Address is the peer's address; unique in its speaker, also without zone.
	Address netip.Addr
	// ASN is the peer's autonomous system number.
	ASN uint32
	// LocalAddress is the own address that the session uses: the interface's, or
	// one of lo for a session over several hops. It is the next hop of paths that
	// have none.
	LocalAddress netip.Addr
	// Interface is the kernel's name of the interface. The session is bound to
	// this device only where neither TTL 1 (eBGP with a given AS) nor GTSM pins
	// it, and never with MultihopTTL.
	Interface string
	// Port is the peer's TCP port, 0 for 179.
	Port uint16
	// Password is the TCP MD5 key (RFC 2385), empty for none.
	Password Secret
	// TTLSecurity demands TTL 255 from the peer (GTSM, RFC 5082).
	TTLSecurity bool
	// HoldTime is 3 s to 65535 s, Keepalive below it, ConnectRetry at least 1 s.
	HoldTime, Keepalive, ConnectRetry time.Duration
	// MaxPrefixes ends the session with Cease 6/1 (RFC 4486) when a family of
	// the peer sends more; 0 for no limit.
	MaxPrefixes uint32
	// Passive waits for the peer's connection.
	Passive bool
	// External takes any AS but the own one; ASN is then 0. Another peer is refused
	// with OPEN Message Error/Bad Peer AS.
	External bool
	// RouterID is the only BGP identifier that the peer may have; zero for any.
	// Another peer is refused with OPEN Message Error/Bad BGP Identifier.
	RouterID netip.Addr
	// MultihopTTL is the TTL of packets to a peer that is not on the link, 2 to
	// 255; 0 for one that is. Not together with TTLSecurity. For Internal and
	// External peers it holds from the OPEN on; the connection is made with the
	// system's.
	MultihopTTL uint8
	// Families are the families to negotiate; the zero value means both.
	Families Families
	// AddPath offers to send several paths of a prefix (RFC 7911). A peer that
	// does not take them gets the one with the lowest ID.
	AddPath bool
	// Attributes change what this peer gets; nil for nothing.
	Attributes *Attributes
}

// Families are unicast address families.
type Families struct{ IPv4, IPv6 bool }

// Attributes are changes to the attributes of every path for one peer.
type Attributes struct {
	// MED and LocalPref take the place of those of the path; nil for none.
	// LocalPref is not 0, which GoBGP's policies cannot set.
	MED, LocalPref *uint32
	// Prepend is added to that of the path, 0 to 10; not for an internal peer.
	Prepend int
	// The communities come on top of those of the path, at most 32 of each kind.
	// Extended ones are route targets or route origins of AS or IPv4 addresses.
	Communities         []uint32
	LargeCommunities    []LargeCommunity
	ExtendedCommunities []ExtendedCommunity
	// Origin takes the place of that of the path; nil for none.
	Origin *uint8
}

// ExtendedCommunity is one RFC 4360 value, in the order of the wire.
type ExtendedCommunity [8]byte

// Secret is a value that never appears in logs, JSON or formatted output.
type Secret string

// String returns a placeholder.
func (Secret) String() string { return "(secret)" }

// GoString returns a placeholder.
func (Secret) GoString() string { return "(secret)" }

// LogValue returns a placeholder.
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// MarshalText returns a placeholder, for JSON and every other text encoding.
func (Secret) MarshalText() ([]byte, error) { return []byte("(secret)"), nil }

// Path is one announcement with its attributes (RFC 4271 section 5). Two paths
// of a speaker never have the same prefix and ID.
type Path struct {
	Prefix netip.Prefix
	// ID tells paths of one prefix apart, for peers with AddPath; the lowest is
	// the best. It is not the identifier on the wire. 0 is for a path that is
	// alone: with others of its prefix it is left out.
	ID uint32
	// NextHop is the next hop to announce; the zero value means each session's
	// own local address.
	NextHop netip.Addr
	// MED is MULTI_EXIT_DISC, nil for none.
	MED *uint32
	// LocalPref is LOCAL_PREF, sent to iBGP peers only; nil for the default 100. 0
	// of a path with an ID is sent as 1.
	LocalPref *uint32
	// Prepend is how many times the own AS is added in front, 0 to 10.
	Prepend int
	// Communities are RFC 1997 values, LargeCommunities RFC 8092.
	Communities         []uint32
	LargeCommunities    []LargeCommunity
	ExtendedCommunities []ExtendedCommunity
	// Origin is ORIGIN: 0 IGP, 1 EGP, 2 incomplete.
	Origin uint8
	// Fenced tells that it is announced only before SpeakerConfig.Fence.
	Fenced bool
}

// GracefulShutdown is the community that asks a router to move traffic away
// (RFC 8326). Many paths that get it together are sent in a few messages.
const GracefulShutdown uint32 = 0xffff0000

// LargeCommunity is one RFC 8092 value.
type LargeCommunity struct {
	Global, Local1, Local2 uint32
}

// ReceivedPath is one path that a peer sent and that was taken, because its
// prefix is one of Import or the speaker has AcceptPaths.
type ReceivedPath struct {
	Prefix netip.Prefix
	// NextHop has no zone; that of an IPv4 prefix may be an IPv6 address (RFC
	// 8950).
	NextHop netip.Addr
	// Peer is the address of the peer that sent it.
	Peer netip.Addr
	// MED is 0 and LocalPref 100 for a path without.
	MED, LocalPref uint32
	// ASPathLength counts as in the decision process (RFC 4271 section 9.1.2.2).
	ASPathLength int
	// Origin is ORIGIN: 0 IGP, 1 EGP, 2 incomplete.
	Origin uint8
	// Bandwidth is that of the link-bandwidth extended community
	// (draft-ietf-idr-link-bandwidth), in octets per second; 0 for none.
	Bandwidth float32
}

// SessionState is a state of the BGP finite state machine (RFC 4271 section 8.2.2).
type SessionState string

// The states of the finite state machine.
const (
	Idle        SessionState = "Idle"
	Connect     SessionState = "Connect"
	Active      SessionState = "Active"
	OpenSent    SessionState = "OpenSent"
	OpenConfirm SessionState = "OpenConfirm"
	Established SessionState = "Established"
)

// Phase is what a speaker process is doing.
type Phase string

// The phases of a speaker process.
const (
	Starting Phase = "starting" // started, has not yet answered
	Running  Phase = "running"  // answers and follows the desired state
	Backoff  Phase = "backoff"  // died too often; waits before the next start
	Stopped  Phase = "stopped"  // ended on our order
)

// State is an immutable picture of all speakers. Its one writer is Manager.
type State struct {
	Speakers []SpeakerState
}

// Speaker returns the state of the named speaker, or false.
func (s *State) Speaker(name string) (SpeakerState, bool) {
	if s != nil {
		for i := range s.Speakers {
			if s.Speakers[i].Name == name {
				return s.Speakers[i], true
			}
		}
	}
	return SpeakerState{}, false
}

// SpeakerState is what one speaker process is and holds.
type SpeakerState struct {
	Name     string
	Phase    Phase
	PID      int
	Since    time.Time // start of this phase
	Restarts int       // unplanned ends since the daemon started
	LastExit string    // why the last process ended, empty if none did
	Peers    []PeerState
	// Announced are the prefixes in the speaker's RIB, as it listed them. They
	// are on the wire to each established peer that negotiated their family.
	Announced []netip.Prefix
	// Seen are the paths that peers send for SpeakerConfig.Watch, looked for once a
	// second: at most one of each prefix from each peer.
	Seen []SeenPath
	// Received are the paths of SpeakerConfig.Import that peers sent, in the order
	// of prefix and peer: at most one of each prefix from each peer. A session that
	// is lost takes its paths along.
	Received []ReceivedPath
	// Error is why the last desired state could not be applied whole.
	Error string
}

// PeerState is what one session is.
type PeerState struct {
	Address      netip.Addr
	LocalAddress netip.Addr
	ASN          uint32
	State        SessionState
	Since        time.Time // when State was entered
	Transitions  uint64    // times the session was established or lost
	// LastError says why the session last ended or did not come up: the
	// NOTIFICATION in words with the peer's shutdown text (RFC 9003), or the
	// socket's error. Empty if nothing went wrong.
	LastError   string
	LastErrorAt time.Time
	// PeerEnded tells that the peer has ended the last session with a NOTIFICATION: it
	// has no path of it any more (RFC 4271 section 6), unless graceful restart keeps
	// them. False while a session is established.
	PeerEnded bool
	// IPv4 and IPv6 tell which unicast families the session negotiated.
	IPv4, IPv6 bool
	// AddPath tells that the peer takes several paths of a prefix,
	// ExtendedNextHop that it takes IPv4 with an IPv6 next hop (RFC 8950),
	// GracefulRestart and LongLived that it keeps routes while we restart.
	AddPath, ExtendedNextHop, GracefulRestart, LongLived bool
	// RouterID is the peer's BGP identifier, HoldTime the negotiated one; zero
	// while the session is not established.
	RouterID netip.Addr
	HoldTime time.Duration
	// Received is how many prefixes the peer sent, also those that were refused.
	Received uint64
}

// StopMode tells how a speaker ends.
type StopMode string

// The ways to end.
const (
	// StopDrain withdraws all paths and sends Cease/Administrative Shutdown
	// with a text (RFC 9003).
	StopDrain StopMode = "drain"
	// StopRestart leaves without a word, so that peers keep the routes by
	// graceful restart (RFC 4724).
	StopRestart StopMode = "restart"
)
