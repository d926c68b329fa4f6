package status

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Role is what a host is for a VIP that others announce, too, or must not.
type Role struct {
	// Rank is 1 to 254, 0 for a VIP without one.
	Rank int `json:"rank,omitempty"`
	// Failback is immediate, idle or manual; empty without a rank.
	Failback string `json:"failback,omitempty"`
	// Exclusive tells that nobody else may announce it.
	Exclusive bool `json:"exclusive,omitempty"`
	// Behind tells that it is announced, or would be, as worse than any rank.
	Behind bool `json:"behind,omitempty"`
	// Leased tells that it must have one owner, by a lease of etcd; Held that this
	// host may announce it by that now.
	Leased bool `json:"leased,omitempty"`
	Held   bool `json:"held,omitempty"`
	// Owns tells that this host is the owner, and not only the one that it is handed
	// over to. Ceased is why it is not any more: handed_over, given_up, lease_ended or
	// hold_gone; empty while it is, and if it never was.
	Owns   bool   `json:"owns,omitempty"`
	Ceased string `json:"ceased,omitempty"`
	// Owner is the host that owns it, Next the one that it is handed over to, Former
	// the one that handed it over and may still announce it.
	Owner  string `json:"owner,omitempty"`
	Next   string `json:"next,omitempty"`
	Former string `json:"former,omitempty"`
	// Epoch grows with every change of the owner.
	Epoch int64 `json:"epoch,omitempty"`
	// Revision grows with every order to the owner, too: it is the revision of etcd at
	// which that changed last.
	Revision int64 `json:"revision,omitempty"`
	// KeptUntil is when this host gives it up at the latest although it does not announce
	// it: until then a router may have it whose session was lost, and nobody else takes
	// it. Zero if none may.
	KeptUntil time.Time `json:"kept_until,omitzero"`
	// Ready are the hosts that could own it, the preferred one first.
	Ready []string `json:"ready,omitempty"`
	// Trouble is why etcd could not be asked the last time.
	Trouble string `json:"trouble,omitempty"`
	// Refused is why this host can own nothing: another machine has its name.
	Refused string `json:"refused,omitempty"`
	// Others are the hosts that routers say announce it, each once.
	Others []Other `json:"others,omitempty"`
}

// Other is another host that announces a VIP.
type Other struct {
	// Host is its router id; zero if its path does not tell.
	Host netip.Addr `json:"host,omitzero"`
	ASN  uint32     `json:"asn"`
	// Rank is 0 if its path does not tell one.
	Rank   int  `json:"rank,omitempty"`
	Behind bool `json:"behind,omitempty"`
	// Leaving tells that it is announced with GRACEFUL_SHUTDOWN (RFC 8326).
	Leaving bool `json:"leaving,omitempty"`
	// Peers are the routers that say so.
	Peers []netip.Addr `json:"peers"`
	// Duplicate is why it must not be there, empty if it may.
	Duplicate string `json:"duplicate,omitempty"`
}

// Same tells whether two are the same host with the same reason against it.
func (o Other) Same(p Other) bool {
	return o.Host == p.Host && o.ASN == p.ASN && o.Duplicate == p.Duplicate
}

// Text names the host and says what it is.
func (o Other) Text() string {
	text := "a host"
	if o.Host.IsValid() {
		text = o.Host.String()
	}
	text += fmt.Sprintf(" of AS %d", o.ASN)
	if o.Rank > 0 {
		text += fmt.Sprintf(", rank %d", o.Rank)
	}
	if o.Behind {
		text += ", behind"
	}
	if o.Leaving {
		text += ", about to go"
	}
	return text
}

// ownerText tells who owns it and who could.
func (r *Role) ownerText(now time.Time) string {
	text := "nobody owns it"
	if r.Owner != "" {
		text = fmt.Sprintf("owned by %s (epoch %d)", r.Owner, r.Epoch)
	}
	if r.Next != "" {
		text += ", handed over to " + r.Next
	}
	if r.Former != "" {
		text += ", handed over by " + r.Former
	}
	kept := ""
	if now.Before(r.KeptUntil) {
		kept = "kept for " + span(r.KeptUntil.Sub(now)) + " at most, as a router whose session was lost may still have it from here"
	}
	ready := "nobody is ready"
	if len(r.Ready) > 0 {
		ready = "ready: " + strings.Join(r.Ready, ", ")
	}
	return join("; ", text, kept, ready, r.Refused, r.Trouble)
}

// leased is the role of a VIP that must have one owner, nil if there is none. What
// it says about etcd and this host is so for all of them.
func (s *Status) leased() *Role {
	for i := range s.VIPs {
		if r := s.VIPs[i].Role; r != nil && r.Leased {
			return r
		}
	}
	return nil
}

// Refused is why this host can own no VIP, empty if it can.
func (s *Status) Refused() string {
	if r := s.leased(); r != nil {
		return r.Refused
	}
	return ""
}

// Duplicates are the hosts that must not announce the VIP.
func (v *VIP) Duplicates() []Other {
	if v.Role == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(v.Role.Others), func(o Other) bool { return o.Duplicate == "" })
}

// role tells about rank and others; what has no role has no such gate.
func (e *Explanation) role(v *VIP, now time.Time) {
	r := v.Role
	if r == nil {
		return
	}
	var others []string
	for i := range r.Others {
		others = append(others, join(": ", r.Others[i].Text(), r.Others[i].Duplicate))
	}
	seen := "no other host is seen"
	if len(others) > 0 {
		seen = "seen: " + strings.Join(others, "; ")
	}
	var own []string
	if r.Rank > 0 {
		own = append(own, fmt.Sprintf("rank %d, failback %s", r.Rank, r.Failback))
	}
	if r.Exclusive {
		own = append(own, "exclusive")
	}
	if r.Behind {
		own = append(own, "behind all ranks")
	}
	if r.Leased {
		own = append(own, r.ownerText(now))
	}
	if p := v.Parted; p != nil {
		own = append(own, join(", ", "connections left from before the handover: "+p.left(), p.text(now)))
	}
	reason := Duplicate
	if r.Refused != "" {
		reason = NotOwner
	}
	e.add("role", "", len(v.Duplicates()) == 0 && r.Refused == "", reason, join("; ", append(own, seen)...))
}

// role are the metrics of a VIP that others announce, too, or must not.
func (c *Collector) role(m sink, v *VIP) {
	if v.Role == nil {
		return
	}
	if v.Role.Rank > 0 {
		m.gauge(c.descs.vipRank, float64(v.Role.Rank), v.Name)
		m.flag(c.descs.vipBehind, v.Role.Behind, v.Name)
	}
	if v.Role.Leased {
		m.flag(c.descs.vipHeld, v.Role.Held, v.Name)
	}
	m.gauge(c.descs.vipDuplicates, float64(len(v.Duplicates())), v.Name)
}

// etcd tells whether etcd answers and takes this host, if a VIP needs it.
func (c *Collector) etcd(m sink, s *Status) {
	if r := s.leased(); r != nil {
		m.flag(c.descs.etcdUp, r.Trouble == "")
		m.flag(c.descs.ownershipRefused, r.Refused != "")
	}
}
