package health

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// bodyBytes bounds how much of a body is searched for the expected text.
	bodyBytes = 1 << 20
	// headerBytes bounds the header of an answer.
	headerBytes = 64 << 10
	// answerBytes is how much is read at once: most answers are not longer, and
	// thousands of larger buffers a second would be work for the garbage collector.
	answerBytes = 1 << 10
	// interimAnswers bounds the 1xx answers before the final one.
	interimAnswers = 5
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
	// ServerName is the name that the certificate must have and that is sent with
	// SNI. If empty it is that of the Host header, which is the service's, else
	// the address in the URL. It does not change the Host header.
	ServerName string
	// Hold keeps the connection open between runs, so that its end is seen at once.
	// See NewHTTP.
	Hold bool
	// Source is the address to connect from; zero for the kernel's choice.
	Source netip.Addr
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
	config  HTTPConfig
	address netip.AddrPort
	tls     *tls.Config   // nil for http
	target  string        // the URL without its password
	request *http.Request // what is asked, for who reads the answer
	wire    []byte        // the request as it is sent: it is the same in each run
	pace    pace
}

// NewHTTP returns a check that passes when the answer has a good status and the
// expected text. Each run makes a connection of its own, straight to the
// address in the URL: proxies of the environment are not used, and redirects
// are answers like any other and not followed. It fails for a URL or a method that
// it cannot ask for and a CAFile that it cannot use.
//
// With Hold it is a Watcher. The connection stays open (keep-alive), and each run asks
// on it. Its end, in order or not, brings a run at once. A run whose connection has
// ended, or ends instead of an answer, asks on another, and only that answer counts: so
// a killed server is seen in milliseconds, one that hangs by the next run, and one that
// closes idle connections or those of many answers is healthy. Verdicts are those of a
// check without Hold. But the answer is read to its end, for half of the time that is
// left: a connection is held only after a whole answer with nothing behind it, and one
// with "Connection: close" is not. A host that is gone is seen as by NewTCP, and ends
// of connections bring as many runs.
func NewHTTP(c HTTPConfig) (Checker, error) {
	if c.URL == nil || (c.URL.Scheme != "http" && c.URL.Scheme != "https") {
		return nil, fmt.Errorf("http check: url %v: neither http nor https", c.URL)
	}
	host, err := netip.ParseAddr(c.URL.Hostname())
	if err != nil {
		return nil, fmt.Errorf("http check: url %s: host is no IP address: %w", c.URL.Redacted(), err)
	}
	if err = checkSource(c.Source, host); err != nil {
		return nil, fmt.Errorf("http check: url %s: %w", c.URL.Redacted(), err)
	}
	port, err := port(c.URL)
	if err != nil {
		return nil, fmt.Errorf("http check: url %s: %w", c.URL.Redacted(), err)
	}
	if c.Method == "" {
		c.Method = http.MethodGet
	}
	if len(c.Status) == 0 {
		c.Status = []StatusRange{{Min: 200, Max: 399}}
	}
	check := &httpCheck{config: c, address: netip.AddrPortFrom(host, port), target: c.URL.Redacted()}
	if check.request, check.wire, err = c.request(); err != nil {
		return nil, fmt.Errorf("http check: url %s: %w", c.URL.Redacted(), err)
	}
	if c.URL.Scheme == "https" {
		if check.tls, err = tlsConfig(c.serverName(), c.CAFile, c.Insecure); err != nil {
			return nil, fmt.Errorf("http check: %w", err)
		}
	}
	if c.Hold {
		return &heldHTTP{holder: newHolder[*httpLine](), httpCheck: check}, nil
	}
	return check, nil
}

// port is that of the URL or its scheme.
func port(u *url.URL) (uint16, error) {
	switch text := u.Port(); {
	case text != "":
		n, err := strconv.ParseUint(text, 10, 16)
		return uint16(n), err
	case u.Scheme == "https":
		return 443, nil
	default:
		return 80, nil
	}
}

// serverName is who the server is to prove to be.
func (c HTTPConfig) serverName() string {
	if c.ServerName != "" {
		return c.ServerName
	}
	for name, values := range c.Header {
		if http.CanonicalHeaderKey(name) == "Host" && len(values) > 0 {
			if h, _, err := net.SplitHostPort(values[0]); err == nil {
				return h
			}
			return values[0]
		}
	}
	return c.URL.Hostname()
}

// tlsConfig is how the server is to prove who it is: as the name, by the roots
// in the file, or by the host's without one.
func tlsConfig(name, caFile string, insecure bool) (*tls.Config, error) {
	t := &tls.Config{InsecureSkipVerify: insecure, ServerName: name} //nolint:gosec // the operator's choice
	if caFile == "" {
		return t, nil
	}
	var err error
	t.RootCAs, err = roots(caFile)
	return t, err
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

// Check implements Checker. It speaks HTTP/1.1 on a connection of its own and
// not by http.Client, whose attempts to connect outlive their request.
func (c *httpCheck) Check(ctx context.Context) error {
	start := time.Now()
	conn, err := openStream(ctx, c.config.Source, c.address, c.tls, &c.pace)
	if err != nil {
		return failure(ctx, start, c.target, err)
	}
	defer func() { _ = conn.Close() }()
	if err = c.converse(conn); err != nil {
		return failure(ctx, start, c.target, err)
	}
	return nil
}

// converse asks and says what is wrong with the answer. It closes the connection.
func (c *httpCheck) converse(conn io.ReadWriteCloser) error {
	in := bufio.NewReaderSize(io.LimitReader(conn, headerBytes+bodyBytes), answerBytes)
	answer, err := c.ask(conn, in)
	if err != nil {
		return err
	}
	defer func() {
		_ = conn.Close() // first, or closing the body would wait for the rest of it
		_ = answer.Body.Close()
	}()
	wrong, err := c.judge(answer)
	if err != nil {
		return err
	}
	return wrong
}

// judge says what is wrong with the answer; err is that of one that ends too early.
func (c *httpCheck) judge(answer *http.Response) (wrong, err error) {
	if !c.good(answer.StatusCode) {
		return fmt.Errorf("status %d, want %s", answer.StatusCode, c.wanted()), nil
	}
	if c.config.Body == "" {
		return nil, nil
	}
	body, err := readUntil(answer.Body, c.config.Body)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("body without %q, begins with %q", c.config.Body, firstLine(string(body), lineBytes)), nil
	}
	return nil, err
}

// readUntil reads until the text was seen, so that a server may hold or cut the
// rest as it likes. It returns io.EOF if the text is not within bodyBytes.
func readUntil(r io.Reader, text string) (body []byte, err error) {
	r = io.LimitReader(r, bodyBytes)
	body = make([]byte, 0, answerBytes)
	for err == nil {
		if len(body) == cap(body) {
			body = slices.Grow(body, 16<<10) // it is a long one
		}
		var n int
		n, err = r.Read(body[len(body):cap(body)])
		from := max(0, len(body)-len(text)) // it may straddle two reads
		body = body[:len(body)+n]
		if bytes.Contains(body[from:], []byte(text)) {
			return body, nil
		}
	}
	return body, err
}

// request is what is asked, and as it is on the wire.
func (c *HTTPConfig) request() (*http.Request, []byte, error) {
	req, err := http.NewRequestWithContext(context.Background(), c.Method, c.URL.String(), http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	req.Close = !c.Hold
	req.Header.Set("User-Agent", "vipspeaker")
	for name, values := range c.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	if user := c.URL.User; user != nil && req.Header.Get("Authorization") == "" {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	var wire bytes.Buffer
	if err = req.Write(&wire); err != nil {
		return nil, nil, err
	}
	return req, wire.Bytes(), nil
}

// ask sends the request and returns the final answer.
func (c *httpCheck) ask(out io.Writer, in *bufio.Reader) (*http.Response, error) {
	if _, err := out.Write(c.wire); err != nil {
		return nil, err
	}
	for range interimAnswers {
		answer, err := http.ReadResponse(in, c.request)
		if err != nil || answer.StatusCode >= http.StatusOK || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer, err
		}
		_ = answer.Body.Close()
	}
	return nil, fmt.Errorf("more than %d interim answers", interimAnswers)
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
