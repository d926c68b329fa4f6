package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"vipspeaker/pkg/config"
)

// ownerNotes tells which checks ask a VIP that only its owner has (exclusive, ownership)
// and that this host does not have now: as long as they fail nobody takes it, and they
// fail until somebody has. They are no mistakes where something else gives hosts the
// address.
func ownerNotes(c *config.Config) []checkError {
	if c.Ownership == nil {
		return nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil // nothing is known
	}
	var notes []checkError
	for i := range c.VIPs {
		v := &c.VIPs[i]
		has := slices.ContainsFunc(addresses, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && v.Prefix.Contains(p.Addr())
		})
		if !v.Exclusive || has || v.Degrade != nil || v.ChecksMode == "any" {
			continue
		}
		for k := range v.Checks {
			key, to := targetOf(&v.Checks[k])
			if v.Prefix.Contains(to) {
				notes = append(notes, checkError{
					Path: fmt.Sprintf("vips[%d].checks[%d].%s", i, k, key), Value: to.String(),
					Problem: "is the VIP, which only its owner has, so a host that does not own it never gets it; ask another address of the host, or use exec",
				})
			}
		}
	}
	return notes
}

// targetOf is the address that a check asks, and its key; the zero value if it asks none.
func targetOf(c *config.Check) (key string, to netip.Addr) {
	switch {
	case c.HTTP != nil:
		to, _ = netip.ParseAddr(c.HTTP.URL.Hostname()) // the configuration is valid
		return "http.url", to
	case c.TCP != nil:
		return "tcp.address", c.TCP.Address.Addr()
	case c.DNS != nil:
		return "dns.server", c.DNS.Server.Addr()
	case c.GRPC != nil:
		return "grpc.address", c.GRPC.Address.Addr()
	case c.ICMP != nil:
		return "icmp.address", c.ICMP.Address
	}
	return "", netip.Addr{}
}
