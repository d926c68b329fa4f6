package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
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
	failback := func(_ context.Context, vip string) error {
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

// TestRolesRefuse: an order about ranks or owners is refused with the code that its
// error has, as any other order is.
func TestRolesRefuse(t *testing.T) {
	var err error
	h := newHandler(t.Context(), Options{
		Log: slog.New(slog.DiscardHandler), Status: status.NewStore().Load,
		Failback: func(context.Context, string) error { return err },
		Move:     func(context.Context, string, string) (int64, error) { return 7, err },
	})
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, http.StatusOK},
		{errors.New("not as things are"), http.StatusConflict},
		{Refuse(http.StatusNotFound, "no VIP %q", "x"), http.StatusNotFound},
		{Refuse(http.StatusBadRequest, "give a vip"), http.StatusBadRequest},
	} {
		for _, path := range []string{"/v1/failback?vip=x", "/v1/move?vip=x&to=b"} {
			err = tt.err
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, http.NoBody))
			var f failure
			if jsonErr := json.Unmarshal(w.Body.Bytes(), &f); w.Code != tt.want || jsonErr != nil || err != nil && f.Error != err.Error() {
				t.Errorf("%s with %v: code %d, want %d: %s", path, tt.err, w.Code, tt.want, w.Body)
			}
		}
	}
}
