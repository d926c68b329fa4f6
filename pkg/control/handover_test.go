package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vipspeaker/pkg/status"
)

// The order to end reaches the daemon with who follows, from its own user, and
// what it says comes back.
func TestHandover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	var got Successor
	o := Options{
		Log: slog.New(slog.DiscardHandler), Status: status.NewStore().Load,
		Handover: func(_ context.Context, s Successor) (*Handover, error) {
			switch got = s; s.Version {
			case "v2":
				return &Handover{Mode: "restart", Within: "13s"}, nil
			case "v3":
				return nil, Refuse(http.StatusConflict, "not to %s", s.Version)
			}
			return nil, errors.New("broken")
		},
	}
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, o) }()
	t.Cleanup(func() {
		cancel()
		if serveErr := <-done; serveErr != nil {
			t.Error(serveErr)
		}
	})
	c := newClient(t, path)
	network, err := NetworkNamespace()
	if err != nil || !strings.HasPrefix(network, "net:[") {
		t.Fatalf("network namespace %q, %v", network, err)
	}
	want := Successor{Network: network, Version: "v2"}
	if h, err := c.HandOver(t.Context(), want); err != nil || *h != (Handover{Mode: "restart", Within: "13s"}) || got != want {
		t.Errorf("%+v, %v; the daemon was asked by %+v", h, err, got)
	}
	for version, text := range map[string]string{"v3": "not to v3", "v4": "broken"} {
		if h, err := c.HandOver(t.Context(), Successor{Version: version}); err == nil || err.Error() != text {
			t.Errorf("%s: %+v, %v; want %s", version, h, err, text)
		}
	}
}

// Who may talk with the daemon may not end it for that: it takes root or its own
// user.
func TestHandoverIsForFew(t *testing.T) {
	asked := 0
	h := newHandler(t.Context(), Options{
		Log: slog.New(slog.DiscardHandler), Status: status.NewStore().Load,
		Handover: func(context.Context, Successor) (*Handover, error) {
			asked++
			return &Handover{}, nil
		},
	})
	for _, tt := range []struct {
		name string
		ctx  context.Context
		code int
	}{
		{"root", context.WithValue(t.Context(), caller{}, 0), 200},
		{"the daemon's user", context.WithValue(t.Context(), caller{}, os.Geteuid()), 200},
		{"another user", context.WithValue(t.Context(), caller{}, os.Geteuid()+1000), 403},
		{"nobody knows", t.Context(), 403},
	} {
		before := asked
		r := httptest.NewRequestWithContext(tt.ctx, http.MethodPost, "/v1/handover", http.NoBody)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		body, err := io.ReadAll(w.Body)
		if err != nil || w.Code != tt.code || (asked > before) != (tt.code == 200) {
			t.Errorf("%s: %d, asked %d: %s %v", tt.name, w.Code, asked-before, body, err)
		}
		if tt.code == 403 && !strings.Contains(string(body), "only root and the daemon's own user") {
			t.Errorf("%s: %s", tt.name, body)
		}
	}
}
