package config

import (
	"fmt"
	"net/netip"
	"strconv"
)

// validateSources: a kernel route has one preferred source, and what matches a
// rule gets one VIP.
func validateSources(cfg *Config, r *report) {
	validatePreferred(cfg, r)
	seen := map[string]string{}
	count, sources := 0, map[bool]int{}
	for i, v := range cfg.VIPs {
		path := index("vips", i) + ".source"
		if !r.ok(index("vips", i) + ".address") {
			continue
		}
		switch _, given := r.lines[path+".when"]; {
		case len(v.Source.Rules) > 0 && !v.Prefix.IsSingleIP():
			r.add(path+".rules", "need a single address, and %s is a whole prefix%s", v.Prefix, onlyHosts(v.Prefix))
			continue
		case given && len(v.Source.Rules) == 0 && !v.PreferredSource && r.ok(path, index("vips", i)+".preferred_source"):
			r.add(path+".when", "is never used; set preferred_source: true for all traffic, or give rules for a part of it")
		}
		for k := range v.Source.Rules {
			validateSourceRule(&cfg.VIPs[i], k, cfg, r, path)
			identical(&cfg.VIPs[i], k, seen, r, path)
		}
		if len(v.Source.Rules) > 0 || v.PreferredSource {
			sources[v.Prefix.Addr().Is4()]++
		}
		if sources[v.Prefix.Addr().Is4()] == MaxSources+1 {
			r.add(index("vips", i), "is one preferred source too many: %d VIPs of a family can be one", MaxSources)
		}
		before := count
		if count += len(v.Source.Rules); count > MaxSourceRules && before <= MaxSourceRules {
			r.add(path+".rules", "are too many: each destination with each user and each mark counts as one, and all VIPs together can have %d", MaxSourceRules)
		}
	}
}

// onlyHosts is why a prefix of the family cannot be a source.
func onlyHosts(p netip.Prefix) string {
	if p.Addr().Is4() {
		return ""
	}
	return ": the kernel takes no address of an IPv6 prefix as preferred source"
}

// validateSourceRule judges what one combination is made of. Each value is
// reported once.
func validateSourceRule(v *VIP, k int, cfg *Config, r *report, path string) {
	s := &v.Source.Rules[k]
	entry := index(path+".rules", s.Entry)
	if k > 0 && v.Source.Rules[k-1].Entry == s.Entry {
		return // the first one of an entry stands for all
	}
	empty := true
	for _, key := range []string{".destinations", ".users", ".marks"} {
		_, given := r.lines[entry+key]
		_, filled := r.lines[index(entry+key, 0)]
		if given && !filled && r.ok(entry+key) {
			r.add(entry+key, "must have at least one entry; remove the key for any")
		}
		empty = empty && !given
	}
	if empty && r.ok(entry) {
		r.add(entry, "selects nothing; give it destinations, users or marks, or set preferred_source: true for all traffic")
	}
	for _, one := range v.Source.Rules[k:] {
		if one.Entry != s.Entry {
			break
		}
		validateDestination(v, one.Destination, cfg, r, entry)
	}
}

// validateDestination refuses one that is never, or always, reached.
func validateDestination(v *VIP, d netip.Prefix, cfg *Config, r *report, entry string) {
	if !d.IsValid() {
		return
	}
	place := entry + ".destinations"
	for n := 0; r.lines[index(place, n)] != 0; n++ {
		if r.values[index(place, n)] == strconv.Quote(d.String()) || r.values[index(place, n)] == strconv.Quote(d.Addr().String()) && d.IsSingleIP() {
			place = index(place, n)
			break
		}
	}
	if !r.ok(place) {
		return
	}
	switch {
	case d.Addr().Is4() != v.Prefix.Addr().Is4():
		r.add(place, "is not of the family of the VIP, %s", v.Prefix.Addr())
		return
	case d.Bits() == 0:
		r.add(place, "is every destination; leave destinations out for that")
		return
	}
	for _, f := range forbidden() {
		if p := netip.MustParsePrefix(f.prefix); p.Contains(d.Addr()) && p.Bits() <= d.Bits() {
			r.add(place, "is never reached with a VIP as source, for it is of the %s addresses", f.name)
			return
		}
	}
	for n, e := range cfg.Egress.Exclude {
		if e.IsValid() && e.Contains(d.Addr()) && e.Bits() <= d.Bits() {
			r.add(place, "is excluded by %s, which is %s", index("egress.exclude", n), e)
			return
		}
	}
}

// identical reports a combination that is there already, for any VIP of the
// family: the kernel could follow one of them only.
func identical(v *VIP, k int, seen map[string]string, r *report, path string) {
	s := &v.Source.Rules[k]
	entry := index(path+".rules", s.Entry)
	if !r.ok(entry) {
		return
	}
	key := fmt.Sprint(v.Prefix.Addr().Is4(), s.Destination, s.Mark, s.Mask)
	what := ""
	if s.Destination.IsValid() {
		what += " destination " + s.Destination.String()
	}
	if s.Users != nil {
		key += fmt.Sprint(*s.Users)
		what += fmt.Sprintf(" user %d", s.Users.First)
		if s.Users.Last != s.Users.First {
			what += fmt.Sprintf("-%d", s.Users.Last)
		}
	}
	if s.Mask != 0 {
		what += fmt.Sprintf(" mark %#x/%#x", s.Mark, s.Mask)
	}
	switch first, double := seen[key]; {
	case double && first == entry:
		r.add(entry, "has an entry twice:%s", what)
		return
	case double:
		r.add(entry, "selects the same as %s:%s; one VIP of a family can have it", first, what)
		return
	}
	seen[key] = entry
}

// validatePreferred: one VIP is the source of all traffic by an interface.
func validatePreferred(cfg *Config, r *report) {
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
			r.add(path+".preferred_source", "needs a single address, and %s is a whole prefix%s", v.Prefix, onlyHosts(v.Prefix))
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

// validateMTUs: each MTU takes a routing table.
func validateMTUs(cfg *Config, r *report) {
	distinct := map[bool]map[uint32]bool{false: {}, true: {}}
	for i, v := range cfg.VIPs {
		path := index("vips", i) + ".mtu"
		if v.MTU == 0 || !r.ok(path, index("vips", i)+".address") {
			continue
		}
		of := distinct[v.Prefix.Addr().Is4()]
		fresh := !of[v.MTU]
		of[v.MTU] = true
		switch {
		case v.Prefix.Addr().Is6() && v.MTU < 1280:
			r.add(path, "is less than an IPv6 network may have, which is 1280 (RFC 8200 section 5)")
		case fresh && len(of) > MaxMTUs:
			r.add(path, "is one more than the %d different ones that VIPs of a family can have", MaxMTUs)
		}
	}
}
