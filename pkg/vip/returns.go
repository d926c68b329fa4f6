package vip

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// The kernel asks policy rules one after the other, for every connection. Up to
// plainReturns rules "from VIP" stand in one row. More of them stand in sections,
// each for a part of the address space, and only the rules that lead to the
// sections are in the row. sectionSize is how many are in a section, unless there
// would be more than maxSections. A section ends with a jump past all of our
// rules, so the sections come last: what has no source yet has got one by then, if
// it gets one.
const (
	plainReturns = 128
	sectionSize  = 64
	maxSections  = (offsetEnd - offsetSection) / 2
)

// returnRule says which table serves what is from a prefix.
type returnRule struct {
	from  netip.Prefix
	table uint32
}

// section is a part of the address space with the rules in it.
type section struct {
	cover netip.Prefix
	rules []returnRule
}

// sections are disjoint and hold all rules, which are so too.
func sections(family uint8, rules []returnRule) []section {
	for size := sectionSize; ; size *= 2 {
		out := divide(netip.PrefixFrom(anyOf(family), 0), rules, size)
		if len(out) <= maxSections {
			return out
		}
	}
}

// divide halves the prefix until no part has more rules than size.
func divide(cover netip.Prefix, rules []returnRule, size int) []section {
	if len(rules) == 0 {
		return nil
	}
	if len(rules) <= size {
		return []section{{cover, rules}}
	}
	low := netip.PrefixFrom(cover.Addr(), cover.Bits()+1)
	var in, out []returnRule
	for _, r := range rules { // disjoint, so each is longer than what holds several
		if low.Contains(r.from.Addr()) {
			in = append(in, r)
		} else {
			out = append(out, r)
		}
	}
	high := upperHalf(cover)
	return append(divide(low, in, size), divide(high, out, size)...)
}

// upperHalf is the second of the two halves of a prefix.
func upperHalf(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits()+1)
}

// returnRules lead what is from a VIP to its return table. sectioned tells that
// the rules are in sections, so that those for the last words of a session must
// come before: a section is left to the end of our rules.
func (p *pass) returnRules(family uint8, returns []returnTable, unset bool) (out []rule, sectioned bool) {
	var all []returnRule
	for _, t := range returns {
		for _, v := range aggregate(t.vips) {
			all = append(all, returnRule{v, t.table})
		}
	}
	base := p.m.opts.BasePriority
	lookup := func(offset uint32, r returnRule) rule {
		return rule{family: family, pref: base + offset, action: unix.FR_ACT_TO_TBL, table: r.table, src: r.from, proto: Protocol}
	}
	jump := func(offset, target uint32, src netip.Prefix) rule {
		return rule{family: family, pref: base + offset, action: unix.FR_ACT_GOTO, target: base + target, src: src, proto: Protocol}
	}
	if len(all) <= plainReturns {
		for _, r := range all {
			out = append(out, lookup(offsetReturn, r))
		}
		return out, false
	}
	var row []rule
	list := sections(family, all)
	numbers := p.sectionNumbers(family, list)
	for i, s := range list {
		at := u32(offsetSection + 2*numbers[i])
		for _, r := range s.rules {
			out = append(out, lookup(at, r))
		}
		out = append(out, jump(at+1, offsetEnd, netip.Prefix{}))
		row = append(row, jump(offsetReturn, at, s.cover))
	}
	if unset && family == unix.AF_INET { // what has no source yet needs none of these
		row = append(row, jump(offsetLinkLocal, offsetExclude, host(netip.IPv4Unspecified())))
	}
	return append(out, row...), true
}

// sectionNumbers gives each section the number that it has already, else one that
// no other has. If a section before it that comes or goes gave it another one, its
// rule in the row would have another target, and the kernel takes two rules that
// differ in nothing else for the same: it would refuse the new one.
func (p *pass) sectionNumbers(family uint8, list []section) []int {
	first := p.m.opts.BasePriority + offsetSection
	held := map[netip.Prefix]uint32{}
	for i := range p.s.rules {
		r := &p.s.rules[i]
		row := r.proto == Protocol && r.family == family && r.action == unix.FR_ACT_GOTO && r.pref == p.m.opts.BasePriority+offsetReturn
		if row && r.target >= first && r.target < first+2*maxSections {
			held[r.src] = (r.target - first) / 2
		}
	}
	out := make([]int, len(list))
	taken := [maxSections]bool{}
	for i := range list {
		n, ok := held[list[i].cover]
		if out[i] = -1; ok && !taken[n] {
			out[i], taken[n] = int(n), true
		}
	}
	next := 0
	for i := range out {
		if out[i] >= 0 {
			continue
		}
		for taken[next] {
			next++
		}
		out[i], taken[next] = next, true
	}
	return out
}
