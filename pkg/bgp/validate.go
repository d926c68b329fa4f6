package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Limits of the protocol and of the kernel.
const (
	maxPrepend     = 10
	maxCommunities = 128       // with maxLarge they leave an UPDATE well below its 4096 octets (RFC 4271 section 4.1)
	maxLarge       = 128       // RFC 8092, 12 octets each
	maxExtended    = 64        // RFC 4360, 8 octets each
	maxKeyLength   = 80        // TCP_MD5SIG_MAXKEYLEN, linux/tcp.h
	maxIfNameLen   = 15        // IFNAMSIZ without the final NUL
	maxRestartSecs = 4095      // 12 bits, RFC 4724 section 3
	maxStaleSecs   = 1<<24 - 1 // 24 bits, RFC 9494 section 3
	maxHoldSecs    = 65535
	minHoldSecs    = 3 // RFC 4271 section 4.2
)

var errReservedCommunity = errors.New("has a large community of a reserved AS that this program uses itself")

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
	out.Import, errs = cleanImports(cfg.Import, errs)
	out.Peers, errs = cleanPeers(cfg, errs)
	out.Reflected = 0 // is in the peers' limits now
	out.Paths, errs = cleanPaths(cfg, out.Peers, errs)
	out.Watch = cleanWatch(cfg.Watch)
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
	zone := ""
	for _, a := range cfg.ListenAddresses {
		switch {
		case !unicast(a):
			return fmt.Errorf("speaker %s: listen address %s is not a unicast address", cfg.Name, a)
		case a.IsLinkLocalUnicast() && a.Is6() && a.Zone() == "":
			return fmt.Errorf("speaker %s: listen address %s has no zone", cfg.Name, a)
		case zone != "" && a.Zone() != "" && a.Zone() != zone:
			return fmt.Errorf("speaker %s: listen addresses are of two zones, %s and %s", cfg.Name, zone, a.Zone())
		case a.Zone() != "":
			zone = a.Zone()
		}
	}
	gr := cfg.GracefulRestart
	switch {
	case gr.Enabled && !wholeSeconds(gr.RestartTime, 1, maxRestartSecs):
		return fmt.Errorf("speaker %s: restart time %s is not 1 s to %d s in whole seconds", cfg.Name, gr.RestartTime, maxRestartSecs)
	case gr.LongLived != 0 && !gr.Enabled:
		return fmt.Errorf("speaker %s: long-lived graceful restart needs graceful restart (RFC 9494 section 4.1)", cfg.Name)
	case gr.LongLived != 0 && !wholeSeconds(gr.LongLived, 1, maxStaleSecs):
		return fmt.Errorf("speaker %s: long-lived stale time %s is not 1 s to %d s in whole seconds", cfg.Name, gr.LongLived, maxStaleSecs)
	}
	return nil
}

func cleanPaths(cfg SpeakerConfig, peers []Peer, errs []error) ([]Path, []error) {
	needsV6 := slices.ContainsFunc(peers, func(p Peer) bool { return p.Address.Is4() && p.Families != Families{IPv4: true} })
	internal := slices.IndexFunc(peers, func(p Peer) bool { return p.internal(cfg.ASN) })
	paths := make([]Path, 0, len(cfg.Paths))
	seen := make(map[pathKey]bool, len(cfg.Paths))
	several := map[netip.Prefix]bool{}
	for i := range cfg.Paths {
		if cfg.Paths[i].ID != 0 {
			several[cfg.Paths[i].Prefix] = true
		}
	}
	for _, p := range cfg.Paths {
		err := checkPath(p)
		switch {
		case err != nil:
		case seen[p.key()]:
			err = errors.New("is there twice")
		case p.ID == 0 && several[p.Prefix]:
			err = errors.New("has no ID, but others of the same prefix have")
		case needsV6 && p.Prefix.Addr().Is6() && !p.NextHop.IsValid():
			err = errors.New("needs an explicit IPv6 next hop, because a session runs over IPv4")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("speaker %s: path %s: %w", cfg.Name, p.Prefix, err))
			continue
		}
		seen[p.key()] = true
		if p.Prepend > 0 && internal >= 0 {
			// An internal peer takes its own AS in the AS_PATH for a loop.
			errs = append(errs, fmt.Errorf("speaker %s: path %s: not prepended, because peer %s is internal",
				cfg.Name, p.Prefix, peers[internal].Address))
			p.Prepend = 0
		}
		paths = append(paths, canonical(settle(p)))
	}
	slices.SortFunc(paths, comparePath)
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
	case slices.ContainsFunc(p.LargeCommunities, isHidden):
		return errReservedCommunity
	case len(p.ExtendedCommunities) > maxExtended:
		return fmt.Errorf("has more than %d extended communities", maxExtended)
	case p.Origin > 2:
		return fmt.Errorf("origin %d is not in 0 to 2", p.Origin)
	}
	return nil
}

func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6()
}

func wholeSeconds(d time.Duration, low, high int64) bool {
	return d%time.Second == 0 && d >= time.Duration(low)*time.Second && d <= time.Duration(high)*time.Second
}
