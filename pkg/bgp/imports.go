package bgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// maxImports bounds SpeakerConfig.Import.
const maxImports = 64

// imports is the policy for what comes in: our own paths, and of the peers' those
// of exactly the listed prefixes. As GoBGP's policies cannot be changed, every
// change makes a new one, with names of its own, and deletes the old one.
type imports struct {
	generation uint64
	list       []netip.Prefix // in force
	sets       []*api.DefinedSet
	watching   bool
}

const importedPaths = "imported-paths"

// checkImport tells what is wrong with a prefix that is to be taken from peers.
func checkImport(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("import: no prefix")
	case p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "":
		return fmt.Errorf("import %s: not a prefix without host bits", p)
	}
	return nil
}

// cleanImports is the valid part of the prefixes to take from peers, sorted.
func cleanImports(in []netip.Prefix, errs []error) ([]netip.Prefix, []error) {
	var out []netip.Prefix
	for _, p := range in {
		if err := checkImport(p); err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, p)
	}
	slices.SortFunc(out, comparePrefix)
	out = slices.Compact(out)
	if len(out) > maxImports {
		errs = append(errs, fmt.Errorf("import: %d prefixes, at most %d are taken", len(out), maxImports))
		out = out[:maxImports]
	}
	return out, errs
}

// reconcileImports puts the prefixes to take from peers in force. What a peer
// has sent already is looked at anew then.
func (s *Speaker) reconcileImports(ctx context.Context, srv *server.BgpServer, want []netip.Prefix) error {
	if s.opt.AcceptPaths || slices.Equal(want, s.imports.list) {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.watchReceived(srv); err != nil {
		return err
	}
	s.imports.generation++
	w := &policyWriter{name: importedPaths + "-" + strconv.FormatUint(s.imports.generation, 10)}
	accept := &api.Actions{RouteAction: api.RouteAction_ACCEPT}
	w.add(&api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL}, accept)
	for _, m := range w.prefixSets(want) {
		w.add(&api.Conditions{PrefixSet: m}, accept)
	}
	for _, set := range w.sets {
		if err := srv.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: set}); err != nil {
			return fmt.Errorf("add set of the import policy: %w", err)
		}
	}
	if err := srv.AddPolicy(ctx, &api.AddPolicyRequest{Policy: &api.Policy{Name: w.name, Statements: w.rules}}); err != nil {
		return fmt.Errorf("add import policy: %w", err)
	}
	err := srv.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_IMPORT, DefaultAction: api.RouteAction_REJECT, Policies: []*api.Policy{{Name: w.name}},
	}})
	if err != nil {
		return fmt.Errorf("assign import policy: %w", err)
	}
	old := s.imports.sets
	s.imports.list, s.imports.sets = want, w.sets
	s.smu.Lock()
	s.taking = want
	s.smu.Unlock()
	return errors.Join(s.dropImports(ctx, srv, old), s.takeAgain(ctx, srv))
}

// dropImports deletes the policy before the one in force.
func (s *Speaker) dropImports(ctx context.Context, srv *server.BgpServer, sets []*api.DefinedSet) error {
	if s.imports.generation < 2 {
		return nil
	}
	name := importedPaths + "-" + strconv.FormatUint(s.imports.generation-1, 10)
	errs := []error{srv.DeletePolicy(ctx, &api.DeletePolicyRequest{Policy: &api.Policy{Name: name}, All: true})}
	for _, set := range sets {
		errs = append(errs, srv.DeleteDefinedSet(ctx, &api.DeleteDefinedSetRequest{
			DefinedSet: &api.DefinedSet{DefinedType: set.GetDefinedType(), Name: set.GetName()}, All: true,
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete the former import policy: %w", err)
	}
	return nil
}

// takeAgain applies the import policy to what the established peers have sent.
func (s *Speaker) takeAgain(ctx context.Context, srv *server.BgpServer) error {
	up, err := s.sessionsUp(ctx, srv)
	errs := []error{err}
	for a := range up {
		err := srv.ResetPeer(ctx, &api.ResetPeerRequest{Address: a.String(), Soft: true, Direction: api.ResetPeerRequest_IN})
		if err != nil {
			errs = append(errs, fmt.Errorf("take paths of peer %s anew: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

// watchReceived has every path that comes or goes told, once. Events of the best
// paths only would hide the second router.
func (s *Speaker) watchReceived(srv *server.BgpServer) error {
	if s.imports.watching {
		return nil
	}
	err := srv.WatchEvent(s.watch, &api.WatchEventRequest{Table: &api.WatchEventRequest_Table{
		Filters: []*api.WatchEventRequest_Table_Filter{{Type: api.WatchEventRequest_Table_Filter_POST_POLICY, Init: true}},
	}}, s.observeTable)
	if err != nil {
		return fmt.Errorf("watch received paths: %w", err)
	}
	s.imports.watching = true
	return nil
}

// observeTable takes GoBGP's events of paths. A peer may send a hundred thousand
// that nobody asked for; those wake nobody.
func (s *Speaker) observeTable(r *api.WatchEventResponse) {
	s.smu.Lock()
	taking := s.taking
	s.smu.Unlock()
	for _, p := range r.GetTable().GetPaths() {
		nlri := &api.IPAddressPrefix{}
		if p.GetNlri().UnmarshalTo(nlri) != nil {
			continue
		}
		a, err := netip.ParseAddr(nlri.GetPrefix())
		if err != nil {
			continue
		}
		if slices.Contains(taking, netip.PrefixFrom(a, int(nlri.GetPrefixLen()))) {
			s.signal()
			return
		}
	}
}

// listReceived are the paths of the listed prefixes that peers sent, in the
// order of prefix and peer; of all prefixes for none.
func (s *Speaker) listReceived(ctx context.Context, srv *server.BgpServer, prefixes []netip.Prefix) ([]ReceivedPath, error) {
	list := []ReceivedPath{}
	err := eachPath(ctx, srv, prefixes, func(prefix netip.Prefix, p *api.Path) {
		peer, err := netip.ParseAddr(p.GetNeighborIp())
		if err != nil {
			return // our own
		}
		s.smu.Lock()
		if rec := s.session(peer); rec != nil {
			peer = rec.peer.Address // with its zone
		}
		s.smu.Unlock()
		path, err := receivedFromAPI(prefix, p)
		if err != nil {
			s.log.Debug("path not understood", "prefix", prefix, "error", err)
			return
		}
		path.Peer = peer
		if !path.NextHop.IsValid() && peer.Is6() && peer.IsLinkLocalUnicast() {
			path.NextHop = peer.WithZone("") // BIRD gives :: before its link-local address
		}
		list = append(list, path)
	})
	return list, err
}

func compareReceived(a, b ReceivedPath) int {
	return cmp.Or(comparePrefix(a.Prefix, b.Prefix), a.Peer.Compare(b.Peer))
}

// receivedFromAPI reads what a peer sent, but who it was.
func receivedFromAPI(prefix netip.Prefix, in *api.Path) (ReceivedPath, error) {
	out := ReceivedPath{Prefix: prefix, LocalPref: defaultLocalPref}
	for _, a := range in.GetPattrs() {
		m, err := a.UnmarshalNew()
		if err != nil {
			return ReceivedPath{}, fmt.Errorf("decode path %s: %w", prefix, err)
		}
		switch v := m.(type) {
		case *api.OriginAttribute:
			out.Origin = uint8(v.GetOrigin()) //nolint:gosec // given as 8 bits
		case *api.NextHopAttribute:
			out.NextHop = hopFromAPI(v.GetNextHop())
		case *api.MpReachNLRIAttribute:
			// GoBGP keeps the first of the two that RFC 2545 section 3 allows.
			if hops := v.GetNextHops(); len(hops) > 0 {
				out.NextHop = hopFromAPI(hops[0]).WithZone("")
			}
		case *api.AsPathAttribute:
			out.ASPathLength += pathLength(v)
		case *api.MultiExitDiscAttribute:
			out.MED = v.GetMed()
		case *api.LocalPrefAttribute:
			out.LocalPref = v.GetLocalPref()
		case *api.ExtendedCommunitiesAttribute:
			for _, c := range v.GetCommunities() {
				b := &api.LinkBandwidthExtended{}
				if c.UnmarshalTo(b) == nil {
					out.Bandwidth = sane(b.GetBandwidth())
				}
			}
		}
	}
	return out, nil
}

// defaultLocalPref is what a path without LOCAL_PREF counts as.
const defaultLocalPref = 100

// pathLength counts as RFC 4271 section 9.1.2.2 and RFC 5065 section 5.3 say: a
// set is one, a confederation is none.
func pathLength(v *api.AsPathAttribute) int {
	n := 0
	for _, seg := range v.GetSegments() {
		switch seg.GetType() {
		case api.AsSegment_AS_SEQUENCE:
			n += len(seg.GetNumbers())
		case api.AsSegment_AS_SET:
			n++
		case api.AsSegment_UNKNOWN, api.AsSegment_AS_CONFED_SEQUENCE, api.AsSegment_AS_CONFED_SET:
		}
	}
	return n
}

// sane is a bandwidth that one can reckon with: none for what is not a number.
func sane(f float32) float32 {
	if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) || f < 0 {
		return 0
	}
	return f
}

// readReceived are the paths that peers sent. Taking tells that they are those of
// listed prefixes, ok that there are any to be told.
func (s *Speaker) readReceived(ctx context.Context, srv *server.BgpServer) (list []ReceivedPath, taking, ok bool) {
	s.smu.Lock()
	prefixes := s.taking
	s.smu.Unlock()
	taking = len(prefixes) > 0
	if srv == nil || !taking && !s.opt.AcceptPaths {
		return nil, false, false
	}
	list, err := s.listReceived(ctx, srv, prefixes)
	if err != nil {
		s.log.Warn("paths cannot be listed", "error", err)
		return nil, taking, false
	}
	return list, taking, true
}

// publishReceived shows what peers sent, and tells whether it changed. A peer
// that GoBGP has just lost, and whose end has not been told, keeps what it had:
// else it would look as if it had withdrawn it.
func (s *Speaker) publishReceived(list []ReceivedPath, ending map[netip.Addr]bool) bool {
	old := s.Received()
	for i := range old {
		has := func(p ReceivedPath) bool { return p.Prefix == old[i].Prefix && p.Peer == old[i].Peer }
		if ending[old[i].Peer] && !slices.ContainsFunc(list, has) {
			list = append(list, old[i])
		}
	}
	slices.SortFunc(list, compareReceived)
	if slices.Equal(list, old) {
		return false
	}
	s.received.Store(&list)
	return true
}

// admissible is what of a process's list may be believed: one path of each listed
// prefix from each wanted peer, with a next hop that can be one. The process may
// be in a stranger's hands.
func admissible(in []ReceivedPath, cfg *SpeakerConfig) []ReceivedPath {
	type key struct {
		prefix netip.Prefix
		peer   netip.Addr
	}
	most := len(cfg.Import) * len(cfg.Peers)
	seen := make(map[key]bool)
	var out []ReceivedPath
	for i := range in {
		p := in[i]
		k := key{p.Prefix, p.Peer}
		if len(out) == most {
			break
		}
		if seen[k] || !slices.Contains(cfg.Import, p.Prefix) || !slices.ContainsFunc(cfg.Peers, func(q Peer) bool { return q.Address == p.Peer }) {
			continue
		}
		if !canBeHop(p.NextHop, p.Prefix) {
			continue
		}
		seen[k] = true
		p.Bandwidth = sane(p.Bandwidth)
		out = append(out, p)
	}
	return out
}

// canBeHop tells whether an address may be the next hop of a prefix (RFC 8950
// for IPv6 with IPv4).
func canBeHop(a netip.Addr, p netip.Prefix) bool {
	return unicast(a) && a.Zone() == "" && !a.Is4In6() && (a.Is6() || p.Addr().Is4())
}
