package main

import (
	"context"
	"net/netip"
	"os"
	"strconv"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/doctor"
	"vipspeaker/pkg/vip"
)

// doctorInput is what the host is examined for with this configuration.
func doctorInput(c *config.Config) *doctor.Input {
	in := &doctor.Input{
		Device: c.VirtualInterface.Name, DeviceKind: c.VirtualInterface.Kind, Sysctls: c.Host.Sysctls,
		Table: vip.DefaultBaseTable, Priority: vip.DefaultBasePriority, Protocol: vip.Protocol,
		InstallMain: c.Egress.Install == "main" && len(c.Egress.Import) > 0, MainMetric: int(c.Egress.Metric),
		ListenPort: uint16(c.BGP.ListenPort), //nolint:gosec // validated
	}
	for i := range c.Interfaces {
		n := &c.Interfaces[i]
		in.Interfaces = append(in.Interfaces, doctor.Interface{Name: n.Name, Gateways: n.Gateways, Peers: doctorPeers(c, n.Peers)})
	}
	in.Peers = doctorPeers(c, c.Peers)
	for i := range c.VIPs {
		v := &c.VIPs[i]
		in.VIPs = append(in.VIPs, doctor.VIP{
			Name: v.Name, Prefix: v.Prefix, Interfaces: v.Interfaces, PreferredSource: v.PreferredSource, Ports: servicePorts(v),
		})
	}
	return in
}

func doctorPeers(c *config.Config, peers []config.Peer) []doctor.Peer {
	list := make([]doctor.Peer, len(peers))
	for i := range peers {
		p := &peers[i]
		list[i] = doctor.Peer{
			Address: p.Address, Port: p.Port, Passive: p.Passive, BFD: p.BFD != nil, Multihop: p.BFD != nil && p.BFD.Multihop,
			Wants: doctor.Capabilities{
				IPv4: p.IPv4, IPv6: p.IPv6, AddPath: p.AddPath,
				ExtendedNextHop: p.IPv4 && (p.Unnumbered || p.Address.Is6()),
				GracefulRestart: c.BGP.GracefulRestart.Enabled, LongLived: c.BGP.GracefulRestart.LongLived > 0,
			},
		}
	}
	return list
}

// servicePorts are the TCP ports that the checks of a VIP name.
func servicePorts(v *config.VIP) []uint16 {
	var ports []uint16
	add := func(a netip.Addr, port uint16) {
		if port != 0 && (!a.IsValid() || a.IsUnspecified() || v.Prefix.Contains(a)) {
			ports = append(ports, port)
		}
	}
	for i := range v.Checks {
		switch c := &v.Checks[i]; {
		case c.TCP != nil:
			add(c.TCP.Address.Addr(), c.TCP.Address.Port())
		case c.GRPC != nil:
			add(c.GRPC.Address.Addr(), c.GRPC.Address.Port())
		case c.Listen != nil && c.Listen.Protocol == "tcp":
			add(c.Listen.Address, c.Listen.Port)
		case c.HTTP != nil:
			host, err := netip.ParseAddr(c.HTTP.URL.Hostname())
			port, _ := strconv.ParseUint(c.HTTP.URL.Port(), 10, 16)
			switch {
			case port == 0 && c.HTTP.URL.Scheme == "https":
				port = 443
			case port == 0:
				port = 80
			}
			if err == nil {
				add(host, uint16(port))
			}
		}
	}
	return ports
}

// daemonHere is the process of the daemon of this network namespace, and
// whether one runs.
func daemonHere(ctx context.Context) (pid int, running bool) {
	holder := networkHolder(ctx)
	if holder == nil || impostor(int(holder.Pid)) {
		return 0, false
	}
	return int(holder.Pid), true
}

// doctorInput is what the host is examined for while the daemon runs.
func (d *daemon) doctorInput() *doctor.Input {
	in := doctorInput(d.config.Load())
	in.Daemon = &doctor.Daemon{PID: os.Getpid()}
	return in
}
