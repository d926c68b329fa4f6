package vip

import (
	"net/netip"
	"slices"
)

// host is the prefix that holds the address only.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// aggregate covers exactly the addresses of the prefixes with as few prefixes
// as possible, in their order: 256 VIPs in a row need one rule.
func aggregate(prefixes []netip.Prefix) []netip.Prefix {
	in := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		in[i] = p.Masked()
	}
	slices.SortFunc(in, netip.Prefix.Compare)
	var out []netip.Prefix
	for _, p := range in {
		if n := len(out); n > 0 && out[n-1].Contains(p.Addr()) && out[n-1].Bits() <= p.Bits() {
			continue
		}
		out = append(out, p)
		for n := len(out); n > 1 && siblings(out[n-2], out[n-1]); n = len(out) {
			out[n-2] = netip.PrefixFrom(out[n-2].Addr(), out[n-2].Bits()-1).Masked()
			out = out[:n-1]
		}
	}
	return out
}

// siblings tells whether two different masked prefixes are the halves of one.
func siblings(a, b netip.Prefix) bool {
	if a.Bits() != b.Bits() || a.Bits() == 0 || a.Addr().BitLen() != b.Addr().BitLen() {
		return false
	}
	parent := netip.PrefixFrom(a.Addr(), a.Bits()-1)
	return parent.Contains(b.Addr())
}
