package main

import (
	"fmt"
	"net/http"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/speaker"
	"vipspeaker/pkg/status"
)

// checkers makes what runs checks and probes.
type checkers struct {
	sockets *health.Sockets // of all listen checks
}

func newCheckers() *checkers { return &checkers{sockets: health.NewSockets()} }

// check makes the checker of a configured check.
func (k *checkers) check(c config.Check) (health.Checker, error) {
	switch {
	case c.HTTP != nil:
		return health.NewHTTP(httpConfig(&c))
	case c.TCP != nil:
		return health.NewTCP(health.TCPConfig{Address: c.TCP.Address, Hold: c.TCP.Hold, Source: c.Source})
	case c.Exec != nil:
		e := health.ExecConfig{Command: c.Exec.Command, Name: c.Name}
		for _, entry := range c.Exec.Env {
			e.Env = append(e.Env, string(entry))
		}
		return health.NewExec(e)
	case c.DNS != nil:
		return health.NewDNS(health.DNSConfig{
			Server: c.DNS.Server, Query: c.DNS.Query, Type: c.DNS.Type, Transport: c.DNS.Transport,
			ExpectRcode: c.DNS.ExpectRcode, Expect: c.DNS.Expect, Source: c.Source,
		})
	case c.GRPC != nil:
		return health.NewGRPC(health.GRPCConfig{
			Address: c.GRPC.Address, Service: c.GRPC.Service, TLS: c.GRPC.TLS, Insecure: c.GRPC.Insecure,
			CAFile: c.GRPC.CAFile, ServerName: c.GRPC.ServerName, Hold: c.GRPC.Hold, Source: c.Source,
		})
	case c.ICMP != nil:
		return health.NewICMP(health.ICMPConfig{Address: c.ICMP.Address, Source: c.Source})
	case c.Listen != nil:
		return k.sockets.NewListen(health.ListenConfig{Address: c.Listen.Address, Port: c.Listen.Port, Protocol: c.Listen.Protocol})
	}
	return nil, fmt.Errorf("check of unknown kind %q", c.Kind)
}

// probe makes the checker of a probe of an interface.
func (*checkers) probe(b speaker.Probe) (health.Checker, error) {
	if b.Layer == status.LayerPath {
		return health.NewICMP(health.ICMPConfig{Address: b.Target, Source: b.Source, Device: b.Interface})
	}
	return health.NewNeighbour(health.NeighbourConfig{Interface: b.Interface, Address: b.Target})
}

func httpConfig(check *config.Check) health.HTTPConfig {
	c := check.HTTP
	out := health.HTTPConfig{
		URL: c.URL, Method: c.Method, Header: http.Header{}, Body: c.ExpectBody,
		Insecure: c.Insecure, CAFile: c.CAFile, ServerName: c.ServerName, Hold: c.Hold, Source: check.Source,
	}
	for _, h := range c.Headers {
		out.Header.Add(h.Name, string(h.Value))
	}
	for _, r := range c.ExpectStatus {
		out.Status = append(out.Status, health.StatusRange(r))
	}
	return out
}
