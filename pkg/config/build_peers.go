package config

import (
	"slices"
	"strings"
)

// peer makes a peer of an interface.
func peer(raw rawPeer, cfg *Config, maxPrefixes uint32, r *report, path string) Peer {
	p := session(raw.rawSession, cfg, maxPrefixes, r, path)
	p.Address, p.Gateway, p.Unnumbered = raw.Address.Addr, raw.Address.gateway, raw.Unnumbered
	if raw.RouterID != nil {
		p.RouterID = *raw.RouterID
	}
	place := path + ".address"
	_, given := r.values[place]
	switch {
	case !r.ok(place, path+".unnumbered"):
	case raw.Unnumbered && given:
		r.add(place, "excludes unnumbered: true, which finds the address itself; remove one of them")
	case !raw.Unnumbered && !given:
		r.add(place, "is required")
	}
	p.BFD = bfd(raw.BFD, false, r, path+".bfd")
	if place := path + ".bfd.multihop"; p.BFD != nil && p.BFD.Multihop && (p.Unnumbered || p.Gateway) && r.ok(place) {
		r.add(place, "is for a router that is not on the link, and this one is%s", r.instead(place, "multihop: false"))
	}
	return p
}

// remote makes a peer that belongs to no interface.
func remote(raw rawRemote, cfg *Config, maxPrefixes uint32, r *report, path string) Peer {
	p := session(raw.rawSession, cfg, maxPrefixes, r, path)
	p.Address, p.AddPath = raw.Address.Addr, raw.AddPath
	p.TTL = uint8(raw.TTL) //nolint:gosec // the schema bounds it to 255
	if raw.RouterID != nil {
		p.RouterID = *raw.RouterID
	}
	if raw.LocalAddress != nil {
		p.LocalAddress = *raw.LocalAddress
	}
	place := path + ".address"
	_, given := r.values[place]
	switch {
	case !r.ok(place):
	case !given:
		r.add(place, "is required")
	case raw.Address.gateway:
		r.add(place, "is for peers of an interface; write the router's address, or list it in interfaces[].peers")
	}
	if place := path + ".ttl_security"; raw.TTLSecurity && r.ok(place) {
		r.add(place, "is for routers on the link: GoBGP v3 has no GTSM for others; use password_file")
	}
	p.BFD = bfd(raw.BFD, true, r, path+".bfd")
	return p
}

// session makes what all peers have.
func session(raw rawSession, cfg *Config, maxPrefixes uint32, r *report, path string) Peer {
	p := Peer{
		ASN: raw.ASN.number, External: raw.ASN.external, Passive: raw.Passive,
		Port:        uint16(raw.Port), //nolint:gosec // the schema bounds it to 65535
		TTLSecurity: raw.TTLSecurity,
		Timers:      timers(raw.Timers, cfg.BGP.Timers),
		MaxPrefixes: maxPrefixes,
		IPv4:        raw.Families == nil, IPv6: raw.Families == nil,
	}
	if raw.ASN.internal {
		p.ASN = cfg.BGP.ASN
	}
	if raw.Families != nil {
		p.IPv4, p.IPv6 = slices.Contains(*raw.Families, "ipv4"), slices.Contains(*raw.Families, "ipv6")
		validateFamilies(*raw.Families, r, path)
	}
	if place := path + ".password_file"; raw.PasswordFile != nil && r.ok(place) {
		p.Password = secretFile(*raw.PasswordFile, r, place, "password", "a TCP MD5 password", 80)
	}
	if a := raw.Announce; a != nil {
		p.Announce = PeerAnnounce{
			MED: a.MED, LocalPref: a.LocalPref, Prepend: a.Prepend,
			Communities: values(a.Communities), LargeCommunities: a.LargeCommunities, ExtendedCommunities: a.ExtendedCommunities,
			Origin: optionalOrigin(a.Origin),
		}
	}
	return p
}

// bfd makes the BFD session of a peer, which is remote without an interface.
func bfd(raw *rawBFD, remote bool, r *report, path string) *BFD {
	if raw == nil {
		return nil
	}
	b := &BFD{
		MinTx: raw.MinTx, MinRx: raw.MinRx,
		Multiplier: uint8(raw.Multiplier), //nolint:gosec // the schema bounds it to 255
		Required:   raw.Required, Passive: raw.Passive, Multihop: own(raw.Multihop, remote),
	}
	switch place := path + ".multihop"; {
	case !r.ok(place):
	case remote && !b.Multihop:
		r.add(place, "must be true or absent: a peer without an interface is not on the link")
	case b.Multihop:
		b.MinTTL = uint8(own(raw.MinTTL, 254)) //nolint:gosec // the schema bounds it to 255
	case raw.MinTTL != nil && (r.homes[path+".min_ttl"] == "" || raw.Multihop == nil || r.homes[place] != ""):
		// Who switches multihop off for one peer need not undo an inherited min_ttl.
		if place = r.home(path + ".min_ttl"); r.ok(place) {
			r.add(place, "needs multihop: true; without it a packet must have TTL 255")
		}
	}
	if raw.Auth != nil {
		b.Auth = bfdAuth(raw.Auth, r, path+".auth")
	}
	return b
}

func bfdAuth(raw *rawBFDAuth, r *report, path string) *BFDAuth {
	a := &BFDAuth{Type: raw.Type, KeyID: uint8(raw.KeyID)} //nolint:gosec // the schema bounds it to 255
	longest := 16
	if strings.HasSuffix(raw.Type, "sha1") {
		longest = 20
	}
	if place := path + ".key_file"; raw.KeyFile != nil && r.ok(place, path+".type") {
		a.Key = secretFile(*raw.KeyFile, r, place, "key", "a key of type "+raw.Type, longest)
	}
	return a
}
