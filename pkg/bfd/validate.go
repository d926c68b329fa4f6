package bfd

import (
	"crypto/sha1" //nolint:gosec // its size only
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Limits of a configuration.
const (
	minInterval   = 10 * time.Millisecond
	maxInterval   = 60 * time.Second
	defaultMinTTL = 254
	// maxIfName is IFNAMSIZ without its zero.
	maxIfName = 15
)

// sessionKey is what two sessions never share. Its addresses have no zone.
type sessionKey struct {
	peer, local netip.Addr
	iface       string
	multihop    bool
}

func keyOf(c *SessionConfig) sessionKey {
	return sessionKey{
		peer: c.Peer.Unmap().WithZone(""), local: c.Local.Unmap().WithZone(""),
		iface: c.Interface, multihop: c.Multihop,
	}
}

// validate tells what is wrong with a wanted session.
func validate(c *SessionConfig) error {
	k := keyOf(c)
	for _, a := range []struct {
		what string
		addr netip.Addr
		zone string
	}{{"peer", k.peer, c.Peer.Zone()}, {"local address", k.local, c.Local.Zone()}} {
		switch {
		case !a.addr.IsValid() || a.addr.IsUnspecified() || a.addr.IsMulticast():
			return fmt.Errorf("%s %s is not an address of a host", a.what, a.addr)
		case a.zone != "" && a.zone != c.Interface:
			return fmt.Errorf("%s %s%%%s: the zone is not interface %q", a.what, a.addr, a.zone, c.Interface)
		case a.addr.IsLinkLocalUnicast() && a.addr.Is6() && c.Interface == "":
			return fmt.Errorf("%s %s is link-local and no interface is given", a.what, a.addr)
		}
	}
	switch {
	case k.peer.Is4() != k.local.Is4():
		return fmt.Errorf("peer %s and local address %s are of different families", k.peer, k.local)
	case k.peer == k.local:
		return fmt.Errorf("peer and local address are both %s", k.peer)
	case c.Interface == "" && !c.Multihop:
		return errors.New("a session over one hop needs an interface")
	case len(c.Interface) > maxIfName:
		return fmt.Errorf("interface name %q is longer than %d bytes", c.Interface, maxIfName)
	case c.MinTx < minInterval || c.MinTx > maxInterval:
		return fmt.Errorf("min_tx %s is not within %s and %s", c.MinTx, minInterval, maxInterval)
	case c.MinRx < minInterval || c.MinRx > maxInterval:
		return fmt.Errorf("min_rx %s is not within %s and %s", c.MinRx, minInterval, maxInterval)
	case c.Multiplier == 0:
		return errors.New("multiplier is 0")
	}
	return validateAuth(c.Auth)
}

func validateAuth(a *Auth) error {
	if a == nil {
		return nil
	}
	longest := maxSimpleKey
	switch a.Type {
	case SimplePassword, KeyedMD5, MeticulousKeyedMD5:
	case KeyedSHA1, MeticulousKeyedSHA1:
		longest = sha1.Size
	default:
		return fmt.Errorf("authentication type %q is unknown", string(a.Type))
	}
	if len(a.Key) == 0 || len(a.Key) > longest {
		return fmt.Errorf("key of %s has %d bytes, not 1 to %d", a.Type, len(a.Key), longest)
	}
	return nil
}

// sameAuth tells whether two sessions authenticate alike.
func sameAuth(a, b *Auth) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
