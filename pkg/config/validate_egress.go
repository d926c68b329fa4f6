package config

import "net/netip"

// maxImports bounds egress.import. Each prefix is a route in every table of ours.
const maxImports = 64

func validateImport(cfg *Config, r *report) {
	const list = "egress.import"
	if r.ok("egress.install") && cfg.Egress.Install == "main" && len(cfg.Egress.Import) == 0 && r.ok(list) {
		r.add("egress.install", "has nothing to install without egress.import")
	}
	if n := len(cfg.Egress.Import); n > maxImports {
		r.add(list, "has %d prefixes; at most %d can be imported", n, maxImports)
	}
	seen := map[netip.Prefix]int{}
	for i, p := range cfg.Egress.Import {
		place := index(list, i)
		if !p.IsValid() {
			continue
		}
		if first, double := seen[p]; double {
			r.add(place, "is listed twice, first as import[%d]", first)
		} else if a := p.Addr(); p.Bits() > 0 && (a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast()) {
			r.add(place, "is loopback, link-local or multicast, to which no router has a route for this host")
		}
		for _, v := range cfg.VIPs {
			if v.Prefix.IsValid() && v.Prefix.Bits() <= p.Bits() && v.Prefix.Contains(p.Addr()) {
				r.add(place, "lies in the VIP %s, which this host itself announces", v.Prefix)
			}
		}
		seen[p] = i
	}
}
