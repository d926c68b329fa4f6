package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// reconcile reads GoBGP's peers and RIB and makes them equal to want. A step
// that fails never holds up the steps after it.
func (s *Speaker) reconcile(ctx context.Context, want SpeakerConfig) error {
	srv := s.server.Load()
	have, err := s.listPeers(ctx, srv)
	errs := []error{err}
	wanted := make(map[netip.Addr]bool, len(want.Peers))
	for _, p := range want.Peers {
		wanted[p.Address] = true
	}
	var gone []netip.Addr
	for a := range have {
		if !wanted[a] {
			gone = append(gone, a)
		}
	}
	errs = append(errs, s.removePeers(ctx, srv, have, gone, want.downReason, s.timing.ceaseWait))
	errs = append(errs, s.reconcilePaths(ctx, srv, want))
	errs = append(errs, guardListeners(want, s.listening))
	if ctx.Err() == nil { // peers come only when all paths are in
		for _, p := range want.Peers {
			errs = append(errs, s.reconcilePeer(ctx, srv, have, p, want.GracefulRestart))
		}
	}
	return errors.Join(errs...)
}

// reconcilePaths deletes before it adds, and stops between two paths when ctx
// ends. What the last listing showed is deleted before the next one, which takes
// a tenth of a second for ten thousand paths.
func (s *Speaker) reconcilePaths(ctx context.Context, srv *server.BgpServer, want SpeakerConfig) error {
	wanted := make(map[netip.Prefix]Path, len(want.Paths))
	for _, p := range want.Paths {
		wanted[p.Prefix] = p
	}
	var errs []error
	for _, prefix := range s.State().Announced {
		if _, keep := wanted[prefix]; !keep {
			errs = append(errs, s.deletePath(ctx, srv, prefix))
		}
	}
	have, err := listOwn(ctx, srv)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for prefix := range have {
		if _, keep := wanted[prefix]; keep {
			continue
		}
		if err := s.deletePath(ctx, srv, prefix); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(have, prefix)
	}
	for _, p := range want.Paths {
		if ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("announce: %w", context.Cause(ctx)))
			break
		}
		if old, ok := have[p.Prefix]; ok && samePath(old, p) {
			continue
		}
		if err := s.addPath(ctx, srv, p, want.ASN); err != nil {
			errs = append(errs, err)
			continue
		}
		have[p.Prefix] = p
	}
	s.setAnnounced(have)
	return errors.Join(errs...)
}

func (s *Speaker) setAnnounced(have map[netip.Prefix]Path) {
	list := make([]netip.Prefix, 0, len(have))
	for p := range have {
		list = append(list, p)
	}
	slices.SortFunc(list, comparePrefix)
	s.smu.Lock()
	defer s.smu.Unlock()
	if !slices.Equal(list, s.announced) {
		s.announced = list
	}
}

func (s *Speaker) addPath(ctx context.Context, srv *server.BgpServer, p Path, asn uint32) error {
	path, err := pathToAPI(p, asn)
	if err != nil {
		return err
	}
	if _, err := srv.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: path}); err != nil {
		return fmt.Errorf("announce %s: %w", p.Prefix, err)
	}
	return nil
}

func (s *Speaker) deletePath(ctx context.Context, srv *server.BgpServer, prefix netip.Prefix) error {
	// The key is the prefix; the attributes only have to be complete.
	path, err := pathToAPI(Path{Prefix: prefix}, 0)
	if err != nil {
		return err
	}
	if err := srv.DeletePath(ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Path: path}); err != nil {
		return fmt.Errorf("withdraw %s: %w", prefix, err)
	}
	return nil
}

// listOwn returns the paths of the RIB that are our own.
func listOwn(ctx context.Context, srv *server.BgpServer) (map[netip.Prefix]Path, error) {
	out := map[netip.Prefix]Path{}
	var errs []error
	err := eachPath(ctx, srv, func(prefix netip.Prefix, p *api.Path) {
		if _, err := netip.ParseAddr(p.GetNeighborIp()); err == nil {
			return // a peer's
		}
		path, err := pathFromAPI(prefix, p)
		if err != nil {
			errs = append(errs, err)
			return
		}
		out[prefix] = path
	})
	return out, errors.Join(append(errs, err)...)
}

// eachPath calls fn for every path of both unicast families of the RIB.
func eachPath(ctx context.Context, srv *server.BgpServer, fn func(netip.Prefix, *api.Path)) error {
	var errs []error
	ctx = context.WithoutCancel(ctx) // a list cut short would look like a smaller RIB
	for _, f := range []*api.Family{familyV4(), familyV6()} {
		err := srv.ListPath(ctx, &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: f}, func(d *api.Destination) {
			prefix, err := netip.ParsePrefix(d.GetPrefix())
			if err != nil {
				errs = append(errs, fmt.Errorf("list paths: %w", err))
				return
			}
			for _, p := range d.GetPaths() {
				fn(prefix, p)
			}
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("list paths: %w", err))
		}
	}
	return errors.Join(errs...)
}

// listPeers returns GoBGP's peers by address.
func (s *Speaker) listPeers(ctx context.Context, srv *server.BgpServer) (map[netip.Addr]*api.Peer, error) {
	out := map[netip.Addr]*api.Peer{}
	var errs []error
	err := srv.ListPeer(context.WithoutCancel(ctx), &api.ListPeerRequest{}, func(p *api.Peer) {
		a, err := netip.ParseAddr(p.GetState().GetNeighborAddress())
		if err != nil {
			errs = append(errs, fmt.Errorf("list peers: %w", err))
			return
		}
		out[a] = p
	})
	if err != nil {
		errs = append(errs, fmt.Errorf("list peers: %w", err))
	}
	return out, errors.Join(errs...)
}

// reconcilePeer adds a peer, or changes it: in place if only timers or the
// prefix limit of a running session differ, which GoBGP takes without a reset.
func (s *Speaker) reconcilePeer(ctx context.Context, srv *server.BgpServer, have map[netip.Addr]*api.Peer, want Peer, gr GracefulRestart) error {
	old, ok := have[want.Address]
	if !ok {
		return s.addPeer(ctx, srv, want, gr)
	}
	peer, oldGR, err := peerFromAPI(old)
	if err != nil {
		return err
	}
	if peer == want && oldGR == gr {
		return nil
	}
	up := stateFromAPI(old.GetState().GetSessionState()) == Established
	lostKey := peer.Password != "" && want.Password == ""
	if (up && oldGR == gr && sessionPart(peer) == sessionPart(want)) || lostKey {
		// A password that goes away must be taken off the listener, which only
		// UpdatePeer does.
		if _, err := srv.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: peerToAPI(want, gr, false)}); err != nil {
			return fmt.Errorf("update peer %s: %w", want.Address, err)
		}
		s.remember(want, gr, lostKey)
		return nil
	}
	if err := srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: want.Address.String()}); err != nil {
		return fmt.Errorf("replace peer %s: %w", want.Address, err)
	}
	return s.addPeer(ctx, srv, want, gr)
}

// sessionPart is what of a peer cannot change during a session.
func sessionPart(p Peer) Peer {
	p.HoldTime, p.Keepalive, p.ConnectRetry, p.MaxPrefixes = 0, 0, 0, 0
	return p
}

// addPeer adds a peer, as restarting while its routes may still be kept for the
// process before us.
func (s *Speaker) addPeer(ctx context.Context, srv *server.BgpServer, p Peer, gr GracefulRestart) error {
	s.adapter.clearFaults(p.Address.String())
	rec := s.remember(p, gr, true)
	if err := srv.AddPeer(ctx, &api.AddPeerRequest{Peer: peerToAPI(p, gr, s.restarting(rec))}); err != nil {
		return fmt.Errorf("add peer %s: %w", p.Address, err)
	}
	return nil
}

// removePeers ends the sessions with the given peers and forgets them: the
// established ones get Cease/Administrative Shutdown with their reason, if there
// is one, and until wait has passed to send it. GoBGP has no Cease/BFD Down
// (RFC 9384): the text says so.
func (s *Speaker) removePeers(ctx context.Context, srv *server.BgpServer, have map[netip.Addr]*api.Peer, gone []netip.Addr, reason func(netip.Addr) string, wait time.Duration) error {
	var errs []error
	var told []netip.Addr
	for _, a := range gone {
		text := reason(a)
		if text == "" || stateFromAPI(have[a].GetState().GetSessionState()) != Established {
			continue
		}
		errs = append(errs, loosen(ctx, srv, have[a]))
		if err := srv.ShutdownPeer(ctx, &api.ShutdownPeerRequest{Address: a.String(), Communication: ceaseText(text)}); err != nil {
			errs = append(errs, fmt.Errorf("shut peer %s down: %w", a, err))
		}
		told = append(told, a)
	}
	s.awaitDown(ctx, srv, told, wait)
	for _, a := range gone {
		if peer, gr, err := peerFromAPI(have[a]); err == nil && peer.Password != "" {
			// DeletePeer would leave the MD5 key on the listener.
			peer.Password = ""
			in := peerToAPI(peer, gr, false)
			in.Conf.AdminDown = true
			if _, err := srv.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: in}); err != nil {
				errs = append(errs, fmt.Errorf("take key of peer %s off: %w", a, err))
			}
		}
		if err := srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: a.String()}); err != nil {
			errs = append(errs, fmt.Errorf("delete peer %s: %w", a, err))
		}
		s.forget(a)
	}
	return errors.Join(errs...)
}

// lastTTL is the IP TTL of the last words of a session: any path may carry them.
const lastTTL = 64

// loosen lifts the TTL of 1 that pins an eBGP session to its link, because its
// last words may have to pass other routers when the interface has failed.
// GoBGP sets it on the running session.
func loosen(ctx context.Context, srv *server.BgpServer, have *api.Peer) error {
	p, gr, err := peerFromAPI(have)
	if err != nil || p.TTLSecurity || p.Interface != "" {
		return err
	}
	in := peerToAPI(p, gr, false)
	in.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: lastTTL}
	if _, err := srv.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: in}); err != nil {
		return fmt.Errorf("lift the TTL of peer %s: %w", p.Address, err)
	}
	return nil
}

// awaitDown waits until none of the peers is established.
func (s *Speaker) awaitDown(ctx context.Context, srv *server.BgpServer, peers []netip.Addr, wait time.Duration) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for len(peers) > 0 {
		now, err := s.listPeers(ctx, srv)
		if err != nil {
			return
		}
		peers = slices.DeleteFunc(peers, func(a netip.Addr) bool {
			return stateFromAPI(now[a].GetState().GetSessionState()) != Established
		})
		if len(peers) == 0 {
			return
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
