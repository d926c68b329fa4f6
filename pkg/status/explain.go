package status

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Explanation answers why a VIP is announced or not: every gate that it must
// pass, with its state.
type Explanation struct {
	VIP   VIP    `json:"vip"`
	Gates []Gate `json:"gates"`

	detail string // why it is announced nowhere, with ages of now
}

// GateState is what a gate says.
type GateState string

// The states of a gate.
const (
	GateOK  GateState = "ok"
	GateNo  GateState = "no"
	GateOff GateState = "off" // not asked for by the configuration
)

// Gate is one condition of an announcement.
type Gate struct {
	// Name is configured, drained, check, checks, degraded, damping, bound,
	// interface, probe, bfd, session, announced, role or source.
	Name string `json:"gate"`
	// Subject is what the gate is about: an interface, a check, or empty.
	Subject string    `json:"subject,omitempty"`
	State   GateState `json:"state"`
	Reason  Reason    `json:"reason,omitempty"`
	Detail  string    `json:"detail,omitempty"`
}

// Explain finds the VIP by its name, address or prefix and tells about each of
// its gates. Ages are counted up to now. It returns an error that lists the
// known names when there is no such VIP.
func (s *Status) Explain(name string, now time.Time) (*Explanation, error) {
	v := s.find(name)
	if v == nil {
		known := make([]string, len(s.VIPs))
		for i := range s.VIPs {
			known[i] = s.VIPs[i].Name
		}
		if len(known) == 0 {
			return nil, fmt.Errorf("no VIP %q: none is configured", name)
		}
		return nil, fmt.Errorf("no VIP %q: the VIPs are %s", name, Names(known))
	}
	e := &Explanation{VIP: *v, detail: s.detail(v, s.inFull(now))}
	names := make([]string, len(v.Interfaces))
	for i := range v.Interfaces {
		names[i] = v.Interfaces[i].Interface
	}
	e.add("configured", "", true, "", fmt.Sprintf("%s on %s", v.Prefix, strings.Join(names, ", ")))
	e.drained(v, now)
	e.checks(v, now)
	e.damping("", v.Penalty)
	e.bound(s, v)
	for i := range v.Interfaces {
		e.path(s, &v.Interfaces[i], now)
	}
	e.role(v, now)
	e.source(v)
	return e, nil
}

// trouble says in words what is wrong with the process, empty if nothing is.
func (p *Speaker) trouble() string {
	if p.Phase == "running" {
		return p.Error
	}
	return join("; ", join(": ", "speaker "+p.Phase, p.LastExit), p.Error)
}

// find returns the VIP of that name, else of that address or prefix, or nil.
func (s *Status) find(name string) *VIP {
	for i := range s.VIPs {
		if s.VIPs[i].Name == name {
			return &s.VIPs[i]
		}
	}
	prefix, err := netip.ParsePrefix(name)
	if addr, addrErr := netip.ParseAddr(name); addrErr == nil {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	for i := range s.VIPs {
		if err == nil && s.VIPs[i].Prefix == prefix.Masked() {
			return &s.VIPs[i]
		}
	}
	return nil
}

func (e *Explanation) add(name, subject string, ok bool, reason Reason, detail string) {
	g := Gate{Name: name, Subject: subject, State: GateOK, Detail: detail}
	if !ok {
		g.State, g.Reason = GateNo, reason
	}
	e.Gates = append(e.Gates, g)
}

func (e *Explanation) checks(v *VIP, now time.Time) {
	if len(v.Checks) == 0 {
		e.Gates = append(e.Gates, Gate{Name: "check", State: GateOff, Detail: "no checks are configured"})
	}
	for i := range v.Checks {
		c := &v.Checks[i]
		reason := CheckUnknown
		switch c.Verdict {
		case "unhealthy":
			reason = CheckFailed
		case "stale":
			reason = CheckStale
		}
		e.add("check", c.Name, c.Verdict == "healthy", reason,
			join(": ", c.Kind+" "+c.Verdict+lasting(now, c.Since), c.Reason))
	}
	healthy := v.healthy()
	if len(v.Checks) > 1 {
		mode := "all must be"
		if v.any() {
			mode = "one is enough"
		}
		e.add("checks", "", v.enough(healthy), CheckFailed, fmt.Sprintf("%d of %d healthy, %s", healthy, len(v.Checks), mode))
	}
	if v.Degraded {
		e.add("degraded", "", true, "", "announced with the attributes of on_failure while its checks fail")
	}
}

// damping tells about what flaps; what does not has no such gate.
func (e *Explanation) damping(subject string, p Penalty) {
	if text := p.Text(); text != "" {
		e.add("damping", subject, !p.Suppressed, Damped, text)
	}
}

func (e *Explanation) bound(s *Status, v *VIP) {
	detail := "on " + s.Kernel.Device
	if s.Kernel.DeviceKind != "" {
		detail += " (" + s.Kernel.DeviceKind + ")"
	}
	if !v.Bound {
		detail = "the kernel does not hold it"
		if v.Reason == NotBound && v.Detail != "" {
			detail = v.Detail // the same, and why
		}
	}
	e.add("bound", "", v.Bound, NotBound, detail)
}

// path tells about one interface: usable, with a session, carrying the VIP.
func (e *Explanation) path(s *Status, on *VIPInterface, now time.Time) {
	if n := s.iface(on.Interface); n != nil {
		addresses := "no addresses"
		if len(n.Addresses) > 0 {
			addresses = joined(n.Addresses)
		}
		e.add("interface", n.Name, n.Usable, n.Reason, join("; ", addresses, n.cause(s.inFull(now)), n.Speaker.trouble()))
		e.damping(n.Name, n.Penalty)
		e.probes(n, now)
	}
	e.bfd(s, on.Interface, now)
	up := false
	var sessions []string
	for i := range s.Peers {
		p := &s.Peers[i]
		if p.Interface != on.Interface {
			continue
		}
		up = up || p.State == established
		text := p.Name() + " " + p.State + lasting(now, p.Since)
		if p.State != established {
			text = join(": ", text, p.lastError(s.iface(p.Interface)))
		}
		sessions = append(sessions, text)
	}
	if len(sessions) == 0 {
		sessions = []string{"no peers are configured here"}
	}
	e.add("session", on.Interface, up, NoSession, strings.Join(sessions, "; "))

	detail := s.detailOn(on, s.inFull(now))
	if on.Announced {
		hop := "the session's own address"
		if on.NextHop.IsValid() {
			hop = on.NextHop.String()
		}
		for i := range on.Paths {
			via := on.Paths[i].NextHop.String() + " by " + on.Paths[i].Interface
			if i == 0 {
				hop = via
			} else {
				hop += ", with ADD-PATH also " + via
			}
		}
		detail = fmt.Sprintf("to %s, next hop %s", joined(on.Peers), hop)
	}
	e.add("announced", on.Interface, on.Announced, on.Reason, detail)
}

// probes tells about the probes of an interface. One that fails may be outlived:
// the gate of the interface says what follows from all of them.
func (e *Explanation) probes(n *Interface, now time.Time) {
	for i := range n.Probes {
		p := &n.Probes[i]
		detail := join(": ", p.Layer+" "+p.Target+" "+p.Verdict+lasting(now, p.Since), p.Reason)
		for _, f := range n.Failures {
			if f.Layer == p.Layer && f.Target == p.Target {
				detail = f.Text(now)
			}
		}
		e.add("probe", n.Name, p.Verdict == "healthy", Reason(p.Layer), detail)
	}
}

// bfd tells about the BFD sessions on an interface. One that is down and has
// not failed holds nothing up, unless the configuration requires it: the gate
// of the BGP session says that.
func (e *Explanation) bfd(s *Status, iface string, now time.Time) {
	for i := range s.Peers {
		p := &s.Peers[i]
		if p.Interface != iface || p.BFD == nil {
			continue
		}
		g := Gate{Name: "bfd", Subject: iface, State: GateOff, Detail: p.Name() + " " + p.BFD.text(now)}
		switch {
		case p.BFD.State == bfdUp:
			g.State = GateOK
		case p.BFD.failed():
			g.State, g.Reason = GateNo, InterfacePath
		}
		e.Gates = append(e.Gates, g)
	}
}

func (e *Explanation) source(v *VIP) {
	switch {
	case !v.isSource():
		e.Gates = append(e.Gates, Gate{Name: "source", State: GateOff, Detail: "preferred_source is false"})
	case len(v.Source) > 0:
		e.add("source", "", true, "", v.sources()+", on "+strings.Join(v.Source, ", "))
	case v.SourceAlways:
		e.add("source", "", false, v.Reason, "comes once the VIP is bound")
	default:
		e.add("source", "", false, v.Reason, "comes once the VIP is bound and announced")
	}
}

// WriteText writes the explanation: one line with the answer, then the gates.
func (e *Explanation) WriteText(w io.Writer, style Style) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s is %s\n\n", style.paint(clean(e.VIP.Name), head), e.VIP.Prefix, e.answer(style))
	t := table{lines: whole}
	t.header("GATE", "OF", "STATE", "REASON", "DETAIL")
	for _, g := range e.Gates {
		state := cell{string(g.State), good, true}
		switch g.State {
		case GateNo:
			state.tone = bad
		case GateOff:
			state.tone = plain
		case GateOK:
		}
		t.add(text(g.Name), text(g.Subject), state, text(string(g.Reason)), text(g.Detail))
	}
	t.write(&b, style)
	_, err := io.WriteString(w, b.String())
	return err
}

// answer says in half a sentence where the VIP is announced and where not.
func (e *Explanation) answer(style Style) string {
	var on, off []string
	for i := range e.VIP.Interfaces {
		n := &e.VIP.Interfaces[i]
		if n.Announced {
			on = append(on, n.Interface)
		} else {
			off = append(off, join(": ", n.Interface, string(n.Reason)))
		}
	}
	announced := style.paint("announced", good)
	if e.VIP.Degraded {
		announced = style.paint("announced, degraded,", weak)
	}
	if e.VIP.Drain != nil {
		announced = style.paint("announced, draining,", weak)
	}
	switch {
	case len(on) == 0:
		return join(": ", style.paint("withheld", bad), clean(join(": ", string(e.VIP.Reason), e.detail)))
	case len(off) == 0:
		return announced + " on " + strings.Join(on, ", ")
	default:
		return announced + " on " + strings.Join(on, ", ") + ", withheld on " + strings.Join(off, ", ")
	}
}
