package config

import (
	"net/netip"
	"net/url"
	"time"
)

// The part of the schema that is about checks; schema.go explains the tags.
type rawCheck struct {
	Name         *string         `key:"name"`
	HTTP         *rawHTTPCheck   `key:"http" hint:"write {url: \"http://192.0.2.1/\"}"`
	TCP          *rawTCPCheck    `key:"tcp" hint:"write {address: \"192.0.2.1:80\"}"`
	Exec         *rawExecCheck   `key:"exec" hint:"write {command: [/usr/bin/program, argument]}"`
	DNS          *rawDNSCheck    `key:"dns" hint:"write {server: 192.0.2.53, query: example.org}"`
	GRPC         *rawGRPCCheck   `key:"grpc" hint:"write {address: \"192.0.2.1:50051\"}"`
	ICMP         *rawICMPCheck   `key:"icmp" hint:"write {address: 192.0.2.1}"`
	Listen       *rawListenCheck `key:"listen" hint:"write {port: 80}"`
	Source       *checkSource    `key:"source"`
	Interval     time.Duration   `key:"interval" default:"1s" range:"50ms..1h"`
	FastInterval *time.Duration  `key:"fast_interval" range:"10ms..1h"`
	Timeout      *time.Duration  `key:"timeout" range:"10ms..1h"`
	Rise         *int            `key:"rise" range:"1..100"`
	Fall         *int            `key:"fall" range:"1..100"`
}

type rawHTTPCheck struct {
	URL          *url.URL      `key:"url" required:"true"`
	Method       string        `key:"method" default:"GET"`
	Headers      []rawHeader   `key:"headers" secret:"true"`
	ExpectStatus []StatusRange `key:"expect_status" single:"true"`
	ExpectBody   string        `key:"expect_body" default:""`
	Insecure     bool          `key:"insecure" default:"false"`
	CAFile       *string       `key:"ca_file"`
	ServerName   *string       `key:"server_name"`
	Hold         bool          `key:"hold" default:"false"`
}

type rawHeader struct {
	Name  string `key:"name" required:"true"`
	Value Secret `key:"value" required:"true" secret:"true"`
}

type rawTCPCheck struct {
	Address netip.AddrPort `key:"address" required:"true"`
	Hold    bool           `key:"hold" default:"false"`
}

type rawExecCheck struct {
	Command []string `key:"command" required:"true" hint:"there is no shell: write a list such as [\"/usr/bin/dig\", \"+short\", \"example.org\"]"`
	Env     []Secret `key:"env" secret:"true" hint:"write a list such as [\"LANG=C\"]"`
}

type rawDNSCheck struct {
	Server      nameServer `key:"server" required:"true"`
	Query       domainName `key:"query" required:"true"`
	Type        recordType `key:"type" default:"A"`
	Transport   string     `key:"transport" default:"udp" oneof:"udp tcp"`
	ExpectRcode rcode      `key:"expect_rcode" default:"NOERROR"`
	Expect      []string   `key:"expect" single:"true"`
}

type rawGRPCCheck struct {
	Address    netip.AddrPort `key:"address" required:"true"`
	Service    string         `key:"service" default:""`
	Hold       bool           `key:"hold" default:"false"`
	TLS        bool           `key:"tls" default:"false"`
	Insecure   bool           `key:"insecure" default:"false"`
	CAFile     *string        `key:"ca_file"`
	ServerName *string        `key:"server_name"`
}

type rawICMPCheck struct {
	Address netip.Addr `key:"address" required:"true"`
}

type rawListenCheck struct {
	Port     int         `key:"port" required:"true" range:"1..65535"`
	Protocol string      `key:"protocol" default:"tcp" oneof:"tcp udp"`
	Address  *netip.Addr `key:"address"`
}
