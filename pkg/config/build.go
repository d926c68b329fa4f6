package config

import (
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// build turns the decoded file into a Config: it fills in the defaults that
// depend on other keys and reads the secrets.
func build(raw *rawConfig, r *report) *Config {
	cfg := &Config{
		BGP: BGP{
			ASN: uint32(raw.BGP.ASN), ListenPort: raw.BGP.ListenPort,
			Timers:          timers(raw.BGP.Timers, Timers{HoldTime: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: time.Second}),
			GracefulRestart: GracefulRestart(raw.BGP.GracefulRestart),
		},
		VirtualInterface: VirtualInterface(raw.VirtualInterface),
		Egress:           Egress{Exclude: raw.Egress.Exclude},
		Host:             Host(raw.Host),
		HTTP:             HTTP(raw.HTTP),
		Control:          Control(raw.Control),
		Shutdown:         Shutdown(raw.Shutdown),
		Log:              Log(raw.Log),
	}
	if raw.BGP.RouterID != nil {
		cfg.BGP.RouterID = *raw.BGP.RouterID
	}
	if cfg.HTTP.Listen == "off" {
		cfg.HTTP.Listen = ""
	}
	names := make([]string, 0, len(raw.Interfaces))
	for i, ri := range raw.Interfaces {
		path := index("interfaces", i)
		one := Interface{Name: ri.Name, HoldUp: ri.HoldUp, Gateways: ri.Gateway}
		for j, rp := range ri.Peers {
			one.Peers = append(one.Peers, peer(rp, cfg, raw.Egress.MaxPrefixes, r, index(path+".peers", j)))
		}
		cfg.Interfaces = append(cfg.Interfaces, one)
		names = append(names, ri.Name)
	}
	for i, rv := range raw.VIPs {
		cfg.VIPs = append(cfg.VIPs, vip(rv, names, r, index("vips", i)))
	}
	return cfg
}

// timers fills the gaps in raw. Who sets a hold time alone gets a third of it
// as keepalive time.
func timers(raw rawTimers, defaults Timers) Timers {
	t := defaults
	if raw.HoldTime != nil {
		t.HoldTime = *raw.HoldTime
		t.Keepalive = (t.HoldTime / 3).Truncate(time.Second)
	}
	if raw.Keepalive != nil {
		t.Keepalive = *raw.Keepalive
	}
	if raw.ConnectRetry != nil {
		t.ConnectRetry = *raw.ConnectRetry
	}
	return t
}

func peer(raw rawPeer, cfg *Config, maxPrefixes uint32, r *report, path string) Peer {
	p := Peer{
		Address: raw.Address.Addr, ASN: raw.ASN.number,
		Port:        uint16(raw.Port), //nolint:gosec // the schema bounds it to 65535
		TTLSecurity: raw.TTLSecurity,
		Timers:      timers(raw.Timers, cfg.BGP.Timers),
		MaxPrefixes: maxPrefixes,
	}
	if raw.ASN.internal {
		p.ASN = cfg.BGP.ASN
	}
	if place := path + ".password_file"; raw.PasswordFile != nil && r.ok(place) {
		p.Password = password(*raw.PasswordFile, r, place)
	}
	return p
}

// password reads a password file. Messages never show what is in it.
func password(file string, r *report, path string) Secret {
	if !filepath.IsAbs(file) {
		r.add(path, "must be an absolute path")
		return ""
	}
	data, err := readLimited(file, 4096)
	if err != nil {
		r.add(path, "cannot be read: %s", reason(err))
		return ""
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o007 != 0 {
		r.add(path, "is open to all users of the host; run chmod o-rwx on it")
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case text == "":
		r.add(path, "is empty; it must hold the password on one line")
	case strings.ContainsAny(text, "\r\n\x00"):
		r.add(path, "must hold the password on one line and nothing else")
	case len(text) > 80:
		r.add(path, "holds %d bytes; a TCP MD5 password has at most 80", len(text))
	}
	return Secret(text)
}

func vip(raw rawVIP, interfaces []string, r *report, path string) VIP {
	v := VIP{
		Prefix: raw.Address, Interfaces: interfaces, PreferredSource: raw.PreferredSource,
		Announce: Announce{
			LargeCommunities: raw.Announce.LargeCommunities, MED: raw.Announce.MED,
			LocalPref: raw.Announce.LocalPref, Prepend: raw.Announce.Prepend,
		},
	}
	for _, c := range raw.Announce.Communities {
		v.Announce.Communities = append(v.Announce.Communities, uint32(c))
	}
	switch {
	case raw.Name != nil:
		v.Name = *raw.Name
	case v.Prefix.IsValid() && v.Prefix.IsSingleIP():
		v.Name = v.Prefix.Addr().String()
	case v.Prefix.IsValid():
		v.Name = v.Prefix.String()
	}
	r.assume(path+".name", v.Name)
	if raw.Interfaces != nil {
		v.Interfaces = *raw.Interfaces
	}
	for i, rc := range raw.Checks {
		v.Checks = append(v.Checks, check(rc, r, index(path+".checks", i)))
	}
	return v
}

func check(raw rawCheck, r *report, path string) Check {
	c := Check{Interval: raw.Interval, Timeout: raw.Interval / 2, Rise: raw.Rise, Fall: raw.Fall}
	if raw.Timeout != nil {
		c.Timeout = *raw.Timeout
	}
	var kinds []string
	if raw.HTTP != nil {
		kinds = append(kinds, "http")
		c.HTTP = httpCheck(raw.HTTP, r, path+".http")
	}
	if raw.TCP != nil {
		kinds = append(kinds, "tcp")
		c.TCP = &TCPCheck{Address: raw.TCP.Address}
	}
	if raw.Exec != nil {
		kinds = append(kinds, "exec")
		c.Exec = &ExecCheck{Command: raw.Exec.Command, Env: raw.Exec.Env}
	}
	switch {
	case len(kinds) == 1:
		c.Kind = kinds[0]
	case len(kinds) > 1:
		r.add(path, "has %s; a check has one kind, so make it several checks", strings.Join(kinds, " and "))
	case len(kinds) == 0 && r.ok(path+".http", path+".tcp", path+".exec", path+".dns", path+".grpc", path+".icmp", path+".listen"):
		r.add(path, "must have one of http, tcp and exec")
	}
	c.Name = c.Kind
	if raw.Name != nil {
		c.Name = *raw.Name
	}
	r.assume(path+".name", c.Name)
	return c
}

func httpCheck(raw *rawHTTPCheck, r *report, path string) *HTTPCheck {
	h := &HTTPCheck{
		URL: raw.URL, Method: raw.Method, ExpectStatus: raw.ExpectStatus, ExpectBody: raw.ExpectBody, Insecure: raw.Insecure,
	}
	for _, one := range raw.Headers {
		h.Headers = append(h.Headers, Header(one))
	}
	if len(h.ExpectStatus) == 0 {
		h.ExpectStatus = []StatusRange{{Min: 200, Max: 399}}
	}
	if place := path + ".ca_file"; raw.CAFile != nil && r.ok(place) {
		h.CAFile = *raw.CAFile
		pem, err := readLimited(h.CAFile, 1<<20)
		switch {
		case !filepath.IsAbs(h.CAFile):
			r.add(place, "must be an absolute path")
		case err != nil:
			r.add(place, "cannot be read: %s", reason(err))
		case !x509.NewCertPool().AppendCertsFromPEM(pem):
			r.add(place, "holds no certificate in PEM")
		}
	}
	return h
}

// forbidden returns the ranges that no VIP may touch, with their names.
func forbidden() []struct{ prefix, name string } {
	return []struct{ prefix, name string }{
		{"0.0.0.0/8", "unspecified"},
		{"::/128", "unspecified"},
		{"127.0.0.0/8", "loopback"},
		{"::1/128", "loopback"},
		{"169.254.0.0/16", "link-local"},
		{"fe80::/10", "link-local"},
		{"224.0.0.0/4", "multicast"},
		{"ff00::/8", "multicast"},
		{"240.0.0.0/4", "reserved"},
		{"::ffff:0:0/96", "IPv4-mapped"},
	}
}

// unusable returns the name of the forbidden range that p touches, or "".
func unusable(p netip.Prefix) string {
	for _, f := range forbidden() {
		if p.Overlaps(netip.MustParsePrefix(f.prefix)) {
			return f.name
		}
	}
	return ""
}
