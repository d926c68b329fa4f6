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

// bulkFrom is how many paths are sent together rather than one by one. GoBGP
// packs UPDATEs only when it sends its whole RIB.
const bulkFrom = 200

// addAnyway is how many paths are added although ctx has ended, in a few
// milliseconds: a path that has to go ends the context, and where one always has
// to, the others would never come. Those whose own time may be over wait.
const addAnyway = 100

// addPaths announces paths, and stops between two of them when ctx ends.
func (s *Speaker) addPaths(ctx context.Context, srv *server.BgpServer, want SpeakerConfig, add []Path, have map[pathKey]Path) error {
	if len(add) < bulkFrom {
		return s.addEach(ctx, srv, want.ASN, add, have)
	}
	up, err := s.sessionsUp(ctx, srv)
	if err != nil || len(up) == 0 {
		return errors.Join(err, s.addEach(ctx, srv, want.ASN, add, have))
	}
	whole, rest := wholePrefixes(add, have)
	return errors.Join(s.addBulk(ctx, srv, want, whole, have, up), s.addEach(ctx, srv, want.ASN, rest, have))
}

func (s *Speaker) addEach(ctx context.Context, srv *server.BgpServer, asn uint32, add []Path, have map[pathKey]Path) error {
	var errs []error
	cut := false
	for i, p := range add {
		if ctx.Err() != nil && (i >= addAnyway || p.Fenced) {
			cut = true
			continue
		}
		if err := s.addPath(context.WithoutCancel(ctx), srv, p, asn); err != nil {
			errs = append(errs, err)
			continue
		}
		have[p.key()] = p
	}
	if cut {
		errs = append(errs, fmt.Errorf("announce: %w", context.Cause(ctx)))
	}
	return errors.Join(errs...)
}

// wholePrefixes divides paths into those whose prefix has no path but them, and
// the rest, which cannot be sent again without others that did not change.
func wholePrefixes(add []Path, have map[pathKey]Path) (whole, rest []Path) {
	old := make(map[netip.Prefix]int, len(have))
	for k := range have {
		old[k.Prefix]++
	}
	for i := range add {
		if _, replaced := have[add[i].key()]; replaced {
			old[add[i].Prefix]--
		}
	}
	for _, p := range add {
		if old[p.Prefix] == 0 {
			whole = append(whole, p)
		} else {
			rest = append(rest, p)
		}
	}
	return whole, rest
}

// addBulk keeps the paths back from the peers that are up until all are in, and
// then sends them in as few messages as GoBGP can make. Withdraws pass meanwhile.
// A peer that comes up meanwhile gets everything as usual.
func (s *Speaker) addBulk(ctx context.Context, srv *server.BgpServer, want SpeakerConfig, add []Path, have map[pathKey]Path, up map[netip.Addr]uint64) error {
	normal := s.exportFor(want, have)
	rules := normal
	rules.hold = &holdRules{peers: sortedAddrs(up)}
	for i := range add {
		rules.hold.prefixes = append(rules.hold.prefixes, add[i].Prefix)
	}
	rules.hold.prefixes = slices.Compact(rules.hold.prefixes) // paths are sorted
	if err := s.setExport(ctx, srv, rules); err != nil {
		return errors.Join(err, s.addEach(ctx, srv, want.ASN, add, have))
	}
	errs := []error{s.addEach(ctx, srv, want.ASN, add, have)}
	release := rules
	release.hold = &holdRules{peers: rules.hold.peers, others: true}
	for i := range add {
		if now, ok := have[add[i].key()]; ok && samePath(now, add[i]) {
			release.hold.prefixes = append(release.hold.prefixes, add[i].Prefix)
		}
	}
	release.hold.prefixes = slices.Compact(release.hold.prefixes)
	err := s.setExport(ctx, srv, release)
	if err == nil {
		for _, a := range rules.hold.peers {
			errs = append(errs, s.sendAll(ctx, srv, a))
		}
	}
	errs = append(errs, err, s.setExport(ctx, srv, normal))
	now, err := s.sessionsUp(ctx, srv)
	errs = append(errs, err)
	for a, session := range now {
		// Whoever was up before and is up anew may have been given less than all.
		if before, ok := up[a]; ok && before != session {
			errs = append(errs, s.sendAll(ctx, srv, a))
		}
	}
	return errors.Join(errs...)
}

// sessionsUp returns the peers that get what changes, with the number of their
// session. One that waits for the End-of-RIB of others will be sent all then.
func (s *Speaker) sessionsUp(ctx context.Context, srv *server.BgpServer) (map[netip.Addr]uint64, error) {
	peers, err := s.listPeers(ctx, srv)
	out := map[netip.Addr]uint64{}
	for a, p := range peers {
		if stateFromAPI(p.GetState().GetSessionState()) == Established && !p.GetGracefulRestart().GetLocalRestarting() {
			out[a] = p.GetState().GetMessages().GetSent().GetOpen()
		}
	}
	return out, err
}

// sendAll sends a peer all that the export policy lets through, again.
func (s *Speaker) sendAll(ctx context.Context, srv *server.BgpServer, a netip.Addr) error {
	err := srv.ResetPeer(context.WithoutCancel(ctx), &api.ResetPeerRequest{Address: a.String(), Soft: true, Direction: api.ResetPeerRequest_OUT})
	if err != nil {
		return fmt.Errorf("send all to peer %s: %w", a, err)
	}
	return nil
}

// resendChanged sends all to the peers whose attributes have changed since their
// paths were sent. The new policy is in force.
func (s *Speaker) resendChanged(ctx context.Context, srv *server.BgpServer, want SpeakerConfig) error {
	up, err := s.sessionsUp(ctx, srv)
	if err != nil {
		return err
	}
	applied := make(map[netip.Addr]*Attributes, len(want.Peers))
	var errs []error
	for _, p := range want.Peers {
		a := effective(p, want.ASN)
		old, known := s.export.applied[p.Address]
		if _, isUp := up[p.Address]; isUp && known && !sameAttributes(a, old) {
			if err := s.sendAll(ctx, srv, p.Address); err != nil {
				errs = append(errs, err)
				a = old
			}
		}
		applied[p.Address] = a
	}
	s.export.applied = applied
	return errors.Join(errs...)
}

func sortedAddrs[V any](m map[netip.Addr]V) []netip.Addr {
	out := make([]netip.Addr, 0, len(m))
	for a := range m {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
