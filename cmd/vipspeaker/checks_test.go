package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/config"
)

// TestCheckersFollowTheConfiguration: every field of the configuration reaches
// the checker.
func TestCheckersFollowTheConfiguration(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("X-Token") != "secret" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write([]byte("short and stout"))
	}))
	defer srv.Close()
	target, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo) // of refused handshakes
	secure.StartTLS()
	defer secure.Close()
	secureURL, err := url.Parse(secure.URL)
	if err != nil {
		t.Fatal(err)
	}
	good := config.HTTPCheck{
		URL: target, Method: http.MethodPost, Headers: []config.Header{{Name: "x-token", Value: "secret"}},
		ExpectStatus: []config.StatusRange{{Min: 418, Max: 418}}, ExpectBody: "stout",
	}
	noToken, otherBody, otherStatus := good, good, good
	noToken.Headers, otherBody.ExpectBody, otherStatus.ExpectStatus = nil, "tall", []config.StatusRange{{Min: 200, Max: 399}}
	anyStatus := []config.StatusRange{{Min: 100, Max: 599}}
	tests := map[string]struct {
		check config.Check
		want  string // in the error; empty for a pass
	}{
		"http":          {config.Check{HTTP: &good}, ""},
		"http header":   {config.Check{HTTP: &noToken}, "403"},
		"http body":     {config.Check{HTTP: &otherBody}, "tall"},
		"http status":   {config.Check{HTTP: &otherStatus}, "418"},
		"https":         {config.Check{HTTP: &config.HTTPCheck{URL: secureURL, ExpectStatus: anyStatus}}, "certificate"},
		"https, any":    {config.Check{HTTP: &config.HTTPCheck{URL: secureURL, ExpectStatus: anyStatus, Insecure: true}}, ""},
		"tcp":           {config.Check{TCP: &config.TCPCheck{Address: netip.MustParseAddrPort(target.Host)}}, ""},
		"tcp, closed":   {config.Check{TCP: &config.TCPCheck{Address: netip.MustParseAddrPort("127.0.0.1:1")}}, "refused"},
		"exec":          {config.Check{Exec: &config.ExecCheck{Command: []string{"/bin/sh", "-c", `test "$A" = b`}, Env: []config.Secret{"A=b"}}}, ""},
		"exec, no name": {config.Check{Exec: &config.ExecCheck{Command: []string{"/bin/false"}}}, "1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			checker, err := newChecker(tt.check)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err = checker.Check(ctx)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := newChecker(config.Check{Kind: "x"}); err == nil {
		t.Error("no error for a check of no kind")
	}
}
