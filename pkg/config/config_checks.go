package config

import (
	"net/netip"
	"net/url"
	"time"
)

// Check is one service check of a VIP. Exactly one of HTTP, TCP, Exec, DNS, GRPC,
// ICMP and Listen is set.
type Check struct {
	// Name is unique in its VIP; the kind if the file gives none.
	Name string
	// Kind is http, tcp, exec, dns, grpc, icmp or listen.
	Kind   string
	HTTP   *HTTPCheck
	TCP    *TCPCheck
	Exec   *ExecCheck
	DNS    *DNSCheck
	GRPC   *GRPCCheck
	ICMP   *ICMPCheck
	Listen *ListenCheck
	// Source is the address that the check's packets are sent from; zero for the
	// kernel's choice. It has the family of the target.
	Source netip.Addr
	// Interval is 50 ms to 1 h between starts of two runs; Timeout is 10 ms to
	// Interval. FastInterval is 10 ms to Interval, for the time in which results
	// disagree with the verdict.
	Interval, FastInterval, Timeout time.Duration
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
	// ServerName is the name that the certificate must have and that is sent
	// with SNI; empty for the URL's address.
	ServerName string
	// Hold keeps one connection open and asks on it, so that its end is seen at once.
	Hold bool
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

// TCPCheck connects and closes, or holds the connection.
type TCPCheck struct {
	Address netip.AddrPort
	// Hold keeps one connection open, so that its end is seen at once.
	Hold bool
}

// DNSCheck asks a name server.
type DNSCheck struct {
	// Server is the name server, with port 53 if the file gives none.
	Server netip.AddrPort
	// Query is a fully qualified name, Type a record type such as A or SOA.
	Query, Type string
	// Transport is udp or tcp.
	Transport string
	// ExpectRcode is the good response code in capitals, such as NOERROR.
	ExpectRcode string
	// Expect are the data, as in a zone file, of records of Type that must all be in
	// the answer; empty for any record, and with another code than NOERROR.
	Expect []string
}

// GRPCCheck asks for the health of a service (grpc.health.v1).
type GRPCCheck struct {
	Address netip.AddrPort
	// Service may be empty: the whole server.
	Service string
	// Hold keeps one connection open, so that its end and what the server says of
	// its health are seen at once.
	Hold bool
	// TLS speaks TLS; the keys after it are used only then, as in HTTPCheck.
	TLS, Insecure      bool
	CAFile, ServerName string
}

// ICMPCheck sends an echo request.
type ICMPCheck struct {
	Address netip.Addr
}

// ListenCheck asks the kernel whether a socket listens.
type ListenCheck struct {
	// Port is 1 to 65535.
	Port uint16
	// Protocol is tcp or udp.
	Protocol string
	// Address is what the socket must be bound to, if not to the wildcard; the
	// VIP's if the file gives none.
	Address netip.Addr
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
