package bgp

import (
	"fmt"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// deferralTime is how long a restarting speaker waits for the End-of-RIB of its
// peers before it sends (RFC 4724 section 4.1); GoBGP's default is 360 s.
const deferralTime = 10

func familyV4() *api.Family {
	return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
}

func familyV6() *api.Family {
	return &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
}

func familyOf(p netip.Prefix) *api.Family {
	if p.Addr().Is4() {
		return familyV4()
	}
	return familyV6()
}

// pathToAPI builds GoBGP's form of a path. An unspecified next hop becomes each
// session's own local address. A prepend is given as AS_PATH, and what only this
// speaker needs to know as hide says.
func pathToAPI(p Path, asn, bundle uint32) (*api.Path, error) {
	var anys []*anypb.Any
	var failed error
	add := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil && failed == nil {
			failed = fmt.Errorf("encode path %s: %w", p.Prefix, err)
		}
		return a
	}
	nlri := add(&api.IPAddressPrefix{Prefix: p.Prefix.Addr().String(), PrefixLen: uint32(p.Prefix.Bits())}) //nolint:gosec // 0 to 128
	anys = append(anys, add(&api.OriginAttribute{Origin: uint32(p.Origin)}))
	out := hide(p)
	if bundle > 0 {
		anys = append(anys, add(bundleToAPI(bundle)))
	}
	hop := p.NextHop
	switch {
	case p.Prefix.Addr().Is4() && !hop.IsValid():
		anys = append(anys, add(&api.NextHopAttribute{NextHop: "0.0.0.0"}))
	case p.Prefix.Addr().Is4():
		anys = append(anys, add(&api.NextHopAttribute{NextHop: hop.String()}))
	default:
		if !hop.IsValid() {
			hop = netip.IPv6Unspecified()
		}
		anys = append(anys, add(&api.MpReachNLRIAttribute{Family: familyV6(), NextHops: []string{hop.String()}, Nlris: []*anypb.Any{nlri}}))
	}
	if p.Prepend > 0 {
		seg := &api.AsSegment{Type: api.AsSegment_AS_SEQUENCE}
		for range p.Prepend {
			seg.Numbers = append(seg.Numbers, asn)
		}
		anys = append(anys, add(&api.AsPathAttribute{Segments: []*api.AsSegment{seg}}))
	}
	if p.MED != nil {
		anys = append(anys, add(&api.MultiExitDiscAttribute{Med: *p.MED}))
	}
	if out.LocalPref != nil {
		anys = append(anys, add(&api.LocalPrefAttribute{LocalPref: *out.LocalPref}))
	}
	if len(p.Communities) > 0 {
		anys = append(anys, add(&api.CommunitiesAttribute{Communities: p.Communities}))
	}
	if len(p.ExtendedCommunities) > 0 {
		extended := &api.ExtendedCommunitiesAttribute{}
		for _, c := range p.ExtendedCommunities {
			extended.Communities = append(extended.Communities, add(&api.UnknownExtended{Type: uint32(c[0]), Value: c[1:]}))
		}
		anys = append(anys, add(extended))
	}
	if len(out.LargeCommunities) > 0 {
		large := &api.LargeCommunitiesAttribute{}
		for _, c := range out.LargeCommunities {
			large.Communities = append(large.Communities, &api.LargeCommunity{GlobalAdmin: c.Global, LocalData1: c.Local1, LocalData2: c.Local2})
		}
		anys = append(anys, add(large))
	}
	return &api.Path{Family: familyOf(p.Prefix), Nlri: nlri, Pattrs: anys, Identifier: p.ID}, failed
}

// pathFromAPI reads a path of GoBGP's RIB back.
func pathFromAPI(prefix netip.Prefix, in *api.Path) (Path, error) {
	p := Path{Prefix: prefix, ID: in.GetIdentifier()}
	for _, a := range in.GetPattrs() {
		m, err := a.UnmarshalNew()
		if err != nil {
			return Path{}, fmt.Errorf("decode path %s: %w", prefix, err)
		}
		switch v := m.(type) {
		case *api.OriginAttribute:
			p.Origin = uint8(v.GetOrigin()) //nolint:gosec // given as 8 bits
		case *api.NextHopAttribute:
			p.NextHop = hopFromAPI(v.GetNextHop())
		case *api.MpReachNLRIAttribute:
			if hops := v.GetNextHops(); len(hops) > 0 {
				p.NextHop = hopFromAPI(hops[0])
			}
		case *api.AsPathAttribute:
			for _, seg := range v.GetSegments() {
				p.Prepend += len(seg.GetNumbers())
			}
		case *api.MultiExitDiscAttribute:
			p.MED = &v.Med
		case *api.LocalPrefAttribute:
			p.LocalPref = &v.LocalPref
		case *api.CommunitiesAttribute:
			p.Communities = v.GetCommunities()
		case *api.ExtendedCommunitiesAttribute:
			for _, c := range v.GetCommunities() {
				p.ExtendedCommunities = append(p.ExtendedCommunities, extendedFromAPI(c))
			}
		case *api.LargeCommunitiesAttribute:
			for _, c := range v.GetCommunities() {
				p.LargeCommunities = append(p.LargeCommunities, LargeCommunity{c.GetGlobalAdmin(), c.GetLocalData1(), c.GetLocalData2()})
			}
		}
	}
	return canonical(reveal(p)), nil
}

// extendedFromAPI is the zero value for what this package did not give.
func extendedFromAPI(in *anypb.Any) ExtendedCommunity {
	var out ExtendedCommunity
	v := &api.UnknownExtended{}
	if in.UnmarshalTo(v) == nil {
		out[0] = byte(v.GetType()) //nolint:gosec // given as 8 bits
		copy(out[1:], v.GetValue())
	}
	return out
}

func hopFromAPI(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// sendMax is how many paths of a prefix a peer with ADD-PATH gets; GoBGP has
// eight bits for it.
const sendMax = 255

// peerToAPI builds GoBGP's form of a peer of a cleaned configuration. The N bit
// of RFC 8538 stays off: with it a router would go on sending to a host that it
// lost.
func peerToAPI(p Peer, gr GracefulRestart, restarting bool) *api.Peer {
	local := p.LocalAddress
	if local.Zone() != "" {
		// GoBGP would not understand it, and give "::" as the next hop. With this
		// it takes the address of the connection.
		local = netip.IPv6Unspecified()
	}
	out := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: p.Address.String(), PeerAsn: p.ASN, AuthPassword: string(p.Password)},
		Transport: &api.Transport{
			LocalAddress: local.String(), RemotePort: uint32(p.Port), BindInterface: p.Interface, PassiveMode: p.Passive,
		},
		TtlSecurity:  &api.TtlSecurity{Enabled: p.TTLSecurity},
		EbgpMultihop: &api.EbgpMultihop{Enabled: p.MultihopTTL > 0, MultihopTtl: uint32(p.MultihopTTL)},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry: seconds(p.ConnectRetry), HoldTime: seconds(p.HoldTime), KeepaliveInterval: seconds(p.Keepalive),
			IdleHoldTimeAfterReset: 1,
		}},
	}
	if gr.Enabled {
		out.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(seconds(gr.RestartTime)), DeferralTime: deferralTime, LocalRestarting: restarting, //nolint:gosec // at most 4095
			LonglivedEnabled: gr.LongLived > 0,
		}
	}
	for _, f := range familiesOf(p.Families) {
		out.AfiSafis = append(out.AfiSafis, familyToAPI(f, p, gr))
	}
	return out
}

func familiesOf(f Families) []*api.Family {
	switch f {
	case Families{IPv4: true}:
		return []*api.Family{familyV4()}
	case Families{IPv6: true}:
		return []*api.Family{familyV6()}
	}
	return []*api.Family{familyV4(), familyV6()}
}

func familyToAPI(f *api.Family, p Peer, gr GracefulRestart) *api.AfiSafi {
	af := &api.AfiSafi{Config: &api.AfiSafiConfig{Family: f, Enabled: true}}
	if gr.Enabled {
		af.MpGracefulRestart = &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
	}
	if gr.Enabled && gr.LongLived > 0 {
		af.LongLivedGracefulRestart = &api.LongLivedGracefulRestart{Config: &api.LongLivedGracefulRestartConfig{
			Enabled: true, RestartTime: uint32(seconds(gr.LongLived)), //nolint:gosec // at most 24 bits
		}}
	}
	if p.MaxPrefixes > 0 {
		af.PrefixLimits = &api.PrefixLimit{Family: f, MaxPrefixes: p.MaxPrefixes}
	}
	if p.AddPath {
		af.AddPaths = &api.AddPaths{Config: &api.AddPathsConfig{SendMax: sendMax}}
	}
	return af
}

// negotiated is what the peer's OPEN said, as far as we offered it too.
func negotiated(out *PeerState, want *Peer, gr GracefulRestart, in *api.Peer) {
	both := want.Families == Families{}
	longLived := false
	for _, c := range in.GetState().GetRemoteCap() {
		m, err := c.UnmarshalNew()
		if err != nil {
			continue
		}
		switch v := m.(type) {
		case *api.MultiProtocolCapability:
			if v.GetFamily().GetSafi() == api.Family_SAFI_UNICAST {
				out.IPv4 = out.IPv4 || v.GetFamily().GetAfi() == api.Family_AFI_IP && (both || want.Families.IPv4)
				out.IPv6 = out.IPv6 || v.GetFamily().GetAfi() == api.Family_AFI_IP6 && (both || want.Families.IPv6)
			}
		case *api.AddPathCapability:
			for _, t := range v.GetTuples() {
				out.AddPath = out.AddPath || want.AddPath && t.GetMode()&api.AddPathCapabilityTuple_RECEIVE != 0
			}
		case *api.ExtendedNexthopCapability:
			for _, t := range v.GetTuples() {
				out.ExtendedNextHop = out.ExtendedNextHop || t.GetNlriFamily().GetAfi() == api.Family_AFI_IP &&
					t.GetNlriFamily().GetSafi() == api.Family_SAFI_UNICAST && t.GetNexthopFamily().GetAfi() == api.Family_AFI_IP6
			}
		case *api.GracefulRestartCapability:
			out.GracefulRestart = gr.Enabled
		case *api.LongLivedGracefulRestartCapability:
			longLived = gr.LongLived > 0
		}
	}
	out.LongLived = longLived && out.GracefulRestart
	out.ExtendedNextHop = out.ExtendedNextHop && (both || want.Families.IPv4)
	out.RouterID, _ = netip.ParseAddr(in.GetState().GetRouterId()) // zero is what it then should be
	out.HoldTime = duration(in.GetTimers().GetState().GetNegotiatedHoldTime())
}

func stateFromAPI(s api.PeerState_SessionState) SessionState {
	switch s {
	case api.PeerState_CONNECT:
		return Connect
	case api.PeerState_ACTIVE:
		return Active
	case api.PeerState_OPENSENT:
		return OpenSent
	case api.PeerState_OPENCONFIRM:
		return OpenConfirm
	case api.PeerState_ESTABLISHED:
		return Established
	case api.PeerState_IDLE, api.PeerState_UNKNOWN:
		return Idle
	}
	return Idle
}

func seconds(d time.Duration) uint64  { return uint64(d / time.Second) }        //nolint:gosec // checked to be positive
func duration(s uint64) time.Duration { return time.Duration(s) * time.Second } //nolint:gosec // given as 16 bits
