package bgp

import (
	"context"
	"errors"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// noHoldTime is why a session cannot last that goes without a hold time.
const noHoldTime = "router offers hold time 0; set 3 s or more"

// session is what events told of one peer, beyond what GoBGP can be asked.
type session struct {
	peer        Peer // as wanted
	given       Peer // as GoBGP has it
	gr          GracefulRestart
	remoteAS    uint32     // of the last OPEN
	remoteID    netip.Addr // of the last OPEN
	checked     bool       // the OPEN of this session said what is wanted
	learned     bool       // extended is that of this session
	extended    bool       // its OPEN offered IPv4 with an IPv6 next hop
	state       SessionState
	since       time.Time
	transitions uint64
	wasUp       bool      // established since the speaker started
	fell        time.Time // when it went to Idle from another state; zero if it did not
	flaps       int       // falls in quick succession
	limitHits   int       // ends in a row because the peer sent too many prefixes
	ended       bool      // was established and ended since the peer was added
	noHold      int       // ends in a row because the peer offers hold time 0
}

// remember notes that a peer was added or changed; fresh means that GoBGP
// started it anew.
func (s *Speaker) remember(p, given Peer, gr GracefulRestart, fresh bool) *session {
	s.smu.Lock()
	defer s.smu.Unlock()
	rec := s.sessions[p.Address]
	if rec == nil {
		rec = &session{state: Idle, since: time.Now()}
		s.sessions[p.Address] = rec
	}
	rec.checked = rec.checked && rec.peer.External == p.External && rec.peer.RouterID == p.RouterID
	rec.peer, rec.given, rec.gr = p, given, gr
	if fresh {
		s.enter(rec, Idle)
		rec.fell, rec.ended = time.Time{}, false
	}
	return rec
}

func (s *Speaker) forget(a netip.Addr) {
	s.smu.Lock()
	defer s.smu.Unlock()
	if rec := s.sessions[a]; rec != nil {
		s.enter(rec, Idle)
	}
	delete(s.sessions, a)
	s.adapter.forget(a.String())
	s.adapter.clearFaults(a.String())
}

// restarting tells whether a peer may still hold routes of the process before
// us: not once it was up again, nor after the time it keeps them.
func (s *Speaker) restarting(rec *session) bool {
	s.smu.Lock()
	defer s.smu.Unlock()
	return s.opt.Restarting && rec.gr.Enabled && !rec.wasUp && time.Since(s.started) < rec.gr.RestartTime
}

// enter records that a session entered a state. The caller holds smu.
func (s *Speaker) enter(rec *session, st SessionState) {
	if rec.state == st {
		return
	}
	now, old, addr := time.Now(), rec.state, rec.peer.Address.String()
	lived := now.Sub(rec.since)
	rec.state, rec.since = st, now
	switch {
	case st == Established:
		rec.transitions++
		rec.wasUp = true
		// The daemon tells of sessions in its own words, once each.
		s.log.Debug("session established", "peer", addr)
	case old == Established:
		rec.transitions++
		rec.ended = true
		if lived >= s.timing.flapCalm {
			rec.flaps = 0
		}
		if lived >= s.timing.limitMax {
			rec.limitHits = 0
		}
		reason, _ := s.adapter.lastError(addr)
		s.log.Debug("session ended", "peer", addr, "reason", reason)
	}
	if st == Idle {
		rec.fell = now
		rec.checked, rec.learned = false, false
	}
	if st == Idle || st == Established {
		s.opened.Store(true)
	}
}

// observe takes GoBGP's events. It runs on a goroutine of its own in front of
// an unbounded queue and must not block.
func (s *Speaker) observe(r *api.WatchEventResponse) {
	ev := r.GetPeer()
	// A peer that is deleted while established is told as type UNKNOWN; whoever
	// deleted it has recorded that.
	if ev != nil && ev.GetType() == api.WatchEventResponse_PeerEvent_STATE {
		s.observePeer(ev.GetPeer().GetState())
	}
	s.signal()
}

// observePeer records a new state, and refuses a peer whose OPEN says that it is
// another than wanted, where GoBGP does not look.
func (s *Speaker) observePeer(st *api.PeerState) {
	a, err := netip.ParseAddr(st.GetNeighborAddress())
	if err != nil {
		return
	}
	next := stateFromAPI(st.GetSessionState())
	s.smu.Lock()
	rec := s.session(a)
	if rec == nil {
		s.smu.Unlock()
		return
	}
	limit := rec.peer
	s.smu.Unlock()
	if next == OpenSent || next == Established {
		s.limitTTL(limit)
	}
	s.smu.Lock()
	var refused *refusal
	if next == OpenConfirm || next == Established {
		rec.remoteAS = st.GetPeerAsn()
		rec.remoteID, _ = netip.ParseAddr(st.GetRouterId()) // zero is what it then should be
		refused = s.refusal(rec)
		// Not before all that a new session gets by itself is sent, or it could be
		// sent twice.
		rec.checked = refused == nil && (rec.checked || next == Established)
	}
	if refused == nil || next != Established {
		s.enter(rec, next)
	}
	s.smu.Unlock()
	if refused != nil {
		s.refuse(*refused)
	}
}

// session finds a peer by the address in an event, which has no zone.
func (s *Speaker) session(a netip.Addr) *session {
	if rec := s.sessions[a]; rec != nil {
		return rec
	}
	for k, rec := range s.sessions {
		if k.WithZone("") == a {
			return rec
		}
	}
	return nil
}

func (s *Speaker) signal() { poke(s.wake) }

// Run shows every change in State and brings sessions back that fell, until ctx
// ends. GoBGP would leave them alone for 5 s, and for ever after too many
// prefixes.
func (s *Speaker) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		if err := s.admit(ctx); err != nil {
			s.log.Warn("peer cannot be admitted", "error", err)
		}
		again, next := s.publish(ctx), s.revive(ctx)
		if again > 0 {
			next = min(next, again)
		}
		timer.Reset(next)
	}
}

// revive deletes and adds again each peer whose pause is over, and returns when
// to look again.
func (s *Speaker) revive(ctx context.Context) time.Duration {
	next := s.timing.recheck
	srv := s.server.Load()
	if srv == nil {
		return next
	}
	peers, err := s.listPeers(ctx, srv)
	if err != nil {
		s.log.Warn("peers cannot be listed", "error", err)
		return next
	}
	var due []netip.Addr
	s.smu.Lock()
	for a, p := range peers {
		rec := s.sessions[a]
		if rec == nil {
			continue
		}
		s.judgeHold(rec, p)
		if wait, fallen := s.pause(rec, p, time.Now()); fallen && wait <= 0 {
			due = append(due, a)
		} else if fallen {
			next = min(next, wait)
		}
	}
	s.smu.Unlock()
	for _, a := range due {
		s.rearm(ctx, srv, a)
	}
	return next
}

// judgeHold finds out whether a session ended because the peer offers hold time 0,
// which turns keepalives off (RFC 4271 section 4.2): GoBGP takes the hold time as
// the time that a write may last, so with 0 the first UPDATE ends the session.
// The caller holds smu.
func (s *Speaker) judgeHold(rec *session, p *api.Peer) {
	if !rec.ended {
		return
	}
	rec.ended = false
	if p.GetTimers().GetState().GetNegotiatedHoldTime() != 0 || !s.adapter.explain(rec.peer.Address.String(), writeFailed, noHoldTime) {
		rec.noHold = 0
		return
	}
	rec.noHold++
	s.log.Warn("router cannot be served", "peer", rec.peer.Address, "reason", noHoldTime)
	s.signal() // the new text is to be shown
}

// pause returns how much longer a session that fell is left alone, or false if
// it did not fall. The caller holds smu.
func (s *Speaker) pause(rec *session, p *api.Peer, now time.Time) (time.Duration, bool) {
	listed := stateFromAPI(p.GetState().GetSessionState())
	if listed != rec.state && now.Sub(rec.since) > s.timing.recheck {
		s.enter(rec, listed) // events never miss a state; if one did, this repairs it
	}
	if s.lostRestart(rec, p) {
		return 0, true
	}
	if listed == OpenSent && rec.state == OpenSent {
		// A connection without an OPEN would keep the peer's others out for 4 minutes.
		return rec.since.Add(s.timing.openWait).Sub(now), true
	}
	if listed != Idle || rec.fell.IsZero() {
		return 0, false
	}
	if s.opt.AcceptPaths && p.GetGracefulRestart().GetPeerRestarting() {
		return 0, false // its routes are kept for it, and would go with the peer
	}
	delay := backoff(rec.flaps, 100*time.Millisecond, s.timing.flapMax)
	if p.GetState().GetAdminState() == api.PeerState_PFX_CT {
		delay = backoff(rec.limitHits+1, s.timing.limitRetry, s.timing.limitMax)
	} else if rec.noHold > 0 {
		delay = backoff(rec.noHold, s.timing.limitRetry, s.timing.limitMax)
	}
	return delay - now.Sub(rec.fell), true
}

// lostRestart tells whether GoBGP has cleared the restart flag of a peer that
// was not up yet: it does so for all when the first one is in sync, and the
// others would then take us for newly started and drop our routes. The state is
// the listed one: events come later, and a peer that has just come up has lost
// its flag too.
func (s *Speaker) lostRestart(rec *session, p *api.Peer) bool {
	listed := stateFromAPI(p.GetState().GetSessionState())
	return s.opt.Restarting && rec.gr.Enabled && !rec.wasUp && time.Since(s.started) < rec.gr.RestartTime &&
		(listed == Idle || listed == Active) && !p.GetGracefulRestart().GetLocalRestarting()
}

// backoff is zero for the first time, then first, doubling to longest.
func backoff(times int, first, longest time.Duration) time.Duration {
	if times <= 0 {
		return 0
	}
	d := first
	for i := 1; i < times && d < longest; i++ {
		d *= 2
	}
	return min(d, longest)
}

// rearm replaces one peer, whose new state machine listens at once.
func (s *Speaker) rearm(ctx context.Context, srv *server.BgpServer, a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers, err := s.listPeers(ctx, srv)
	p, listed := peers[a]
	s.smu.Lock()
	rec := s.sessions[a]
	if err != nil || s.closed || !listed || rec == nil {
		s.smu.Unlock()
		return
	}
	if wait, fallen := s.pause(rec, p, time.Now()); !fallen || wait > 0 {
		s.smu.Unlock()
		return
	}
	if p.GetState().GetMessages().GetReceived().GetNotification() > 0 {
		s.adapter.explain(a.String(), unexpectedMessage, "peer refused our OPEN with a NOTIFICATION (do AS numbers and router IDs agree?)")
	}
	if p.GetState().GetAdminState() == api.PeerState_PFX_CT {
		rec.limitHits++
	} else if !rec.fell.IsZero() {
		rec.flaps++
	}
	if rec.state == OpenSent {
		s.adapter.fell(a.String(), noOpen, false)
	}
	peer, gr := rec.peer, rec.gr
	s.smu.Unlock()
	deleted := errors.Join(srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: a.String()}), s.dropKey(a))
	hung := hangUp(peer.LocalAddress, a)
	if err = errors.Join(deleted, hung, s.addPeer(ctx, srv, peer, gr)); err != nil {
		s.log.Warn("peer cannot be armed again", "peer", a, "error", err)
	}
}
