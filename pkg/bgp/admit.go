package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// What a peer may be sent can depend on its OPEN: whether it is the wanted one,
// where GoBGP does not look, and whether it takes IPv4 with an IPv6 next hop
// (RFC 8950), which GoBGP sends to everybody. GoBGP takes nothing back when an
// export policy gets stricter, so such a peer gets nothing at all at first; when
// its OPEN is known, the policy lets through what is for it, and all that is sent.

// hops tells which next hops IPv4 paths have.
type hops struct {
	own  bool // that of the session
	ipv6 bool // an IPv6 address of their own
}

func (h *hops) note(p Path) {
	if p.Prefix.Addr().Is4() {
		h.own = h.own || !p.NextHop.IsValid()
		h.ipv6 = h.ipv6 || p.NextHop.Is6()
	}
}

// needsExtended tells whether a path could go to the peer as IPv4 with an IPv6
// next hop.
func (p *Peer) needsExtended(h hops) bool {
	return p.Families != Families{IPv6: true} && (h.ipv6 || h.own && p.Address.Is6())
}

func (p *Peer) needsCheck() bool { return p.External || p.RouterID.IsValid() }

// judge divides peers: those whose OPEN is still to be looked at, and those that
// did not offer what IPv4 with an IPv6 next hop needs. After a crash a peer has
// been looked at before, and must not see an End-of-RIB before its paths (RFC 4724
// section 4.1).
func (s *Speaker) judge(peers []Peer, h hops) (wait, bare []netip.Addr) {
	s.smu.Lock()
	defer s.smu.Unlock()
	for i := range peers {
		p := &peers[i]
		rec := s.sessions[p.Address]
		if rec == nil {
			rec = &session{}
		}
		extended := p.needsExtended(h)
		switch {
		case (p.needsCheck() && !rec.checked || extended && !rec.learned) && (!s.opt.Restarting || rec.wasUp):
			wait = append(wait, p.Address)
		case extended && rec.learned && !rec.extended:
			bare = append(bare, p.Address)
		}
	}
	return wait, bare
}

// learn notes what the OPENs of the peers offered whose sessions are up.
func (s *Speaker) learn(peers map[netip.Addr]*api.Peer) {
	s.smu.Lock()
	defer s.smu.Unlock()
	for a, p := range peers {
		rec := s.sessions[a]
		if rec != nil && rec.state == Established && stateFromAPI(p.GetState().GetSessionState()) == Established {
			var offered PeerState
			negotiated(&offered, &rec.given, rec.gr, p)
			rec.learned, rec.extended = true, offered.ExtendedNextHop
		}
	}
}

// holdBack keeps everything from a peer that is about to start anew, until its
// OPEN is known.
func (s *Speaker) holdBack(ctx context.Context, srv *server.BgpServer, p Peer) error {
	rules := s.export.rules
	wait, _ := s.judge([]Peer{p}, rules.hops)
	if len(wait) == 0 || slices.Contains(rules.wait, p.Address) {
		return nil
	}
	rules.wait = append(slices.Clone(rules.wait), p.Address)
	slices.SortFunc(rules.wait, netip.Addr.Compare)
	s.gated.Store(true)
	return s.setExport(ctx, srv, rules)
}

// admit sends their paths to the peers that have turned out to be the wanted
// ones, and holds those back whose session has ended.
func (s *Speaker) admit(ctx context.Context) error {
	if !s.gated.Load() || !s.opened.Swap(false) {
		return nil // an Apply that takes long holds nothing else up
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	srv := s.server.Load()
	if srv == nil || s.closed {
		return nil
	}
	err := s.judgeAgain(ctx, srv)
	if err != nil {
		s.opened.Store(true) // the next look tries again
	}
	return err
}

func (s *Speaker) judgeAgain(ctx context.Context, srv *server.BgpServer) error {
	peers, err := s.listPeers(ctx, srv)
	if err != nil {
		return err
	}
	s.learn(peers)
	before := s.export.rules
	rules := before
	rules.wait, rules.bare = s.judge(s.cfg.Peers, rules.hops)
	if err := s.setExport(ctx, srv, rules); err != nil {
		return err
	}
	errs := []error{s.sendAdmitted(ctx, srv)}
	for _, a := range rules.bare {
		if !slices.Contains(before.wait, a) && !slices.Contains(before.bare, a) {
			errs = append(errs, s.takeBack(ctx, srv, a))
		}
	}
	return errors.Join(errs...)
}

// sendAdmitted sends all to the peers that wait no more, if they are up; the
// others will be when they come up.
func (s *Speaker) sendAdmitted(ctx context.Context, srv *server.BgpServer) error {
	if len(s.export.admitted) == 0 {
		return nil
	}
	up, err := s.sessionsUp(ctx, srv)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range s.export.admitted {
		if _, ok := up[a]; ok {
			errs = append(errs, s.sendAll(ctx, srv, a))
		}
	}
	s.export.admitted = nil
	return errors.Join(errs...)
}

// takeBack ends the session of a peer that was sent what it did not offer to
// take, because it was not held back after a crash. The next one begins without.
func (s *Speaker) takeBack(ctx context.Context, srv *server.BgpServer, a netip.Addr) error {
	up, err := s.sessionsUp(ctx, srv)
	if _, ok := up[a]; err != nil || !ok {
		return err
	}
	p, _, gr, known := s.told(a)
	if !known {
		return nil
	}
	const reason = "IPv4 with an IPv6 next hop was not negotiated"
	s.log.Info("peer reset", "peer", a, "reason", reason)
	return s.replacePeer(ctx, srv, p, gr, reason)
}

// replacePeer ends a session with a text that says why, and starts anew.
func (s *Speaker) replacePeer(ctx context.Context, srv *server.BgpServer, p Peer, gr GracefulRestart, reason string) error {
	err := srv.ResetPeer(ctx, &api.ResetPeerRequest{Address: p.Address.String(), Communication: ceaseText(reason)})
	if err != nil {
		return fmt.Errorf("reset peer %s: %w", p.Address, err)
	}
	s.awaitDown(ctx, srv, []netip.Addr{p.Address}, s.timing.ceaseWait)
	return s.renewPeer(ctx, srv, p, gr)
}

// renewPeer adds a peer in the place of one with the same address.
func (s *Speaker) renewPeer(ctx context.Context, srv *server.BgpServer, p Peer, gr GracefulRestart) error {
	if err := srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Address.String()}); err != nil {
		return fmt.Errorf("replace peer %s: %w", p.Address, err)
	}
	return errors.Join(s.dropKey(p.Address), s.addPeer(ctx, srv, p, gr))
}
