package health

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// TCPConfig is a check that connects and closes.
type TCPConfig struct {
	// Address is what to connect to.
	Address netip.AddrPort
	// Hold keeps the connection open between runs, so that its end is seen at once.
	Hold bool
	// Source is the address to connect from; zero for the kernel's choice.
	Source netip.Addr
}

type tcpCheck struct{ config TCPConfig }

// NewTCP returns a check that passes when a connection can be made. It is
// closed in order, not reset, since servers log resets. It fails for an address
// without IP address or port, and a source of another family.
func NewTCP(c TCPConfig) (Checker, error) {
	if !c.Address.IsValid() || c.Address.Port() == 0 {
		return nil, errors.New("tcp check: no address and port")
	}
	if err := checkSource(c.Source, c.Address.Addr()); err != nil {
		return nil, fmt.Errorf("tcp check: %w", err)
	}
	return tcpCheck{c}, nil
}

// Check implements Checker.
func (c tcpCheck) Check(ctx context.Context) error {
	start := time.Now()
	conn, err := dial(ctx, c.config.Source, c.config.Address)
	if err != nil {
		return failure(ctx, start, "tcp "+c.config.Address.String(), err)
	}
	// The connection was made, which is all that was asked.
	_ = conn.Close()
	return nil
}
