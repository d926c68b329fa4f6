package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// export is the policy for what leaves: our own paths, with what a peer's
// attributes change. GoBGP has no policies of single peers and its policies
// cannot be changed, so every change makes a new one, with names of its own, and
// deletes the old one.
type export struct {
	generation uint64
	key        string // what the policy in force does
	sets       []*api.DefinedSet
	applied    map[netip.Addr]*Attributes // what each peer's paths were sent with
	rules      exportRules                // in force, but for a hold
	admitted   []netip.Addr               // peers that wait no more, to be sent all
}

// exportRules are what an export policy does.
type exportRules struct {
	asn   uint32
	prefs []uint32     // values of LOCAL_PREF that hide keeps in a community
	peers []Peer       // with attributes
	wait  []netip.Addr // get nothing before their OPEN is checked
	bare  []netip.Addr // get no IPv4 with an IPv6 next hop, which their OPEN did not offer
	hops  hops         // of the paths that there are
	hold  *holdRules
}

// holdRules keep paths back, for peers whose sessions are up: either the given
// prefixes or, to send these in a few messages, all others.
type holdRules struct {
	prefixes []netip.Prefix
	others   bool
	peers    []netip.Addr
}

const ownPaths = "own-paths"

// exportFor returns the rules that hold in general.
func (s *Speaker) exportFor(want SpeakerConfig, have map[pathKey]Path) exportRules {
	r := exportRules{asn: want.ASN}
	prefs := map[uint32]bool{}
	note := func(p Path) {
		if p.ID != 0 {
			prefs[rankedPref(p)] = true
		}
		r.hops.note(p)
	}
	for _, p := range want.Paths {
		note(p)
	}
	for _, p := range have {
		note(p)
	}
	for v := range prefs {
		r.prefs = append(r.prefs, v)
	}
	slices.Sort(r.prefs)
	for _, p := range want.Peers {
		if p.Attributes = effective(p, want.ASN); p.Attributes != nil {
			r.peers = append(r.peers, p)
		}
	}
	r.wait, r.bare = s.judge(want.Peers, r.hops)
	s.gated.Store(slices.ContainsFunc(want.Peers, func(p Peer) bool { return p.needsCheck() || p.needsExtended(r.hops) }))
	return r
}

// effective is what of a peer's attributes is seen on the wire, nil for nothing.
func effective(p Peer, asn uint32) *Attributes {
	if p.Attributes == nil {
		return nil
	}
	a := *p.Attributes
	if p.internal(asn) {
		a.Prepend = 0
	} else {
		a.LocalPref = nil
	}
	if sameAttributes(&a, &Attributes{}) {
		return nil
	}
	return &a
}

func (p *Peer) internal(asn uint32) bool { return !p.External && p.ASN == asn }

// setExport puts rules in force, unless they are already.
func (s *Speaker) setExport(ctx context.Context, srv *server.BgpServer, r exportRules) error {
	if key := r.key(); key == s.export.key {
		s.export.rules.hops = r.hops // what later rules are made of
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	s.export.generation++
	name := ownPaths + "-" + strconv.FormatUint(s.export.generation, 10)
	policy, sets := r.policy(name)
	for _, set := range sets {
		if err := srv.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: set}); err != nil {
			return fmt.Errorf("add set of the export policy: %w", err)
		}
	}
	if err := srv.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
		return fmt.Errorf("add export policy: %w", err)
	}
	err := srv.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_EXPORT, DefaultAction: api.RouteAction_REJECT, Policies: []*api.Policy{{Name: name}},
	}})
	if err != nil {
		return fmt.Errorf("assign export policy: %w", err)
	}
	old, oldKey := s.export.sets, s.export.key
	s.export.sets, s.export.key = sets, r.key()
	for _, a := range s.export.rules.wait {
		if !slices.Contains(r.wait, a) {
			s.export.admitted = append(s.export.admitted, a)
		}
	}
	s.export.rules = r
	s.export.rules.hold = nil
	if oldKey == "" {
		return nil
	}
	var errs []error
	oldName := ownPaths + "-" + strconv.FormatUint(s.export.generation-1, 10)
	errs = append(errs, srv.DeletePolicy(ctx, &api.DeletePolicyRequest{Policy: &api.Policy{Name: oldName}, All: true}))
	for _, set := range old {
		errs = append(errs, srv.DeleteDefinedSet(ctx, &api.DeleteDefinedSetRequest{
			DefinedSet: &api.DefinedSet{DefinedType: set.GetDefinedType(), Name: set.GetName()}, All: true,
		}))
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("old export policy stays behind", "error", err)
	}
	return nil
}

// key is different for different rules. Holds are never put in force twice.
func (r exportRules) key() string {
	var b strings.Builder
	fmt.Fprint(&b, r.asn, r.prefs, r.wait, r.bare)
	for _, p := range r.peers {
		a := p.Attributes
		fmt.Fprint(&b, "\n", p.Address, optional(a.MED), optional(a.LocalPref), optional(a.Origin), a.Prepend, a.Communities, a.LargeCommunities, a.ExtendedCommunities)
	}
	if r.hold != nil {
		fmt.Fprint(&b, "\nhold", r.hold.others)
	}
	return b.String()
}

func optional[T any](v *T) string {
	if v == nil {
		return " - "
	}
	return fmt.Sprintf(" %v ", *v)
}

// policyWriter collects the statements and sets of one policy.
type policyWriter struct {
	name  string
	rules []*api.Statement
	sets  []*api.DefinedSet
}

func (w *policyWriter) set(t api.DefinedType, list []string, prefixes []*api.Prefix) *api.MatchSet {
	name := w.name + "-" + strconv.Itoa(len(w.sets))
	w.sets = append(w.sets, &api.DefinedSet{DefinedType: t, Name: name, List: list, Prefixes: prefixes})
	return &api.MatchSet{Type: api.MatchSet_ANY, Name: name}
}

// add adds a statement; one without a route action goes on to the next.
func (w *policyWriter) add(c *api.Conditions, a *api.Actions) {
	w.rules = append(w.rules, &api.Statement{Name: w.name + "-" + strconv.Itoa(len(w.rules)), Conditions: c, Actions: a})
}

func (r exportRules) policy(name string) (*api.Policy, []*api.DefinedSet) {
	w := &policyWriter{name: name}
	if len(r.wait) > 0 {
		wait := w.set(api.DefinedType_NEIGHBOR, hosts(r.wait...), nil)
		w.add(&api.Conditions{NeighborSet: wait}, &api.Actions{RouteAction: api.RouteAction_REJECT})
	}
	if len(r.bare) > 0 {
		bare := w.set(api.DefinedType_NEIGHBOR, hosts(r.bare...), nil)
		w.add(&api.Conditions{NeighborSet: bare, AfiSafiIn: []*api.Family{familyV4()}, NextHopInList: []string{"::/0"}},
			&api.Actions{RouteAction: api.RouteAction_REJECT})
	}
	var up *api.MatchSet
	var held []*api.MatchSet
	if r.hold != nil {
		up = w.set(api.DefinedType_NEIGHBOR, hosts(r.hold.peers...), nil)
		held = w.prefixSets(r.hold.prefixes)
		if !r.hold.others {
			for _, m := range held {
				w.add(&api.Conditions{NeighborSet: up, PrefixSet: m}, &api.Actions{RouteAction: api.RouteAction_REJECT})
			}
		}
	}
	for _, v := range r.prefs {
		tag := fmt.Sprintf("^%d:%d:%d$", uint32(hiddenGlobal), hiddenPref, v)
		w.add(&api.Conditions{LargeCommunitySet: w.set(api.DefinedType_LARGE_COMMUNITY, []string{tag}, nil)}, &api.Actions{
			LocalPref:      &api.LocalPrefAction{Value: v},
			LargeCommunity: &api.CommunityAction{Type: api.CommunityAction_REMOVE, Communities: []string{tag}},
		})
	}
	for _, p := range r.peers {
		w.addPeer(p, r.asn)
	}
	local := &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL}
	accept := &api.Actions{RouteAction: api.RouteAction_ACCEPT}
	if r.hold != nil && r.hold.others {
		for _, m := range held {
			w.add(&api.Conditions{PrefixSet: m, RouteType: api.Conditions_ROUTE_TYPE_LOCAL}, accept)
		}
		w.add(&api.Conditions{NeighborSet: up}, &api.Actions{RouteAction: api.RouteAction_REJECT})
	}
	w.add(local, accept)
	return &api.Policy{Name: name, Statements: w.rules}, w.sets
}

// addPeer adds what changes the paths of one peer. What is there already is
// taken off first, so that nothing is there twice.
func (w *policyWriter) addPeer(p Peer, asn uint32) {
	a := p.Attributes
	to := &api.Conditions{NeighborSet: w.set(api.DefinedType_NEIGHBOR, hosts(p.Address), nil)}
	change, clear := &api.Actions{}, &api.Actions{}
	if a.MED != nil {
		change.Med = &api.MedAction{Type: api.MedAction_REPLACE, Value: int64(*a.MED)}
	}
	if a.Origin != nil {
		change.OriginAction = &api.OriginAction{Origin: api.RouteOriginType(*a.Origin) + api.RouteOriginType_ORIGIN_IGP}
	}
	if a.Prepend > 0 {
		change.AsPrepend = &api.AsPrependAction{Asn: asn, Repeat: uint32(a.Prepend)} //nolint:gosec // at most 10
	}
	if len(a.Communities) > 0 {
		var list []string
		for _, c := range a.Communities {
			list = append(list, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
		}
		clear.Community = &api.CommunityAction{Type: api.CommunityAction_REMOVE, Communities: whole(list)}
		change.Community = &api.CommunityAction{Type: api.CommunityAction_ADD, Communities: list}
	}
	if len(a.LargeCommunities) > 0 {
		var list []string
		for _, c := range a.LargeCommunities {
			list = append(list, fmt.Sprintf("%d:%d:%d", c.Global, c.Local1, c.Local2))
		}
		clear.LargeCommunity = &api.CommunityAction{Type: api.CommunityAction_REMOVE, Communities: whole(list)}
		change.LargeCommunity = &api.CommunityAction{Type: api.CommunityAction_ADD, Communities: list}
	}
	if len(a.ExtendedCommunities) > 0 {
		var list []string
		for _, c := range a.ExtendedCommunities {
			text, _ := policyText(c) // checked
			list = append(list, text)
		}
		change.ExtCommunity = &api.CommunityAction{Type: api.CommunityAction_ADD, Communities: list}
	}
	if clear.Community != nil || clear.LargeCommunity != nil {
		w.add(to, clear)
	}
	w.add(to, change)
	if a.LocalPref != nil {
		// What is about to go says so by its own LOCAL_PREF (RFC 8326 section 4.2).
		going := w.set(api.DefinedType_COMMUNITY, whole([]string{"65535:0"}), nil)
		going.Type = api.MatchSet_INVERT
		w.add(&api.Conditions{NeighborSet: to.NeighborSet, CommunitySet: going}, &api.Actions{
			LocalPref: &api.LocalPrefAction{Value: *a.LocalPref},
		})
	}
}

// whole makes patterns of values.
func whole(list []string) []string {
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, "^"+v+"$")
	}
	return out
}

func hosts(list ...netip.Addr) []string {
	out := make([]string, 0, len(list))
	for _, a := range list {
		a = a.WithZone("") // GoBGP compares without
		out = append(out, netip.PrefixFrom(a, a.BitLen()).String())
	}
	return out
}

// prefixSets returns a set for each family that has prefixes.
func (w *policyWriter) prefixSets(prefixes []netip.Prefix) []*api.MatchSet {
	var v4, v6 []*api.Prefix
	for _, p := range prefixes {
		bits := uint32(p.Bits()) //nolint:gosec // 0 to 128
		one := &api.Prefix{IpPrefix: p.String(), MaskLengthMin: bits, MaskLengthMax: bits}
		if p.Addr().Is4() {
			v4 = append(v4, one)
		} else {
			v6 = append(v6, one)
		}
	}
	var out []*api.MatchSet
	for _, list := range [][]*api.Prefix{v4, v6} {
		if len(list) > 0 {
			out = append(out, w.set(api.DefinedType_PREFIX, nil, list))
		}
	}
	return out
}

// policyText is an extended community as GoBGP's policies write it, if they can.
func policyText(c ExtendedCommunity) (string, error) {
	in, err := bgp.ParseExtended(c[:])
	if err != nil {
		return "", fmt.Errorf("extended community %x: %w", c[:], err)
	}
	_, sub := in.GetTypes()
	word, ok := map[bgp.ExtendedCommunityAttrSubType]string{
		bgp.EC_SUBTYPE_ROUTE_TARGET: "rt", bgp.EC_SUBTYPE_ROUTE_ORIGIN: "soo",
	}[sub]
	if ok {
		var back bgp.ExtendedCommunityInterface
		var octets []byte
		if back, err = bgp.ParseExtendedCommunity(sub, in.String()); err == nil {
			octets, err = back.Serialize()
		}
		ok = err == nil && slices.Equal(octets, c[:])
	}
	if !ok {
		return "", fmt.Errorf("extended community %x is neither a route target nor a route origin; others only paths can have", c[:])
	}
	return word + ":" + in.String(), nil
}
