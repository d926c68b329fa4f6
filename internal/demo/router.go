package demo

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vipspeaker/pkg/bgp"
)

// router is a BGP speaker in this process and namespace that installs what it
// receives: all next hops of a prefix as one multipath route.
type router struct {
	machine *namespace
	speaker *bgp.Speaker
	// installed is what the kernel was told, by prefix.
	installed map[netip.Prefix][]netip.Addr
}

// newRouter starts the router; it works until ctx ends.
func newRouter(ctx context.Context, machine *namespace, logger *slog.Logger) (*router, error) {
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	r := &router{
		machine:   machine,
		speaker:   bgp.NewSpeaker(bgp.SpeakerOptions{Log: logger, Poke: poke, AcceptPaths: true}),
		installed: map[netip.Prefix][]netip.Addr{},
	}
	cfg := bgp.SpeakerConfig{Name: "router", ASN: routerASN, RouterID: netip.MustParseAddr(clientGateway), ListenPort: 179}
	for _, a := range attachments() {
		cfg.ListenAddresses = append(cfg.ListenAddresses, a.router)
		cfg.Peers = append(cfg.Peers, bgp.Peer{
			Address: a.host, ASN: hostASN, LocalAddress: a.router,
			HoldTime: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: time.Second,
		})
	}
	if err := r.speaker.Apply(ctx, cfg); err != nil {
		return nil, fmt.Errorf("start the router: %w", err)
	}
	go func() {
		if err := r.speaker.Run(ctx); err != nil {
			logger.Error("the router's speaker ended", "error", err)
		}
	}()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			if err := r.install(); err != nil {
				logger.Error("the router cannot install its routes", "error", err)
			}
		}
	}()
	return r, nil
}

// install makes the kernel's routes equal to what the peers sent.
func (r *router) install() error {
	want := map[netip.Prefix][]netip.Addr{}
	for _, p := range r.speaker.Received() {
		want[p.Prefix] = append(want[p.Prefix], p.NextHop)
	}
	for prefix, hops := range want {
		slices.SortFunc(hops, netip.Addr.Compare)
		if slices.Equal(hops, r.installed[prefix]) {
			continue
		}
		if err := r.machine.nl.RouteReplace(multipath(prefix, hops)); err != nil {
			return fmt.Errorf("route %s by %v: %w", prefix, hops, err)
		}
		r.installed[prefix] = hops
	}
	for prefix, hops := range r.installed {
		if _, ok := want[prefix]; ok {
			continue
		}
		if err := r.machine.nl.RouteDel(multipath(prefix, hops)); err != nil {
			return fmt.Errorf("remove route %s by %v: %w", prefix, hops, err)
		}
		delete(r.installed, prefix)
	}
	return nil
}

func multipath(prefix netip.Prefix, hops []netip.Addr) *netlink.Route {
	route := &netlink.Route{Dst: ipNet(prefix), Protocol: unix.RTPROT_BGP}
	for _, h := range hops {
		route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{Gw: h.AsSlice()})
	}
	return route
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// nexthops returns the next hops of the kernel's route to the VIP.
func (r *router) nexthops() ([]*netlink.NexthopInfo, error) {
	vip := netip.PrefixFrom(netip.MustParseAddr(vipAddress), 32)
	routes, err := r.machine.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: ipNet(vip)}, netlink.RT_FILTER_DST)
	if err != nil {
		return nil, fmt.Errorf("read the router's routes: %w", err)
	}
	var hops []*netlink.NexthopInfo
	for i := range routes {
		if len(routes[i].MultiPath) == 0 { // the kernel shows a single one so
			hops = append(hops, &netlink.NexthopInfo{LinkIndex: routes[i].LinkIndex, Gw: routes[i].Gw})
		}
		hops = append(hops, routes[i].MultiPath...)
	}
	return hops, nil
}

// hops returns the addresses of the next hops of the kernel's route to the
// VIP, sorted.
func (r *router) hops() ([]netip.Addr, error) {
	nexthops, err := r.nexthops()
	var hops []netip.Addr
	for _, h := range nexthops {
		if a, ok := netip.AddrFromSlice(h.Gw); ok {
			hops = append(hops, a.Unmap())
		}
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return hops, err
}

// routeText shows the kernel's route to the VIP as ip(8) does.
func (r *router) routeText() (string, error) {
	hops, err := r.nexthops()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s proto bgp\n", vipAddress)
	for _, h := range hops {
		link, err := r.machine.nl.LinkByIndex(h.LinkIndex)
		if err != nil {
			return "", fmt.Errorf("find the router's interface %d: %w", h.LinkIndex, err)
		}
		fmt.Fprintf(&b, "        nexthop via %s dev %s\n", h.Gw, link.Attrs().Name)
	}
	return b.String(), nil
}
