package speaker

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"
)

func (c *changes) interfaces() {
	for i := range c.next.Interfaces {
		n := &c.next.Interfaces[i]
		k := slices.IndexFunc(c.prev.Interfaces, func(o status.Interface) bool { return o.Name == n.Name })
		known := k >= 0
		old := &status.Interface{}
		if known {
			old = &c.prev.Interfaces[k]
		}
		e := status.Event{Kind: kindInterface, Subject: n.Name, From: wordOf(old), To: wordOf(n), Cause: n.Detail}
		switch {
		case n.Usable && !old.Usable:
			e.Message, e.Cause = "interface usable", ""
			c.add(slog.LevelInfo, e, "interface", n.Name)
		case !n.Usable && (!known || old.Usable):
			e.Message = "interface unusable"
			c.add(c.worse, e, "interface", n.Name, "reason", n.Reason, "detail", n.Detail)
		case !n.Usable && old.Reason != n.Reason:
			level := slog.LevelInfo
			if n.Reason == status.Damped {
				level = c.worse // it would be used, had it not flapped
			}
			e.Message = "interface still unusable"
			c.add(level, e, "interface", n.Name, "reason", n.Reason, "detail", n.Detail)
		}
		c.probes(n, old)
		c.speaker(n.Name, &n.Speaker, &old.Speaker, old.Name != "")
	}
	if top := c.next.TopLevel; top != nil {
		old := c.prev.TopLevel
		if old == nil {
			old = &status.Speaker{}
		}
		c.speaker(status.TopLevel, top, old, c.prev.TopLevel != nil)
	}
}

// wordOf is an interface's state for an event.
func wordOf(n *status.Interface) string {
	if n.Usable {
		return "usable"
	}
	return string(n.Reason)
}

// probes tells of verdicts about gateways and paths. What a link that is down
// brings with it is no warning of its own.
func (c *changes) probes(n, old *status.Interface) {
	for i := range n.Probes {
		b := &n.Probes[i]
		was := string(health.Unknown)
		if k := slices.IndexFunc(old.Probes, func(o status.Probe) bool { return o.Layer == b.Layer && o.Target == b.Target }); k >= 0 {
			was = old.Probes[k].Verdict
		}
		if was == b.Verdict {
			continue
		}
		level := c.worse
		switch {
		case b.Verdict == string(health.Healthy), linkGone(n.Reason):
			level = slog.LevelInfo
		case b.Verdict == string(health.Unknown):
			level = slog.LevelDebug // it begins anew, from another address
		}
		c.add(level, status.Event{
			Kind: kindProbe, Subject: b.Target, Interface: n.Name, Message: "probe verdict", From: was, To: b.Verdict,
			Cause: joinNonEmpty(": ", b.Layer, b.Reason),
		}, "interface", n.Name, "layer", b.Layer, "target", b.Target, "verdict", b.Verdict, "error", b.Reason)
	}
}

// linkGone tells whether an interface is unusable for a reason that says that no
// probe can be answered.
func linkGone(r status.Reason) bool {
	return r == status.InterfaceAbsent || r == status.InterfaceDown || r == status.InterfaceCarrier || r == status.InterfaceAddress
}

// speaker tells of the process that serves the interface. That one died has been
// logged.
func (c *changes) speaker(name string, s, was *status.Speaker, known bool) {
	e := status.Event{Kind: kindSpeaker, Subject: name, Interface: name, From: was.Phase, To: s.Phase}
	running := string(bgp.Running)
	switch {
	case s.Restarts > was.Restarts && known:
		e.Message, e.Cause = "speaker process ended", s.LastExit
		c.logged(c.worse, e)
	case s.Phase == string(bgp.Backoff) && was.Phase != s.Phase:
		e.Message, e.Cause = "speaker process waits", s.LastExit
		c.add(c.worse, e, "interface", name, "last_exit", s.LastExit)
	}
	if s.Phase == running && (was.Phase != running || s.PID != was.PID) {
		e.Message, e.Cause = "speaker process runs", ""
		c.add(slog.LevelInfo, e, "interface", name, "pid", s.PID)
	}
}

// trouble is why a session does not come up.
type trouble struct {
	iface string
	peer  netip.Addr
	text  string
}

// troubles are those that were warned of, with the time.
type troubles map[trouble]time.Time

// repeatAfter is when a peer's trouble may be warned of again that came back.
const repeatAfter = time.Minute

// level is a warning for what was not told lately.
func (t troubles) level(p *status.Peer, now time.Time) slog.Level {
	maps.DeleteFunc(t, func(_ trouble, at time.Time) bool { return now.Sub(at) >= repeatAfter })
	key := trouble{p.Interface, p.Address, p.LastError}
	if _, told := t[key]; told || p.LastError == "" {
		return slog.LevelDebug
	}
	t[key] = now
	return slog.LevelWarn
}

func (c *changes) peers() {
	up := string(bgp.Established)
	for i := range c.next.Peers {
		p := &c.next.Peers[i]
		was := &status.Peer{State: stateDown}
		if k := slices.IndexFunc(c.prev.Peers, func(o status.Peer) bool { return o.Interface == p.Interface && o.Address == p.Address }); k >= 0 {
			was = &c.prev.Peers[k]
		}
		e := status.Event{Kind: kindPeer, Subject: p.Name(), Interface: p.Interface, From: was.State, To: p.State, Cause: p.LastError}
		c.bfd(p, was)
		// Between two pictures it may have gone and come back.
		between := p.State == up && was.State == up && p.Transitions > was.Transitions+1
		if between {
			e.Message, e.To = "peer down", ""
			c.add(c.worse, e, "peer", p.Address, "interface", p.Interface, "state", "", "last_error", p.LastError)
			e.From, e.To = "", p.State
		}
		switch {
		case p.State == up && (was.State != up || between):
			e.Message, e.Cause = "peer up", ""
			c.add(slog.LevelInfo, e, "peer", p.Name(), "interface", p.Interface, "local_address", p.LocalAddress)
		case p.State != up && was.State == up:
			e.Message = "peer down"
			c.add(c.worse, e, "peer", p.Name(), "interface", p.Interface, "state", p.State, "last_error", p.LastError)
		case p.State != up && p.LastError != was.LastError && p.State != stateDown && p.Transitions == 0 && !c.next.Stopping:
			// Of a session that was up, its end has been told.
			e.Message = "peer does not come up"
			c.add(c.told.level(p, c.next.Time), e, "peer", p.Name(), "interface", p.Interface, "state", p.State, "last_error", p.LastError)
		case p.State != up && p.LastError != was.LastError:
			e.Message = "peer still down"
			c.add(slog.LevelDebug, e, "peer", p.Name(), "interface", p.Interface, "state", p.State, "last_error", p.LastError)
		}
	}
	c.gone()
}

// gone tells of established sessions with peers that are none any more: another
// router or gateway took their place, or the configuration did.
func (c *changes) gone() {
	for i := range c.prev.Peers {
		p := &c.prev.Peers[i]
		if p.State != string(bgp.Established) || slices.ContainsFunc(c.next.Peers, func(o status.Peer) bool {
			return o.Interface == p.Interface && o.Address == p.Address
		}) {
			continue
		}
		level, cause := slog.LevelInfo, "no longer configured"
		if k := slices.IndexFunc(c.next.Peers, func(o status.Peer) bool { return o.Interface == p.Interface && o.Found == p.Found }); p.Found != "" && k >= 0 {
			o := &c.next.Peers[k]
			level, cause = c.worse, "the "+p.Found+" peer is "+o.Name()+" now"
			if !o.Address.IsValid() {
				cause = o.LastError
			}
		}
		c.add(level, status.Event{
			Kind: kindPeer, Subject: p.Name(), Interface: p.Interface, Message: "peer down", From: p.State, To: stateDown, Cause: cause,
		}, "peer", p.Name(), "interface", p.Interface, "state", stateDown, "last_error", cause)
	}
}

// bfd tells of the BFD session with a peer: a warning when it goes, and what else
// becomes of it at either end.
func (c *changes) bfd(p, was *status.Peer) {
	if p.BFD == nil {
		return
	}
	b, old := p.BFD, &status.BFD{State: string(bfd.AdminDown)}
	if was.BFD != nil {
		old = was.BFD
	}
	up := string(bfd.Up)
	e := status.Event{Kind: kindBFD, Subject: p.Address.String(), Interface: p.Interface, From: old.State, To: b.State, Cause: bfdCause(b)}
	attrs := []any{
		"peer", p.Address, "interface", p.Interface, "state", b.State, "diagnostic", b.Diagnostic,
		"remote_state", b.RemoteState, "remote_diagnostic", b.RemoteDiagnostic,
	}
	// Between two pictures it may have gone and come back.
	between := b.State == up && old.State == up && b.Downs > old.Downs
	switch {
	case b.State == up && (old.State != up || between):
		if between {
			gone := e
			gone.Message, gone.To = "bfd down", string(bfd.Down)
			was := slices.Clone(attrs)
			was[5] = gone.To
			c.add(c.worse, gone, was...)
			e.From = gone.To
		}
		e.Message, e.Cause = "bfd up", ""
		c.add(slog.LevelInfo, e, attrs...)
	case b.State != up && old.State == up:
		level := c.worse
		if b.State == string(bfd.AdminDown) {
			level = slog.LevelInfo // we ended it, and have told why
		}
		e.Message = "bfd down"
		c.add(level, e, attrs...)
	case b.Error != old.Error && b.Error != "":
		e.Message, e.Cause = "bfd cannot run", b.Error
		c.add(c.worse, e, "peer", p.Address, "interface", p.Interface, "error", b.Error)
	case b.Rotating && !old.Rotating:
		e.Message, e.Cause = "bfd keeps its former authentication", "the router still uses it"
		c.add(slog.LevelInfo, e, attrs...)
	case old.Rotating && !b.Rotating:
		e.Message = "bfd has its new authentication"
		c.add(slog.LevelInfo, e, attrs...)
	case b.State != old.State || b.RemoteState != old.RemoteState:
		e.Message = "bfd state"
		c.add(slog.LevelInfo, e, attrs...)
	}
}

// bfdCause is why a session is not up: what we found, and what the other end
// said.
func bfdCause(b *status.BFD) string {
	remote := ""
	if b.RemoteState != "" {
		remote = joinNonEmpty(": ", "the other end is "+b.RemoteState, b.RemoteDiagnostic)
	}
	if b.State != string(bfd.Up) && b.LastDrop != "" {
		remote = joinNonEmpty("; ", remote, "packets are dropped: "+b.LastDrop)
	}
	return joinNonEmpty("; ", b.Error, b.Diagnostic, remote)
}
