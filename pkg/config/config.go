// Package config turns a configuration file into an immutable, validated
// Config, or says everything that is wrong with it.
//
// It is the only user of viper, and uses it to choose the decoder for a format.
// viper's key store lower-cases keys, splits them at dots and converts types
// weakly, so the file's own tree is checked and decoded here instead.
//
// The package reads the file and the secrets it names. It never looks at the
// state of the host.
package config

import (
	"net/netip"
	"net/url"
	"time"
)

// Config is a valid configuration with all defaults filled in. Nobody changes
// it after Load or Parse.
type Config struct {
	BGP              BGP
	VirtualInterface VirtualInterface
	// Interfaces is the interface list, at least one, in the order of the file.
	Interfaces []Interface
	// VIPs are in the order of the file; no two overlap.
	VIPs     []VIP
	Egress   Egress
	Host     Host
	HTTP     HTTP
	Control  Control
	Shutdown Shutdown
	Log      Log
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
	// Peers has at least one entry.
	Peers []Peer
}

// Peer is one router on the interface's network.
type Peer struct {
	// Address is a unicast address without a zone, unique on its interface.
	Address netip.Addr
	// ASN is the peer's number; BGP.ASN for a peer that is internal.
	ASN uint32
	// Port is 1 to 65535.
	Port uint16
	// Password is the TCP MD5 key (RFC 2385) out of the password file, at most
	// 80 bytes; empty for none.
	Password Secret
	// TTLSecurity demands TTL 255 from the peer (RFC 5082).
	TTLSecurity bool
	Timers      Timers
	// MaxPrefixes is how many prefixes of one family the peer may send, at
	// least 1.
	MaxPrefixes uint32
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
	PreferredSource bool
	Announce        Announce
	// Checks must all pass for the VIP to be announced; none means always.
	Checks []Check
}

// Announce holds the path attributes of a VIP.
type Announce struct {
	// Communities are RFC 1997 values, LargeCommunities RFC 8092; no doubles.
	Communities      []uint32
	LargeCommunities []LargeCommunity
	// MED and LocalPref are nil for none. LocalPref reaches internal peers only.
	MED, LocalPref *uint32
	// Prepend is how often the own AS is added in front, 0 to 10.
	Prepend int
}

// LargeCommunity is one RFC 8092 value.
type LargeCommunity struct {
	Global, Local1, Local2 uint32
}

// Check is one service check of a VIP. Exactly one of HTTP, TCP and Exec is set.
type Check struct {
	// Name is unique in its VIP; the kind if the file gives none.
	Name string
	// Kind is http, tcp or exec.
	Kind string
	HTTP *HTTPCheck
	TCP  *TCPCheck
	Exec *ExecCheck
	// Interval is 50 ms to 1 h between starts of two runs; Timeout is 10 ms to
	// Interval.
	Interval, Timeout time.Duration
	// Rise and Fall are how many results in a row change the verdict, 1 to 100.
	Rise, Fall int
}

// HTTPCheck asks for a URL.
type HTTPCheck struct {
	// URL is http or https; its host is an IP address, so that a check is always
	// about one family.
	URL     *url.URL
	Method  string
	Headers []Header
	// ExpectStatus holds the good status codes, never empty.
	ExpectStatus []StatusRange
	// ExpectBody is a text that the body must hold; empty for any body.
	ExpectBody string
	// Insecure switches the check of the server's certificate off.
	Insecure bool
	// CAFile is a PEM file of roots to trust instead of the host's; may be empty.
	CAFile string
}

// Header is one request header. The value may be a token, so it is a Secret.
type Header struct {
	Name  string
	Value Secret
}

// StatusRange is a range of status codes, both ends included, within 100 to 599.
type StatusRange struct {
	Min, Max int
}

// TCPCheck connects and closes.
type TCPCheck struct {
	Address netip.AddrPort
}

// ExecCheck runs a program; exit code 0 is a pass.
type ExecCheck struct {
	// Command is the absolute path of the program and its arguments. There is
	// no shell in between.
	Command []string
	// Env are NAME=value entries for the program's environment; a value may be a
	// token, so they are Secrets.
	Env []Secret
}

// Egress holds what concerns outgoing traffic.
type Egress struct {
	// Exclude are masked destinations that never get a VIP as source.
	Exclude []netip.Prefix
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
}

// Log says what is logged.
type Log struct {
	// Level is debug, info, warn or error; Format is text or json.
	Level, Format string
}
