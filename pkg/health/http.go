package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// bodyBytes bounds how much of a body is searched for the expected text.
	bodyBytes = 1 << 20
	// headerBytes bounds the header of an answer.
	headerBytes = 64 << 10
)

// HTTPConfig is a check that asks for a URL.
type HTTPConfig struct {
	// URL is http or https; its host is an IP address, so that the check is
	// about one address family.
	URL *url.URL
	// Method is GET if empty.
	Method string
	// Header is sent along; Host replaces that of the URL.
	Header http.Header
	// Status are the good status codes; 200 to 399 if empty.
	Status []StatusRange
	// Body is a text that must be in the first MiB of the body; empty for any.
	Body string
	// Insecure switches the check of the server's certificate off.
	Insecure bool
	// CAFile is a PEM file of roots to trust instead of the host's, read once by
	// NewHTTP; may be empty.
	CAFile string
}

// StatusRange is a range of status codes, both ends included.
type StatusRange struct{ Min, Max int }

// String is the range as an operator writes it, such as 200-299.
func (r StatusRange) String() string {
	if r.Min == r.Max {
		return strconv.Itoa(r.Min)
	}
	return fmt.Sprintf("%d-%d", r.Min, r.Max)
}

type httpCheck struct {
	config HTTPConfig
	client *http.Client
	target string // the URL without its password
}

// NewHTTP returns a check that passes when the answer has a good status and the
// expected text. Each run makes a connection of its own, straight to the
// address in the URL: proxies of the environment are not used, and redirects
// are answers like any other and not followed. It fails for a URL that it
// cannot ask for and a CAFile that it cannot use.
func NewHTTP(c HTTPConfig) (Checker, error) {
	if c.URL == nil || (c.URL.Scheme != "http" && c.URL.Scheme != "https") {
		return nil, fmt.Errorf("http check: url %v: neither http nor https", c.URL)
	}
	host, err := netip.ParseAddr(c.URL.Hostname())
	if err != nil {
		return nil, fmt.Errorf("http check: url %s: host is no IP address: %w", c.URL.Redacted(), err)
	}
	if c.Method == "" {
		c.Method = http.MethodGet
	}
	if len(c.Status) == 0 {
		c.Status = []StatusRange{{Min: 200, Max: 399}}
	}
	tlsConfig := &tls.Config{InsecureSkipVerify: c.Insecure} //nolint:gosec // the operator's choice
	// The name in Host is that of the service, so the certificate is asked for it.
	if name := c.Header.Get("Host"); name != "" {
		tlsConfig.ServerName = name
		if h, _, splitErr := net.SplitHostPort(name); splitErr == nil {
			tlsConfig.ServerName = h
		}
	}
	if c.CAFile != "" {
		if tlsConfig.RootCAs, err = roots(c.CAFile); err != nil {
			return nil, fmt.Errorf("http check: %w", err)
		}
	}
	return &httpCheck{config: c, target: c.URL.Redacted(), client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				_, text, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				port, err := strconv.ParseUint(text, 10, 16)
				if err != nil {
					return nil, fmt.Errorf("port %q: %w", text, err)
				}
				return dial(ctx, netip.AddrPortFrom(host, uint16(port)))
			},
			TLSClientConfig:        tlsConfig,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: headerBytes,
		},
	}}, nil
}

func roots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read roots: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read roots: no certificate in %s", file)
	}
	return pool, nil
}

// Check implements Checker.
func (c *httpCheck) Check(ctx context.Context) error {
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, c.config.Method, c.config.URL.String(), http.NoBody)
	if err != nil {
		return fmt.Errorf("%s: %w", c.target, err)
	}
	req.Header.Set("User-Agent", "vipspeaker")
	for name, values := range c.config.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	answer, err := c.client.Do(req)
	if err != nil {
		return failure(ctx, start, c.target, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if !c.good(answer.StatusCode) {
		return fmt.Errorf("%s: status %d, want %s", c.target, answer.StatusCode, c.wanted())
	}
	if c.config.Body == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, bodyBytes))
	switch {
	case bytes.Contains(body, []byte(c.config.Body)):
		return nil // a server may cut or hold the rest as it likes
	case err != nil:
		return failure(ctx, start, c.target, err)
	}
	return fmt.Errorf("%s: body without %q, begins with %q", c.target, c.config.Body, firstLine(string(body), lineBytes))
}

func (c *httpCheck) good(status int) bool {
	for _, r := range c.config.Status {
		if r.Min <= status && status <= r.Max {
			return true
		}
	}
	return false
}

func (c *httpCheck) wanted() string {
	words := make([]string, len(c.config.Status))
	for i, r := range c.config.Status {
		words[i] = r.String()
	}
	return strings.Join(words, ", ")
}
