package health

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ListenConfig is a check that somebody listens.
type ListenConfig struct {
	// Address is where: an address of this host, now or later. The wildcard
	// stands for itself, and then a listener on one address is not enough.
	Address netip.Addr
	// Port is 1 to 65535.
	Port uint16
	// Protocol is "tcp" or "udp".
	Protocol string
}

type listenCheck struct {
	sockets *Sockets
	target  socketTarget
	name    string
}

// NewListen returns a check, a Watcher, that passes while the kernel has a socket
// for what comes to the address and port: one that listens (TCP), or is bound and
// has no peer (UDP), on the address itself or on a wildcard that takes it. That
// is 0.0.0.0 for IPv4 and :: for IPv6, and for IPv4, too, without IPV6_V6ONLY.
//
// A listener that is bound to a device does not count, not even to the virtual
// interface: it takes nothing that comes in by the others.
//
// The end of a listener is heard of in about a millisecond, however it came: closed,
// or its process killed. Not heard of, so seen by the interval only: a new listener,
// for which the kernel has no event; shutdown(2) on a listener that stays open; and
// for up to a second more, a listener that dies while clients that sent a SYN do not
// answer, since their half-open connections keep it. A server that meets many such
// clients is better watched by a tcp check that holds its connection.
//
// To hear of ends costs the kernel some microseconds for each TCP (or UDP) socket of
// the family that ends on the host, a short connection's, too; those do not reach
// the daemon.
//
// It fails for an address with a zone or none, for port 0, and for other protocols.
func (s *Sockets) NewListen(c ListenConfig) (Checker, error) {
	t := socketTarget{address: c.Address.Unmap(), port: c.Port}
	switch c.Protocol {
	case "tcp":
		t.protocol = unix.IPPROTO_TCP
	case "udp":
		t.protocol = unix.IPPROTO_UDP
	default:
		return nil, fmt.Errorf("listen check: protocol %q is neither tcp nor udp", c.Protocol)
	}
	switch {
	case !c.Address.IsValid() || c.Port == 0:
		return nil, errors.New("listen check: no address and port")
	case c.Address.Zone() != "":
		return nil, fmt.Errorf("listen check: address %s has a zone", c.Address)
	}
	return &listenCheck{s, t, c.Protocol + " " + netip.AddrPortFrom(t.address, t.port).String()}, nil
}

// Check implements Checker. The kernel answers at once, whatever it does otherwise.
func (c *listenCheck) Check(ctx context.Context) error {
	serving, err := c.sockets.serving(ctx, c.target)
	switch {
	case err != nil:
		return fmt.Errorf("%s: ask the kernel for its listener: %w", c.name, err)
	case !serving:
		return fmt.Errorf("%s: nobody listens", c.name)
	}
	return nil
}

// Watch implements Watcher. It returns early if it cannot subscribe.
func (c *listenCheck) Watch(ctx context.Context, again func()) {
	e := &ear{c.target, again}
	if err := c.sockets.add(e); err != nil {
		return
	}
	defer c.sockets.remove(e)
	again() // for what died before
	<-ctx.Done()
}
