package health

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// TCPConfig is a check that connects and closes.
type TCPConfig struct {
	// Address is what to connect to.
	Address netip.AddrPort
}

type tcpCheck struct{ address netip.AddrPort }

// NewTCP returns a check that passes when a connection can be made. It is
// closed in order, not reset, since servers log resets. It fails for an address
// without IP address or port.
func NewTCP(c TCPConfig) (Checker, error) {
	if !c.Address.IsValid() || c.Address.Port() == 0 {
		return nil, errors.New("tcp check: no address and port")
	}
	return tcpCheck{c.Address}, nil
}

// Check implements Checker.
func (c tcpCheck) Check(ctx context.Context) error {
	start := time.Now()
	conn, err := dial(ctx, c.address)
	if err != nil {
		return failure(ctx, start, "tcp "+c.address.String(), err)
	}
	// The connection was made, which is all that was asked.
	_ = conn.Close()
	return nil
}

// dial connects to the one address, in its family.
func dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	network := "tcp4"
	if !a.Addr().Unmap().Is4() {
		network = "tcp6"
	}
	d := net.Dialer{KeepAlive: -1}
	return d.DialContext(ctx, network, a.String())
}
