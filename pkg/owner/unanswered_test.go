package owner

import (
	"fmt"
	"log/slog"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vipspeaker/test/etcdtest"
)

// TestUnanswered: an order that etcd did not take is told from one that the others'
// state forbids.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	endpoint, stop := etcdtest.Start(t)
	m := New(Options{Log: slog.New(slog.DiscardHandler), Host: "a", Config: Config{Endpoints: []string{endpoint}, Prefix: "/test/", Lease: testLease}})
	if _, err := m.Move(t.Context(), vip, "b"); !Unanswered(err) {
		t.Errorf("before etcd was reached: %v", err)
	}
	s, err := dial(t.Context(), m.opt.Config, "a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.client.Close() })
	m.store.Store(s)
	if _, err := m.Move(t.Context(), vip, "b"); err == nil || Unanswered(err) {
		t.Errorf("without an owner: %v", err)
	}
	stop()
	if _, err := m.Move(t.Context(), vip, "b"); !Unanswered(err) {
		t.Errorf("without etcd: %v", err)
	}
	for _, of := range []error{rpctypes.ErrPermissionDenied, status.Error(codes.Unavailable, "no leader")} {
		if !Unanswered(fmt.Errorf("move: %w", of)) {
			t.Errorf("%v", of)
		}
	}
	if Unanswered(nil) {
		t.Error("no error is one")
	}
}
