package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// reconcilePeer adds a peer, or changes it: in place if its session can go on
// with that, else by ending the session, with a text that says why.
func (s *Speaker) reconcilePeer(ctx context.Context, srv *server.BgpServer, have map[netip.Addr]*api.Peer, want Peer, gr GracefulRestart) error {
	old, ok := have[want.Address]
	peer, given, oldGR, known := s.told(want.Address)
	switch {
	case !ok:
		return s.addPeer(ctx, srv, want, gr)
	case known && oldGR == gr && samePeer(peer, want):
		return nil
	}
	up := stateFromAPI(old.GetState().GetSessionState()) == Established
	why := sessionChanges(given, want, oldGR, gr)
	if up && known && len(why) == 0 {
		return s.changeInPlace(ctx, srv, given, want, gr)
	}
	peer.MaxPrefixes = want.MaxPrefixes
	if !up && known && oldGR == gr && samePeer(peer, want) && old.GetState().GetAdminState() != api.PeerState_PFX_CT {
		// It changes with every VIP, and what is connecting must not begin anew
		// each time. One that sent too many gets another chance.
		given.MaxPrefixes = want.MaxPrefixes
		if err := s.updatePeer(ctx, srv, given, gr); err != nil {
			return err
		}
		s.remember(want, given, gr, false)
		return nil
	}
	if up {
		reason := strings.Join(why, ", ") + " changed"
		s.log.Info("peer reset", "peer", want.Address, "reason", reason)
		return s.replacePeer(ctx, srv, want, gr, "configuration: "+reason)
	}
	return s.renewPeer(ctx, srv, want, gr)
}

// sessionChanges names what differs between two peers that cannot change during
// a session: what is negotiated by OPEN, or belongs to the connection.
func sessionChanges(a, b Peer, oldGR, gr GracefulRestart) []string {
	var out []string
	for _, c := range []struct {
		name    string
		differs bool
	}{
		{"remote AS", a.ASN != b.ASN || a.External != b.External},
		{"local address", a.LocalAddress != b.LocalAddress},
		{"interface", a.Interface != b.Interface},
		{"password", a.Password != b.Password},
		{"address families", a.Families != b.Families},
		{"ADD-PATH", a.AddPath != b.AddPath},
		{"graceful restart", oldGR != gr},
	} {
		if c.differs {
			out = append(out, c.name)
		}
	}
	return out
}

// changeInPlace changes a peer whose session goes on. What matters only when
// connections are made waits for the next one: GoBGP would end the session.
func (s *Speaker) changeInPlace(ctx context.Context, srv *server.BgpServer, given, want Peer, gr GracefulRestart) error {
	next := want
	next.Passive, next.Port = given.Passive, given.Port
	if err := s.updatePeer(ctx, srv, next, gr); err != nil {
		return err
	}
	s.limitTTL(want)
	rec := s.remember(want, next, gr, false)
	s.smu.Lock()
	refused := s.refusal(rec)
	rec.checked = refused == nil
	s.smu.Unlock()
	s.signal()
	if given.TTLSecurity && !want.TTLSecurity {
		if err := anyTTL(want.LocalAddress, want.Address); err != nil {
			return fmt.Errorf("lift TTL security of peer %s: %w", want.Address, err)
		}
	}
	if refused != nil {
		s.refuse(*refused)
	}
	return nil
}

// raiseLimits lets the peers that are up send more prefixes, where more are
// wanted. It comes before any path: a router sends back what it learns by another
// session as soon as it has it, which is before the last of many paths is in.
func (s *Speaker) raiseLimits(ctx context.Context, srv *server.BgpServer, have map[netip.Addr]*api.Peer, wanted []Peer) error {
	var errs []error
	for i := range wanted {
		peer, given, gr, known := s.told(wanted[i].Address)
		limit := wanted[i].MaxPrefixes // 0 is none
		up := stateFromAPI(have[wanted[i].Address].GetState().GetSessionState()) == Established
		if !up || !known || given.MaxPrefixes == 0 || limit != 0 && limit <= given.MaxPrefixes {
			continue
		}
		peer.MaxPrefixes, given.MaxPrefixes = limit, limit
		if err := s.updatePeer(ctx, srv, given, gr); err != nil {
			errs = append(errs, err)
			continue
		}
		s.remember(peer, given, gr, false)
	}
	return errors.Join(errs...)
}

func (s *Speaker) updatePeer(ctx context.Context, srv *server.BgpServer, p Peer, gr GracefulRestart) error {
	if _, err := srv.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: peerToAPI(p, gr, false)}); err != nil {
		return fmt.Errorf("update peer %s: %w", p.Address, err)
	}
	return nil
}
