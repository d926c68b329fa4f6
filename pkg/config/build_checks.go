package config

import (
	"crypto/x509"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// check makes a check of the VIP with that prefix.
func check(raw rawCheck, prefix netip.Prefix, r *report, path string) Check {
	var kinds []string
	has := func(kind string, there bool) bool {
		if there {
			kinds = append(kinds, kind)
		}
		return there
	}
	c := Check{
		Interval: raw.Interval, FastInterval: own(raw.FastInterval, raw.Interval), Timeout: own(raw.Timeout, raw.Interval/2),
	}
	if has("http", raw.HTTP != nil) {
		c.HTTP = httpCheck(raw.HTTP, r, path+".http")
	}
	if has("tcp", raw.TCP != nil) {
		c.TCP = &TCPCheck{Address: raw.TCP.Address, Hold: raw.TCP.Hold}
	}
	if has("exec", raw.Exec != nil) {
		c.Exec = &ExecCheck{Command: raw.Exec.Command, Env: raw.Exec.Env}
	}
	if has("dns", raw.DNS != nil) {
		c.DNS = &DNSCheck{
			Server: raw.DNS.Server.AddrPort, Query: string(raw.DNS.Query), Type: string(raw.DNS.Type),
			Transport: raw.DNS.Transport, ExpectRcode: string(raw.DNS.ExpectRcode), Expect: raw.DNS.Expect,
		}
	}
	if has("grpc", raw.GRPC != nil) {
		g := raw.GRPC
		c.GRPC = &GRPCCheck{
			Address: g.Address, Service: g.Service, Hold: g.Hold, TLS: g.TLS, Insecure: g.Insecure,
			CAFile: caFile(g.CAFile, r, path+".grpc.ca_file"), ServerName: serverName(g.ServerName, r, path+".grpc.server_name"),
		}
	}
	if has("icmp", raw.ICMP != nil) {
		c.ICMP = &ICMPCheck{Address: raw.ICMP.Address}
	}
	if has("listen", raw.Listen != nil) {
		c.Listen = listenCheck(raw.Listen, prefix, r, path+".listen")
	}
	c.Kind = oneKind(kinds, r, path)
	// These hear of the event itself, so that there is nothing to confirm.
	count := 2
	if c.Listen != nil || c.HTTP != nil && c.HTTP.Hold || c.TCP != nil && c.TCP.Hold || c.GRPC != nil && c.GRPC.Hold {
		count = 1
	}
	c.Rise, c.Fall = own(raw.Rise, count), own(raw.Fall, count)
	if c.Listen != nil {
		// The kernel answers at once: only a host that stands still is late.
		c.Timeout = own(raw.Timeout, raw.Interval)
	}
	c.Name = own(raw.Name, c.Kind)
	r.assume(path+".name", c.Name)
	c.Source = source(raw.Source, c, prefix, r, path+".source")
	return c
}

func oneKind(kinds []string, r *report, path string) string {
	all := []string{"http", "tcp", "exec", "dns", "grpc", "icmp", "listen"}
	switch {
	case len(kinds) == 1:
		return kinds[0]
	case len(kinds) > 1:
		r.add(path, "has %s; a check has one kind, so make it several checks", strings.Join(kinds, " and "))
	case !slices.ContainsFunc(all, func(kind string) bool { return !r.ok(path + "." + kind) }):
		r.add(path, "must have one of http, tcp, exec, dns, grpc, icmp and listen")
	}
	return ""
}

func httpCheck(raw *rawHTTPCheck, r *report, path string) *HTTPCheck {
	h := &HTTPCheck{
		URL: raw.URL, Method: raw.Method, ExpectStatus: raw.ExpectStatus, ExpectBody: raw.ExpectBody, Hold: raw.Hold, Insecure: raw.Insecure,
		CAFile: caFile(raw.CAFile, r, path+".ca_file"), ServerName: serverName(raw.ServerName, r, path+".server_name"),
	}
	for _, one := range raw.Headers {
		h.Headers = append(h.Headers, Header(one))
	}
	if len(h.ExpectStatus) == 0 {
		h.ExpectStatus = []StatusRange{{Min: 200, Max: 399}}
	}
	return h
}

// caFile looks whether the file can be what it should.
func caFile(file *string, r *report, path string) string {
	if file == nil || !r.ok(path) {
		return ""
	}
	pem, err := readLimited(*file, 1<<20)
	switch {
	case !filepath.IsAbs(*file):
		r.add(path, "must be an absolute path")
	case err != nil:
		r.add(path, "cannot be read: %s", reason(err))
	case !x509.NewCertPool().AppendCertsFromPEM(pem):
		r.add(path, "holds no certificate in PEM")
	}
	return *file
}

func serverName(name *string, r *report, path string) string {
	if name == nil || !r.ok(path) {
		return ""
	}
	if _, err := netip.ParseAddr(*name); err != nil && !hostName(*name) {
		r.add(path, "must be the name in the server's certificate, such as www.example.org")
	}
	return *name
}

func listenCheck(raw *rawListenCheck, prefix netip.Prefix, r *report, path string) *ListenCheck {
	l := &ListenCheck{
		Port:     uint16(raw.Port), //nolint:gosec // the schema bounds it to 65535
		Protocol: raw.Protocol,
	}
	switch {
	case raw.Address != nil:
		l.Address = *raw.Address
	case !prefix.IsValid():
	case prefix.IsSingleIP():
		l.Address = prefix.Addr()
	default:
		r.add(path+".address", "is required, for the VIP is a whole prefix, %s", prefix)
	}
	return l
}

// source resolves the address that the check is to be made from.
func source(raw *checkSource, c Check, prefix netip.Prefix, r *report, path string) netip.Addr {
	if raw == nil || !r.ok(path) {
		return netip.Addr{}
	}
	addr := raw.addr
	switch {
	case c.Exec != nil:
		r.add(path, "is not for exec; the program must choose its source itself")
	case c.Listen != nil:
		r.add(path, "is not for listen, which sends nothing")
	case raw.vip && !prefix.IsValid():
	case raw.vip && !prefix.IsSingleIP():
		r.add(path, "needs a VIP that is a single address; write one of the addresses in %s", prefix)
	case raw.vip:
		addr = prefix.Addr()
	}
	return addr
}
