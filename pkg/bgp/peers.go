package bgp

import (
	"context"
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

func (s *Speaker) updatePeer(ctx context.Context, srv *server.BgpServer, p Peer, gr GracefulRestart) error {
	if _, err := srv.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: peerToAPI(p, gr, false)}); err != nil {
		return fmt.Errorf("update peer %s: %w", p.Address, err)
	}
	return nil
}
