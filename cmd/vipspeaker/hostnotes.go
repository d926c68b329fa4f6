package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"vipspeaker/pkg/config"
)

// hostNotes tells what of a valid configuration cannot work on this host as it
// is now: interfaces that are missing, and peers, with their BFD sessions, and
// probes that no address of their interface reaches. They are no mistakes of the file: an address may come
// later, and the file may be meant for another host, which is assumed when none
// of its interfaces is here.
func hostNotes(c *config.Config) []checkError {
	var notes []checkError
	here := false
	for i := range c.Interfaces {
		at := "interfaces[" + strconv.Itoa(i) + "]"
		addresses, err := ownAddresses(c.Interfaces[i].Name)
		if err != nil {
			notes = append(notes, checkError{Path: at + ".name", Value: c.Interfaces[i].Name, Problem: "does not exist here"})
			continue
		}
		here = true
		notes = append(notes, probeNotes(at, &c.Interfaces[i], addresses)...)
		for j := range c.Interfaces[i].Peers {
			peer := c.Interfaces[i].Peers[j].Address
			// Gateways and routers are found when it runs.
			if problem := unreachable(addresses, peer); peer.IsValid() && problem != "" {
				notes = append(notes, checkError{
					Path: at + ".peers[" + strconv.Itoa(j) + "].address", Value: peer.String(),
					Problem: c.Interfaces[i].Name + " has " + problem + " here; the session cannot start",
				})
			}
		}
	}
	if !here {
		return nil
	}
	return append(notes, localNotes(c)...)
}

// localNotes tells which local addresses of peers without an interface are not
// here.
func localNotes(c *config.Config) []checkError {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil // nothing is known
	}
	var notes []checkError
	for i := range c.Peers {
		local := c.Peers[i].LocalAddress
		if local.IsValid() && !slices.ContainsFunc(addresses, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr() == local
		}) {
			notes = append(notes, checkError{
				Path: "peers[" + strconv.Itoa(i) + "].local_address", Value: local.String(),
				Problem: "no interface has it here; the session cannot start",
			})
		}
	}
	return notes
}

// probeNotes tells which probes of an interface have no address to ask from.
func probeNotes(at string, c *config.Interface, addresses []netip.Prefix) []checkError {
	var notes []checkError
	for _, g := range c.Gateways {
		if problem := unreachable(addresses, g); problem != "" && c.GatewayProbe.Enabled {
			notes = append(notes, checkError{
				Path: at + ".gateway", Value: g.String(), Problem: c.Name + " has " + problem + " here; its probe will fail",
			})
		}
	}
	if c.PathProbe != nil {
		target := c.PathProbe.Target
		sameFamily := func(a netip.Prefix) bool { return a.Addr().Is4() == target.Is4() && !a.Addr().IsLinkLocalUnicast() }
		if !slices.ContainsFunc(addresses, sameFamily) {
			notes = append(notes, checkError{
				Path: at + ".path_probe.target", Value: target.String(),
				Problem: c.Name + " has " + unreachable(addresses, target) + " here; the probe cannot run",
			})
		}
	}
	return notes
}

func ownAddresses(name string) ([]netip.Prefix, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	list, err := link.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	var out []netip.Prefix
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// unreachable says what the addresses lack to be on-link with a peer; empty if
// nothing.
func unreachable(addresses []netip.Prefix, peer netip.Addr) string {
	family := false
	for _, a := range addresses {
		if a.Contains(peer) && a.Addr() != peer {
			return ""
		}
		family = family || a.Addr().Is4() == peer.Is4() && !a.Addr().IsLinkLocalUnicast()
	}
	switch {
	case family:
		return "no address on-link with it"
	case peer.Is4():
		return "no IPv4 address"
	default:
		return "no IPv6 address but a link-local one at most"
	}
}
