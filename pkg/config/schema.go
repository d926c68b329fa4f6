package config

import (
	"net/netip"
	"time"
)

// The types below are the schema: the decoder reads them by reflection, and the
// reference in docs/configuration.md is tested against them. Tags:
//
//	key       the name in the file
//	default   the value without the key, as written in a file
//	required  the key must be there; a list must not be empty
//	range     lowest..highest value
//	whole     the duration is a whole number of seconds, as on the wire
//	oneof     the words that are allowed
//	single    a lone value is a list of one
//	secret    the value is not shown in messages
//	word      text that may stand for the section, and means that it is absent
//	off       false may stand for the value, and means that it is absent, so that
//	          what bgp.defaults has is not inherited
//	template  nothing is required in this section, and nothing has a default
//	hint      what to say when the value is not even of the right type
//
// A pointer is nil without the key. The fields of an embedded struct are keys of
// the section around it.
type rawConfig struct {
	BGP              rawBGP         `key:"bgp"`
	VirtualInterface rawDevice      `key:"virtual_interface"`
	Interfaces       []rawInterface `key:"interfaces" required:"true"`
	Peers            []rawRemote    `key:"peers"`
	VIPs             []rawVIP       `key:"vips"`
	Ownership        *rawOwnership  `key:"ownership" hint:"for example {etcd: {endpoints: [\"https://192.0.2.1:2379\"]}}"`
	RuntimeVIPs      rawRuntimeVIPs `key:"runtime_vips"`
	Damping          rawDamping     `key:"damping" hint:"write {enabled: false} to switch it off"`
	Egress           rawEgress      `key:"egress"`
	Host             rawHost        `key:"host"`
	HTTP             rawListen      `key:"http"`
	Control          rawControl     `key:"control"`
	Shutdown         rawShutdown    `key:"shutdown"`
	Log              rawLog         `key:"log"`
}

type rawBGP struct {
	ASN             asn         `key:"asn" required:"true"`
	RouterID        *netip.Addr `key:"router_id"`
	ListenPort      int         `key:"listen_port" default:"179" range:"0..65535"`
	Timers          rawTimers   `key:"timers"`
	GracefulRestart rawGraceful `key:"graceful_restart"`
	Defaults        rawSession  `key:"defaults" template:"true" hint:"write the keys of a peer that all peers share"`
}

type rawTimers struct {
	HoldTime     *time.Duration `key:"hold_time" range:"3s..65535s" whole:"true"`
	Keepalive    *time.Duration `key:"keepalive" range:"1s..21845s" whole:"true"`
	ConnectRetry *time.Duration `key:"connect_retry" range:"1s..65535s" whole:"true"`
}

type rawGraceful struct {
	Enabled     bool          `key:"enabled" default:"true"`
	RestartTime time.Duration `key:"restart_time" default:"30s" range:"1s..4095s" whole:"true"`
	LongLived   time.Duration `key:"long_lived" default:"0s" range:"0s..16777215s" whole:"true"`
}

type rawDevice struct {
	Name string `key:"name" default:"vi0"`
	Kind string `key:"kind" default:"auto" oneof:"auto dummy bridge existing"`
}

type rawInterface struct {
	Name         string          `key:"name" required:"true"`
	HoldUp       time.Duration   `key:"hold_up" default:"2s" range:"0s..1h"`
	Gateway      []netip.Addr    `key:"gateway" single:"true"`
	Weight       *int            `key:"weight" range:"1..256"`
	Peers        []rawPeer       `key:"peers"`
	GatewayProbe rawGatewayProbe `key:"gateway_probe" hint:"write {enabled: false} to switch it off"`
	PathProbe    *rawPathProbe   `key:"path_probe" hint:"write {target: ADDRESS}"`
	Damping      rawOwnDamping   `key:"damping" hint:"write {enabled: false} to switch it off"`
}

type rawGatewayProbe struct {
	Enabled  bool          `key:"enabled" default:"true"`
	Interval time.Duration `key:"interval" default:"500ms" range:"100ms..1m"`
	Failures int           `key:"failures" default:"3" range:"1..100"`
}

type rawPathProbe struct {
	Target   netip.Addr     `key:"target" required:"true"`
	Interval time.Duration  `key:"interval" default:"1s" range:"100ms..1m"`
	Timeout  *time.Duration `key:"timeout" range:"10ms..1m"`
	Failures int            `key:"failures" default:"3" range:"1..100"`
}

type rawDamping struct {
	Enabled     bool          `key:"enabled" default:"true"`
	HalfLife    time.Duration `key:"half_life" default:"15s" range:"1s..1h"`
	Suppress    int           `key:"suppress" default:"6000" range:"1001..1000000"`
	Reuse       int           `key:"reuse" default:"2000" range:"1..999999"`
	MaxSuppress time.Duration `key:"max_suppress" default:"1m" range:"1s..24h"`
}

// rawOwnDamping is that of one interface or VIP; what it lacks is rawDamping's.
type rawOwnDamping struct {
	Enabled     *bool          `key:"enabled"`
	HalfLife    *time.Duration `key:"half_life" range:"1s..1h"`
	Suppress    *int           `key:"suppress" range:"1001..1000000"`
	Reuse       *int           `key:"reuse" range:"1..999999"`
	MaxSuppress *time.Duration `key:"max_suppress" range:"1s..24h"`
}

type rawVIP struct {
	Name            *string       `key:"name"`
	Address         netip.Prefix  `key:"address" required:"true"`
	Interfaces      *[]string     `key:"interfaces"`
	PreferredSource bool          `key:"preferred_source" default:"false"`
	Source          rawSource     `key:"source" hint:"for example {when: always}"`
	MTU             uint32        `key:"mtu" range:"68..65535"`
	Announce        rawAnnounce   `key:"announce"`
	Role            *rawRole      `key:"role" hint:"for example {rank: 1}"`
	Exclusive       bool          `key:"exclusive" default:"false"`
	Checks          []rawCheck    `key:"checks"`
	ChecksMode      string        `key:"checks_mode" default:"all" oneof:"all any"`
	OnFailure       *rawOnFailure `key:"on_failure" word:"withdraw" hint:"for example {degrade: {med: 1000}}"`
	Damping         rawOwnDamping `key:"damping" hint:"write {enabled: false} to switch it off"`
	Drain           rawDrain      `key:"drain" hint:"for example {time: 30s}"`
	On              rawHooks      `key:"on" hint:"for example {announced: [/usr/local/bin/notify]}"`
}

type rawOnFailure struct {
	Degrade *rawDegrade `key:"degrade" required:"true" hint:"write {med: 1000} or another attribute"`
}

type rawDegrade struct {
	MED                 *uint32             `key:"med" range:"0..4294967295"`
	LocalPref           *uint32             `key:"local_pref" range:"0..4294967295"`
	Prepend             int                 `key:"prepend" default:"0" range:"0..10"`
	Communities         []community         `key:"communities"`
	LargeCommunities    []LargeCommunity    `key:"large_communities"`
	ExtendedCommunities []ExtendedCommunity `key:"extended_communities"`
	Origin              *string             `key:"origin" oneof:"igp egp incomplete"`
}

type rawAnnounce struct {
	Communities         []community         `key:"communities"`
	LargeCommunities    []LargeCommunity    `key:"large_communities"`
	ExtendedCommunities []ExtendedCommunity `key:"extended_communities"`
	MED                 *uint32             `key:"med" range:"0..4294967295"`
	LocalPref           *uint32             `key:"local_pref" range:"0..4294967295"`
	Prepend             int                 `key:"prepend" default:"0" range:"0..10"`
	Origin              string              `key:"origin" default:"igp" oneof:"igp egp incomplete"`
}

type rawEgress struct {
	Exclude     []netip.Prefix `key:"exclude"`
	MaxPrefixes uint32         `key:"max_prefixes" default:"1000" range:"1..4294967295"`
	Import      []netip.Prefix `key:"import"`
	Install     string         `key:"install" default:"source" oneof:"source main"`
	Metric      uint32         `key:"metric" default:"20" range:"1..4294967295"`
}

type rawHost struct {
	Sysctls string `key:"sysctls" default:"set" oneof:"set check off"`
}

type rawListen struct {
	Listen string `key:"listen" default:"127.0.0.1:9179"`
}

type rawControl struct {
	Socket string `key:"socket" default:"/run/vipspeaker/control.sock"`
}

type rawShutdown struct {
	Mode             string        `key:"mode" default:"drain" oneof:"drain restart"`
	Time             time.Duration `key:"time" default:"10s" range:"1s..10m"`
	Wait             time.Duration `key:"wait" default:"2s" range:"0s..10m"`
	GracefulShutdown time.Duration `key:"graceful_shutdown" default:"0s" range:"0s..10m"`
}

type rawLog struct {
	Level  string `key:"level" default:"info" oneof:"debug info warn error"`
	Format string `key:"format" default:"text" oneof:"text json"`
}
