package health

import (
	"bufio"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
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
			timeout := patient
			if strings.HasSuffix(tc.want, "timeout after 300ms") {
				timeout = 300 * time.Millisecond
			}
			want(t, httpChecker(t, s.URL+tc.path, tc.change), timeout, tc.want)
		})
	}
}

func TestHTTPConnection(t *testing.T) {
	noGoroutines(t)
	refused := closed(t).String()
	want(t, httpChecker(t, "http://u:secret@"+refused+"/", nil), patient, "http://u:xxxxx@"+refused+"/: connection refused")
	hang := deaf(t).String()
	want(t, httpChecker(t, "http://"+hang, nil), 200*time.Millisecond, "http://"+hang+": timeout after 200ms")
	for _, tc := range []struct{ name, listen, answer, want string }{
		{"garbage", "127.0.0.1:0", "SSH-2.0-OpenSSH\r\n", `malformed HTTP response "SSH-2.0-OpenSSH"`},
		{"nothing", "127.0.0.1:0", "", "unexpected EOF"},
		{"half a line", "127.0.0.1:0", "HTTP/1.1 20", `malformed HTTP status code "20"`},
		{"half a header", "127.0.0.1:0", "HTTP/1.1 200 OK\r\nServer:", "unexpected EOF"},
		{"endless header", "127.0.0.1:0", "HTTP/1.1 200 OK\r\nServer: " + strings.Repeat("x", headerBytes+bodyBytes), "unexpected EOF"},
		{"interim answers", "127.0.0.1:0", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 3) + "HTTP/1.1 204 No Content\r\n\r\n", ""},
		{"only interim answers", "127.0.0.1:0", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 9), "more than 5 interim answers"},
		{"IPv6", "[::1]:0", "HTTP/1.1 204 No Content\r\n\r\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := server(t, tc.listen, func(c net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.WriteString(c, tc.answer)
				}
			})
			if tc.want != "" {
				tc.want = "http://" + s.String() + ": " + tc.want
			}
			want(t, httpChecker(t, "http://"+s.String(), nil), patient, tc.want)
		})
	}
}

func TestHTTPS(t *testing.T) {
	noGoroutines(t)
	asked := make(chan string, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.TLS.ServerName + " for " + r.Host }))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()
	roots := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(roots, block, 0o600); err != nil {
		t.Fatal(err)
	}
	trust := func(c *HTTPConfig) { c.CAFile = roots }
	want(t, httpChecker(t, s.URL, nil), patient, s.URL+": tls: failed to verify certificate: x509: …")
	want(t, httpChecker(t, s.URL, func(c *HTTPConfig) { c.Insecure = true }), patient, "")
	want(t, httpChecker(t, s.URL, trust), patient, "")
	want(t, httpChecker(t, s.URL, func(c *HTTPConfig) { trust(c); c.Header = http.Header{"Host": {"example.com"}} }), patient, "")
	for range 3 {
		<-asked
	}
	want(t, httpChecker(t, s.URL, func(c *HTTPConfig) { trust(c); c.Header = http.Header{"Host": {"other.test:443"}} }), patient,
		s.URL+": tls: failed to verify certificate: x509: certificate is valid for example.com…")
	named := func(name, host string) func(*HTTPConfig) {
		return func(c *HTTPConfig) {
			trust(c)
			c.ServerName = name
			if host != "" {
				c.Header = http.Header{"Host": {host}}
			}
		}
	}
	want(t, httpChecker(t, s.URL, named("example.com", "")), patient, "")
	if got := <-asked; got != "example.com for "+strings.TrimPrefix(s.URL, "https://") {
		t.Errorf("asked %q, want the name in SNI and the URL's host in the request", got)
	}
	want(t, httpChecker(t, s.URL, named("example.com", "other.test")), patient, "")
	if got := <-asked; got != "example.com for other.test" {
		t.Errorf("asked %q, want the name in SNI and the header's host in the request", got)
	}
	want(t, httpChecker(t, s.URL, named("other.test", "example.com")), patient,
		s.URL+": tls: failed to verify certificate: x509: certificate is valid for example.com…")
	plain := "https://" + server(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n") }).String()
	want(t, httpChecker(t, plain, nil), patient, plain+": tls: first record does not look like a TLS handshake")
}

// The server sees the source that is asked for.
func TestHTTPSource(t *testing.T) {
	noGoroutines(t)
	from := make(chan string, 1)
	for _, tc := range []struct{ listen, source, want string }{
		{"127.0.0.1:0", "", "127.0.0.1"},
		{"127.0.0.1:0", "127.0.0.7", "127.0.0.7"},
		{"127.0.0.1:0", "::ffff:127.0.0.8", "127.0.0.8"},
		{"[::1]:0", "::1", "::1"},
	} {
		a := server(t, tc.listen, func(c net.Conn) {
			from <- c.RemoteAddr().(*net.TCPAddr).IP.String()
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		})
		source := func(c *HTTPConfig) {
			if tc.source != "" {
				c.Source = netip.MustParseAddr(tc.source)
			}
		}
		want(t, httpChecker(t, "http://"+a.String(), source), patient, "")
		if got := <-from; got != tc.want {
			t.Errorf("with the source %q the server saw %s, want %s", tc.source, got, tc.want)
		}
	}
	away := "http://" + closed(t).String()
	want(t, httpChecker(t, away, func(c *HTTPConfig) { c.Source = netip.MustParseAddr("192.0.2.77") }), patient,
		away+": source 192.0.2.77 is no address of this host")
}

func TestReadUntil(t *testing.T) {
	for _, tc := range []struct {
		body, text string
		want       error
	}{
		{"", "READY", io.EOF},
		{"READY", "READY", nil},
		{"not REA", "READY", io.EOF},
		{"xx READY yy", "READY", nil},
		{strings.Repeat("x", bodyBytes-5) + "READY", "READY", nil},
		{strings.Repeat("x", bodyBytes-4) + "READY", "READY", io.EOF},
	} {
		for _, r := range []io.Reader{strings.NewReader(tc.body), iotest.OneByteReader(strings.NewReader(tc.body)), iotest.DataErrReader(strings.NewReader(tc.body))} {
			if _, err := readUntil(r, tc.text); !errors.Is(err, tc.want) {
				t.Errorf("readUntil %q in %d bytes = %v, want %v", tc.text, len(tc.body), err, tc.want)
			}
		}
	}
}

func TestNewHTTP(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ url, ca, want string }{
		{"ftp://10.0.0.1/", "", "http check: url ftp://10.0.0.1/: neither http nor https"},
		{"http://u:p@example.com/", "", `http check: url http://u:xxxxx@example.com/: host is no IP address: ParseAddr("example.com"): unexpected character (at "example.com")`},
		{"http://10.0.0.1:70000/", "", `http check: url http://10.0.0.1:70000/: strconv.ParseUint: parsing "70000": value out of range`},
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
	six := &url.URL{Scheme: "http", Host: "[::1]"}
	const families = "http check: url http://[::1]: source 127.0.0.1 and target ::1 are of two families"
	if _, err := NewHTTP(HTTPConfig{URL: six, Source: netip.MustParseAddr("127.0.0.1")}); err == nil || err.Error() != families {
		t.Errorf("NewHTTP with a source of another family = %v, want %s", err, families)
	}
	if _, err := NewHTTP(HTTPConfig{}); err == nil {
		t.Error("NewHTTP without a URL gives no error")
	}
}
