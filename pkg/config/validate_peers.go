package config

import "net/netip"

// checkTimers compares hold time and keepalive. What a peer inherits unchanged
// is reported only where it is set.
func checkTimers(t, inherited Timers, r *report, path string) {
	place := r.home(path + ".keepalive")
	if t == inherited || !r.ok(path, "bgp.timers", place) || t.HoldTime == 0 {
		return
	}
	if t.Keepalive*3 > t.HoldTime {
		r.add(place, "must be at most a third of the hold time, which is %s", short(t.HoldTime))
	}
}

// badHost says why the address cannot be a router's, or "".
func badHost(a netip.Addr) string {
	if a.IsLinkLocalUnicast() {
		return ""
	}
	if name := unusable(netip.PrefixFrom(a, a.BitLen())); name != "" {
		return "must be the router's own address; this one is " + name
	}
	return ""
}

// eachPeer calls f with every peer and its path, those of interfaces first.
func eachPeer(cfg *Config, f func(p Peer, path string)) {
	for i, one := range cfg.Interfaces {
		for j, p := range one.Peers {
			f(p, index(index("interfaces", i)+".peers", j))
		}
	}
	for i, p := range cfg.Peers {
		f(p, index("peers", i))
	}
}

func validatePeers(one Interface, cfg *Config, r *report, path string) {
	if place := path + ".peers"; len(one.Peers) == 0 && len(cfg.Peers) == 0 && r.ok(place, "peers") {
		r.add(place, "must have at least one entry, unless there are peers at the top level")
	}
	seen := map[netip.Addr]int{}
	found := -1
	for j, p := range one.Peers {
		peerPath := index(path+".peers", j)
		validatePeer(p, cfg, r, peerPath)
		place := peerPath + ".address"
		if p.Unnumbered {
			place = peerPath + ".unnumbered"
		}
		if (p.Gateway || p.Unnumbered) && r.ok(place) {
			if found >= 0 {
				r.add(place, "must not be: one peer of an interface at most is unnumbered or gateway, and peers[%d] is", found)
			} else {
				found = j
			}
		}
		if !p.Address.IsValid() || !r.ok(place) {
			continue
		}
		if problem := badHost(p.Address); problem != "" {
			r.add(place, "%s", problem)
			continue
		}
		if first, double := seen[p.Address]; double {
			r.add(place, "is the address of peers[%d] of this interface too", first)
			continue
		}
		seen[p.Address] = j
	}
}

// validatePeer judges what any peer has.
func validatePeer(p Peer, cfg *Config, r *report, path string) {
	checkTimers(p.Timers, cfg.BGP.Timers, r, path+".timers")
	internal := p.ASN == cfg.BGP.ASN && !p.External
	if place := path + ".announce.local_pref"; p.Announce.LocalPref != nil && r.ok(place, path+".asn", "bgp.asn") && !internal {
		r.add(place, "reaches internal peers only, and this one is external%s", r.instead(place, "local_pref: false"))
	}
	if place := path + ".router_id"; p.RouterID.IsValid() && r.ok(place) {
		switch {
		case !p.RouterID.Is4() || p.RouterID.IsUnspecified():
			r.add(place, "must be an IPv4 address other than 0.0.0.0")
		case internal && p.RouterID == cfg.BGP.RouterID && r.ok("bgp.router_id"):
			r.add(place, "is bgp.router_id, and no two routers of an AS have the same")
		}
	}
	if place := r.home(path + ".passive"); p.Passive && r.ok(place, "bgp.listen_port") && cfg.BGP.ListenPort == 0 {
		r.add(place, "waits for the router to connect, so bgp.listen_port must not be 0")
	}
	if place := path + ".password_file"; p.Password != "" && r.ok(place) && (p.Unnumbered || linkLocal(p.Address)) {
		r.add(place, "is TCP MD5, which GoBGP v3 cannot use with link-local addresses; use ttl_security%s", r.instead(place, "password_file: false"))
	}
	validatePeerAnnounce(p, internal, r, path+".announce")
}

// validatePeerAnnounce judges what GoBGP's policies have to add for one peer.
func validatePeerAnnounce(p Peer, internal bool, r *report, path string) {
	const most = 32
	a := p.Announce
	doubles(a.Communities, r, path, "communities")
	doubles(a.LargeCommunities, r, path, "large_communities")
	doubles(a.ExtendedCommunities, r, path, "extended_communities")
	for _, list := range []struct {
		key   string
		count int
	}{{"communities", len(a.Communities)}, {"large_communities", len(a.LargeCommunities)}, {"extended_communities", len(a.ExtendedCommunities)}} {
		if place := r.home(path + "." + list.key); list.count > most && r.ok(place) {
			r.add(place, "are %d; a peer can have at most %d of its own", list.count, most)
		}
	}
	for k, c := range a.ExtendedCommunities {
		place := r.home(index(path+".extended_communities", k))
		if (c[0] > fourOctetAS || c[1] != routeTarget && c[1] != routeOrigin) && r.ok(place) {
			r.add(place, "is possible for VIPs only: GoBGP v3 can add route targets (rt) and route origins (soo) for one peer, and no others")
		}
	}
	if place := path + ".prepend"; a.Prepend > 0 && internal && r.ok(place) {
		r.add(place, "is for external peers: an internal one takes its own AS number for a loop%s", r.instead(place, "prepend: 0"))
	}
}

// linkLocal tells whether a is an IPv6 link-local address.
func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// validateFamilies judges the list as it stands in the file.
func validateFamilies(families []string, r *report, path string) {
	place := path + ".families"
	if len(families) == 0 && r.ok(place) {
		if place = r.home(place); r.ok(place) {
			r.add(place, "must have at least one entry; remove the key for both")
		}
	}
	doubles(families, r, path, "families")
}

// validateRemotes judges the peers that belong to no interface.
func validateRemotes(cfg *Config, r *report) {
	seen := map[netip.Addr]string{}
	for i, one := range cfg.Interfaces {
		for j, p := range one.Peers {
			if p.Address.IsValid() && seen[p.Address] == "" {
				seen[p.Address] = index(index("interfaces", i)+".peers", j)
			}
		}
	}
	for i, p := range cfg.Peers {
		path := index("peers", i)
		validatePeer(p, cfg, r, path)
		place := path + ".address"
		if p.Address.IsValid() && r.ok(place) {
			switch problem := badHost(p.Address); {
			case problem != "":
				r.add(place, "%s", problem)
			case p.Address.IsLinkLocalUnicast():
				r.add(place, "is link-local, so the router is on the link of an interface; list it in interfaces[].peers")
			case seen[p.Address] != "":
				r.add(place, "is the address of %s too; one session to a router is enough", seen[p.Address])
			default:
				seen[p.Address] = path
			}
		}
		validateLocalAddress(p, cfg, r, path)
	}
}

func validateLocalAddress(p Peer, cfg *Config, r *report, path string) {
	place := path + ".local_address"
	if !p.LocalAddress.IsValid() || !r.ok(place) {
		return
	}
	switch name := unusable(netip.PrefixFrom(p.LocalAddress, p.LocalAddress.BitLen())); {
	case name != "":
		r.add(place, "must be an address of this host that routers can reach; this one is %s", name)
	case !p.Address.IsValid() || !r.ok(path+".address"):
	case p.LocalAddress.Is4() != p.Address.Is4():
		r.add(place, "is of another family than the peer's address %s", p.Address)
	case p.LocalAddress == p.Address:
		r.add(place, "is the peer's address; give one of this host")
	}
	for i, v := range cfg.VIPs {
		if v.Prefix.IsValid() && v.Prefix.Contains(p.LocalAddress) && r.ok(place) {
			r.add(place, "is in %s, which may be withdrawn; give an address that stays", index("vips", i))
		}
	}
}

// offer is what the VIPs of an interface, or all of them, meet there.
type offer struct {
	peers, ipv4, ipv6 bool
	// vip is the path of the VIP with the longest prepend, which is that, with
	// what comes on top when its checks fail.
	vip     string
	prepend int
	failed  bool
}

// validateReach compares VIPs with the peers that get them.
func validateReach(cfg *Config, r *report) {
	offers := map[string]*offer{}
	for i, one := range cfg.Interfaces {
		offers[one.Name] = &offer{}
		offers[one.Name].meet(one.Peers, r, index("interfaces", i)+".peers")
	}
	everywhere := &offer{}
	everywhere.meet(cfg.Peers, r, "peers")
	for i, v := range cfg.VIPs {
		path := index("vips", i)
		if !v.Prefix.IsValid() || !r.ok(path+".address", path+".interfaces") {
			continue
		}
		everywhere.add(v, r, path)
		peers, reached := everywhere.peers, everywhere.reaches(v)
		for _, name := range v.Interfaces {
			if o := offers[name]; o != nil {
				o.add(v, r, path)
				peers, reached = peers || o.peers, reached || o.reaches(v)
			}
		}
		if peers && !reached {
			r.add(path+".address", "reaches nobody: none of the peers that get it has its family in families")
		}
	}
	for i, one := range cfg.Interfaces {
		offers[one.Name].judge(one.Peers, r, index("interfaces", i)+".peers")
	}
	everywhere.judge(cfg.Peers, r, "peers")
}

func (o *offer) meet(peers []Peer, r *report, path string) {
	for j, p := range peers {
		unknown := !r.ok(index(path, j) + ".families")
		o.peers, o.ipv4, o.ipv6 = true, o.ipv4 || p.IPv4 || unknown, o.ipv6 || p.IPv6 || unknown
	}
}

func (o *offer) reaches(v VIP) bool {
	return o.ipv4 && v.Prefix.Addr().Is4() || o.ipv6 && v.Prefix.Addr().Is6()
}

func (o *offer) add(v VIP, r *report, path string) {
	if !r.ok(path+".announce.prepend", path+".on_failure") {
		return
	}
	sum, failed := v.Announce.Prepend, false
	if v.Degrade != nil && v.Degrade.Prepend > 0 {
		sum, failed = sum+v.Degrade.Prepend, true
	}
	if sum > o.prepend {
		o.vip, o.prepend, o.failed = path, sum, failed
	}
}

// judge reports the peers whose prepend is too long for one of the VIPs.
func (o *offer) judge(peers []Peer, r *report, path string) {
	when := ""
	if o.failed {
		when = " when its checks fail"
	}
	for j, p := range peers {
		place := index(path, j) + ".announce.prepend"
		if p.Announce.Prepend > 0 && p.Announce.Prepend+o.prepend > 10 && r.ok(place) {
			r.add(place, "is added to that of %s, which is %d%s; the sum must be at most 10", o.vip, o.prepend, when)
		}
	}
}
