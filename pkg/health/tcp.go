package health

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// TCPConfig is a check that connects.
type TCPConfig struct {
	// Address is what to connect to.
	Address netip.AddrPort
	// Hold keeps the connection open between runs, so that its end is seen at once.
	// See NewTCP.
	Hold bool
	// Source is the address to connect from; zero for the kernel's choice.
	Source netip.Addr
}

type tcpCheck struct {
	config TCPConfig
	pace   pace
}

// NewTCP returns a check that passes when a connection can be made. It is
// closed in order, not reset, since servers log resets. It fails for an address
// without IP address or port, and a source of another family.
//
// With Hold it is a Watcher. The connection stays open, and while it does the
// check passes without another. When it ends, in order or not, another is made at
// once; only if that cannot be done the check fails. So a killed server is seen in a
// millisecond, and one that closes idle connections is healthy. A host that is
// gone is seen after two seconds of silence, by keepalive, and then by the next
// connection's failure. A server that hangs, while its kernel goes on to answer, is
// not seen: ask it something (http, grpc, dns), or do not hold. What the server
// sends is thrown away, 64 KiB in 100 ms. The ends of connections bring at most
// three new ones at once, then one a second; what the schedule brings comes on top.
func NewTCP(c TCPConfig) (Checker, error) {
	if !c.Address.IsValid() || c.Address.Port() == 0 {
		return nil, errors.New("tcp check: no address and port")
	}
	if err := checkSource(c.Source, c.Address.Addr()); err != nil {
		return nil, fmt.Errorf("tcp check: %w", err)
	}
	if c.Hold {
		return newHeldTCP(c), nil
	}
	return &tcpCheck{config: c}, nil
}

// Check implements Checker.
func (c *tcpCheck) Check(ctx context.Context) error {
	start := time.Now()
	if err := touch(ctx, c.config.Source, c.config.Address, &c.pace); err != nil {
		return failure(ctx, start, "tcp "+c.config.Address.String(), err)
	}
	return nil
}
