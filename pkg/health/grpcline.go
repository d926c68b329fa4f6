package health

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
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
	// small call at a time; grpcWindow, the least that the library knows, what the
	// server may send on it unasked; grpcMessage bounds the answer.
	grpcBuffer  = 4 << 10
	grpcWindow  = 64 << 10
	grpcMessage = 64 << 10
	// grpcLeave is how long a server may take to take our leave.
	grpcLeave = 100 * time.Millisecond
)

// errSecond is what the library is told that wants another connection.
var errSecond = errors.New("server takes no calls on the connection")

// grpcLine is one connection to a server, and the library's client, which has no
// other: what the library does to find, to mend and to rest connections (resolvers,
// balancers, back-off, idleness) would hide a failure, or be late with it.
type grpcLine struct {
	*endNoter

	check  *grpcCheck
	wire   net.Conn // without TLS
	client *grpc.ClientConn
	health grpc_health_v1.HealthClient
	// said is the server's first answer.
	said grpc_health_v1.HealthCheckResponse_ServingStatus
}

// open makes a connection and asks on it. Its error has the words of the check.
func (c *grpcCheck) open(ctx context.Context) (*grpcLine, grpc_health_v1.HealthCheckResponse_ServingStatus, error) {
	start := time.Now()
	// Made here and not by the library, which would try again, and in goroutines
	// that outlive its connection.
	wire, err := dial(ctx, c.config.Source, c.config.Address)
	if err != nil {
		return nil, 0, failure(ctx, start, c.target, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = wire.Close() })
	defer stop()
	line, err := c.line(ctx, wire)
	if err != nil {
		_ = wire.Close()
		return nil, 0, failure(ctx, start, c.target, err)
	}
	if line.said, err = line.ask(ctx); err == nil && !stop() {
		err = context.DeadlineExceeded // the answer came in the last moment
	}
	if err != nil {
		line.close()
		return nil, 0, failure(ctx, start, c.target, err)
	}
	return line, line.said, nil
}

// line makes the client of a connection.
func (c *grpcCheck) line(ctx context.Context, wire net.Conn) (*grpcLine, error) {
	if c.config.Hold {
		if err := tuneHeld(wire, grpcWindow); err != nil {
			return nil, err
		}
	}
	conn, creds := wire, insecure.NewCredentials()
	if c.tls != nil {
		secure, err := c.handshake(ctx, wire)
		if err != nil {
			return nil, err
		}
		conn, creds = secure, shaken{insecure.NewCredentials(), secure.ConnectionState()}
	}
	l := &grpcLine{endNoter: &endNoter{Conn: conn}, check: c, wire: wire}
	var used atomic.Bool
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				l.gone.Store(true)
				return nil, errSecond
			}
			return l.endNoter, nil
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDisableHealthCheck(),
		grpc.WithIdleTimeout(0), grpc.WithAuthority(c.authority), grpc.WithUserAgent("vipspeaker"),
		grpc.WithReadBufferSize(grpcBuffer), grpc.WithWriteBufferSize(grpcBuffer),
		// Else it measures the path, by a ping with each answer.
		grpc.WithStaticStreamWindowSize(grpcWindow), grpc.WithStaticConnWindowSize(grpcWindow),
		grpc.WithMaxHeaderListSize(headerBytes),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpcMessage)),
	}
	client, err := grpc.NewClient("passthrough:///check", options...) // the dialer knows the address
	if err != nil {
		return nil, err
	}
	l.client, l.health = client, grpc_health_v1.NewHealthClient(client)
	return l, nil
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

// ask is one Health/Check. An error is no answer about health.
func (l *grpcLine) ask(ctx context.Context) (grpc_health_v1.HealthCheckResponse_ServingStatus, error) {
	answer, err := l.health.Check(ctx, l.request())
	switch code := status.Code(err); {
	case err == nil:
		return answer.GetStatus(), nil
	case code == codes.NotFound:
		return grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN, nil
	case code == codes.Unavailable && l.ended.Load():
		return 0, errors.New("server ended the connection without an answer")
	}
	return 0, l.check.reason(err)
}

func (l *grpcLine) request() *grpc_health_v1.HealthCheckRequest {
	return &grpc_health_v1.HealthCheckRequest{Service: l.check.config.Service}
}

// close ends the connection, in order if the server takes that.
func (l *grpcLine) close() {
	l.gone.Store(true)
	late := time.AfterFunc(grpcLeave, func() { _ = l.wire.Close() })
	defer late.Stop()
	_ = l.client.Close()
	_ = l.wire.Close()
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
// the port in them, which would make each reason a new one, and a moment later.
type endNoter struct {
	net.Conn

	ended atomic.Bool // by the server
	gone  atomic.Bool // for whatever reason
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
	if err == nil {
		return
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		e.ended.Store(true)
	}
	e.gone.Store(true)
}
