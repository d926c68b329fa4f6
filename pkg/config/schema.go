package config

import (
	"net/netip"
	"net/url"
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
//	later     the value that changes nothing; any other is not supported yet
//	single    a lone value is a list of one
//	secret    the value is not shown in messages
//	hint      what to say when the value is not even of the right type
//
// A pointer is nil without the key.
type rawConfig struct {
	BGP              rawBGP         `key:"bgp"`
	VirtualInterface rawDevice      `key:"virtual_interface"`
	Interfaces       []rawInterface `key:"interfaces" required:"true"`
	Peers            later          `key:"peers" later:"[]"`
	VIPs             []rawVIP       `key:"vips"`
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
	Defaults        later       `key:"defaults"`
}

type rawTimers struct {
	HoldTime     *time.Duration `key:"hold_time" range:"3s..65535s" whole:"true"`
	Keepalive    *time.Duration `key:"keepalive" range:"1s..21845s" whole:"true"`
	ConnectRetry *time.Duration `key:"connect_retry" range:"1s..65535s" whole:"true"`
}

type rawGraceful struct {
	Enabled     bool          `key:"enabled" default:"true"`
	RestartTime time.Duration `key:"restart_time" default:"30s" range:"1s..4095s" whole:"true"`
}

type rawDevice struct {
	Name string `key:"name" default:"vi0"`
	Kind string `key:"kind" default:"auto" oneof:"auto dummy bridge existing"`
}

type rawInterface struct {
	Name         string        `key:"name" required:"true"`
	HoldUp       time.Duration `key:"hold_up" default:"2s" range:"0s..1h"`
	Gateway      []netip.Addr  `key:"gateway" single:"true"`
	Peers        []rawPeer     `key:"peers" required:"true"`
	GatewayProbe later         `key:"gateway_probe"`
	PathProbe    later         `key:"path_probe"`
}

type rawPeer struct {
	Address      peerAddress `key:"address" required:"true"`
	ASN          peerASN     `key:"asn" required:"true"`
	Port         int         `key:"port" default:"179" range:"1..65535"`
	PasswordFile *string     `key:"password_file"`
	TTLSecurity  bool        `key:"ttl_security" default:"false"`
	Timers       rawTimers   `key:"timers"`
	BFD          later       `key:"bfd"`
	Unnumbered   later       `key:"unnumbered" later:"false"`
	Passive      later       `key:"passive" later:"false"`
}

type rawVIP struct {
	Name            *string      `key:"name"`
	Address         netip.Prefix `key:"address" required:"true"`
	Interfaces      *[]string    `key:"interfaces"`
	PreferredSource bool         `key:"preferred_source" default:"false"`
	Announce        rawAnnounce  `key:"announce"`
	Checks          []rawCheck   `key:"checks"`
	Drain           later        `key:"drain"`
}

type rawAnnounce struct {
	Communities      []community      `key:"communities"`
	LargeCommunities []LargeCommunity `key:"large_communities"`
	MED              *uint32          `key:"med" range:"0..4294967295"`
	LocalPref        *uint32          `key:"local_pref" range:"0..4294967295"`
	Prepend          int              `key:"prepend" default:"0" range:"0..10"`
}

type rawCheck struct {
	Name     *string        `key:"name"`
	HTTP     *rawHTTPCheck  `key:"http"`
	TCP      *rawTCPCheck   `key:"tcp"`
	Exec     *rawExecCheck  `key:"exec"`
	DNS      later          `key:"dns"`
	GRPC     later          `key:"grpc"`
	ICMP     later          `key:"icmp"`
	Listen   later          `key:"listen"`
	Interval time.Duration  `key:"interval" default:"1s" range:"50ms..1h"`
	Timeout  *time.Duration `key:"timeout" range:"10ms..1h"`
	Rise     int            `key:"rise" default:"2" range:"1..100"`
	Fall     int            `key:"fall" default:"2" range:"1..100"`
}

type rawHTTPCheck struct {
	URL          *url.URL      `key:"url" required:"true"`
	Method       string        `key:"method" default:"GET"`
	Headers      []rawHeader   `key:"headers" secret:"true"`
	ExpectStatus []StatusRange `key:"expect_status" single:"true"`
	ExpectBody   string        `key:"expect_body" default:""`
	Insecure     bool          `key:"insecure" default:"false"`
	CAFile       *string       `key:"ca_file"`
}

type rawHeader struct {
	Name  string `key:"name" required:"true"`
	Value Secret `key:"value" required:"true" secret:"true"`
}

type rawTCPCheck struct {
	Address netip.AddrPort `key:"address" required:"true"`
}

type rawExecCheck struct {
	Command []string `key:"command" required:"true" hint:"there is no shell: write a list such as [\"/usr/bin/dig\", \"+short\", \"example.org\"]"`
	Env     []Secret `key:"env" secret:"true" hint:"write a list such as [\"LANG=C\"]"`
}

type rawEgress struct {
	Exclude     []netip.Prefix `key:"exclude"`
	MaxPrefixes uint32         `key:"max_prefixes" default:"1000" range:"1..4294967295"`
	Import      later          `key:"import" later:"[]"`
	Install     later          `key:"install" later:"source"`
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
	Mode string        `key:"mode" default:"drain" oneof:"drain restart"`
	Time time.Duration `key:"time" default:"10s" range:"1s..10m"`
	Wait time.Duration `key:"wait" default:"2s" range:"0s..10m"`
}

type rawLog struct {
	Level  string `key:"level" default:"info" oneof:"debug info warn error"`
	Format string `key:"format" default:"text" oneof:"text json"`
}
