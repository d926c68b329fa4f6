package control

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"vipspeaker/pkg/status"
)

func TestFailback(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	got := ""
	failback := func(vip string) error {
		if got = vip; vip != "a b&c" {
			return errors.New("no VIP " + vip)
		}
		return nil
	}
	go func() {
		done <- Serve(ctx, l, Options{Log: slog.New(slog.DiscardHandler), Status: status.NewStore().Load, Failback: failback})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c := newClient(t, path)
	if err := c.Failback(t.Context(), "a b&c"); err != nil || got != "a b&c" {
		t.Errorf("error %v, the daemon was asked for %q", err, got)
	}
	if err := c.Failback(t.Context(), "x"); err == nil || err.Error() != "no VIP x" {
		t.Errorf("error %v", err)
	}
}
