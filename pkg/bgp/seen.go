package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// Bounds of what is kept of paths that peers send for watched prefixes.
const (
	maxSeenLarge = 4 // large communities of one path
	lookInterval = time.Second
)

// SeenPath is a path that a peer sends for one of SpeakerConfig.Watch. It is
// refused like all others, and also told if the own AS number is in its AS_PATH,
// for which GoBGP drops it as a loop.
type SeenPath struct {
	Prefix netip.Prefix
	// Peer is the address of the peer that sends it.
	Peer    netip.Addr
	NextHop netip.Addr
	// OriginAS is the last number of AS_PATH, the peer's own for an empty one.
	OriginAS uint32
	// Shutdown tells that it has the community GRACEFUL_SHUTDOWN (RFC 8326).
	Shutdown bool
	// LargeCommunities are those whose global part is OriginAS, at most 4.
	LargeCommunities []LargeCommunity
}

func sameSeen(a, b SeenPath) bool {
	return a.Prefix == b.Prefix && a.Peer == b.Peer && a.NextHop == b.NextHop && a.OriginAS == b.OriginAS && a.Shutdown == b.Shutdown &&
		slices.Equal(a.LargeCommunities, b.LargeCommunities)
}

// lookAround lists what the peers send for the watched prefixes. Loops are in no
// event, so it is asked for, but not more often than once in lookInterval. The
// second result is when to ask again, 0 for never.
func (s *Speaker) lookAround(ctx context.Context, srv *server.BgpServer, peers map[netip.Addr]*api.Peer) ([]SeenPath, time.Duration) {
	s.smu.Lock()
	watched := s.watched
	s.smu.Unlock()
	if len(watched) == 0 || srv == nil {
		return nil, 0
	}
	if age := time.Since(s.looked); age < lookInterval {
		return s.state.Load().Seen, lookInterval - age
	}
	s.looked = time.Now()
	list := []SeenPath{}
	for a, p := range peers {
		if stateFromAPI(p.GetState().GetSessionState()) != Established {
			continue
		}
		for _, f := range []*api.Family{familyV4(), familyV6()} {
			if err := eachSeen(ctx, srv, a, f, watched, func(path SeenPath) { list = append(list, path) }); err != nil {
				s.log.Debug("paths of a peer cannot be listed", "peer", a, "error", err) // its session ended in between, or it lacks the family
			}
		}
	}
	slices.SortFunc(list, func(a, b SeenPath) int {
		if c := comparePrefix(a.Prefix, b.Prefix); c != 0 {
			return c
		}
		if c := a.Peer.Compare(b.Peer); c != 0 {
			return c
		}
		return a.NextHop.Compare(b.NextHop)
	})
	return list, lookInterval
}

// eachSeen calls fn for each path of one family that a peer sends for the prefixes.
func eachSeen(ctx context.Context, srv *server.BgpServer, peer netip.Addr, f *api.Family, prefixes []netip.Prefix, fn func(SeenPath)) error {
	req := &api.ListPathRequest{TableType: api.TableType_ADJ_IN, Name: peer.String(), Family: f}
	for _, p := range prefixes {
		if p.Addr().Is4() == (f.GetAfi() == api.Family_AFI_IP) {
			req.Prefixes = append(req.Prefixes, &api.TableLookupPrefix{Prefix: p.String()})
		}
	}
	if len(req.Prefixes) == 0 {
		return nil
	}
	err := srv.ListPath(context.WithoutCancel(ctx), req, func(d *api.Destination) {
		prefix, err := netip.ParsePrefix(d.GetPrefix())
		if err != nil {
			return
		}
		for _, p := range d.GetPaths() {
			if seen, err := seenFromAPI(prefix, peer, p); err == nil {
				fn(seen)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("list paths of %s: %w", peer, err)
	}
	return nil
}

func seenFromAPI(prefix netip.Prefix, peer netip.Addr, in *api.Path) (SeenPath, error) {
	out := SeenPath{Prefix: prefix, Peer: peer, OriginAS: in.GetSourceAsn()}
	var large []*api.LargeCommunity
	for _, a := range in.GetPattrs() {
		m, err := a.UnmarshalNew()
		if err != nil {
			return SeenPath{}, fmt.Errorf("decode path %s: %w", prefix, err)
		}
		switch v := m.(type) {
		case *api.NextHopAttribute:
			out.NextHop = hopFromAPI(v.GetNextHop())
		case *api.MpReachNLRIAttribute:
			if hops := v.GetNextHops(); len(hops) > 0 {
				out.NextHop = hopFromAPI(hops[0]).WithZone("")
			}
		case *api.AsPathAttribute:
			for _, seg := range v.GetSegments() {
				if n := seg.GetNumbers(); len(n) > 0 {
					out.OriginAS = n[len(n)-1]
				}
			}
		case *api.CommunitiesAttribute:
			out.Shutdown = slices.Contains(v.GetCommunities(), GracefulShutdown)
		case *api.LargeCommunitiesAttribute:
			large = v.GetCommunities()
		}
	}
	for _, c := range large {
		if c.GetGlobalAdmin() == out.OriginAS && len(out.LargeCommunities) < maxSeenLarge {
			out.LargeCommunities = append(out.LargeCommunities, LargeCommunity{c.GetGlobalAdmin(), c.GetLocalData1(), c.GetLocalData2()})
		}
	}
	return out, nil
}

// cleanWatch is the valid part of the prefixes to watch, sorted.
func cleanWatch(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		if checkPath(Path{Prefix: p}) == nil {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePrefix)
	return slices.Compact(out)
}

// believable is what of a process's list may be true: it is about a prefix that
// is watched and a peer that is wanted, which sends one path of each at most. The
// process may be in a stranger's hands.
func believable(in []SeenPath, cfg *SpeakerConfig) []SeenPath {
	type key struct {
		prefix netip.Prefix
		peer   netip.Addr
	}
	watched, wanted, told := make(map[netip.Prefix]bool, len(cfg.Watch)), map[netip.Addr]bool{}, map[key]bool{}
	for _, p := range cfg.Watch {
		watched[p] = true
	}
	for i := range cfg.Peers {
		wanted[cfg.Peers[i].Address] = true
	}
	var out []SeenPath
	for _, p := range in {
		k := key{p.Prefix, p.Peer}
		if watched[p.Prefix] && wanted[p.Peer] && !told[k] && len(p.LargeCommunities) <= maxSeenLarge {
			told[k] = true
			out = append(out, p)
		}
	}
	return out
}
