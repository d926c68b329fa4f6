package config

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// validateDamping compares the parts of a damping. What is wrong at the top level
// is not reported again where it is inherited.
func validateDamping(d Damping, r *report, path string) {
	if !r.ok(path, "damping") {
		return
	}
	switch {
	case d.Reuse >= d.Suppress:
		r.add(path+".reuse", "must be below suppress, which is %d", d.Suppress)
	case d.MaxSuppress < d.HalfLife:
		r.add(path+".max_suppress", "must be at least half_life, which is %s", short(d.HalfLife))
	case ceiling(d) <= float64(d.Suppress):
		// 2^(max_suppress/half_life) must exceed suppress/reuse.
		least := time.Duration(math.Log2(float64(d.Suppress)/float64(d.Reuse)) * float64(d.HalfLife))
		r.add(path+".max_suppress", "keeps the penalty at %.0f at most, which is reuse × 2^(max_suppress/half_life), and suppress is %d; give %s or more",
			ceiling(d), d.Suppress, short(least.Truncate(time.Second)+time.Second))
	}
}

// ceiling is the highest penalty that there can be: that which decays to reuse
// within max_suppress (RFC 2439 section 4.2).
func ceiling(d Damping) float64 {
	return float64(d.Reuse) * math.Exp2(float64(d.MaxSuppress)/float64(d.HalfLife))
}

func validatePathProbe(one Interface, cfg *Config, r *report, path string) {
	p, place := one.PathProbe, path+".target"
	if p == nil {
		return
	}
	if r.ok(path+".interval", path+".timeout") && p.Timeout > p.Interval {
		r.add(path+".timeout", "must be at most the interval, which is %s", short(p.Interval))
	}
	if !p.Target.IsValid() || !r.ok(place) {
		return
	}
	if problem := badTarget(one, p.Target); problem != "" {
		r.add(place, "%s", problem)
	}
	for i, v := range cfg.VIPs {
		if v.Prefix.IsValid() && v.Prefix.Contains(p.Target) {
			r.add(place, "is in %s, which this host answers itself; name a host beyond the first hop", index("vips", i))
		}
	}
}

// badTarget says why a path probe of the interface cannot have the target, or "".
func badTarget(one Interface, target netip.Addr) string {
	const covered = "is %s, which gateway_probe covers; name a host beyond it"
	name := unusable(netip.PrefixFrom(target, target.BitLen()))
	switch {
	case name != "":
		return "must be the address of a host beyond the first hop; this one is " + name
	case !one.GatewayProbe.Enabled:
	case slices.ContainsFunc(one.Peers, func(p Peer) bool { return p.Address == target && (p.BFD == nil || !p.BFD.Multihop) }):
		return fmt.Sprintf(covered, "a peer on this link")
	case slices.Contains(one.Gateways, target):
		return fmt.Sprintf(covered, "a gateway of this interface")
	}
	return ""
}
