package speaker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
)

// bfdPatience is how long a BFD session that went down keeps its BGP session
// from running while it does not come up again. A router that no longer speaks
// BFD gets its BGP session back then; if the path is dead, that comes to nothing.
const bfdPatience = 10 * time.Second

// ceaseBytes is how long the text of a Cease may be (RFC 9003 section 2).
const ceaseBytes = 128

// watch decides about the BFD sessions of an interface: which are wanted, also
// while the interface waits for its hold-up, and what they have against the
// BGP sessions. It tells whether the path failed since the look before, which is once
// although the sessions of both families find it, each a little later.
func (p *planner) watch(holdUp time.Duration, n *Interface, link netmon.Link) (failed bool) {
	for i := range n.Peers {
		peer := &n.Peers[i]
		lost, found := p.watchPeer(n.Name, peer, holdUp, link.Healthy())
		failed = failed || lost && !p.foundBefore(n, peer)
		if found != nil {
			n.Failures = append(n.Failures, *found)
		}
	}
	return failed
}

// foundBefore tells whether the session with another peer has shown the failure that this
// one's shows now: when that went down this one may have been without packets.
func (p *planner) foundBefore(n *Interface, peer *Peer) bool {
	s, _ := bfdState(p.in.BFD, n.Name, peer)
	silent := p.past(s.DownSince).Add(-s.DetectionTime)
	return slices.ContainsFunc(n.Peers, func(other Peer) bool {
		at := p.in.History.BFD[Session{n.Name, other.Address}].FailedAt
		return other.Address != peer.Address && !at.IsZero() && !at.Before(silent)
	})
}

// watchPeer decides about the BFD session with one peer. It tells whether it
// failed since the look before, and the failure while that lasts.
func (p *planner) watchPeer(name string, peer *Peer, holdUp time.Duration, healthy bool) (failed bool, found *status.Failure) {
	b := peer.config.BFD
	if b == nil || !peer.Address.IsValid() {
		return false, nil
	}
	key := Session{name, peer.Address}
	h := p.in.History.BFD[key]
	p.watching++
	if !healthy || !peer.LocalAddress.IsValid() {
		// The count stays: the session may still be seen for a moment when it
		// is wanted again.
		p.rememberBFD(key, BFDHistory{Downs: h.Downs})
		return false, nil
	}
	p.out.BFD = append(p.out.BFD, bfdSession(name, peer, b))
	s, known := bfdState(p.in.BFD, name, peer)
	if known {
		switch {
		case s.Downs > h.Downs:
			failed, h.FailedAt, h.UpAt = true, p.past(s.DownSince), time.Time{}
		case s.Downs < h.Downs: // another session
			h.FailedAt = time.Time{}
		}
		h.Downs = s.Downs
	}
	switch {
	case s.Status != bfd.Up || h.FailedAt.IsZero():
		h.UpAt = time.Time{}
	case h.UpAt.IsZero():
		h.UpAt = p.past(s.Since)
	}
	if !h.FailedAt.IsZero() && p.forgiven(holdUp, b, s, h) {
		h.FailedAt, h.UpAt = time.Time{}, time.Time{}
	}
	p.rememberBFD(key, h)
	peer.dead = !h.FailedAt.IsZero()
	peer.held = against(holdUp, b, s, peer)
	if peer.dead && s.Status != bfd.Up {
		found = &status.Failure{
			Layer: status.LayerBFD, Target: peer.Address.String(), Since: h.FailedAt, Reason: diagnostic(s),
		}
	}
	return failed, found
}

// forgetBFD forgets the sessions with routers that are peers no more: one that changes
// its address again and again must not fill the memory. A session that still runs
// counts, for its router may be back at once, and so does a failure until it would be
// forgiven.
func (p *planner) forgetBFD() {
	if len(p.out.History.BFD) == p.watching {
		return
	}
	counts := make(map[Session]bool, p.watching)
	note := func(name string, peers []Peer) {
		for i := range peers {
			counts[Session{name, peers[i].Address}] = true
		}
	}
	for i := range p.out.Interfaces {
		note(p.out.Interfaces[i].Name, p.out.Interfaces[i].Peers)
	}
	note(status.TopLevel, p.out.Remote)
	for key, h := range p.in.History.BFD {
		patience := bfdPatience
		if at, ok := p.byName[key.Interface]; ok {
			patience = max(patience, p.in.Config.Interfaces[at].HoldUp)
		}
		if counts[key] || p.runsBFD(key) || p.now.Before(h.FailedAt.Add(patience)) {
			continue
		}
		if !p.own.bfd {
			p.out.History.BFD, p.own.bfd = maps.Clone(p.out.History.BFD), true
		}
		delete(p.out.History.BFD, key)
	}
}

// runsBFD tells whether a session runs, wanted or not.
func (p *planner) runsBFD(key Session) bool {
	return p.in.BFD != nil && slices.ContainsFunc(p.in.BFD.Sessions, func(s bfd.SessionState) bool {
		return s.Interface == bfdInterface(key.Interface) && s.Peer == bare(key.Peer)
	})
}

// past is a time that another process told, as one of this process: a step of the
// clock moves only the former. One that is to come counts as now.
func (p *planner) past(at time.Time) time.Time {
	if at.IsZero() || at.After(p.now) {
		return p.now
	}
	return p.now.Add(-p.now.Sub(at))
}

// bfdState is the state of the BFD session with a peer, or false. BFD takes the
// zones of link-local addresses from the interface.
func bfdState(s *bfd.State, name string, peer *Peer) (bfd.SessionState, bool) {
	return s.Session(bare(peer.Address), bare(peer.LocalAddress), bfdInterface(name))
}

// bfdInterface is the interface of a BFD session: none for one of several hops
// that belongs to none.
func bfdInterface(name string) string {
	if name == status.TopLevel {
		return ""
	}
	return name
}

func bfdSession(name string, peer *Peer, b *config.BFD) bfd.SessionConfig {
	s := bfd.SessionConfig{
		Peer: bare(peer.Address), Local: bare(peer.LocalAddress), Interface: bfdInterface(name),
		Multihop: b.Multihop || name == status.TopLevel,
		MinTx:    b.MinTx, MinRx: b.MinRx, Multiplier: b.Multiplier, Passive: b.Passive,
	}
	if s.Multihop {
		s.MinTTL = b.MinTTL
	}
	if b.Auth != nil {
		s.Auth = &bfd.Auth{Type: bfd.AuthType(b.Auth.Type), KeyID: b.Auth.KeyID, Key: bfd.Secret(b.Auth.Key)}
	}
	return s
}

// forgiven tells whether a failure no longer holds the BGP session back: the
// path is up again for the hold-up of the interface; or the router does not come
// back to BFD in time, while that is not required; or it says that it does not
// want BFD, or we cannot run it, which are no failures of the path (RFC 5882
// sections 3.2 and 4.2).
func (p *planner) forgiven(holdUp time.Duration, b *config.BFD, s bfd.SessionState, h BFDHistory) bool {
	if s.Error != "" || s.Status != bfd.Up && s.RemoteStatus == bfd.AdminDown {
		return true
	}
	var ends []time.Time
	if s.Status == bfd.Up {
		ends = append(ends, h.UpAt.Add(holdUp))
	}
	if !b.Required {
		ends = append(ends, h.FailedAt.Add(max(bfdPatience, holdUp)))
	}
	if slices.ContainsFunc(ends, func(end time.Time) bool { return !end.After(p.now) }) {
		return true
	}
	for _, end := range ends {
		p.mayChange(end)
	}
	return false
}

// against tells what BFD has against a BGP session, empty if nothing. A session
// that has never been up has nothing against it unless it is required: the
// router may not speak BFD, and a router that keeps our routes by graceful
// restart must not wait for it (RFC 5882 section 4.3).
func against(holdUp time.Duration, b *config.BFD, s bfd.SessionState, peer *Peer) string {
	with := "BFD with " + peer.Address.String()
	text := ""
	switch {
	case peer.dead && s.Status == bfd.Up:
		text = fmt.Sprintf("%s up again, held for %s", with, holdUp)
	case peer.dead:
		text = joinNonEmpty(": ", with+" down", diagnostic(s))
	case !b.Required || s.Status == bfd.Up:
	case s.Error != "":
		text = with + " is required and cannot run: " + s.Error
	case s.RemoteStatus != bfd.AdminDown:
		text = with + " is required and not up"
	}
	return cut(text)
}

// diagnostic is why a session is down: what we found, else what the other end
// said.
func diagnostic(s bfd.SessionState) string {
	if s.Diagnostic != "" {
		return s.Diagnostic
	}
	return s.RemoteDiagnostic
}

// cut makes a text fit into a Cease.
func cut(text string) string {
	if len(text) <= ceaseBytes {
		return text
	}
	end := ceaseBytes - len("…")
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return strings.TrimSpace(text[:end]) + "…"
}
