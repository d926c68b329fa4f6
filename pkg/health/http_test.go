package health

import (
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func httpChecker(t *testing.T, rawURL string, change func(*HTTPConfig)) Checker {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	c := HTTPConfig{URL: u}
	if change != nil {
		change(&c)
	}
	checker, err := NewHTTP(c)
	if err != nil {
		t.Fatal(err)
	}
	return checker
}

func TestHTTP(t *testing.T) {
	noGoroutines(t)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // must not be used
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	done := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.Header.Get("Authorization"), r.UserAgent())
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", http.StatusFound) })
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-done:
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "alive")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // the rest of the body never comes
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for block := strings.Repeat("x", 64<<10); ; {
			if _, err := io.WriteString(w, block); err != nil {
				return
			}
		}
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	defer close(done)
	host := strings.TrimPrefix(s.URL, "http://")
	body := func(text string) func(*HTTPConfig) { return func(c *HTTPConfig) { c.Body = text } }
	status := func(r ...StatusRange) func(*HTTPConfig) { return func(c *HTTPConfig) { c.Status = r } }

	for _, tc := range []struct {
		name, path string
		change     func(*HTTPConfig)
		want       string
	}{
		{"pass", "/ok", nil, ""},
		{"bad status", "/bad", nil, s.URL + "/bad: status 503, want 200-399"},
		{"wanted status", "/bad", status(StatusRange{200, 200}, StatusRange{500, 599}), ""},
		{"unwanted status", "/ok", status(StatusRange{201, 204}, StatusRange{418, 418}), s.URL + "/ok: status 200, want 201-204, 418"},
		{"redirect is not followed", "/moved", status(StatusRange{302, 302}), ""},
		{"body", "/ok", body("GET " + host + "  vipspeaker"), ""},
		{"method, host and header", "/ok", func(c *HTTPConfig) {
			c.Method, c.Body = "PUT", "PUT dns.example tok vipspeaker"
			c.Header = http.Header{"host": {"dns.example"}, "authorization": {"tok"}}
		}, ""},
		{"wrong body", "/ok", body("READY"), s.URL + `/ok: body without "READY", begins with "GET ` + host + `  vipspeaker"`},
		{"hang", "/hang", nil, s.URL + "/hang: timeout after 300ms"},
		{"slow body that is not looked at", "/slow", nil, ""},
		{"slow body with the text", "/slow", body("alive"), ""},
		{"slow body without the text", "/slow", body("READY"), s.URL + "/slow: timeout after 300ms"},
		{"endless body", "/endless", body("READY"), s.URL + `/endless: body without "READY", begins with "xxx…`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want(t, httpChecker(t, s.URL+tc.path, tc.change), 300*time.Millisecond, tc.want)
		})
	}
}

func TestHTTPConnection(t *testing.T) {
	noGoroutines(t)
	refused := closed(t).String()
	want(t, httpChecker(t, "http://u:secret@"+refused+"/", nil), time.Second, "http://u:xxxxx@"+refused+"/: connection refused")
	hang := deaf(t).String()
	want(t, httpChecker(t, "http://"+hang, nil), 200*time.Millisecond, "http://"+hang+": timeout after 200ms")
	garbage := server(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n") }).String()
	want(t, httpChecker(t, "http://"+garbage, nil), time.Second, "http://"+garbage+`: net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0-OpenSSH"`)
	mute := server(t, "127.0.0.1:0", func(net.Conn) {}).String()
	want(t, httpChecker(t, "http://"+mute, nil), time.Second, "http://"+mute+": EOF")
	six := server(t, "[::1]:0", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n") }).String()
	want(t, httpChecker(t, "http://"+six, nil), time.Second, "")
}

func TestHTTPS(t *testing.T) {
	noGoroutines(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()
	roots := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(roots, block, 0o600); err != nil {
		t.Fatal(err)
	}
	trust := func(c *HTTPConfig) { c.CAFile = roots }
	want(t, httpChecker(t, s.URL, nil), time.Second, s.URL+": tls: failed to verify certificate: x509: …")
	want(t, httpChecker(t, s.URL, func(c *HTTPConfig) { c.Insecure = true }), time.Second, "")
	want(t, httpChecker(t, s.URL, trust), time.Second, "")
	want(t, httpChecker(t, s.URL, func(c *HTTPConfig) { trust(c); c.Header = http.Header{"Host": {"example.com"}} }), time.Second, "")
	want(t, httpChecker(t, s.URL, func(c *HTTPConfig) { trust(c); c.Header = http.Header{"Host": {"other.test:443"}} }), time.Second,
		s.URL+": tls: failed to verify certificate: x509: certificate is valid for example.com…")
	plain := "https://" + server(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n") }).String()
	want(t, httpChecker(t, plain, nil), time.Second, plain+": http: server gave HTTP response to HTTPS client")
}

func TestNewHTTP(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ url, ca, want string }{
		{"ftp://10.0.0.1/", "", "http check: url ftp://10.0.0.1/: neither http nor https"},
		{"http://u:p@example.com/", "", `http check: url http://u:xxxxx@example.com/: host is no IP address: ParseAddr("example.com"): unexpected character (at "example.com")`},
		{"https://10.0.0.1/", "/nonexistent/ca", "http check: read roots: open /nonexistent/ca: no such file or directory"},
		{"https://10.0.0.1/", empty, "http check: read roots: no certificate in " + empty},
	} {
		u, err := url.Parse(tc.url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewHTTP(HTTPConfig{URL: u, CAFile: tc.ca}); err == nil || err.Error() != tc.want {
			t.Errorf("NewHTTP(%s) = %v, want %s", tc.url, err, tc.want)
		}
	}
	if _, err := NewHTTP(HTTPConfig{}); err == nil {
		t.Error("NewHTTP without a URL gives no error")
	}
}
