package status

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestEndpoints(t *testing.T) {
	unbound := sample()
	unbound.VIPs[0].Bound = false
	withheld := broken()
	withheld.VIPs[1].Bound = false
	stopping := sample()
	stopping.Stopping = true
	tests := map[string]struct {
		status *Status
		alive  error
		path   string
		code   int
		body   string
	}{
		"alive":           {sample(), nil, "/healthz", 200, `{"ok":true}`},
		"stuck":           {sample(), errors.New("no pass for \"95s\""), "/healthz", 503, `{"ok":false,"error":"no pass for \"95s\""}`},
		"ready":           {sample(), nil, "/readyz", 200, `{"ok":true}`},
		"no pass yet":     {nil, nil, "/readyz", 503, `{"ok":false,"error":"no pass has ended yet"}`},
		"not bound":       {unbound, nil, "/readyz", 503, `{"ok":false,"error":"vipa is not bound"}`},
		"check failed":    {withheld, nil, "/readyz", 200, `{"ok":true}`},
		"stopping":        {stopping, nil, "/readyz", 503, `{"ok":false,"error":"stopping"}`},
		"unknown":         {sample(), nil, "/", 404, "404 page not found"},
		"no events":       {sample(), nil, "/v1/events", 404, "404 page not found"},
		"metrics":         {sample(), nil, "/metrics", 200, "# HELP"},
		"no pass metrics": {nil, nil, "/metrics", 200, "# HELP"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			store, reg := newRegistry(t)
			if tt.status != nil {
				store.Publish(tt.status)
			}
			w := httptest.NewRecorder()
			NewHandler(store, reg, func() error { return tt.alive }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, tt.path, nil))
			if body := strings.TrimSpace(w.Body.String()); w.Code != tt.code || !strings.HasPrefix(body, tt.body) {
				t.Errorf("%d %s, want %d %s", w.Code, body, tt.code, tt.body)
			}
		})
	}
}

// serve starts a server on a free port of 127.0.0.1 and returns its address.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	return serveOn(t, NewServer(h, slog.New(slog.DiscardHandler)))
}

func serveOn(t *testing.T, srv *http.Server) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, srv, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("serve:", err)
		}
	})
	return l.Addr().String()
}

// dial opens a connection that stays open until the end of the test. The server
// may close it before first is written: that is no failure.
func dial(t *testing.T, addr, first string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_, _ = io.WriteString(c, first)
	return c
}

// TestHostileClients: a thousand connections that send half a request, or
// nothing, hold up nobody else. Here no time ends them, so they would do so for ever.
func TestHostileClients(t *testing.T) {
	store, reg := newRegistry(t)
	store.Publish(sample())
	srv := NewServer(NewHandler(store, reg, func() error { return nil }), slog.New(slog.DiscardHandler))
	srv.ReadHeaderTimeout, srv.ReadTimeout, srv.WriteTimeout, srv.IdleTimeout = 0, 0, 0, 0
	addr := serveOn(t, srv)
	for i := range 1000 {
		first := ""
		if i%2 == 0 {
			first = "GET /metrics HTTP/1.1\r\nX-Slow: "
		}
		dial(t, addr, first)
	}
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // the body was read
	if body, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(body), "vipspeaker_vip_bound") {
		t.Errorf("scrape: %v, %d octets", err, len(body))
	}
}

func TestSlowClientIsClosed(t *testing.T) {
	addr := serve(t, http.NotFoundHandler())
	c := dial(t, addr, "GET / HTTP/1.1\r\nX-Slow: ")
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Error("still open:", err)
	}
}

func TestListenNamesTheAddress(t *testing.T) {
	addr := serve(t, http.NotFoundHandler())
	_, err := Listen(t.Context(), addr)
	if err == nil || !strings.HasPrefix(err.Error(), "http.listen "+addr+": ") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v", err)
	}
}
