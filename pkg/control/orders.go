package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"time"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 64 << 10

// DrainRequest is the body of POST /v1/drain and POST /v1/undrain.
type DrainRequest struct {
	// VIP is the name, address or prefix of one; All is for every VIP instead.
	VIP string `json:"vip,omitempty"`
	All bool   `json:"all,omitempty"`
	// Reason is for those who see the status; For is after how long the order ends
	// by itself, such as 2h, empty for never. Of a drain only.
	Reason string `json:"reason,omitempty"`
	For    string `json:"for,omitempty"`
}

// DrainResult is the answer to a drain or an undrain.
type DrainResult struct {
	VIPs []DrainedVIP `json:"vips"`
}

// DrainedVIP is what was ordered for one VIP.
type DrainedVIP struct {
	Name   string       `json:"name"`
	Prefix netip.Prefix `json:"prefix"`
	// Changed tells whether the order changed anything: whether it was not drained
	// before a drain, and was before an undrain.
	Changed bool `json:"changed"`
	// Withdraw is when it is, or was, withdrawn, and Until when the order ends by
	// itself; zero for an undrain.
	Withdraw time.Time `json:"withdraw,omitzero"`
	Until    time.Time `json:"until,omitzero"`
}

// Operator carries out orders. They last: what it has agreed to outlives the
// process. An error that is a *Refusal says which kind it is.
type Operator interface {
	Drain(ctx context.Context, r DrainRequest) (*DrainResult, error)
	Undrain(ctx context.Context, r DrainRequest) (*DrainResult, error)
	// PutVIP adds a run-time VIP, or changes and renews the one of its name.
	PutVIP(ctx context.Context, name string, r VIPRequest) (*RuntimeVIP, error)
	// RenewVIP lets a run-time VIP live for another TTL.
	RenewVIP(ctx context.Context, name string) (*RuntimeVIP, error)
	RemoveVIP(ctx context.Context, name string) (*RuntimeVIP, error)
	// RuntimeVIPs are those that there are.
	RuntimeVIPs() []RuntimeVIP
}

// Refusal is why an order is not carried out.
type Refusal struct {
	// Code is the status of the answer, 400 to 599.
	Code int
	Err  error
}

// Error implements error.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap gives Err.
func (r *Refusal) Unwrap() error { return r.Err }

// Refuse makes a Refusal.
func Refuse(code int, format string, args ...any) error {
	return &Refusal{code, fmt.Errorf(format, args...)}
}

// drains adds the requests about drains.
func drains(mux *http.ServeMux, o Options) {
	mux.HandleFunc("POST /v1/drain", order(o.Log, o.Operator.Drain))
	mux.HandleFunc("POST /v1/undrain", order(o.Log, o.Operator.Undrain))
	runtimeVIPs(mux, o)
}

// order is the handler of a request with a body.
func order[In, Out any](logger *slog.Logger, do func(context.Context, In) (*Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := decode(r.Body, &in); err != nil {
			reply(w, http.StatusBadRequest, failure{"the body of the request: " + err.Error()})
			return
		}
		out, err := do(r.Context(), in)
		answer(w, logger, r, out, err)
	}
}

// answer gives the result of an order, or why there is none.
func answer(w http.ResponseWriter, logger *slog.Logger, r *http.Request, out any, err error) {
	if err == nil {
		reply(w, http.StatusOK, out)
		return
	}
	code := http.StatusInternalServerError
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		code = refusal.Code
	} else {
		logger.WarnContext(r.Context(), "order not carried out", "request", r.Method+" "+r.URL.Path, "error", err)
	}
	reply(w, code, failure{err.Error()})
}

// decode reads one JSON object with known fields only.
func decode(body io.Reader, into any) error {
	d := json.NewDecoder(io.LimitReader(body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return wrongBody(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("must be one JSON object and nothing else")
	}
	return nil
}

// wrongBody says in the words of the client, not of Go, what a body lacks.
func wrongBody(err error) error {
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		want := map[reflect.Kind]string{reflect.String: "a string", reflect.Bool: "true or false", reflect.Struct: "an object"}[kind.Type.Kind()]
		if kind.Field == "" {
			return fmt.Errorf("is of the type %s: must be %s", kind.Value, want)
		}
		return fmt.Errorf("%s: is of the type %s: must be %s", kind.Field, kind.Value, want)
	}
	// The decoder has no type for that.
	key, unknown := strings.CutPrefix(err.Error(), "json: unknown field ")
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("is empty: must be a JSON object")
	case unknown:
		return fmt.Errorf("%s: no such key", key)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("is cut off: must be a whole JSON object of at most %d bytes", maxBody)
	}
	return err
}

// Drain takes VIPs out of use.
func (c *Client) Drain(ctx context.Context, r DrainRequest) (*DrainResult, error) {
	var out DrainResult
	return &out, c.send(ctx, http.MethodPost, "/v1/drain", r, &out)
}

// Undrain ends drains.
func (c *Client) Undrain(ctx context.Context, r DrainRequest) (*DrainResult, error) {
	var out DrainResult
	return &out, c.send(ctx, http.MethodPost, "/v1/undrain", r, &out)
}
