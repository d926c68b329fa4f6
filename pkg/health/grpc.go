package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// GRPCConfig is a check that asks a gRPC server for the health of a service.
type GRPCConfig struct {
	Address netip.AddrPort
	// Service is its name; empty for the whole server.
	Service string
	// TLS speaks TLS. Insecure switches the check of the server's certificate off.
	TLS, Insecure bool
	// CAFile is a PEM file of roots to trust instead of the host's, read once by
	// NewGRPC; may be empty.
	CAFile string
	// ServerName is the name that the certificate must have, that is sent with SNI
	// and as the authority of the call; the address if empty.
	ServerName string
	// Hold keeps the connection open between runs, so that its end and what the
	// server says of its health are seen at once. See NewGRPC.
	Hold bool
	// Source is the address to connect from; zero for the kernel's choice.
	Source netip.Addr
}

type grpcCheck struct {
	config GRPCConfig
	tls    *tls.Config // nil without TLS
	target string
	// authority is who is called, for a server of many names (RFC 9113 section 8.3.1).
	authority string
}

// NewGRPC returns a check that passes when the server says SERVING by
// grpc.health.v1.Health/Check. Each run makes a connection of its own, straight
// to the address: it also tests that the server takes new ones, and leaves
// nothing behind. It fails for an address and a CAFile that it cannot use.
//
// With Hold it is a Watcher. The connection stays open, and each run asks on it.
// Between the runs a Health/Watch stands on it: what the server says there, and the
// end of the connection, in order or not, bring a run at once. That run asks by
// Health/Check as any other, on another connection if the old one has ended, and
// only its answer counts. So a killed server and one that says NOT_SERVING are seen
// in milliseconds, one that hangs by the next run, and one that rotates connections
// (GOAWAY) is healthy. It is left at its first word, so that no stream of ours holds
// up its end. A run without an answer in time gives the connection up. A server
// without Watch (Unimplemented) is asked by each run on the connection that is held.
// A host that is gone is seen as by NewTCP. Ends and news bring at most three runs
// at once each, then one a second; what the schedule brings comes on top.
func NewGRPC(c GRPCConfig) (Checker, error) {
	if !c.Address.IsValid() || c.Address.Port() == 0 {
		return nil, errors.New("grpc check: no address and port")
	}
	if err := checkSource(c.Source, c.Address.Addr()); err != nil {
		return nil, fmt.Errorf("grpc check: %w", err)
	}
	name, host := c.ServerName, c.Address.Addr().Unmap().WithZone("")
	check := &grpcCheck{config: c, target: "grpc " + c.Address.String(), authority: name}
	if name == "" {
		name = host.String()
		check.authority = netip.AddrPortFrom(host, c.Address.Port()).String()
	}
	if c.TLS {
		var err error
		if check.tls, err = tlsConfig(name, c.CAFile, c.Insecure); err != nil {
			return nil, fmt.Errorf("grpc check: %w", err)
		}
		check.tls.NextProtos = []string{"h2"}
	}
	if c.Hold {
		return &heldGRPC{holder: newHolder[*grpcLine](), grpcCheck: check}, nil
	}
	return check, nil
}

// Check implements Checker.
func (c *grpcCheck) Check(ctx context.Context) error {
	line, answer, err := c.open(ctx)
	if err != nil {
		return err
	}
	line.close()
	return c.verdict(answer)
}

// verdict is the error of an answer.
func (c *grpcCheck) verdict(answer grpc_health_v1.HealthCheckResponse_ServingStatus) error {
	if err := c.judge(answer); err != nil {
		return fmt.Errorf("%s: %w", c.target, err)
	}
	return nil
}

// reason is the error of a call in fewer words.
func (c *grpcCheck) reason(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := firstLine(s.Message(), lineBytes)
	switch {
	case s.Code() == codes.DeadlineExceeded:
		return context.DeadlineExceeded // the server may see it first
	// What the library makes of answers that are HTTP but not gRPC.
	case strings.HasPrefix(text, "unexpected HTTP status code"), strings.HasPrefix(text, "malformed header"):
		return fmt.Errorf("no gRPC server: %s", text)
	case s.Code() == codes.Unavailable && strings.Contains(text, "error reading server preface"):
		_, cause, _ := strings.Cut(text, "error reading server preface: ")
		return fmt.Errorf("no gRPC server: %s", strings.Trim(cause, `"`))
	case s.Code() == codes.Unavailable && strings.Contains(text, errSecond.Error()):
		return errSecond
	case s.Code() == codes.Unimplemented:
		return errors.New("server without grpc.health.v1")
	}
	return errors.New(strings.TrimSuffix(s.Code().String()+": "+text, ": "))
}

// judge says what is wrong with the answer.
func (c *grpcCheck) judge(answer grpc_health_v1.HealthCheckResponse_ServingStatus) error {
	subject := "server"
	if c.config.Service != "" {
		subject = fmt.Sprintf("service %q", c.config.Service)
	}
	switch answer {
	case grpc_health_v1.HealthCheckResponse_SERVING:
		return nil
	case grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN:
		return fmt.Errorf("%s is not known to the server's health service", subject)
	default:
		return fmt.Errorf("%s is %s", subject, answer)
	}
}
