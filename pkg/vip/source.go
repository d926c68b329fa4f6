package vip

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// MaxSourceRules is how many entries of Desired.SourceRules there are
// priorities for, so their ranks are below it. MaxSources is how many VIPs of
// one family can be a source at the same time.
const (
	MaxSourceRules = offsetSource - offsetRule
	MaxSources     = tableCount - 1
)

// SourceRule makes a VIP the preferred source of the part of the traffic that
// matches all of its selectors, before what Interface.Source4 and Source6 say.
type SourceRule struct {
	// Source is a VIP, Interfaces are those by which the traffic leaves: the same
	// for all rules of one source.
	Source     netip.Addr
	Interfaces []string
	// Rank orders the rules: the kernel asks those of a lower rank first. No two
	// rules share one.
	Rank int
	// Destination is of the family of Source; the zero value is any.
	Destination netip.Prefix
	// Users are the owners of the sockets; nil for any.
	Users *Users
	// Mark is what the bits of Mask in the socket's mark (SO_MARK) must be; a
	// Mask of 0 is any.
	Mark, Mask uint32
}

// Users is a range of user IDs, both ends included, as the user namespace of the
// daemon counts them.
type Users struct{ First, Last uint32 }

// selector is the part of a policy rule that selects by the process.
type selector struct {
	byUser     bool
	users      Users
	mark, mask uint32 // mask 0 for any
}

// sourceTable is the table of a source VIP.
type sourceTable struct {
	source netip.Addr
	table  uint32
}

// serves tells whether traffic may get the source when it leaves by the port.
func (p *port) serves(source netip.Addr) bool {
	return source == p.Source4 || source == p.Source6 || slices.Contains(p.sources, source)
}

// general tells whether the source is that of all traffic by some port.
func (p *pass) general(source netip.Addr) bool {
	return slices.ContainsFunc(p.ports, func(q port) bool { return source == q.Source4 || source == q.Source6 })
}

// ruled are the sources of the rules for an interface.
func (d *Desired) ruled(name string) []netip.Addr {
	var out []netip.Addr
	for i := range d.SourceRules {
		r := &d.SourceRules[i]
		if slices.Contains(r.Interfaces, name) && !slices.Contains(out, r.Source) {
			out = append(out, r.Source)
		}
	}
	return out
}

// sourceRules lead the traffic that still has no source to the tables: by the
// rules of the configuration first, then all of it.
func (p *pass) sourceRules(family uint8, tables []sourceTable) []rule {
	unset := netip.Prefix{}
	if family == unix.AF_INET {
		unset = host(netip.IPv4Unspecified())
	}
	lookup := func(offset, table uint32) rule {
		return rule{
			family: family, pref: p.m.opts.BasePriority + offset, action: unix.FR_ACT_TO_TBL,
			table: table, src: unset, proto: Protocol,
		}
	}
	var out []rule
	for i := range p.d.SourceRules {
		s := &p.d.SourceRules[i]
		at := slices.IndexFunc(tables, func(t sourceTable) bool { return t.source == s.Source })
		if at < 0 || s.Rank < 0 || s.Rank >= MaxSourceRules {
			continue
		}
		r := lookup(u32(offsetRule+s.Rank), tables[at].table)
		if r.dst = s.Destination; r.dst.IsValid() && r.dst.Bits() == 0 {
			r.dst = netip.Prefix{} // the kernel tells no such destination
		}
		if s.Users != nil {
			r.byUser, r.users = true, *s.Users
		}
		r.mark, r.mask = s.Mark&s.Mask, s.Mask
		out = append(out, r)
	}
	n := 0
	for _, t := range tables {
		if p.general(t.source) {
			out = append(out, lookup(u32(offsetSource+n), t.table))
			n++
		}
	}
	return out
}

// decode reads an attribute that selects by the process, and tells whether it is
// one.
func (s *selector) decode(t uint16, v []byte) bool {
	switch t {
	case unix.FRA_UID_RANGE:
		if len(v) >= 8 {
			s.byUser, s.users = true, Users{uint32of(v), uint32of(v[4:])}
		}
	case unix.FRA_FWMARK:
		s.mark = uint32of(v)
	case unix.FRA_FWMASK:
		s.mask = uint32of(v)
	default:
		return false
	}
	return true
}

func (s *selector) appendTo(b []byte) []byte {
	if s.byUser {
		users := binary.NativeEndian.AppendUint32(nil, s.users.First)
		b = appendAttr(b, unix.FRA_UID_RANGE, binary.NativeEndian.AppendUint32(users, s.users.Last))
	}
	if s.mask != 0 {
		b = appendAttr32(b, unix.FRA_FWMARK, s.mark)
		b = appendAttr32(b, unix.FRA_FWMASK, s.mask)
	}
	return b
}

// String returns the selector as ip(8) shows it, with a blank before each part.
func (s *selector) String() string {
	text := ""
	if s.mask != 0 {
		text += fmt.Sprintf(" fwmark %#x/%#x", s.mark, s.mask)
	}
	if s.byUser {
		text += fmt.Sprintf(" uidrange %d-%d", s.users.First, s.users.Last)
	}
	return text
}
