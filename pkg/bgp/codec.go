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
// session's own local address. A prepend is given as AS_PATH: as an export
// action GoBGP would lose routes beyond 810 with the same attributes.
func pathToAPI(p Path, asn uint32) (*api.Path, error) {
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
	anys = append(anys, add(&api.OriginAttribute{}))
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
	if p.LocalPref != nil {
		anys = append(anys, add(&api.LocalPrefAttribute{LocalPref: *p.LocalPref}))
	}
	if len(p.Communities) > 0 {
		anys = append(anys, add(&api.CommunitiesAttribute{Communities: p.Communities}))
	}
	if len(p.LargeCommunities) > 0 {
		large := &api.LargeCommunitiesAttribute{}
		for _, c := range p.LargeCommunities {
			large.Communities = append(large.Communities, &api.LargeCommunity{GlobalAdmin: c.Global, LocalData1: c.Local1, LocalData2: c.Local2})
		}
		anys = append(anys, add(large))
	}
	return &api.Path{Family: familyOf(p.Prefix), Nlri: nlri, Pattrs: anys}, failed
}

// pathFromAPI reads a path of GoBGP's RIB back.
func pathFromAPI(prefix netip.Prefix, in *api.Path) (Path, error) {
	p := Path{Prefix: prefix}
	for _, a := range in.GetPattrs() {
		m, err := a.UnmarshalNew()
		if err != nil {
			return Path{}, fmt.Errorf("decode path %s: %w", prefix, err)
		}
		switch v := m.(type) {
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
		case *api.LargeCommunitiesAttribute:
			for _, c := range v.GetCommunities() {
				p.LargeCommunities = append(p.LargeCommunities, LargeCommunity{c.GetGlobalAdmin(), c.GetLocalData1(), c.GetLocalData2()})
			}
		}
	}
	return canonical(p), nil
}

func hopFromAPI(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// peerToAPI builds GoBGP's form of a peer of a cleaned configuration. Both
// unicast families run on each session. The N bit of RFC 8538 stays off: with
// it a router would go on sending to a host that it lost.
func peerToAPI(p Peer, gr GracefulRestart, restarting bool) *api.Peer {
	out := &api.Peer{
		Conf:        &api.PeerConf{NeighborAddress: p.Address.String(), PeerAsn: p.ASN, AuthPassword: string(p.Password)},
		Transport:   &api.Transport{LocalAddress: p.LocalAddress.String(), RemotePort: uint32(p.Port), BindInterface: p.Interface},
		TtlSecurity: &api.TtlSecurity{Enabled: p.TTLSecurity},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry: seconds(p.ConnectRetry), HoldTime: seconds(p.HoldTime), KeepaliveInterval: seconds(p.Keepalive),
			IdleHoldTimeAfterReset: 1,
		}},
	}
	if gr.Enabled {
		out.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(seconds(gr.RestartTime)), DeferralTime: deferralTime, LocalRestarting: restarting, //nolint:gosec // at most 4095
		}
	}
	for _, f := range []*api.Family{familyV4(), familyV6()} {
		af := &api.AfiSafi{Config: &api.AfiSafiConfig{Family: f, Enabled: true}}
		if gr.Enabled {
			af.MpGracefulRestart = &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
		}
		if p.MaxPrefixes > 0 {
			af.PrefixLimits = &api.PrefixLimit{Family: f, MaxPrefixes: p.MaxPrefixes}
		}
		out.AfiSafis = append(out.AfiSafis, af)
	}
	return out
}

// peerFromAPI reads a peer's configuration back from GoBGP.
func peerFromAPI(in *api.Peer) (Peer, GracefulRestart, error) {
	addr, err := netip.ParseAddr(in.GetConf().GetNeighborAddress())
	if err != nil {
		return Peer{}, GracefulRestart{}, fmt.Errorf("decode peer: %w", err)
	}
	local, err := netip.ParseAddr(in.GetTransport().GetLocalAddress())
	if err != nil {
		return Peer{}, GracefulRestart{}, fmt.Errorf("decode peer %s: %w", addr, err)
	}
	t := in.GetTimers().GetConfig()
	p := Peer{
		Address: addr, ASN: in.GetConf().GetPeerAsn(), LocalAddress: local, Interface: in.GetTransport().GetBindInterface(),
		Port: uint16(in.GetTransport().GetRemotePort()), Password: Secret(in.GetConf().GetAuthPassword()), //nolint:gosec // given as 16 bits
		TTLSecurity: in.GetTtlSecurity().GetEnabled(),
		HoldTime:    duration(t.GetHoldTime()), Keepalive: duration(t.GetKeepaliveInterval()), ConnectRetry: duration(t.GetConnectRetry()),
	}
	for _, af := range in.GetAfiSafis() {
		p.MaxPrefixes = max(p.MaxPrefixes, af.GetPrefixLimits().GetMaxPrefixes())
	}
	gr := GracefulRestart{}
	if g := in.GetGracefulRestart(); g.GetEnabled() {
		gr = GracefulRestart{Enabled: true, RestartTime: duration(uint64(g.GetRestartTime()))}
	}
	return p, gr, nil
}

// families tells which unicast families a session's peer offered in its OPEN.
func families(in *api.Peer) (v4, v6 bool) {
	for _, c := range in.GetState().GetRemoteCap() {
		mp := &api.MultiProtocolCapability{}
		if c.UnmarshalTo(mp) != nil || mp.GetFamily().GetSafi() != api.Family_SAFI_UNICAST {
			continue
		}
		v4 = v4 || mp.GetFamily().GetAfi() == api.Family_AFI_IP
		v6 = v6 || mp.GetFamily().GetAfi() == api.Family_AFI_IP6
	}
	return v4, v6
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
