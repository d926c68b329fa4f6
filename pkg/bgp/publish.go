package bgp

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
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
	if srv != nil {
		var err error
		peers, err = s.listPeers(ctx, srv)
		errs = append(errs, err)
	}
	seen, again := s.lookAround(ctx, srv, peers)
	next.Seen = seen
	s.smu.Lock()
	for a, rec := range s.sessions {
		next.Peers = append(next.Peers, s.peerState(rec, peers[a]))
	}
	next.Name, next.Announced = s.name, s.announced
	errs = append(errs, s.applyErr, s.listenErr, s.adapter.fault())
	s.smu.Unlock()
	slices.SortFunc(next.Peers, func(a, b PeerState) int { return a.Address.Compare(b.Address) })
	if err := errors.Join(errs...); err != nil {
		next.Error = err.Error()
	}
	changed := !sameState(old, next)
	if changed {
		s.state.Store(next)
	}
	if srv != nil && s.opt.AcceptPaths && s.publishReceived(ctx, srv) {
		changed = true
	}
	if changed && s.opt.Poke != nil {
		s.opt.Poke()
	}
	return again
}

func sameState(a, b *SpeakerState) bool {
	return a.Name == b.Name && a.Phase == b.Phase && a.PID == b.PID && a.Error == b.Error && slices.Equal(a.Peers, b.Peers) && slices.Equal(a.Announced, b.Announced) &&
		slices.EqualFunc(a.Seen, b.Seen, sameSeen)
}

// peerState renders one session. The caller holds smu.
func (s *Speaker) peerState(rec *session, p *api.Peer) PeerState {
	out := PeerState{
		Address: rec.peer.Address, LocalAddress: rec.peer.LocalAddress, ASN: rec.peer.ASN,
		State: rec.state, Since: rec.since, Transitions: rec.transitions,
	}
	out.LastError, out.LastErrorAt = s.adapter.lastError(rec.peer.Address.String())
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

// publishReceived lists what peers sent and tells whether it changed.
func (s *Speaker) publishReceived(ctx context.Context, srv *server.BgpServer) bool {
	list := []ReceivedPath{}
	err := eachPath(ctx, srv, func(prefix netip.Prefix, p *api.Path) {
		peer, err := netip.ParseAddr(p.GetNeighborIp())
		if err != nil {
			return // our own
		}
		path, err := pathFromAPI(prefix, p)
		if err != nil {
			s.log.Debug("path not understood", "prefix", prefix, "error", err)
			return
		}
		list = append(list, ReceivedPath{Prefix: prefix, NextHop: path.NextHop, Peer: peer})
	})
	if err != nil {
		s.log.Warn("paths cannot be listed", "error", err)
		return false
	}
	slices.SortFunc(list, func(a, b ReceivedPath) int {
		if c := comparePrefix(a.Prefix, b.Prefix); c != 0 {
			return c
		}
		return a.Peer.Compare(b.Peer)
	})
	if slices.Equal(list, s.Received()) {
		return false
	}
	s.received.Store(&list)
	return true
}
