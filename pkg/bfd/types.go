// Package bfd runs Bidirectional Forwarding Detection sessions: asynchronous
// mode after RFC 5880, over one hop (RFC 5881) or several (RFC 5883), with the
// rules of RFC 5882 for the protocols above it.
//
// It tells what each session is and when that changed. What a session that is
// down means for BGP or for traffic is its caller's to decide.
package bfd

import (
	"log/slog"
	"net/netip"
	"time"
)

// SessionConfig is one wanted session. Two sessions never have the same Peer,
// Local, Interface and Multihop.
type SessionConfig struct {
	// Peer is the other end, Local the own address that packets are sent from.
	Peer, Local netip.Addr
	// Interface is the kernel's name of the interface that packets are sent and
	// taken on; empty only with Multihop.
	Interface string
	// Multihop is RFC 5883: port 4784, and packets are taken whose TTL is at
	// least MinTTL. Without it RFC 5881 holds: port 3784 and TTL 255 only.
	Multihop bool
	// MinTTL is 1 to 255, used with Multihop only; 0 means 254.
	MinTTL uint8
	// MinTx and MinRx are bfd.DesiredMinTxInterval while the session is up and
	// bfd.RequiredMinRxInterval (RFC 5880 section 6.8.1), 10 ms to 60 s.
	MinTx, MinRx time.Duration
	// Multiplier is bfd.DetectMult, 1 to 255.
	Multiplier uint8
	// Passive waits for the other end's first packet (RFC 5880 section 6.1).
	Passive bool
	// Auth is nil for none.
	Auth *Auth
}

// AuthType is an authentication type (RFC 5880 section 4.1).
type AuthType string

// The authentication types.
const (
	SimplePassword      AuthType = "simple"
	KeyedMD5            AuthType = "keyed_md5"
	MeticulousKeyedMD5  AuthType = "meticulous_keyed_md5"
	KeyedSHA1           AuthType = "keyed_sha1"
	MeticulousKeyedSHA1 AuthType = "meticulous_keyed_sha1"
)

// Auth is the authentication of a session (RFC 5880 section 6.7).
type Auth struct {
	Type  AuthType
	KeyID uint8
	// Key is 1 to 16 bytes for MD5 and the simple password, 1 to 20 for SHA1.
	Key Secret
}

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

// SessionStatus is a state of the BFD state machine (RFC 5880 section 6.2).
type SessionStatus string

// The states of the state machine.
const (
	AdminDown SessionStatus = "AdminDown"
	Down      SessionStatus = "Down"
	Init      SessionStatus = "Init"
	Up        SessionStatus = "Up"
)

// State is an immutable picture of all wanted sessions, in the order of the last
// Set. Its one writer is Manager.
type State struct {
	Sessions []SessionState
}

// Session returns the state of the session with that peer from that local
// address on that interface, or false.
func (s *State) Session(peer, local netip.Addr, iface string) (SessionState, bool) {
	if s != nil {
		for i := range s.Sessions {
			if c := &s.Sessions[i]; c.Peer == peer && c.Local == local && c.Interface == iface {
				return s.Sessions[i], true
			}
		}
	}
	return SessionState{}, false
}

// SessionState is what one session is.
type SessionState struct {
	Peer, Local netip.Addr
	Interface   string
	Multihop    bool
	// Status is bfd.SessionState, Since when it was entered.
	Status SessionStatus
	Since  time.Time
	// Diagnostic is bfd.LocalDiag in words of RFC 5880 section 4.1, such as
	// "control detection time expired"; empty for no diagnostic.
	Diagnostic string
	// RemoteStatus and RemoteDiagnostic are what the other end said last; empty
	// if it has said nothing. AdminDown there means that it does not want the
	// session, which is no failure of the path (RFC 5882 section 3.2).
	RemoteStatus     SessionStatus
	RemoteDiagnostic string
	// WasUp tells that the session was Up before, DownSince when it last left
	// Up; zero if it never did.
	WasUp     bool
	DownSince time.Time
	// Downs is how often the session left Up other than on our order or on the
	// other end's AdminDown.
	Downs uint64
	// TxInterval is the time between packets that we send, before jitter;
	// DetectionTime that after which the session goes down without one of the
	// other end's, zero until it has sent one.
	TxInterval, DetectionTime time.Duration
	// Sent and Received count packets, Dropped those that were for this session
	// and not taken. LastDrop says why the last one was not. Packets that were
	// forwarded (TTL below 255) are not among them without Multihop: the kernel
	// drops them before they are seen.
	Sent, Received, Dropped uint64
	LastDrop                string
	// Rotating tells that another authentication is wanted, and that the session
	// still uses the one before, because the other end does.
	Rotating bool
	// Error is why the session cannot run, such as a socket that cannot be
	// opened; empty if it can.
	Error string
}
