package bgp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Limits of the protocol and of the kernel.
const (
	maxPrepend     = 10
	maxCommunities = 128  // with maxLarge they leave an UPDATE well below its 4096 octets (RFC 4271 section 4.1)
	maxLarge       = 128  // RFC 8092, 12 octets each
	maxKeyLength   = 80   // TCP_MD5SIG_MAXKEYLEN, linux/tcp.h
	maxIfNameLen   = 15   // IFNAMSIZ without the final NUL
	maxRestartSecs = 4095 // 12 bits, RFC 4724 section 3
	maxHoldSecs    = 65535
	minHoldSecs    = 3 // RFC 4271 section 4.2
)

// clean returns the part of a configuration that is valid, in canonical form
// (sorted, so that two equal wishes are equal values), and why the rest was
// left out. GoBGP checks next to nothing: a prefix length of 33 is stored as it
// is, and a peer address that is not an IP address goes to DNS inside its main
// goroutine. An error in the speaker's own parameters leaves nothing.
func clean(cfg SpeakerConfig) (SpeakerConfig, error) {
	if err := checkGlobal(cfg); err != nil {
		return SpeakerConfig{}, err
	}
	var errs []error
	out := cfg
	out.ListenAddresses = slices.Clone(cfg.ListenAddresses)
	slices.SortFunc(out.ListenAddresses, netip.Addr.Compare)
	out.ListenAddresses = slices.Compact(out.ListenAddresses)
	out.Peers, errs = cleanPeers(cfg, errs)
	out.Paths, errs = cleanPaths(cfg, out.Peers, errs)
	return out, errors.Join(errs...)
}

func checkGlobal(cfg SpeakerConfig) error {
	switch {
	case cfg.Name == "":
		return errors.New("speaker has no name")
	case cfg.ASN == 0:
		return fmt.Errorf("speaker %s: asn 0 is reserved (RFC 7607)", cfg.Name)
	case !cfg.RouterID.Is4() || cfg.RouterID.IsUnspecified():
		return fmt.Errorf("speaker %s: router id %s is not an IPv4 address other than 0.0.0.0", cfg.Name, cfg.RouterID)
	case cfg.ListenPort < 0 || cfg.ListenPort > 65535:
		return fmt.Errorf("speaker %s: listen port %d is not in 0 to 65535", cfg.Name, cfg.ListenPort)
	}
	for _, a := range cfg.ListenAddresses {
		if !a.IsValid() || a.IsUnspecified() || a.Is4In6() || a.IsMulticast() {
			return fmt.Errorf("speaker %s: listen address %s is not a unicast address", cfg.Name, a)
		}
	}
	gr := cfg.GracefulRestart
	if gr.Enabled && !wholeSeconds(gr.RestartTime, 1, maxRestartSecs) {
		return fmt.Errorf("speaker %s: restart time %s is not 1 s to %d s in whole seconds", cfg.Name, gr.RestartTime, maxRestartSecs)
	}
	return nil
}

func cleanPeers(cfg SpeakerConfig, errs []error) ([]Peer, []error) {
	peers := make([]Peer, 0, len(cfg.Peers))
	seen := make(map[netip.Addr]bool, len(cfg.Peers))
	for _, p := range cfg.Peers {
		err := checkPeer(p)
		if err == nil && seen[p.Address] {
			err = errors.New("is there twice")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("speaker %s: peer %s: %w", cfg.Name, p.Address, err))
			continue
		}
		seen[p.Address] = true
		// TTL 1 (eBGP) and GTSM pin a session already, and without a bound
		// device its Cease can still leave by another interface.
		if p.TTLSecurity || p.ASN != cfg.ASN {
			p.Interface = ""
		}
		if p.Port == 0 {
			p.Port = 179
		}
		peers = append(peers, p)
	}
	slices.SortFunc(peers, func(a, b Peer) int { return a.Address.Compare(b.Address) })
	return peers, errs
}

func checkPeer(p Peer) error {
	switch {
	case !unicast(p.Address):
		return errors.New("is not a unicast address")
	case !unicast(p.LocalAddress):
		return fmt.Errorf("local address %s is not a unicast address", p.LocalAddress)
	case p.Address.Is4() != p.LocalAddress.Is4():
		return fmt.Errorf("local address %s is of the other family", p.LocalAddress)
	case p.Address == p.LocalAddress:
		return errors.New("is the local address")
	case p.ASN == 0:
		return errors.New("asn 0 is reserved (RFC 7607)")
	case len(p.Interface) > maxIfNameLen:
		return fmt.Errorf("interface name %q is longer than %d", p.Interface, maxIfNameLen)
	case len(p.Password) > maxKeyLength:
		return fmt.Errorf("password is longer than %d octets", maxKeyLength)
	case !wholeSeconds(p.HoldTime, minHoldSecs, maxHoldSecs):
		return fmt.Errorf("hold time %s is not %d s to %d s in whole seconds", p.HoldTime, minHoldSecs, maxHoldSecs)
	case !wholeSeconds(p.Keepalive, 1, maxHoldSecs) || p.Keepalive >= p.HoldTime:
		return fmt.Errorf("keepalive %s is not a whole number of seconds below the hold time", p.Keepalive)
	case !wholeSeconds(p.ConnectRetry, 1, maxHoldSecs):
		return fmt.Errorf("connect retry %s is not 1 s to %d s in whole seconds", p.ConnectRetry, maxHoldSecs)
	}
	return nil
}

func cleanPaths(cfg SpeakerConfig, peers []Peer, errs []error) ([]Path, []error) {
	needsV6 := slices.ContainsFunc(peers, func(p Peer) bool { return p.Address.Is4() })
	internal := slices.IndexFunc(peers, func(p Peer) bool { return p.ASN == cfg.ASN })
	paths := make([]Path, 0, len(cfg.Paths))
	seen := make(map[netip.Prefix]bool, len(cfg.Paths))
	for _, p := range cfg.Paths {
		err := checkPath(p)
		switch {
		case err != nil:
		case seen[p.Prefix]:
			err = errors.New("is there twice")
		case needsV6 && p.Prefix.Addr().Is6() && !p.NextHop.IsValid():
			err = errors.New("needs an explicit IPv6 next hop, because a session runs over IPv4")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("speaker %s: path %s: %w", cfg.Name, p.Prefix, err))
			continue
		}
		seen[p.Prefix] = true
		if p.Prepend > 0 && internal >= 0 {
			// An internal peer takes its own AS in the AS_PATH for a loop.
			errs = append(errs, fmt.Errorf("speaker %s: path %s: not prepended, because peer %s is internal",
				cfg.Name, p.Prefix, peers[internal].Address))
			p.Prepend = 0
		}
		paths = append(paths, canonical(p))
	}
	slices.SortFunc(paths, func(a, b Path) int { return comparePrefix(a.Prefix, b.Prefix) })
	return paths, errs
}

func checkPath(p Path) error {
	a := p.Prefix.Addr()
	nh := p.NextHop
	switch {
	case !p.Prefix.IsValid():
		return errors.New("is not a prefix")
	case p.Prefix.Bits() == 0:
		return errors.New("a default route is never announced")
	case p.Prefix != p.Prefix.Masked():
		return errors.New("has host bits")
	case a.Is4In6() || a.Zone() != "" || a.IsMulticast() || a.IsUnspecified():
		return errors.New("is not a unicast prefix")
	case nh.IsValid() && (!unicast(nh) || nh.Zone() != ""):
		return fmt.Errorf("next hop %s is not a unicast address", nh)
	case nh.IsValid() && a.Is6() && !nh.Is6():
		return fmt.Errorf("next hop %s is not an IPv6 address", nh)
	case p.Prepend < 0 || p.Prepend > maxPrepend:
		return fmt.Errorf("prepend %d is not in 0 to %d", p.Prepend, maxPrepend)
	case len(p.Communities) > maxCommunities:
		return fmt.Errorf("has more than %d communities", maxCommunities)
	case len(p.LargeCommunities) > maxLarge:
		return fmt.Errorf("has more than %d large communities", maxLarge)
	}
	return nil
}

// canonical sorts what has no order, so that equal paths compare equal.
func canonical(p Path) Path {
	p.Communities = slices.Compact(slices.Sorted(slices.Values(p.Communities)))
	large := slices.Clone(p.LargeCommunities)
	slices.SortFunc(large, func(a, b LargeCommunity) int {
		return cmp.Or(cmp.Compare(a.Global, b.Global), cmp.Compare(a.Local1, b.Local1), cmp.Compare(a.Local2, b.Local2))
	})
	p.LargeCommunities = slices.Compact(large)
	return p
}

// samePath tells whether two canonical paths are equal in all attributes.
func samePath(a, b Path) bool {
	return a.Prefix == b.Prefix && a.NextHop == b.NextHop && a.Prepend == b.Prepend &&
		sameOptional(a.MED, b.MED) && sameOptional(a.LocalPref, b.LocalPref) &&
		slices.Equal(a.Communities, b.Communities) && slices.Equal(a.LargeCommunities, b.LargeCommunities)
}

func sameOptional(a, b *uint32) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6()
}

func wholeSeconds(d time.Duration, low, high int64) bool {
	return d%time.Second == 0 && d >= time.Duration(low)*time.Second && d <= time.Duration(high)*time.Second
}
