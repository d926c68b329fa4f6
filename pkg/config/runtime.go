package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// RuntimeVIPs says which VIPs may be added at run time.
type RuntimeVIPs struct {
	// AllowedPrefixes are those in which they lie, masked; empty for none at all.
	AllowedPrefixes []netip.Prefix
	// Limit is how many there may be at a time, 1 to 1000.
	Limit int
}

type rawRuntimeVIPs struct {
	AllowedPrefixes []netip.Prefix `key:"allowed_prefixes"`
	Limit           int            `key:"limit" default:"64" range:"1..1000"`
}

// RuntimeVIP is a VIP that is to be added at run time.
type RuntimeVIP struct {
	Name string
	// Spec is a JSON object with the keys of an entry of vips, see RuntimeKeys.
	Spec []byte
}

// RuntimeKeys are the keys of a VIP that is added at run time. Checks are not
// among them: they may run programs, as whoever owns the configuration wants.
func RuntimeKeys() []string {
	return []string{"address", "announce", "drain", "exclusive", "interfaces", "preferred_source", "role"}
}

// validateRuntime: what lies in a prefix may become an address of this host, so
// that is bounded as the size of a VIP is.
func validateRuntime(cfg *Config, r *report) {
	seen := map[netip.Prefix]int{}
	for i, p := range cfg.RuntimeVIPs.AllowedPrefixes {
		place := index("runtime_vips.allowed_prefixes", i)
		if !p.IsValid() || !r.ok(place) {
			continue
		}
		first, double := seen[p]
		switch least := shortestPrefix(p); {
		case double:
			r.add(place, "is listed twice, first as allowed_prefixes[%d]", first)
		case p.Bits() < least:
			r.add(place, "is too large; a prefix of its family has at least /%d", least)
		case unusable(p) != "":
			r.add(place, "must not touch the %s addresses", unusable(p))
		}
		seen[p] = i
	}
}

// WithVIPs returns the configuration with more VIPs behind its own, and why some
// of them are left out, by name: they are not as they must be, or contradict what
// the file says or one that comes before them. Where nothing is added, that is the
// configuration itself.
func (c *Config) WithVIPs(list []RuntimeVIP) (*Config, map[string]error) {
	out, refused := c, map[string]error{}
	if len(list) == 0 {
		return out, refused
	}
	// All at once, for one after the other each is compared with all again.
	if all, err := c.with(list); err == nil {
		return all, refused
	}
	for i := range list {
		next, err := out.with(list[i : i+1])
		if err != nil {
			refused[list[i].Name] = err
			continue
		}
		out = next
	}
	return out, refused
}

// with adds VIPs, judged by what judges those of a file, or none of them.
func (c *Config) with(list []RuntimeVIP) (*Config, error) {
	names := make([]string, len(c.Interfaces))
	for i := range c.Interfaces {
		names[i] = c.Interfaces[i].Name
	}
	r := newReport()
	next := *c
	next.VIPs = slices.Clip(c.VIPs)
	for i := range list {
		v, err := c.decode(&list[i], names, r, index("vips", len(next.VIPs)))
		if err != nil {
			return nil, fmt.Errorf("vip %s: %w", list[i].Name, err)
		}
		next.VIPs = append(next.VIPs, v)
	}
	validateVIPs(&next, r)
	validateReach(&next, r)
	for i := len(c.VIPs); i < len(next.VIPs); i++ {
		if place := index("vips", i) + ".address"; next.VIPs[i].Prefix.IsValid() && r.ok(place) {
			next.allowed(&next.VIPs[i], r, place)
		}
	}
	for i := len(c.VIPs); i < len(next.VIPs) && len(r.list) > 0; i++ {
		if problems := next.about(r.list, index("vips", i)); len(problems) > 0 {
			return nil, fmt.Errorf("vip %s: %s", next.VIPs[i].Name, strings.Join(problems, "; "))
		}
	}
	return &next, nil
}

// decode makes a VIP for the place at path.
func (c *Config) decode(one *RuntimeVIP, interfaces []string, r *report, path string) (VIP, error) {
	root, err := parseJSON(one.Spec)
	if err != nil {
		if at, ok := errors.AsType[*syntaxError](err); ok {
			err = errors.New(at.problem)
		}
		return VIP{}, err
	}
	var raw rawVIP
	runtimeKeys(root, r, path)
	r.value(root, reflect.ValueOf(&raw).Elem(), "", path)
	raw.Name = &one.Name
	r.values[join(path, "name")] = strconv.Quote(one.Name) // given, though not in the entry
	v := vip(raw, interfaces, r, path)
	v.Damping, v.Runtime = c.Damping, true
	return v, nil
}

// runtimeKeys refuses what only the file may say.
func runtimeKeys(root *node, r *report, path string) {
	if root.kind != kindMapping {
		return // refused as what it is
	}
	for _, p := range root.pairs {
		if !slices.Contains(RuntimeKeys(), p.key) {
			r.addAt(0, join(path, p.key), "", "is not a key of a VIP that is added at run time; those are "+strings.Join(RuntimeKeys(), ", "))
		}
	}
	root.pairs = slices.DeleteFunc(root.pairs, func(p pair) bool { return !slices.Contains(RuntimeKeys(), p.key) })
}

// allowed refuses an address that the file does not allow, or uses for something
// else.
func (c *Config) allowed(v *VIP, r *report, place string) {
	inside := func(p netip.Prefix) bool { return p.Bits() <= v.Prefix.Bits() && p.Overlaps(v.Prefix) }
	switch list := c.RuntimeVIPs.AllowedPrefixes; {
	case len(list) == 0:
		r.add(place, "is not allowed: runtime_vips.allowed_prefixes is empty")
	case !slices.ContainsFunc(list, inside):
		texts := make([]string, len(list))
		for i, p := range list {
			texts[i] = p.String()
		}
		r.add(place, "is not in runtime_vips.allowed_prefixes, which are %s", strings.Join(texts, ", "))
	}
	for i := range c.Interfaces {
		if p := c.Interfaces[i].PathProbe; p != nil && v.Prefix.Contains(p.Target) {
			r.add(place, "holds the target of %s.path_probe, which would not be reached any more", index("interfaces", i))
		}
	}
	for i, p := range c.Egress.Import {
		if v.Prefix.Bits() <= p.Bits() && v.Prefix.Contains(p.Addr()) {
			r.add(place, "holds %s, which is %s: this host itself would answer what is in it", index("egress.import", i), p)
		}
	}
	for i := range c.Peers {
		if l := c.Peers[i].LocalAddress; l.IsValid() && v.Prefix.Contains(l) {
			r.add(place, "holds the local address of %s", index("peers", i))
		}
	}
}

// about are the mistakes that have to do with the VIP at a path, in words that
// need no file: keys without the path, and VIPs by their names.
func (c *Config) about(list []Error, path string) []string {
	var out []string
	entry := regexp.MustCompile(`vips\[(\d+)\]`)
	for _, e := range list {
		if !strings.HasPrefix(e.Path, path) && !strings.Contains(e.Problem, path) {
			continue // there was no mistake before
		}
		e.Path = strings.TrimPrefix(strings.TrimPrefix(e.Path, path), ".")
		out = append(out, entry.ReplaceAllStringFunc(e.Error(), func(text string) string {
			i, err := strconv.Atoi(entry.FindStringSubmatch(text)[1])
			if err != nil || i >= len(c.VIPs) {
				return text
			}
			return "VIP " + c.VIPs[i].Name
		}))
	}
	return out
}
