package config

import "reflect"

// feature is something that a file may ask for and that others than this package
// cannot do yet.
type feature struct {
	// key is the feature's as the reference has it.
	key string
	// used returns the paths where a configuration asks for it.
	used func(*Config) []string
}

// notYet lists what is decoded and validated, and then refused, so that nothing
// in a file is ignored without a word. Whoever makes one of them work deletes its
// entry here, and in docs/configuration.md.
func notYet() []feature {
	return []feature{
		once("bgp.graceful_restart.long_lived", func(c *Config) bool { return c.BGP.GracefulRestart.LongLived > 0 }),
		once("shutdown.graceful_shutdown", func(c *Config) bool { return c.Shutdown.GracefulShutdown > 0 }),
		once("peers", func(c *Config) bool { return len(c.Peers) > 0 }),
		{"interfaces[].peers", withoutPeers},
		{"interfaces[].peers[].address: gateway", ofPeers("address", func(p Peer) bool { return p.Gateway })},
		{"interfaces[].peers[].address: link-local", ofPeers("address", func(p Peer) bool { return linkLocal(p.Address) })},
		{"interfaces[].peers[].unnumbered", ofPeers("unnumbered", func(p Peer) bool { return p.Unnumbered })},
		{"interfaces[].peers[].asn: external", ofPeers("asn", func(p Peer) bool { return p.External })},
		{"interfaces[].peers[].router_id", ofPeers("router_id", func(p Peer) bool { return p.RouterID.IsValid() })},
		{"interfaces[].peers[].passive", ofPeers("passive", func(p Peer) bool { return p.Passive })},
		{"interfaces[].peers[].families", ofPeers("families", func(p Peer) bool { return !p.IPv4 || !p.IPv6 })},
		{"interfaces[].peers[].announce", ofPeers("announce", func(p Peer) bool { return !reflect.DeepEqual(p.Announce, PeerAnnounce{}) })},
		{"vips[].announce.extended_communities", ofVIPs("announce.extended_communities", func(v VIP) bool {
			return len(v.Announce.ExtendedCommunities) > 0
		})},
		{"vips[].announce.origin", ofVIPs("announce.origin", func(v VIP) bool { return v.Announce.Origin != 0 })},
		{"vips[].on_failure.degrade.extended_communities", ofVIPs("on_failure.degrade.extended_communities", func(v VIP) bool {
			return v.Degrade != nil && len(v.Degrade.ExtendedCommunities) > 0
		})},
	}
}

// refuseReserved reports what of reserved the configuration asks for.
func refuseReserved(cfg *Config, reserved []feature, r *report) {
	for _, f := range reserved {
		for _, path := range f.used(cfg) {
			if r.ok(path) {
				r.add(path, "is not supported yet")
			}
		}
	}
}

// once is for a key that there is once, so that it is the path.
func once(key string, used func(*Config) bool) feature {
	return feature{key, func(cfg *Config) []string {
		if used(cfg) {
			return []string{key}
		}
		return nil
	}}
}

// ofPeers is for a key of a peer, also of one without an interface.
func ofPeers(key string, used func(Peer) bool) func(*Config) []string {
	return func(cfg *Config) []string {
		var paths []string
		eachPeer(cfg, func(p Peer, path string) {
			if used(p) {
				paths = append(paths, path+"."+key)
			}
		})
		return paths
	}
}

func ofVIPs(key string, used func(VIP) bool) func(*Config) []string {
	return func(cfg *Config) []string {
		var paths []string
		for i, v := range cfg.VIPs {
			if used(v) {
				paths = append(paths, index("vips", i)+"."+key)
			}
		}
		return paths
	}
}

// withoutPeers returns the interfaces that have only the peers at the top level.
func withoutPeers(cfg *Config) []string {
	var paths []string
	for i, one := range cfg.Interfaces {
		if len(one.Peers) == 0 {
			paths = append(paths, index("interfaces", i)+".peers")
		}
	}
	return paths
}
