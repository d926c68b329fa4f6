package status

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Trace is how a packet leaves the host, or how it should come in.
type Trace struct {
	// Direction is out or in.
	Direction string     `json:"direction"`
	To        netip.Addr `json:"to"`
	// From is the source; zero with in, and where nothing is reached.
	From netip.Addr `json:"from,omitzero"`
	// VIP is the name of the one that From, or with in To, is of.
	VIP string `json:"vip,omitempty"`
	// User, Mark and Interface are those of the socket that was asked for.
	User      uint32 `json:"user"`
	Mark      uint32 `json:"mark,omitempty"`
	Interface string `json:"interface,omitempty"`
	// Reason and Detail say why the source is what it is, or with in why the VIP
	// is withheld.
	Reason Reason      `json:"reason,omitempty"`
	Detail string      `json:"detail,omitempty"`
	Steps  []TraceStep `json:"steps"`
}

// The directions of a trace.
const (
	TraceOut = "out"
	TraceIn  = "in"
)

// The reason words of a source (Trace.Reason): why a VIP is it.
const (
	SourceBound     Reason = "bound"            // it was asked for
	SourceByRule    Reason = "rule"             // of vips[].source.rules
	SourcePreferred Reason = "preferred_source" // of all traffic
)

// The reason words of a source that is no VIP; a VIP that is withheld gives its
// own word.
const (
	SourceUnreachable Reason = "unreachable"        // no route
	SourceLocal       Reason = "local"              // the destination is the host's own
	SourceExcluded    Reason = "excluded"           // never with a VIP as source
	SourceForeignRule Reason = "foreign_rule"       // a rule of somebody else was first
	SourceUnlisted    Reason = "unlisted_interface" // it leaves by an interface of no VIP
	SourceByRoute     Reason = "route"              // the route names a source
	SourceNone        Reason = "no_source"          // no VIP is a source for it
	SourceNotYet      Reason = "not_in_effect"      // a VIP should be, and is not
)

// TraceStep is one look-up, or with in one interface.
type TraceStep struct {
	// Name is source for the look-up that chooses the source, packet for the one
	// by which packets go, delivery for the one that takes packets in; with in it
	// is announced for an interface by which they should come.
	Name string `json:"name"`
	// Announced tells with in that routers have the VIP by this interface, Reason
	// why they do not, NextHop what they were told; it is zero for each session's
	// own address.
	Announced bool       `json:"announced,omitempty"`
	Reason    Reason     `json:"reason,omitempty"`
	Detail    string     `json:"detail,omitempty"`
	NextHop   netip.Addr `json:"next_hop,omitzero"`
	// Rules are the policy rules that the look-up met, the last one led to Table.
	Rules []string `json:"rules,omitempty"`
	Table string   `json:"table,omitempty"`
	Route string   `json:"route,omitempty"`
	MTU   uint32   `json:"mtu,omitempty"` // of the route; 0 for that of the interface
	// Unreachable is why there is no route.
	Unreachable string     `json:"unreachable,omitempty"`
	Hops        []TraceHop `json:"hops,omitempty"`
}

// TraceHop is a next hop with the sessions on its interface.
type TraceHop struct {
	Interface   string      `json:"interface"`
	Gateway     netip.Addr  `json:"gateway,omitzero"`
	Neighbour   string      `json:"neighbour,omitempty"`
	LinkAddress string      `json:"link_address,omitempty"`
	Sessions    []TracePeer `json:"sessions"`
}

// TracePeer is a session on an interface.
type TracePeer struct {
	Peer  string `json:"peer"`
	State string `json:"state"`
}

// WriteText writes the trace: one line with the answer, then the steps.
func (t *Trace) WriteText(w io.Writer, style Style) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", t.answer(style))
	out := table{lines: whole}
	out.header("STEP", "WHAT", "VALUE")
	for i := range t.Steps {
		t.Steps[i].write(&out)
	}
	out.write(&b, style)
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *Trace) answer(style Style) string {
	name := clean(t.VIP)
	why := clean(join(": ", string(t.Reason), t.Detail))
	switch {
	case t.Direction == TraceIn && t.Reason == "":
		return fmt.Sprintf("%s %s is %s", style.paint(name, head), t.To, style.paint("announced", good))
	case t.Direction == TraceIn:
		return fmt.Sprintf("%s %s is %s: %s", style.paint(name, head), t.To, style.paint("withheld", bad), why)
	case !t.From.IsValid():
		return fmt.Sprintf("%s is %s: %s", t.To, style.paint("not reached", bad), why)
	case name != "":
		return fmt.Sprintf("%s from %s (%s): %s", t.To, style.paint(t.From.String(), good), name, why)
	}
	return fmt.Sprintf("%s from %s: %s", t.To, style.paint(t.From.String(), weak), why)
}

// write adds the rows of a step; its name stands at the first one.
func (s *TraceStep) write(out *table) {
	name := s.Name
	add := func(what, value string, tone tone) {
		out.add(text(name), text(what), cell{clean(value), tone, false})
		name = ""
	}
	if s.Name == "announced" {
		state, tone := "withheld: "+join(": ", string(s.Reason), s.Detail), bad
		if s.Announced {
			state, tone = "announced, next hop the session's own address", good
			if s.NextHop.IsValid() {
				state = "announced, next hop " + s.NextHop.String()
			}
		}
		for i := range s.Hops {
			add("interface", s.Hops[i].Interface, plain)
		}
		add("path", state, tone)
	}
	for _, r := range s.Rules {
		add("rule", r, plain)
	}
	if s.Unreachable != "" {
		add("route", s.Unreachable, bad)
	}
	if s.Table != "" {
		add("table", s.Table, plain)
	}
	if s.Route != "" {
		add("route", s.Route, plain)
	}
	for i := range s.Hops {
		h := &s.Hops[i]
		if s.Name != "announced" {
			add("interface", join(" via ", h.Interface, addressText(h.Gateway)), plain)
		}
		if h.Neighbour != "" {
			tone := plain
			if h.Neighbour == "failed" || h.Neighbour == "incomplete" {
				tone = bad
			}
			add("neighbour", join(" ", addressText(h.Gateway), h.Neighbour, h.LinkAddress), tone)
		}
		for _, p := range h.Sessions {
			tone := bad
			if p.State == established {
				tone = good
			}
			add("session", p.Peer+" "+p.State, tone)
		}
	}
}

// addressText is the address, empty for none.
func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
