package config

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func validateVIPs(cfg *Config, r *report) {
	names := map[string]int{}
	var listed []string
	for _, one := range cfg.Interfaces {
		if one.Name != "" && !slices.Contains(listed, one.Name) {
			listed = append(listed, one.Name)
		}
	}
	for i, v := range cfg.VIPs {
		path := index("vips", i)
		if r.ok(path + ".name") {
			first, double := names[v.Name]
			switch problem := badLabel(v.Name); {
			case v.Name == "": // no name and no good address
			case problem != "":
				r.add(path+".name", "%s", problem)
			case double && cfg.VIPs[first].Prefix != v.Prefix:
				r.add(path+".name", "is the name of %s too", index("vips", first))
			default:
				names[v.Name] = i
			}
		}
		if v.Prefix.IsValid() {
			validatePrefix(v, cfg, r, path+".address")
		}
		validateSelection(v, listed, r, path+".interfaces")
		validateAnnounce(v.Announce, r, path+".announce")
		validateChecks(v, r, path+".checks")
	}
	validateOverlaps(cfg, r)
	validateSources(cfg, r)
}

// validatePrefix refuses what cannot be a VIP.
func validatePrefix(v VIP, cfg *Config, r *report, path string) {
	if v.Prefix.Bits() == 0 {
		r.add(path, "is a default route, which is never announced")
		return
	}
	if name := unusable(v.Prefix); name != "" {
		r.add(path, "must not touch the %s addresses", name)
		return
	}
	if least := shortestPrefix(v.Prefix); v.Prefix.Bits() < least {
		r.add(path, "is too large: every address in it would be this host's; a prefix of its family has at least /%d", least)
		return
	}
	for j, one := range cfg.Interfaces {
		for k, p := range one.Peers {
			if p.Address.IsValid() && v.Prefix.Contains(p.Address) {
				r.add(path, "holds the address of interfaces[%d].peers[%d], which would not be reached any more", j, k)
			}
		}
		for _, g := range one.Gateways {
			if g.IsValid() && v.Prefix.Contains(g) && !isPeer(one, g) {
				r.add(path, "holds the gateway of interfaces[%d], which would not be reached any more", j)
			}
		}
	}
}

// shortestPrefix bounds how much of the network one VIP may make the host's own.
func shortestPrefix(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 8
	}
	return 16
}

func isPeer(one Interface, a netip.Addr) bool {
	return slices.ContainsFunc(one.Peers, func(p Peer) bool { return p.Address == a })
}

func validateSelection(v VIP, listed []string, r *report, path string) {
	if _, there := r.lines[path]; !there || r.bad[path] {
		return
	}
	if len(v.Interfaces) == 0 {
		r.add(path, "must have at least one entry; remove the key for all interfaces")
	}
	for k, name := range v.Interfaces {
		place := index(path, k)
		switch {
		case !r.ok(place):
		case slices.Contains(v.Interfaces[:k], name):
			r.add(place, "is listed twice")
		case slices.Contains(listed, name):
		default:
			known := "; the interfaces are " + strings.Join(listed, ", ")
			if guess := closest(name, listed); guess != "" {
				known = "; did you mean " + strconv.Quote(guess) + "?"
			}
			r.add(place, "is not the name of a listed interface%s", known)
		}
	}
}

func validateAnnounce(a Announce, r *report, path string) {
	for k, c := range a.Communities {
		place := index(path+".communities", k)
		if first := slices.Index(a.Communities, c); first < k && r.ok(place) && r.ok(index(path+".communities", first)) {
			r.add(place, "is the same as communities[%d]", first)
		}
	}
	for k, c := range a.LargeCommunities {
		place := index(path+".large_communities", k)
		if first := slices.Index(a.LargeCommunities, c); first < k && r.ok(place) && r.ok(index(path+".large_communities", first)) {
			r.add(place, "is the same as large_communities[%d]", first)
		}
	}
}

// validateOverlaps compares all prefixes: sorted, a prefix can only lie inside
// one that came before.
func validateOverlaps(cfg *Config, r *report) {
	byPrefix := make([]int, 0, len(cfg.VIPs))
	for i, v := range cfg.VIPs {
		if v.Prefix.IsValid() && r.ok(index("vips", i)+".address") {
			byPrefix = append(byPrefix, i)
		}
	}
	slices.SortFunc(byPrefix, func(a, b int) int {
		p, q := cfg.VIPs[a].Prefix, cfg.VIPs[b].Prefix
		if c := p.Addr().Compare(q.Addr()); c != 0 {
			return c
		}
		if p.Bits() != q.Bits() {
			return p.Bits() - q.Bits()
		}
		return a - b
	})
	for n, outer := 1, 0; n < len(byPrefix); n++ {
		first, second := byPrefix[outer], byPrefix[n]
		p, q := cfg.VIPs[first].Prefix, cfg.VIPs[second].Prefix
		switch {
		case !p.Overlaps(q):
			outer = n
		case p == q:
			r.add(index("vips", second)+".address", "is the address of %s too", index("vips", first))
		default:
			first, second = min(first, second), max(first, second)
			r.add(index("vips", second)+".address", "overlaps %s, which is %s",
				index("vips", first), cfg.VIPs[first].Prefix)
		}
	}
}

// validateSources: a kernel route has one preferred source.
func validateSources(cfg *Config, r *report) {
	type use struct {
		name string
		is4  bool
	}
	first := map[use]int{}
	for i, v := range cfg.VIPs {
		path := index("vips", i)
		if !v.PreferredSource || !r.ok(path+".preferred_source", path+".address") {
			continue
		}
		if !v.Prefix.IsSingleIP() {
			r.add(path+".preferred_source", "needs a single address, and %s is a whole prefix", v.Prefix)
			continue
		}
		for _, name := range v.Interfaces {
			key := use{name, v.Prefix.Addr().Is4()}
			other, taken := first[key]
			if !taken {
				first[key] = i
				continue
			}
			family := "IPv6"
			if key.is4 {
				family = "IPv4"
			}
			if other != i {
				r.add(path+".preferred_source", "is set for %s on interface %s by %s already; one VIP per interface and family can have it",
					family, strconv.Quote(name), index("vips", other))
				break
			}
		}
	}
}

func validateChecks(v VIP, r *report, path string) {
	names := map[string]int{}
	for k, c := range v.Checks {
		place := index(path, k)
		if r.ok(place + ".name") {
			first, double := names[c.Name]
			switch problem := badLabel(c.Name); {
			case c.Kind == "" && c.Name == "":
			case problem != "":
				r.add(place+".name", "%s", problem)
			case double:
				r.add(place+".name", "is the name of checks[%d] too; give each check of a VIP its own", first)
			default:
				names[c.Name] = k
			}
		}
		if r.ok(place+".interval", place+".timeout") && c.Timeout > c.Interval {
			r.add(place+".timeout", "must be at most the interval, which is %s", short(c.Interval))
		}
		if c.HTTP != nil {
			validateHTTP(c.HTTP, r, place+".http")
		}
		if c.Exec != nil {
			validateExec(c.Exec, r, place+".exec")
		}
	}
}

func validateHTTP(h *HTTPCheck, r *report, path string) {
	if r.ok(path+".method") && (!headerToken(h.Method) || h.Method != strings.ToUpper(h.Method)) {
		r.add(path+".method", "must be an HTTP method in capitals such as GET or HEAD")
	}
	for k, one := range h.Headers {
		if place := index(path+".headers", k) + ".name"; r.ok(place) && !headerToken(one.Name) {
			r.add(place, "must be the name of a header, without blanks and colons")
		}
	}
	if r.ok(path+".insecure", path+".url", path+".ca_file") && h.URL != nil {
		switch {
		case h.URL.Scheme == "http" && h.Insecure:
			r.add(path+".insecure", "concerns certificates, and the URL is not https")
		case h.URL.Scheme == "http" && h.CAFile != "":
			r.add(path+".ca_file", "concerns certificates, and the URL is not https")
		case h.Insecure && h.CAFile != "":
			r.add(path+".ca_file", "is never used with insecure: true")
		}
	}
}

func validateExec(e *ExecCheck, r *report, path string) {
	if place := index(path+".command", 0); len(e.Command) > 0 && r.ok(place) && !filepath.IsAbs(e.Command[0]) {
		r.add(place, "must be the absolute path of a program; there is no shell and no PATH")
	}
	for k, one := range e.Env {
		if name, _, ok := strings.Cut(string(one), "="); r.ok(index(path+".env", k)) && (!ok || name == "") {
			r.add(index(path+".env", k), "must be NAME=value")
		}
	}
}
