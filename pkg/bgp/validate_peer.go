package bgp

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// maxPeerCommunities is the number of communities of each kind that a peer's
// attributes can add.
const maxPeerCommunities = 32

func cleanPeers(cfg SpeakerConfig, errs []error) ([]Peer, []error) {
	peers := make([]Peer, 0, len(cfg.Peers))
	seen := make(map[netip.Addr]bool, len(cfg.Peers))
	for _, p := range cfg.Peers {
		err := errors.Join(checkPeer(p), checkAttributes(p.Attributes))
		if err == nil && seen[p.Address.WithZone("")] {
			err = errors.New("is there twice")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("speaker %s: peer %s: %w", cfg.Name, p.Address, err))
			continue
		}
		seen[p.Address.WithZone("")] = true
		var lost error
		if p, lost = cleanPeer(p, cfg.ASN); lost != nil {
			errs = append(errs, fmt.Errorf("speaker %s: peer %s: %w", cfg.Name, p.Address, lost))
		}
		if p.MaxPrefixes > 0 {
			p.MaxPrefixes += min(cfg.Reflected, math.MaxUint32-p.MaxPrefixes)
		}
		peers = append(peers, p)
	}
	slices.SortFunc(peers, func(a, b Peer) int { return a.Address.Compare(b.Address) })
	return peers, errs
}

// cleanPeer brings a valid peer into canonical form, and tells what of it cannot
// be.
func cleanPeer(p Peer, asn uint32) (Peer, error) {
	// TTL 1 (eBGP) and GTSM pin a session already, and without a bound device its
	// Cease can still leave by another interface. GoBGP sets no TTL where the AS
	// is not known beforehand.
	if p.TTLSecurity || p.MultihopTTL > 0 || !p.External && p.ASN != asn {
		p.Interface = ""
	}
	if p.Port == 0 {
		p.Port = 179
	}
	if p.Families == (Families{IPv4: true, IPv6: true}) {
		p.Families = Families{}
	}
	if p.Attributes == nil {
		return p, nil
	}
	a := *p.Attributes
	p.Attributes = &a
	a.Communities = sortedSet(a.Communities, cmp.Compare[uint32])
	a.LargeCommunities = sortedSet(a.LargeCommunities, compareLarge)
	a.ExtendedCommunities = sortedSet(a.ExtendedCommunities, compareExtended)
	if a.Prepend > 0 && p.internal(asn) {
		return p, errors.New("its paths are not prepended, because it is internal")
	}
	return p, nil
}

// checkAttributes checks what is possible for a single peer, by a policy.
func checkAttributes(a *Attributes) error {
	switch {
	case a == nil:
		return nil
	case a.LocalPref != nil && *a.LocalPref == 0:
		return errors.New("local preference 0 is possible for paths only")
	case a.Prepend < 0 || a.Prepend > maxPrepend:
		return fmt.Errorf("prepend %d is not in 0 to %d", a.Prepend, maxPrepend)
	case a.Origin != nil && *a.Origin > 2:
		return fmt.Errorf("origin %d is not in 0 to 2", *a.Origin)
	case len(a.Communities) > maxPeerCommunities || len(a.LargeCommunities) > maxPeerCommunities || len(a.ExtendedCommunities) > maxPeerCommunities:
		return fmt.Errorf("has more than %d communities of a kind", maxPeerCommunities)
	case slices.ContainsFunc(a.LargeCommunities, isHidden):
		return errReservedCommunity
	}
	for _, c := range a.ExtendedCommunities {
		if _, err := policyText(c); err != nil {
			return err
		}
	}
	return nil
}

func checkPeer(p Peer) error {
	err := checkSession(p)
	switch {
	case err != nil:
		return err
	case !unicast(p.Address):
		return errors.New("is not a unicast address")
	case !unicast(p.LocalAddress):
		return fmt.Errorf("local address %s is not a unicast address", p.LocalAddress)
	case p.Address.Is4() != p.LocalAddress.Is4():
		return fmt.Errorf("local address %s is of the other family", p.LocalAddress)
	case p.Address == p.LocalAddress:
		return errors.New("is the local address")
	case p.Address.Zone() != p.LocalAddress.Zone():
		return fmt.Errorf("local address %s is of another zone", p.LocalAddress)
	case p.Address.Is6() && p.Address.IsLinkLocalUnicast() && p.Address.Zone() == "":
		return errors.New("has no zone, which a link-local address needs")
	case p.Address.Zone() != "" && p.Password != "":
		return errors.New("TCP MD5 is not possible over link-local addresses")
	case p.Address.Zone() != "" && p.MultihopTTL > 0:
		return errors.New("a multihop TTL is not possible over link-local addresses")
	case len(p.Interface) > maxIfNameLen:
		return fmt.Errorf("interface name %q is longer than %d", p.Interface, maxIfNameLen)
	case len(p.Password) > maxKeyLength:
		return fmt.Errorf("password is longer than %d octets", maxKeyLength)
	}
	return nil
}

func checkSession(p Peer) error {
	switch {
	case p.External && p.ASN != 0:
		return fmt.Errorf("asn %d and any external one exclude each other", p.ASN)
	case !p.External && p.ASN == 0:
		return errors.New("asn 0 is reserved (RFC 7607)")
	case p.RouterID.IsValid() && (!p.RouterID.Is4() || p.RouterID.IsUnspecified()):
		return fmt.Errorf("router id %s is not an IPv4 address other than 0.0.0.0", p.RouterID)
	case p.MultihopTTL == 1:
		return errors.New("multihop TTL 1 is not in 2 to 255")
	case p.MultihopTTL > 0 && p.TTLSecurity:
		return errors.New("multihop TTL and TTL security exclude each other")
	case !wholeSeconds(p.HoldTime, minHoldSecs, maxHoldSecs):
		return fmt.Errorf("hold time %s is not %d s to %d s in whole seconds", p.HoldTime, minHoldSecs, maxHoldSecs)
	case !wholeSeconds(p.Keepalive, 1, maxHoldSecs) || p.Keepalive >= p.HoldTime:
		return fmt.Errorf("keepalive %s is not a whole number of seconds below the hold time", p.Keepalive)
	case !wholeSeconds(p.ConnectRetry, 1, maxHoldSecs):
		return fmt.Errorf("connect retry %s is not 1 s to %d s in whole seconds", p.ConnectRetry, maxHoldSecs)
	}
	return nil
}
