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
	"golang.org/x/sys/unix"
)

// reconcile reads GoBGP's peers and RIB and makes them equal to want. A step
// that fails never holds up the steps after it.
func (s *Speaker) reconcile(ctx context.Context, want SpeakerConfig) error {
	srv := s.server.Load()
	have, err := s.listPeers(ctx, srv)
	errs := []error{err}
	s.learn(have)
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
	errs = append(errs, s.raiseLimits(ctx, srv, have, want.Peers))
	errs = append(errs, s.reconcileImports(ctx, srv, want.Import))
	complete, err := s.reconcilePaths(ctx, srv, want)
	errs = append(errs, err, guardListeners(want, s.listening))
	for _, p := range want.Peers {
		// Peers come only when all paths are in, but then also if something has to go
		// again, as it may have to all the time.
		if _, there := have[p.Address]; ctx.Err() == nil || complete && !there {
			errs = append(errs, s.reconcilePeer(ctx, srv, have, p, want.GracefulRestart))
		}
	}
	return errors.Join(errs...)
}

// reconcilePaths deletes before it adds, and stops between two paths when ctx
// ends. What the last listing showed is deleted before the next one, which takes
// a tenth of a second for ten thousand paths. It tells whether all are in.
func (s *Speaker) reconcilePaths(ctx context.Context, srv *server.BgpServer, want SpeakerConfig) (complete bool, err error) {
	wanted := make(map[pathKey]Path, len(want.Paths))
	for _, p := range want.Paths {
		wanted[p.key()] = p
	}
	var errs []error
	for _, k := range s.held {
		if _, ok := wanted[k]; !ok {
			errs = append(errs, s.deletePath(ctx, srv, k))
		}
	}
	have, err := listOwn(ctx, srv)
	if err != nil {
		return false, errors.Join(append(errs, err)...)
	}
	for k, old := range have {
		// GoBGP does not withdraw one of several paths of a prefix that the export
		// policy lets through no more.
		if p, ok := wanted[k]; ok && (k.ID == 0 || old.NextHop.Is6() || !p.NextHop.Is6()) {
			continue
		}
		if err := s.deletePath(ctx, srv, k); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(have, k)
	}
	if err := s.setExport(ctx, srv, s.exportFor(want, have)); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, s.resendChanged(ctx, srv, want))
	}
	var add []Path
	for _, p := range want.Paths {
		if old, ok := have[p.key()]; !ok || !samePath(old, p) {
			add = append(add, p)
		}
	}
	errs = append(errs, s.addPaths(ctx, srv, want, add, have), s.sendAdmitted(ctx, srv))
	s.setAnnounced(have)
	complete = !slices.ContainsFunc(add, func(p Path) bool {
		now, ok := have[p.key()]
		return !ok || !samePath(now, p)
	})
	return complete, errors.Join(errs...)
}

func (s *Speaker) setAnnounced(have map[pathKey]Path) {
	list := make([]netip.Prefix, 0, len(have))
	s.held = s.held[:0]
	for k := range have {
		list = append(list, k.Prefix)
		s.held = append(s.held, k)
	}
	slices.SortFunc(list, comparePrefix)
	list = slices.Compact(list)
	s.smu.Lock()
	defer s.smu.Unlock()
	if !slices.Equal(list, s.announced) {
		s.announced = list
	}
}

func (s *Speaker) addPath(ctx context.Context, srv *server.BgpServer, p Path, asn uint32) error {
	path, err := pathToAPI(p, asn, s.bundles.next(p))
	if err != nil {
		return err
	}
	if _, err := srv.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: path}); err != nil {
		return fmt.Errorf("announce %s: %w", p.Prefix, err)
	}
	return nil
}

func (s *Speaker) deletePath(ctx context.Context, srv *server.BgpServer, k pathKey) error {
	// The key is prefix and ID; the attributes only have to be complete.
	path, err := pathToAPI(Path{Prefix: k.Prefix, ID: k.ID}, 0, 0)
	if err != nil {
		return err
	}
	if err := srv.DeletePath(ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Path: path}); err != nil {
		return fmt.Errorf("withdraw %s: %w", k.Prefix, err)
	}
	return nil
}

// listOwn returns the paths of the RIB that are our own.
func listOwn(ctx context.Context, srv *server.BgpServer) (map[pathKey]Path, error) {
	out := map[pathKey]Path{}
	var errs []error
	err := eachPath(ctx, srv, nil, func(prefix netip.Prefix, p *api.Path) {
		if _, err := netip.ParseAddr(p.GetNeighborIp()); err == nil {
			return // a peer's
		}
		path, err := pathFromAPI(prefix, p)
		if err != nil {
			errs = append(errs, err)
			return
		}
		out[path.key()] = path
	})
	return out, errors.Join(append(errs, err)...)
}

// eachPath calls fn for every path of both unicast families of the RIB, or only
// for those of the given prefixes.
func eachPath(ctx context.Context, srv *server.BgpServer, only []netip.Prefix, fn func(netip.Prefix, *api.Path)) error {
	var errs []error
	ctx = context.WithoutCancel(ctx) // a list cut short would look like a smaller RIB
	for _, f := range []*api.Family{familyV4(), familyV6()} {
		request := &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: f}
		for _, p := range only {
			if familyOf(p).GetAfi() == f.GetAfi() {
				request.Prefixes = append(request.Prefixes, &api.TableLookupPrefix{Prefix: p.String()})
			}
		}
		if len(only) > 0 && len(request.GetPrefixes()) == 0 {
			continue
		}
		err := srv.ListPath(ctx, request, func(d *api.Destination) {
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

// addPeer adds a peer, as restarting while its routes may still be kept for the
// process before us.
func (s *Speaker) addPeer(ctx context.Context, srv *server.BgpServer, p Peer, gr GracefulRestart) error {
	s.adapter.clearFaults(p.Address.String())
	rec := s.remember(p, p, gr, true)
	if err := s.holdBack(ctx, srv, p); err != nil {
		return fmt.Errorf("add peer %s: %w", p.Address, err)
	}
	restarting := s.restarting(rec)
	s.adapter.willRestart(p, restarting)
	if err := srv.AddPeer(ctx, &api.AddPeerRequest{Peer: peerToAPI(p, gr, restarting)}); err != nil {
		return fmt.Errorf("add peer %s: %w", p.Address, err)
	}
	return nil
}

// removePeers ends the sessions with the given peers and forgets them: the
// established ones get Cease/Administrative Shutdown with their reason, or GoBGP's
// Cease/Peer De-configured without one, and until wait has passed to send it. GoBGP has no Cease/BFD Down
// (RFC 9384): the text says so.
func (s *Speaker) removePeers(ctx context.Context, srv *server.BgpServer, have map[netip.Addr]*api.Peer, gone []netip.Addr, reason func(netip.Addr) string, wait time.Duration) error {
	var errs []error
	var told []netip.Addr
	for _, a := range gone {
		text := reason(a)
		if text == "" || stateFromAPI(have[a].GetState().GetSessionState()) != Established {
			continue
		}
		errs = append(errs, s.loosen(a))
		if err := srv.ShutdownPeer(ctx, &api.ShutdownPeerRequest{Address: a.String(), Communication: ceaseText(text)}); err != nil {
			errs = append(errs, fmt.Errorf("shut peer %s down: %w", a, err))
		}
		told = append(told, a)
	}
	s.awaitDown(ctx, srv, told, wait)
	for _, a := range gone {
		if err := srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: a.String()}); err != nil {
			errs = append(errs, fmt.Errorf("delete peer %s: %w", a, err))
		}
		errs = append(errs, s.dropKey(a))
		s.forget(a)
	}
	return errors.Join(errs...)
}

// told is what is wanted of a peer, and what GoBGP was given: what changes only
// with a connection it gets with the next one.
func (s *Speaker) told(a netip.Addr) (want, given Peer, gr GracefulRestart, ok bool) {
	s.smu.Lock()
	defer s.smu.Unlock()
	rec := s.sessions[a]
	if rec == nil {
		return Peer{}, Peer{}, GracefulRestart{}, false
	}
	return rec.peer, rec.given, rec.gr, true
}

// dropKey takes the MD5 key of a peer off the listeners, where GoBGP leaves it,
// and where it would lock the peer out that comes without one.
func (s *Speaker) dropKey(a netip.Addr) error {
	if _, p, _, ok := s.told(a); !ok || p.Password == "" {
		return nil
	}
	if err := deleteKey(a, s.listening); err != nil {
		return fmt.Errorf("take key of peer %s off: %w", a, err)
	}
	return nil
}

// lastTTL is the IP TTL of the last words of a session: any path may carry them.
const lastTTL = 64

// loosen lifts the TTL of 1 that pins an eBGP session to its link, because its
// last words may have to pass other routers when the interface has failed.
func (s *Speaker) loosen(a netip.Addr) error {
	p, _, _, ok := s.told(a)
	if !ok || p.TTLSecurity || p.Interface != "" || p.MultihopTTL > 0 || a.Zone() != "" {
		return nil
	}
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if a.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	return setConnections(p.LocalAddress, a, level, option, lastTTL)
}

// leastLooks is how often awaitDown looks at least. The time alone may be over before
// any session could do something, where the machine stood still.
const leastLooks = 20

// awaitDown waits until none of the peers is established.
func (s *Speaker) awaitDown(ctx context.Context, srv *server.BgpServer, peers []netip.Addr, wait time.Duration) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	over := false
	for looks := 1; len(peers) > 0; looks++ {
		now, err := s.listPeers(ctx, srv)
		if err != nil {
			return
		}
		peers = slices.DeleteFunc(peers, func(a netip.Addr) bool {
			return stateFromAPI(now[a].GetState().GetSessionState()) != Established
		})
		if len(peers) == 0 || over && looks >= leastLooks {
			return
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			over = true
		case <-ctx.Done():
			return
		}
	}
}
