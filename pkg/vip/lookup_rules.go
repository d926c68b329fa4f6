package vip

import (
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// walk follows the rules as the kernel does (fib_rules_lookup), and returns
// those that a look-up met: it ends with the one that led to the table. Which
// tables have a route only the kernel knows, so a rule for another table is one
// that had none. A table of 0 is one that is not known: all that match are
// returned.
func (r *Reader) walk(rules []rule, f Flow, table uint32) []LookupRule {
	var out []LookupRule
	from := uint32(0)
	for i := range rules {
		q := &rules[i]
		if q.pref < from || !q.matches(f) {
			continue
		}
		switch q.action {
		case unix.FR_ACT_TO_TBL:
			// One that selects by what we do not know is met only if it must be.
			if q.other && q.table != table {
				continue
			}
			out = append(out, r.met(q))
			if q.table == table {
				return out
			}
		case unix.FR_ACT_GOTO:
			if !slices.ContainsFunc(rules, func(o rule) bool { return o.pref == q.target }) {
				continue
			}
			from = q.target
			out = append(out, r.met(q))
		case unix.FR_ACT_NOP:
		default: // unreachable, blackhole, prohibit
			return append(out, r.met(q))
		}
	}
	return out
}

func (r *Reader) met(q *rule) LookupRule {
	out := LookupRule{Priority: q.pref, Text: q.shown(), Ours: q.proto == Protocol, Jump: q.action == unix.FR_ACT_GOTO && q.dst.IsValid(), Rank: -1}
	if out.Ours && q.action == unix.FR_ACT_TO_TBL && q.pref >= r.basePriority {
		switch offset := q.pref - r.basePriority; {
		case offset >= offsetRule && offset < offsetSource:
			out.Rank = int(offset - offsetRule)
		case offset >= offsetSource && offset < offsetSection:
			out.General = true
		}
	}
	return out
}

// matches tells whether the rule applies to the flow, as far as we know what it
// selects by. An unset source is 0.0.0.0 for rules of IPv4, while those of IPv6
// that have a source apply to none that is unset.
func (r *rule) matches(f Flow) bool {
	from := f.From
	if !from.IsValid() && r.family == unix.AF_INET {
		from = netip.IPv4Unspecified()
	}
	switch {
	case r.src.IsValid() && !r.src.Contains(from): // which an address that is none is not
	case r.dst.IsValid() && !r.dst.Contains(f.To):
	case r.ipproto != 0 && r.ipproto != unix.IPPROTO_TCP, r.sport != 0:
	case r.byUser && (f.User < r.users.First || f.User > r.users.Last):
	case f.Mark&r.mask != r.mark:
	default:
		return true
	}
	return false
}

// shown is the rule as ip(8) shows it.
func (r *rule) shown() string {
	s := strconv.FormatUint(uint64(r.pref), 10) + ": from "
	switch {
	case !r.src.IsValid():
		s += "all"
	case r.src.IsSingleIP():
		s += r.src.Addr().String()
	default:
		s += r.src.String()
	}
	if r.dst.IsValid() {
		s += " to " + r.dst.String()
	}
	s += r.selector.String()
	if r.other {
		s += " ..."
	}
	switch r.action {
	case unix.FR_ACT_TO_TBL:
		return s + " lookup " + tableWord(r.table)
	case unix.FR_ACT_GOTO:
		return s + " goto " + strconv.FormatUint(uint64(r.target), 10)
	case unix.FR_ACT_BLACKHOLE:
		return s + " blackhole"
	case unix.FR_ACT_PROHIBIT:
		return s + " prohibit"
	}
	return s + " unreachable"
}

// tableWord is the table as ip(8) shows it.
func tableWord(table uint32) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return tableName(table)
}

// TableName is a routing table as ip(8) shows it.
func TableName(table uint32) string { return tableWord(table) }
