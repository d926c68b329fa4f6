package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"vipspeaker/pkg/status"
)

// maxAnswer bounds what the client reads: a thousand VIPs on eight interfaces
// take about 4 MB.
const maxAnswer = 64 << 20

// patience is how long the daemon has for an answer. A reload reads files and
// resolves nothing: the time is for a busy host.
const patience = 15 * time.Second

// Client talks with a running daemon.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a client for the daemon's socket at path. It connects with
// the first call.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialPatience}
		return d.DialContext(ctx, "unix", path)
	}
	transport := &http.Transport{DialContext: dial, ResponseHeaderTimeout: patience}
	return &Client{path: path, http: http.Client{Timeout: patience, Transport: transport}}
}

// Status returns the picture of the daemon's last pass.
func (c *Client) Status(ctx context.Context) (*status.Status, error) {
	var s status.Status
	if err := c.call(ctx, http.MethodGet, "/v1/status", &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// Reload makes the daemon read its configuration file again. Mistakes in the
// file are in the result and not an error.
func (c *Client) Reload(ctx context.Context) (*ReloadResult, error) {
	var r ReloadResult
	if err := c.call(ctx, http.MethodPost, "/v1/reload", &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// Close releases idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) call(ctx context.Context, method, path string, into any) error {
	return c.do(ctx, method, path, http.NoBody, into)
}

// send is call with a body.
func (c *Client) send(ctx context.Context, method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.do(ctx, method, path, bytes.NewReader(text), into)
}

func (c *Client) do(ctx context.Context, method, path string, send io.Reader, into any) error {
	// The host is not used: the socket says who is called.
	req, err := http.NewRequestWithContext(ctx, method, "http://vipspeaker"+path, send)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	var body []byte
	if err == nil {
		defer res.Body.Close() //nolint:errcheck // it was only read
		body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	}
	if err != nil {
		err = c.explain(err)
		if errors.Is(err, errSilent) && method != http.MethodGet {
			err = fmt.Errorf("%w; it may still do what it was told", err)
		}
		return err
	}
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusUnprocessableEntity {
		return c.refused(req, res, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: %s %s: not the answer of a vipspeaker of this version: %w", c.path, method, path, err)
	}
	return nil
}

// refused is the error of an answer that is none: the daemon's own words, if
// there are such.
func (c *Client) refused(req *http.Request, res *http.Response, body []byte) error {
	var f failure
	if json.Unmarshal(body, &f) == nil && f.Error != "" {
		return errors.New(f.Error)
	}
	return fmt.Errorf("%s: %s %s: %s; is it a vipspeaker of this version?", c.path, req.Method, req.URL.Path, res.Status)
}

// errSilent says that the daemon takes its time.
var errSilent = errors.New("the daemon does not answer (is it stopped or overloaded?)")

// explain turns an error of the connection into one that says what to do.
func (c *Client) explain(err error) error {
	var late net.Error
	// EAGAIN, a full queue of connections that nobody accepts, counts as well.
	if errors.As(err, &late) && late.Timeout() {
		return fmt.Errorf("%s: %w", c.path, errSilent)
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		return fmt.Errorf("%s: %w", c.path, err)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("is vipspeaker running? %s: %w", c.path, op.Err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("only root and the group of %s may talk with vipspeaker: %w", c.path, op.Err)
	default:
		return fmt.Errorf("%s: %w", c.path, op)
	}
}
