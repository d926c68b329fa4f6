package status

import (
	"fmt"
	"net/netip"
	"strings"
)

// SourceRule selects traffic that gets the VIP as source: what has all of the
// selectors that it has.
type SourceRule struct {
	// Entry is the place in the list of the configuration, whose entries may have
	// several values of a kind. Rank orders the rules of all VIPs: of those that
	// match, the one with the lowest counts.
	Entry int `json:"entry"`
	Rank  int `json:"rank"`
	// Destination is the zero value for any.
	Destination netip.Prefix `json:"destination,omitzero"`
	Users       *Users       `json:"users,omitempty"`
	// Mark is what the bits of Mask must be in the mark of the socket; a Mask of 0
	// is any.
	Mark uint32 `json:"mark,omitempty"`
	Mask uint32 `json:"mask,omitempty"`
}

// Users is a range of user IDs, both ends included.
type Users struct {
	First uint32 `json:"first"`
	Last  uint32 `json:"last"`
}

// String returns the selectors in words.
func (r *SourceRule) String() string {
	var parts []string
	if r.Mask != 0 {
		parts = append(parts, fmt.Sprintf("mark %#x/%#x", r.Mark, r.Mask))
	}
	switch {
	case r.Users == nil:
	case r.Users.First == r.Users.Last:
		parts = append(parts, fmt.Sprintf("user %d", r.Users.First))
	default:
		parts = append(parts, fmt.Sprintf("users %d-%d", r.Users.First, r.Users.Last))
	}
	if r.Destination.IsValid() {
		parts = append(parts, "to "+r.Destination.String())
	}
	return strings.Join(parts, " ")
}

// isSource tells whether the configuration wants the VIP as source of anything.
func (v *VIP) isSource() bool { return v.PreferredSource || len(v.SourceRules) > 0 }

// sources says in words what the VIP is a source of.
func (v *VIP) sources() string {
	switch {
	case len(v.SourceRules) == 0:
		return "of traffic that names none"
	case v.PreferredSource:
		return fmt.Sprintf("of traffic that names none, and by %d rules", len(v.SourceRules))
	case len(v.SourceRules) == 1:
		return "of traffic that names none: " + v.SourceRules[0].String()
	default:
		return fmt.Sprintf("of traffic that names none, by %d rules", len(v.SourceRules))
	}
}
