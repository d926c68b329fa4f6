// Package status is the immutable picture of the last pass and its renderings:
// JSON, tables for the terminal, Prometheus metrics and the HTTP endpoints.
// Nothing in it calls GoBGP or the kernel.
package status

import (
	"net/netip"
	"time"
)

// Reason is the one word that says why a VIP is withheld or an interface is
// not usable.
type Reason string

// The reason words of a withheld VIP (VIP.Reason, VIPInterface.Reason).
const (
	CheckFailed       Reason = "check_failed"
	CheckUnknown      Reason = "check_unknown"
	CheckStale        Reason = "check_stale"
	Damped            Reason = "damped" // of an interface too
	NotBound          Reason = "not_bound"
	NoUsableInterface Reason = "no_usable_interface"
	NoSession         Reason = "no_session"
	Drained           Reason = "drained"
	Standby           Reason = "standby"
	NotOwner          Reason = "not_owner"
	Shutdown          Reason = "shutdown"
	// Duplicate is the reason of a gate only: the VIP stays announced.
	Duplicate Reason = "duplicate"
)

// The reason words of an interface that is not usable (Interface.Reason).
const (
	InterfaceAbsent  Reason = "absent"     // no such link
	InterfaceDown    Reason = "down"       // administratively down
	InterfaceCarrier Reason = "no_carrier" // up, but frames cannot pass
	InterfaceAddress Reason = "no_address" // no usable address for its peers
	InterfaceHoldUp  Reason = "hold_up"    // healthy again, not yet for hold_up
	// The link is well, but no gateway on it answers, or nothing does beyond.
	InterfaceAttachment Reason = "attachment"
	InterfacePath       Reason = "path"
)

// Failure is a probe or a BFD session that found something dead.
type Failure struct {
	// Layer is attachment, path or bfd, Target what does not answer.
	Layer  string `json:"layer"`
	Target string `json:"target"`
	// Since is when it answered last, the start of the probe if it never did.
	Since time.Time `json:"since,omitzero"`
	// Failed of Of probes have failed in a row; both are 0 for BFD.
	Failed int `json:"failed,omitempty"`
	Of     int `json:"of,omitempty"`
	// Reason is what was wrong in words, may be empty.
	Reason string `json:"reason,omitempty"`
}

// Penalty is the flap damping of a VIP or an interface (RFC 2439 section 4.2).
type Penalty struct {
	// Value is the penalty at the time of the picture; a flap costs 1000.
	Value int    `json:"value"`
	Flaps uint64 `json:"flaps"`
	// Suppressed tells that it is not used for its flaps, Until when it will be.
	Suppressed bool      `json:"suppressed"`
	Until      time.Time `json:"until,omitzero"`
}

// Status is the picture of the last pass. It is never changed once published.
type Status struct {
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	// Time is when the pass ended that this is the picture of.
	Time     time.Time  `json:"time"`
	ASN      uint32     `json:"asn"`
	RouterID netip.Addr `json:"router_id"`
	// Stopping is set from the order to stop on.
	Stopping   bool        `json:"stopping"`
	Config     Config      `json:"config"`
	VIPs       []VIP       `json:"vips"`
	Interfaces []Interface `json:"interfaces"`
	Peers      []Peer      `json:"peers"`
	// TopLevel is the process of the peers that belong to no interface; nil if
	// none are configured.
	TopLevel *Speaker `json:"top_level,omitempty"`
	// Egress is nil if no routes are taken from peers.
	Egress *Egress `json:"egress,omitempty"`
	Kernel Kernel  `json:"kernel"`
	Passes Passes  `json:"passes"`
}

// Config tells about the configuration file and its last reload.
type Config struct {
	Path     string    `json:"path"`
	LoadedAt time.Time `json:"loaded_at,omitzero"`
	// ReloadOK is false when the last reload was refused; the state before it
	// is then still in force and Error says why.
	ReloadOK     bool      `json:"reload_ok"`
	ReloadedAt   time.Time `json:"reloaded_at,omitzero"` // last attempt
	Error        string    `json:"error,omitempty"`
	ReloadsOK    uint64    `json:"reloads_ok"`
	ReloadsError uint64    `json:"reloads_error"`
}

// VIP is one virtual address.
type VIP struct {
	Name   string       `json:"name"`
	Prefix netip.Prefix `json:"prefix"`
	// Bound tells that the kernel holds it, Wanted that it should be announced
	// somewhere, Announced that at least one established session carries it.
	Bound     bool `json:"bound"`
	Wanted    bool `json:"wanted"`
	Announced bool `json:"announced"`
	// Reason and Detail say why it is not announced; empty when it is.
	Reason Reason `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Degraded tells that its checks fail and that it is announced, or would be,
	// with the attributes for that.
	Degraded bool    `json:"degraded"`
	Penalty  Penalty `json:"penalty"`
	// Drain is nil for a VIP that nobody has taken out of use.
	Drain *Drain `json:"drain,omitempty"`
	// Parted is nil but for one that this host has handed over and of which it still
	// serves connections; Drain tells that of one that is drained.
	Parted *Drain `json:"parted,omitempty"`
	// PreferredSource tells that the configuration wants it as source of all
	// traffic, SourceRules of which parts, SourceAlways that it need not be
	// announced for that, and Source on which interfaces it is in effect.
	PreferredSource bool           `json:"preferred_source"`
	SourceAlways    bool           `json:"source_always,omitempty"`
	SourceRules     []SourceRule   `json:"source_rules,omitempty"`
	Source          []string       `json:"source"`
	Interfaces      []VIPInterface `json:"interfaces"`
	Checks          []Check        `json:"checks"`
	// Role is nil for a VIP that any host may announce.
	Role *Role `json:"role,omitempty"`
	// ChecksMode is all or any: how many of Checks must pass; empty is all.
	ChecksMode string `json:"checks_mode,omitempty"`
}

// TopLevel stands for an interface where there is none: for the sessions with
// peers that belong to no interface. No interface has this name, because the
// kernel takes none with a blank.
const TopLevel = "top-level peers"

// VIPInterface is a VIP on one of its interfaces, or on TopLevel.
type VIPInterface struct {
	Interface string `json:"interface"`
	// Wanted tells that it should be announced here, Announced that it is in
	// the speaker's RIB and at least one session here carries it.
	Wanted    bool   `json:"wanted"`
	Announced bool   `json:"announced"`
	Reason    Reason `json:"reason,omitempty"`
	Detail    string `json:"detail,omitempty"`
	// NextHop is the announced next hop; invalid when it is each session's own.
	NextHop netip.Addr `json:"next_hop,omitzero"`
	// Peers are the addresses of the peers that have it.
	Peers []netip.Addr `json:"peers"`
	// Paths are those of TopLevel, the best one first. A peer without ADD-PATH
	// (RFC 7911) has that one only.
	Paths []Path `json:"paths,omitempty"`
}

// Path is a path of a VIP by one interface.
type Path struct {
	Interface string     `json:"interface"`
	ID        uint32     `json:"id"`
	NextHop   netip.Addr `json:"next_hop"`
}

// Check is one service check of a VIP.
type Check struct {
	Name     string        `json:"name"`
	Kind     string        `json:"kind"`
	Verdict  string        `json:"verdict"` // unknown, healthy, unhealthy, stale
	Reason   string        `json:"reason,omitempty"`
	Since    time.Time     `json:"since,omitzero"`
	Checked  time.Time     `json:"checked,omitzero"`
	Duration time.Duration `json:"duration_ns"`
}

// Interface is a listed interface with its speaker process.
type Interface struct {
	Name   string    `json:"name"`
	Index  int       `json:"index"`
	Usable bool      `json:"usable"`
	Reason Reason    `json:"reason,omitempty"`
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since,omitzero"` // when Usable last changed
	// Addresses are the interface's own usable addresses.
	Addresses []netip.Prefix `json:"addresses"`
	Speaker   Speaker        `json:"speaker"`
	// Failures are the probes that fail, also those that the interface outlives
	// because another one passes.
	Failures []Failure `json:"failures"`
	Probes   []Probe   `json:"probes"`
	Penalty  Penalty   `json:"penalty"`
}

// Probe is one gateway or path probe of an interface.
type Probe struct {
	Layer    string        `json:"layer"` // attachment or path
	Target   string        `json:"target"`
	Verdict  string        `json:"verdict"` // unknown, healthy, unhealthy, stale
	Reason   string        `json:"reason,omitempty"`
	Since    time.Time     `json:"since,omitzero"`
	Checked  time.Time     `json:"checked,omitzero"`
	Passed   time.Time     `json:"passed,omitzero"` // the last time that it was answered
	Duration time.Duration `json:"duration_ns"`
}

// Speaker is the process that serves an interface, or TopLevel.
type Speaker struct {
	Phase    string    `json:"phase"`
	PID      int       `json:"pid"`
	Since    time.Time `json:"since,omitzero"`
	Restarts int       `json:"restarts"`
	LastExit string    `json:"last_exit,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// Peer is one configured session.
type Peer struct {
	// Address is empty while a peer that is found by itself has not been.
	Address netip.Addr `json:"address"`
	// Found is how the address is found: gateway or unnumbered; empty for a
	// configured one.
	Found        string     `json:"found,omitempty"`
	Interface    string     `json:"interface"` // or TopLevel
	ASN          uint32     `json:"asn"`       // 0 for an external peer before its first session
	LocalAddress netip.Addr `json:"local_address,omitzero"`
	State        string     `json:"state"` // RFC 4271 section 8.2.2, or "Down" when it is not to run
	Since        time.Time  `json:"since,omitzero"`
	Transitions  uint64     `json:"transitions"`
	Announced    int        `json:"announced"` // prefixes that the peer has from us
	Received     uint64     `json:"received"`
	LastError    string     `json:"last_error,omitempty"`
	LastErrorAt  time.Time  `json:"last_error_at,omitzero"`
	BFD          *BFD       `json:"bfd,omitempty"` // nil if not configured

	// Negotiated is nil unless the session is established.
	Negotiated *Negotiated `json:"negotiated,omitempty"`
}

// Negotiated is what the two ends of an established session agreed on.
type Negotiated struct {
	// Families are the unicast address families: ipv4, ipv6.
	Families []string `json:"families"`
	// RouterID is the peer's BGP identifier.
	RouterID netip.Addr    `json:"router_id"`
	HoldTime time.Duration `json:"hold_time_ns"`
	// AddPath tells that the peer takes several paths of a prefix (RFC 7911),
	// ExtendedNextHop that it takes IPv4 with an IPv6 next hop (RFC 8950),
	// GracefulRestart and LongLived that it keeps our routes while we restart
	// (RFC 4724, RFC 9494).
	AddPath         bool `json:"add_path"`
	ExtendedNextHop bool `json:"extended_next_hop"`
	GracefulRestart bool `json:"graceful_restart"`
	LongLived       bool `json:"long_lived"`
}

// Name is the peer's address, or how it is found while that is not known.
func (p *Peer) Name() string {
	if p.Address.IsValid() {
		return p.Address.String()
	}
	return p.Found
}

// BFD is the BFD session with a peer (RFC 5880).
type BFD struct {
	State            string        `json:"state"` // AdminDown, Down, Init, Up
	Since            time.Time     `json:"since,omitzero"`
	Diagnostic       string        `json:"diagnostic,omitempty"`
	RemoteState      string        `json:"remote_state,omitempty"`
	RemoteDiagnostic string        `json:"remote_diagnostic,omitempty"`
	Downs            uint64        `json:"downs"`
	TxInterval       time.Duration `json:"tx_interval_ns"`
	DetectionTime    time.Duration `json:"detection_time_ns"`
	Sent             uint64        `json:"sent"`
	Received         uint64        `json:"received"`
	Dropped          uint64        `json:"dropped"`
	LastDrop         string        `json:"last_drop,omitempty"`
	// Rotating tells that the session still has its former authentication, because
	// the router has.
	Rotating bool   `json:"rotating,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Kernel tells what the kernel holds of ours.
type Kernel struct {
	Device     string `json:"device"`
	DeviceKind string `json:"device_kind"`
	// Repaired counts drift that was repaired since the start, by object.
	Repaired map[string]uint64 `json:"repaired"`
	// Resyncs counts full re-reads of the kernel by cause.
	Resyncs map[string]uint64 `json:"resyncs"`
	// Problems are conditions that break a promise, in words.
	Problems []string `json:"problems"`
}

// Passes counts the turns of the control loop.
type Passes struct {
	OK       uint64        `json:"ok"`
	Error    uint64        `json:"error"`
	Duration time.Duration `json:"duration_ns"` // of the last one
	// LastError is why the last pass was not whole; empty after a good one.
	LastError string `json:"last_error,omitempty"`
}
