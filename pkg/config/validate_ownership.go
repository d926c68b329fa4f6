package config

import (
	"net/url"
	"slices"
	"strings"
)

// validateOwnership refuses what would let two hosts announce at once, or never
// one.
func validateOwnership(cfg *Config, r *report) {
	o := cfg.Ownership
	if o == nil {
		return
	}
	path := ownershipPath + ".etcd"
	if o.Host != "" && r.ok(ownershipPath+".host") && (badLabel(o.Host) != "" || strings.Contains(o.Host, "/")) {
		r.add(ownershipPath+".host", "must be 1 to 64 of A-Za-z0-9._:-, and not begin with -")
	}
	secure := false
	for i, e := range o.Etcd.Endpoints {
		place := index(path+".endpoints", i)
		u, err := url.Parse(e)
		switch {
		case !r.ok(place):
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.User != nil || u.RawQuery != "":
			r.add(place, "must be http:// or https://, a host and a port, and nothing else")
		case slices.Contains(o.Etcd.Endpoints[:i], e):
			r.add(place, "is listed twice")
		default:
			secure = secure || u.Scheme == "https"
		}
	}
	if p := o.Etcd.Prefix; r.ok(path+".prefix") && (!strings.HasPrefix(p, "/") || !strings.HasSuffix(p, "/") || len(p) > 256) {
		r.add(path+".prefix", "must begin and end with a slash, and have at most 256 bytes")
	}
	if r.ok(path+".username", path+".password_file") && (o.Etcd.Username == "") != (o.Etcd.Password == "") {
		r.add(path+".username", "and password_file need each other")
	}
	if o.Etcd.TLS != nil && !secure && r.ok(path+".tls", path+".endpoints") {
		r.add(path+".tls", "is never used, for no endpoint is https")
	}
	exclusive := slices.IndexFunc(cfg.VIPs, func(v VIP) bool { return v.Exclusive })
	switch {
	case exclusive < 0:
		r.add(ownershipPath, "is never used, for no VIP is exclusive")
	case cfg.BGP.GracefulRestart.Enabled && r.ok("bgp.graceful_restart"):
		r.add(index("vips", exclusive)+".exclusive", "with ownership needs bgp.graceful_restart: {enabled: false}, for routers would keep the routes of an owner that is no more")
	}
}
