package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	// grpcBuffer is the size of the buffers of a connection that carries one
	// small call; grpcMessage bounds the answer.
	grpcBuffer  = 4 << 10
	grpcMessage = 64 << 10
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
	return check, nil
}

// Check implements Checker.
func (c *grpcCheck) Check(ctx context.Context) error {
	start := time.Now()
	// Made here and not by the library, which would try again, and in goroutines
	// that outlive its connection.
	wire, err := dial(ctx, c.config.Source, c.config.Address)
	if err != nil {
		return failure(ctx, start, c.target, err)
	}
	defer func() { _ = wire.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = wire.Close() })
	defer stop() // after the library's close, which may write
	conn, creds := wire, insecure.NewCredentials()
	if c.tls != nil {
		secure, failed := c.handshake(ctx, wire)
		if failed != nil {
			return failure(ctx, start, c.target, failed)
		}
		conn, creds = secure, shaken{insecure.NewCredentials(), secure.ConnectionState()}
	}
	watched := &endNoter{Conn: conn}
	answer, err := c.call(ctx, watched, creds)
	if err != nil {
		if status.Code(err) == codes.Unavailable && watched.ended.Load() {
			err = errors.New("server ended the connection without an answer")
		} else {
			err = c.reason(err)
		}
		return failure(ctx, start, c.target, err)
	}
	if err = c.judge(answer.GetStatus()); err != nil {
		return fmt.Errorf("%s: %w", c.target, err)
	}
	return nil
}

// handshake makes the connection a secure one that speaks HTTP/2.
func (c *grpcCheck) handshake(ctx context.Context, wire net.Conn) (*tls.Conn, error) {
	secure := tls.Client(wire, c.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if secure.ConnectionState().NegotiatedProtocol != "h2" {
		return nil, errors.New("tls: server offers no HTTP/2")
	}
	return secure, nil
}

// call asks on the connection, and only on that one.
func (c *grpcCheck) call(ctx context.Context, conn net.Conn, creds credentials.TransportCredentials) (*grpc_health_v1.HealthCheckResponse, error) {
	var used atomic.Bool
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("connection lost")
			}
			return conn, nil
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDisableHealthCheck(),
		grpc.WithAuthority(c.authority), grpc.WithUserAgent("vipspeaker"),
		grpc.WithReadBufferSize(grpcBuffer), grpc.WithWriteBufferSize(grpcBuffer),
		grpc.WithMaxHeaderListSize(headerBytes),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpcMessage)),
	}
	client, err := grpc.NewClient("passthrough:///check", options...) // the dialer knows the address
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	return grpc_health_v1.NewHealthClient(client).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: c.config.Service})
}

// shaken are the credentials of a connection whose handshake is done.
type shaken struct {
	credentials.TransportCredentials

	state tls.ConnectionState
}

// ClientHandshake implements credentials.TransportCredentials.
func (s shaken) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, credentials.TLSInfo{
		State:          s.state,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// Info implements credentials.TransportCredentials.
func (s shaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"} // makes the scheme https
}

// Clone implements credentials.TransportCredentials.
func (s shaken) Clone() credentials.TransportCredentials { return s }

// endNoter notes that the connection ended: the library says so in many ways, with
// the port in them, which would make each reason a new one.
type endNoter struct {
	net.Conn

	ended atomic.Bool
}

// Read implements net.Conn.
func (e *endNoter) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	e.note(err)
	return n, err
}

// Write implements net.Conn.
func (e *endNoter) Write(b []byte) (int, error) {
	n, err := e.Conn.Write(b)
	e.note(err)
	return n, err
}

func (e *endNoter) note(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		e.ended.Store(true)
	}
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
	case s.Code() == codes.NotFound:
		return c.judge(grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN)
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
