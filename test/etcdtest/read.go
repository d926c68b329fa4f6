package etcdtest

import (
	"context"
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Reader reads keys of an etcd that may be out of reach at times.
type Reader struct{ client *clientv3.Client }

// NewReader makes one that connects by dial, until the test ends.
func NewReader(tb testing.TB, endpoint string, dial func(ctx context.Context, address string) (net.Conn, error)) *Reader {
	tb.Helper()
	client, err := clientv3.New(clientv3.Config{
		Context: context.WithoutCancel(tb.Context()), Endpoints: []string{endpoint}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial)},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	return &Reader{client}
}

// Read returns the keys below a prefix, without it, with their values. It fails
// when etcd has not answered within a while.
func (r *Reader) Read(prefix string, within time.Duration) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(r.client.Ctx(), within)
	defer cancel()
	answer, err := r.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	keys := map[string]string{}
	for _, kv := range answer.Kvs {
		keys[string(kv.Key[len(prefix):])] = string(kv.Value)
	}
	return keys, nil
}
