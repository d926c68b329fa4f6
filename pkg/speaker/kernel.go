package speaker

import (
	"net/netip"
	"slices"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// kernel makes the wanted state of the kernel. VIPs are bound whenever they are
// configured: a VIP that is withheld stays bound, so that what routers still
// send is served, unless its drain is to end otherwise.
func (p *planner) kernel() {
	c := p.in.Config
	k := &p.out.Kernel
	k.Device = vip.Device{Name: c.VirtualInterface.Name, Kind: vip.DeviceKind(c.VirtualInterface.Kind)}
	k.Sysctls = vip.SysctlMode(c.Host.Sysctls)
	k.VIPs = make([]netip.Prefix, 0, len(c.VIPs))
	for i := range c.VIPs {
		if p.binds(&c.VIPs[i], &p.out.VIPs[i]) && !p.unbinds(&c.VIPs[i], &p.out.VIPs[i]) {
			k.VIPs = append(k.VIPs, c.VIPs[i].Prefix)
		}
		if mtu := c.VIPs[i].MTU; mtu != 0 {
			if k.MTU == nil {
				k.MTU = map[netip.Prefix]uint32{}
			}
			k.MTU[c.VIPs[i].Prefix] = mtu
		}
	}
	k.Drained = p.drained()
	k.VIPs = append(k.VIPs, p.lingering()...)

	k.Interfaces = make([]vip.Interface, len(c.Interfaces))
	for i := range c.Interfaces {
		n := &p.out.Interfaces[i]
		k.Interfaces[i] = vip.Interface{
			Name: n.Name, Usable: n.Usable || n.Leg, Silent: n.Usable && !n.Leg,
			Silent4: p.silent(i, true), Silent6: p.silent(i, false),
			Gateways: alive(n, c.Interfaces[i].Gateways), Routers: p.routers(n), Dead: n.dead(), Weight: c.Interfaces[i].Weight,
		}
	}
	for i := range c.VIPs {
		p.source(&c.VIPs[i], &p.out.VIPs[i])
	}
	p.exempt()
	p.learned()
}

// routers are the peers of an interface as next hops: those that answer, else
// all that are on-link and not known to be dead.
func (p *planner) routers(n *Interface) []netip.Addr {
	var all, answering []netip.Addr
	s, _ := p.in.BGP.Speaker(n.Name)
	for i := range n.Peers {
		peer := &n.Peers[i]
		if !peer.LocalAddress.IsValid() {
			continue
		}
		all = append(all, peer.Address)
		if peer.held == "" && slices.ContainsFunc(s.Peers, func(q bgp.PeerState) bool {
			return sameAddress(q.Address, peer.Address) && q.State == bgp.Established
		}) {
			answering = append(answering, peer.Address)
		}
	}
	list := alive(n, all)
	if len(answering) > 0 {
		list = alive(n, answering)
	}
	for i, a := range list {
		list[i] = bare(a) // the kernel has them by device
	}
	return list
}

// lingering are the VIPs that are no longer configured but stay bound, because a
// speaker still announces them or did so until just now. They are sorted. What a
// speaker process reports is never bound for its word alone: a router that took
// the process over could make any address of the network local to this host.
func (p *planner) lingering() []netip.Prefix {
	if p.linger != nil {
		return p.linger
	}
	p.linger = make([]netip.Prefix, 0, len(p.in.Lingering))
	for prefix, until := range p.in.Lingering {
		if p.configured[prefix] {
			continue
		}
		waits := until.After(p.now)
		if waits {
			p.mayChange(until)
		}
		if waits || p.inRIB(prefix) {
			p.linger = append(p.linger, prefix)
		}
	}
	slices.SortFunc(p.linger, comparePrefix)
	return p.linger
}

// exempt lists the destinations that never get a VIP as source, besides those
// that the kernel writer always leaves out, and the pairs of addresses whose
// last words may leave by any path.
func (p *planner) exempt() {
	k := &p.out.Kernel
	seen := map[netip.Prefix]bool{}
	add := func(prefix netip.Prefix) {
		if !seen[prefix] {
			seen[prefix] = true
			k.Exclude = append(k.Exclude, prefix)
		}
	}
	for _, prefix := range p.in.Config.Egress.Exclude {
		add(prefix)
	}
	for i := range p.out.Interfaces {
		n := &p.out.Interfaces[i]
		// What is dead beyond a router that answers on the link keeps no word from
		// that router.
		broken := n.Reason == status.InterfaceAttachment || n.Reason == status.InterfacePath && !n.attached
		for j := range n.Peers {
			peer := &n.Peers[j]
			if !peer.Address.IsValid() || peer.Address.Is6() && peer.Address.IsLinkLocalUnicast() {
				continue // neither a VIP nor another interface is ever used for those
			}
			add(netip.PrefixFrom(peer.Address, peer.Address.BitLen()))
			if peer.LocalAddress.IsValid() && peer.ASN != p.in.Config.BGP.ASN {
				k.Fallbacks = append(k.Fallbacks, vip.Fallback{
					Local: peer.LocalAddress, Peer: peer.Address, First: broken || peer.dead,
				})
			}
		}
	}
	// A session without an interface leaves by the route of the main table, which
	// may still be that of an interface that is known to be dead.
	broken := slices.ContainsFunc(p.out.Interfaces, func(n Interface) bool {
		return n.Reason == status.InterfaceAttachment || n.Reason == status.InterfacePath
	})
	for i := range p.out.Remote {
		peer := &p.out.Remote[i]
		add(netip.PrefixFrom(peer.Address, peer.Address.BitLen()))
		if peer.LocalAddress.IsValid() {
			k.Fallbacks = append(k.Fallbacks, vip.Fallback{Local: peer.LocalAddress, Peer: peer.Address, First: broken})
		}
	}
}
