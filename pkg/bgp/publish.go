package bgp

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// publish reads the world and shows it if it changed. It returns when to do so
// again unasked, 0 for never.
func (s *Speaker) publish(ctx context.Context) time.Duration {
	s.pub.Lock()
	defer s.pub.Unlock()
	srv := s.server.Load()
	next := &SpeakerState{Phase: Running}
	old := s.state.Load()
	next.PID, next.Since = old.PID, old.Since
	var peers map[netip.Addr]*api.Peer
	var errs []error
	// Before the peers: a session that ends in between has the paths still, and
	// looks as ended.
	received, taking, takes := s.readReceived(ctx, srv)
	if srv != nil {
		var err error
		peers, err = s.listPeers(ctx, srv)
		errs = append(errs, err)
	}
	seen, again := s.lookAround(ctx, srv, peers)
	next.Seen = seen
	ending := map[netip.Addr]bool{}
	s.smu.Lock()
	for a, rec := range s.sessions {
		next.Peers = append(next.Peers, s.peerState(rec, peers[a]))
		ending[a] = rec.state == Established && stateFromAPI(peers[a].GetState().GetSessionState()) != Established
	}
	next.Name, next.Announced = s.name, s.announced
	errs = append(errs, s.applyErr, s.listenErr, s.adapter.fault())
	s.smu.Unlock()
	slices.SortFunc(next.Peers, func(a, b PeerState) int { return a.Address.Compare(b.Address) })
	if err := errors.Join(errs...); err != nil {
		next.Error = err.Error()
	}
	changed := takes && s.publishReceived(received, ending)
	if taking {
		next.Received = s.Received()
	}
	if !sameState(old, next) {
		s.state.Store(next)
		changed = true
	}
	if changed && s.opt.Poke != nil {
		s.opt.Poke()
	}
	return again
}

func sameState(a, b *SpeakerState) bool {
	return a.Name == b.Name && a.Phase == b.Phase && a.PID == b.PID && a.Error == b.Error && slices.Equal(a.Peers, b.Peers) && slices.Equal(a.Announced, b.Announced) &&
		slices.EqualFunc(a.Seen, b.Seen, sameSeen) && slices.Equal(a.Received, b.Received)
}

// peerState renders one session. The caller holds smu.
func (s *Speaker) peerState(rec *session, p *api.Peer) PeerState {
	out := PeerState{
		Address: rec.peer.Address, LocalAddress: rec.peer.LocalAddress, ASN: rec.peer.ASN,
		State: rec.state, Since: rec.since, Transitions: rec.transitions,
	}
	out.LastError, out.LastErrorAt = s.adapter.lastError(rec.peer.Address.String())
	out.PeerEnded = rec.state != Established && s.adapter.peerEnded(rec.peer.Address.String())
	hint(&out, &rec.peer, time.Now())
	for _, af := range p.GetAfiSafis() {
		out.Received += af.GetState().GetReceived()
	}
	if rec.state == Established {
		negotiated(&out, &rec.peer, rec.gr, p)
		if rec.peer.External {
			out.ASN = p.GetState().GetPeerAsn()
		}
	}
	return out
}
