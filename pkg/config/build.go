package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
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
		Egress: Egress{
			Exclude: raw.Egress.Exclude, Import: raw.Egress.Import, Install: raw.Egress.Install, Metric: raw.Egress.Metric,
		},
		Host:        Host(raw.Host),
		HTTP:        HTTP(raw.HTTP),
		Control:     Control(raw.Control),
		Damping:     Damping(raw.Damping),
		RuntimeVIPs: RuntimeVIPs(raw.RuntimeVIPs),
		Shutdown:    Shutdown(raw.Shutdown),
		Log:         Log(raw.Log),
	}
	if raw.BGP.RouterID != nil {
		cfg.BGP.RouterID = *raw.BGP.RouterID
	}
	if cfg.HTTP.Listen == "off" {
		cfg.HTTP.Listen = ""
	}
	cfg.Ownership = ownership(raw.Ownership, r)
	names := make([]string, 0, len(raw.Interfaces))
	for i, ri := range raw.Interfaces {
		path := index("interfaces", i)
		one := Interface{
			Name: ri.Name, HoldUp: ri.HoldUp, Gateways: ri.Gateway, Weight: own(ri.Weight, 0), GatewayProbe: GatewayProbe(ri.GatewayProbe),
			PathProbe: pathProbe(ri.PathProbe), Damping: damping(ri.Damping, cfg.Damping, r, path+".damping"),
		}
		for j, rp := range ri.Peers {
			one.Peers = append(one.Peers, peer(rp, cfg, raw.Egress.MaxPrefixes, r, index(path+".peers", j)))
		}
		cfg.Interfaces = append(cfg.Interfaces, one)
		names = append(names, ri.Name)
	}
	for i, rp := range raw.Peers {
		cfg.Peers = append(cfg.Peers, remote(rp, cfg, raw.Egress.MaxPrefixes, r, index("peers", i)))
	}
	for i, rv := range raw.VIPs {
		path := index("vips", i)
		one := vip(rv, names, r, path)
		one.Damping = damping(rv.Damping, cfg.Damping, r, path+".damping")
		cfg.VIPs = append(cfg.VIPs, one)
	}
	rankRules(cfg.VIPs)
	return cfg
}

// damping fills the gaps in raw with what the file has at the top level.
func damping(raw rawOwnDamping, inherited Damping, r *report, path string) Damping {
	return Damping{
		Enabled:     own(raw.Enabled, inherited.Enabled),
		HalfLife:    inherit(raw.HalfLife, inherited.HalfLife, r, path+".half_life"),
		Suppress:    inherit(raw.Suppress, inherited.Suppress, r, path+".suppress"),
		Reuse:       inherit(raw.Reuse, inherited.Reuse, r, path+".reuse"),
		MaxSuppress: inherit(raw.MaxSuppress, inherited.MaxSuppress, r, path+".max_suppress"),
	}
}

func inherit[T int | time.Duration](value *T, inherited T, r *report, path string) T {
	text := fmt.Sprint(inherited)
	if d, ok := any(inherited).(time.Duration); ok {
		text = strconv.Quote(short(d))
	}
	r.inherit(path, text, "damping")
	return own(value, inherited)
}

// own returns the value of a key, or what holds without the key.
func own[T any](value *T, without T) T {
	if value != nil {
		return *value
	}
	return without
}

func pathProbe(raw *rawPathProbe) *PathProbe {
	if raw == nil {
		return nil
	}
	return &PathProbe{
		Target: raw.Target, Interval: raw.Interval, Failures: raw.Failures,
		Timeout: own(raw.Timeout, min(raw.Interval, 500*time.Millisecond)),
	}
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

// secretFile reads the file of a secret that is called word and is of a kind with
// so many bytes at most. Messages never show what is in it. A file that many
// inherit is reported once.
func secretFile(file string, r *report, path, word, kind string, longest int) Secret {
	path = r.home(path)
	if !r.ok(path) {
		return ""
	}
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
		r.add(path, "is empty; it must hold the %s on one line", word)
	case strings.ContainsAny(text, "\r\n\x00"):
		r.add(path, "must hold the %s on one line and nothing else", word)
	case len(text) > longest:
		r.add(path, "holds %d bytes; %s has at most %d", len(text), kind, longest)
	}
	return Secret(text)
}

func vip(raw rawVIP, interfaces []string, r *report, path string) VIP {
	v := VIP{
		Prefix: raw.Address, Interfaces: interfaces, PreferredSource: raw.PreferredSource, ChecksMode: raw.ChecksMode,
		Source: sourceOf(&raw.Source), MTU: raw.MTU,
		Role: role(raw.Role), Exclusive: raw.Exclusive,
		Announce: announcement(raw.Announce), Drain: drain(raw.Drain), On: Hooks(raw.On),
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
		v.Checks = append(v.Checks, check(rc, v.Prefix, r, index(path+".checks", i)))
	}
	if raw.OnFailure != nil && raw.OnFailure.Degrade != nil {
		d := raw.OnFailure.Degrade
		v.Degrade = &Degrade{
			MED: d.MED, LocalPref: d.LocalPref, Prepend: d.Prepend,
			Communities: values(d.Communities), LargeCommunities: d.LargeCommunities, ExtendedCommunities: d.ExtendedCommunities,
			Origin: optionalOrigin(d.Origin),
		}
	}
	return v
}

func announcement(raw rawAnnounce) Announce {
	return Announce{
		Communities: values(raw.Communities), LargeCommunities: raw.LargeCommunities,
		ExtendedCommunities: raw.ExtendedCommunities, MED: raw.MED, LocalPref: raw.LocalPref,
		Prepend: raw.Prepend, Origin: origin(raw.Origin),
	}
}

func drain(raw rawDrain) Drain {
	return Drain{
		Time: raw.Time, ConnectionsTimeout: raw.ConnectionsTimeout, Unbind: raw.Unbind,
		MED: raw.MED, LocalPref: raw.LocalPref, Prepend: raw.Prepend, Communities: values(raw.Communities),
	}
}

// origin returns the code of ORIGIN (RFC 4271 section 4.3).
func origin(word string) uint8 {
	switch word {
	case "egp":
		return 1
	case "incomplete":
		return 2
	}
	return 0
}

// optionalOrigin is nil where no word is given.
func optionalOrigin(word *string) *uint8 {
	if word == nil {
		return nil
	}
	code := origin(*word)
	return &code
}

func values(communities []community) []uint32 {
	var list []uint32
	for _, c := range communities {
		list = append(list, uint32(c))
	}
	return list
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
