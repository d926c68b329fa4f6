package config

import (
	"net/netip"
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
		doubles(v.Announce.Communities, r, path+".announce", "communities")
		doubles(v.Announce.LargeCommunities, r, path+".announce", "large_communities")
		doubles(v.Announce.ExtendedCommunities, r, path+".announce", "extended_communities")
		validateDegrade(v, r, path)
		validateRole(v, r, path)
		validateDrain(v, r, path)
		validateHooks(cfg, &v, r, path)
		validateSizes(v, r, path)
		validateDamping(v.Damping, r, path+".damping")
		validateChecks(v, r, path+".checks")
	}
	validateMTUs(cfg, r)
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
	holdsRemote(v, cfg, r, path)
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

// holdsRemote refuses a VIP that is a router without an interface.
func holdsRemote(v VIP, cfg *Config, r *report, path string) {
	for j, p := range cfg.Peers {
		if p.Address.IsValid() && v.Prefix.Contains(p.Address) {
			r.add(path, "holds the address of peers[%d], which would not be reached any more", j)
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

// doubles reports what a list has twice. In a list that many inherit that is
// reported once.
func doubles[T comparable](list []T, r *report, path, key string) {
	seen := make(map[T]int, len(list))
	for k, one := range list {
		place := r.home(index(path+"."+key, k))
		if !r.ok(place) {
			continue
		}
		if first, double := seen[one]; double {
			r.add(place, "is the same as %s", index(key, first))
			continue
		}
		seen[one] = k
	}
}

// validateDegrade compares what changes when the checks fail with what is
// announced anyway.
func validateDegrade(v VIP, r *report, path string) {
	place := path + ".on_failure.degrade"
	if v.Degrade == nil {
		return
	}
	d, a := v.Degrade, v.Announce
	doubles(d.Communities, r, place, "communities")
	doubles(d.LargeCommunities, r, place, "large_communities")
	doubles(d.ExtendedCommunities, r, place, "extended_communities")
	already(d.Communities, a.Communities, r, place, path+".announce", "communities")
	already(d.LargeCommunities, a.LargeCommunities, r, place, path+".announce", "large_communities")
	already(d.ExtendedCommunities, a.ExtendedCommunities, r, place, path+".announce", "extended_communities")
	same := func(x, y *uint32) bool { return x != nil && y != nil && *x == *y }
	const isSame = "is what announce has already; give another value"
	switch {
	case !r.ok(place):
	case len(v.Checks) == 0 && r.ok(path+".checks"):
		r.add(place, "is never used, for the VIP has no checks; add checks or remove on_failure")
	case d.MED == nil && d.LocalPref == nil && d.Origin == nil && d.Prepend == 0 && len(d.Communities)+len(d.LargeCommunities)+len(d.ExtendedCommunities) == 0:
		r.add(place, "changes nothing; give it med, local_pref, prepend, communities, large_communities, extended_communities or origin")
	case same(d.MED, a.MED) && r.ok(path+".announce.med"):
		r.add(place+".med", isSame)
	case same(d.LocalPref, a.LocalPref) && r.ok(path+".announce.local_pref"):
		r.add(place+".local_pref", isSame)
	case d.Origin != nil && *d.Origin == a.Origin && r.ok(path+".announce.origin", place+".origin"):
		r.add(place+".origin", isSame)
	case r.ok(path+".announce.prepend") && a.Prepend+d.Prepend > 10:
		r.add(place+".prepend", "is added to announce.prepend, which is %d; the sum must be at most 10", a.Prepend)
	}
}

// validateSizes bounds the lists, so that an UPDATE holds them.
func validateSizes(v VIP, r *report, path string) {
	d := Degrade{}
	if v.Degrade != nil {
		d = *v.Degrade
	}
	o, tag := Role{}, 0
	if v.Role != nil {
		o, tag = *v.Role, 1
	}
	for _, list := range []struct {
		key        string
		count, add int
		most       int
	}{
		{"communities", len(v.Announce.Communities) + len(v.Drain.Communities), len(d.Communities) + len(o.Communities), 127}, // and GRACEFUL_SHUTDOWN
		{"large_communities", len(v.Announce.LargeCommunities), len(d.LargeCommunities) + len(o.LargeCommunities), 128 - tag},
		{"extended_communities", len(v.Announce.ExtendedCommunities), len(d.ExtendedCommunities) + len(o.ExtendedCommunities), 64},
	} {
		place, with := path+".announce."+list.key, ""
		if list.add > 0 {
			place, with = path+".on_failure.degrade."+list.key, " with those of announce"
			if v.Degrade == nil {
				place = path + ".role.announce." + list.key
			}
		}
		if list.count+list.add > list.most && r.ok(place) {
			r.add(place, "are %d%s; at most %d are possible", list.count+list.add, with, list.most)
		}
	}
}

// already reports what a list has that the announcement has anyway.
func already[T comparable](list, announced []T, r *report, path, announce, key string) {
	there := make(map[T]int, len(announced))
	for k, one := range announced {
		if r.ok(index(announce+"."+key, k)) {
			there[one] = k
		}
	}
	for k, one := range list {
		place := index(path+"."+key, k)
		if first, double := there[one]; double && r.ok(place) {
			r.add(place, "is announced anyway, by %s; name one that is added", index("announce."+key, first))
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
