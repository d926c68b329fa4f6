package config

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// Bounds of the kernel's tables: how many source rules all VIPs together can
// have, how many VIPs of one family can be preferred sources, and how many
// different MTUs they can have.
const (
	MaxSourceRules = 256
	MaxSources     = 63
	MaxMTUs        = 16
)

// Source says when a VIP is a preferred source, and of what besides
// VIP.PreferredSource.
type Source struct {
	// Always makes it a source while no session carries the VIP too.
	Always bool
	// Rules are the combinations of selectors: each entry of the file for each of
	// its destinations, users and marks.
	Rules []SourceRule
}

// SourceRule selects traffic that gets the VIP as source. What it does not have
// is any.
type SourceRule struct {
	// Entry is the place in the list of the file.
	Entry int
	// Rank orders the rules of all VIPs, the most specific first; no two have the
	// same.
	Rank int
	// Destination is of the VIP's family, longer than /0; the zero value is any.
	Destination netip.Prefix
	// Users are the owners of the sockets; nil for any.
	Users *Users
	// Mark is what the bits of Mask must be in the mark of the socket; a Mask of 0
	// is any.
	Mark, Mask uint32
}

// Users is a range of user IDs, 0 to 4294967294, both ends included.
type Users struct{ First, Last uint32 }

// process tells how specific the rule is about the process: not at all, by its
// user, by its mark, by both.
func (r *SourceRule) process() int {
	rank := 0
	if r.Mask != 0 {
		rank += 2
	}
	if r.Users != nil {
		rank++
	}
	return rank
}

// class is 3 for a rule by process and destination, 2 by process, 1 by
// destination.
func (r *SourceRule) class() int {
	class := 0
	if r.process() > 0 {
		class += 2
	}
	if r.Destination.IsValid() {
		class++
	}
	return class
}

// compareRules puts the more specific rule first.
func compareRules(a, b *SourceRule) int {
	length := func(r *SourceRule) int { return max(r.Destination.Bits(), 0) }
	size := func(r *SourceRule) uint32 {
		if r.Users == nil {
			return math.MaxUint32
		}
		return r.Users.Last - r.Users.First
	}
	return cmp.Or(
		cmp.Compare(b.class(), a.class()),
		cmp.Compare(b.process(), a.process()),
		cmp.Compare(bits.OnesCount32(b.Mask), bits.OnesCount32(a.Mask)),
		cmp.Compare(size(a), size(b)),
		cmp.Compare(length(b), length(a)),
	)
}

// rankRules orders the rules of all VIPs. Equally specific ones stay in the order
// of the file.
func rankRules(vips []VIP) {
	var all []*SourceRule
	for i := range vips {
		for j := range vips[i].Source.Rules {
			all = append(all, &vips[i].Source.Rules[j])
		}
	}
	slices.SortStableFunc(all, compareRules)
	for rank, r := range all {
		r.Rank = rank
	}
}

type rawSource struct {
	When  string          `key:"when" default:"announced" oneof:"announced always"`
	Rules []rawSourceRule `key:"rules"`
}

type rawSourceRule struct {
	Destinations []netip.Prefix `key:"destinations"`
	Users        []users        `key:"users"`
	Marks        []mark         `key:"marks"`
}

// users is a range of user IDs, as a number, a range or a name.
type users Users

// mark is the mark of sockets (SO_MARK), with the bits of it that count.
type mark struct{ value, mask uint32 }

// sourceOf expands the entries of the file. One that is too large for the kernel
// is cut, for validate to report.
func sourceOf(raw *rawSource) Source {
	s := Source{Always: raw.When == "always"}
	for i := range raw.Rules {
		one := &raw.Rules[i]
		for _, d := range orAny(one.Destinations) {
			for _, u := range orAny(one.Users) {
				for _, m := range orAny(one.Marks) {
					if len(s.Rules) > MaxSourceRules {
						return s
					}
					r := SourceRule{Entry: i, Destination: d, Mark: m.value, Mask: m.mask}
					if len(one.Users) > 0 {
						r.Users = &Users{u.First, u.Last}
					}
					s.Rules = append(s.Rules, r)
				}
			}
		}
	}
	return s
}

// orAny is the list, or the zero value alone.
func orAny[T any](list []T) []T {
	if len(list) == 0 {
		return make([]T, 1)
	}
	return list
}

// sourceScalar decodes the selectors of source rules; see scalar.
func sourceScalar(n *node, dst any) (problem string, isScalar bool) {
	switch d := dst.(type) {
	case *users:
		return userRange(n, d), true
	case *mark:
		return socketMark(n, d), true
	}
	return "", false
}

func userRange(n *node, d *users) string {
	const want = "must be a user's name, a user ID such as 1000 or a range such as 1000-1999"
	if n.kind != kindText && n.kind != kindNumber {
		return want
	}
	low, high, isRange := strings.Cut(n.text, "-")
	digits := func(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
	switch {
	case digits(n.text):
		low, high = n.text, n.text
	case n.kind == kindNumber:
		return want
	case !isRange || !digits(low) || !digits(high):
		return userName(n.text, d, want)
	}
	first, err := strconv.ParseUint(low, 10, 32)
	last, errLast := strconv.ParseUint(high, 10, 32)
	switch {
	case err != nil || errLast != nil || first == math.MaxUint32 || last == math.MaxUint32:
		return want + ", with IDs from 0 to 4294967294"
	case first > last:
		return fmt.Sprintf("ends before it begins; write %d-%d", last, first)
	}
	*d = users{uint32(first), uint32(last)}
	return ""
}

// userName looks a user of the host up.
func userName(name string, d *users, want string) string {
	if name == "" || strings.ContainsAny(name, ":/ ") {
		return want
	}
	found, err := user.Lookup(name)
	if err != nil {
		return "is not a user of this host (in /etc/passwd); give the user ID"
	}
	id, err := strconv.ParseUint(found.Uid, 10, 32)
	if err != nil {
		return "is a user without a number; give the user ID"
	}
	*d = users{uint32(id), uint32(id)}
	return ""
}

func socketMark(n *node, d *mark) string {
	const want = "must be a mark such as 16, 0x10 or 0x10/0xff"
	if n.kind != kindText && n.kind != kindNumber {
		return want
	}
	value, mask, masked := strings.Cut(n.text, "/")
	if !masked {
		mask = "0xffffffff"
	}
	v, err := strconv.ParseUint(value, 0, 32)
	m, errMask := strconv.ParseUint(mask, 0, 32)
	switch {
	case err != nil || errMask != nil:
		return want + ", of 32 bits"
	case v == 0:
		return "must not be 0, which is what sockets without a mark have"
	case v&^m != 0:
		return fmt.Sprintf("has the bits %#x outside of its mask", v&^m)
	}
	*d = mark{uint32(v), uint32(m)}
	return ""
}
