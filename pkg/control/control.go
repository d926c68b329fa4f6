// Package control is the daemon's local interface: HTTP with JSON bodies on a
// Unix socket, and the client that the commands use.
//
//	GET  /v1/status   the picture of the last pass, a status.Status
//	POST /v1/reload   read the configuration file again, a ReloadResult
//	GET  /v1/events   the last events, one status.Event in a line of JSON each
//	POST /v1/failback announce the VIP of the parameter vip with its rank again
//	POST /v1/drain    take VIPs out of use: a DrainRequest, a DrainResult
//	POST /v1/undrain  end that
//	POST /v1/move     hand the VIP of the parameter vip over to the host to
//	POST /v1/handover end for another process, a Successor: a Handover
//	GET  /v1/vips     the VIPs that were added at run time, a RuntimeVIPs
//
//	PUT    /v1/vips/NAME        add or change one and renew it: a VIPRequest, a RuntimeVIP
//	POST   /v1/vips/NAME/renew  renew it
//	GET    /v1/vips/NAME        show it
//	DELETE /v1/vips/NAME        remove it
//
// Events take two parameters: since, the number after which they are wanted (0
// if it is not given), and follow, with which (1) the answer goes on with those
// to come until either side leaves. Numbers that are left out are events that
// were lost to a reader who came too late or was too slow.
//
// It reads the published status, triggers reloads and hands orders on. It decides
// nothing and never calls what writes to the kernel or to routers. Who may connect is a
// matter of the socket's owner, group and mode: see Listen.
package control

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"vipspeaker/pkg/status"
)

// ReloadResult is the answer to POST /v1/reload.
type ReloadResult struct {
	OK bool `json:"ok"`
	// Errors are the mistakes in the file, one per line as `check` prints them;
	// the state before the reload is then still in force.
	Errors []string `json:"errors,omitempty"`
}

// failure is the body of every answer that is not 200 or 422.
type failure struct {
	Error string `json:"error"`
}

// Options are what a server needs.
type Options struct {
	Log *slog.Logger
	// Status returns the picture of the last pass, nil before the first.
	Status func() *status.Status
	// Reload reads the configuration file again and returns what is wrong with
	// it; none when it is now in force.
	Reload func(ctx context.Context) []string
	// Events are what GET /v1/events gives; nil if there is none of it.
	Events *status.Events
	// Failback announces a VIP, by its name or address, with its rank again; nil if
	// there is none of it. An error that is a *Refusal says which kind it is, any
	// other that things are not as it takes.
	Failback func(ctx context.Context, vip string) error
	// Operator takes orders; nil if none are taken.
	Operator Operator
	// Move has the owner of a VIP hand it over to a host; nil if there is none of
	// it. Its errors are as those of Failback.
	Move func(ctx context.Context, vip, to string) (revision int64, err error)
	// Handover orders the end for a process that replaces this one, and tells how
	// that goes; nil if there is none of it.
	Handover func(ctx context.Context, s Successor) (*Handover, error)
}

// keepEvery is how often the server looks whether its socket is still there.
const keepEvery = 5 * time.Second

// Serve answers on l until ctx ends. It returns nil when ctx ended. A socket of Listen
// that somebody removes it makes anew within 5 s.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	return serve(ctx, l, o, keepEvery)
}

func serve(ctx context.Context, l net.Listener, o Options, every time.Duration) error {
	if s, ok := l.(*socket); ok {
		keeping, stop := context.WithCancel(ctx)
		var keeper sync.WaitGroup
		defer keeper.Wait()
		defer stop()
		keeper.Go(func() { s.keep(keeping, every, o.Log) })
	}
	srv := status.NewServer(newHandler(ctx, o), o.Log)
	srv.ConnContext = withCaller
	return status.Serve(ctx, srv, l)
}

// newHandler returns the handler of a server that ends with ctx.
func newHandler(ctx context.Context, o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		s := o.Status()
		if s == nil {
			reply(w, http.StatusServiceUnavailable, failure{"the daemon has just started: no pass has ended yet"})
			return
		}
		reply(w, http.StatusOK, s)
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		mistakes := o.Reload(r.Context())
		if len(mistakes) > 0 {
			reply(w, http.StatusUnprocessableEntity, ReloadResult{Errors: mistakes})
			return
		}
		reply(w, http.StatusOK, ReloadResult{OK: true})
	})
	if o.Events != nil {
		mux.HandleFunc("GET /v1/events", eventsHandler(ctx, o.Events, eventsPatience))
	}
	handleRoles(mux, o)
	if o.Handover != nil {
		handover(mux, o)
	}
	if o.Operator != nil {
		drains(mux, o)
	}
	return http.MaxBytesHandler(jsonErrors(mux), maxBody)
}

// jsonErrors has a mux say in the form of all other answers that it does not know a
// path or a method.
func jsonErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern == "" {
			w = &notOffered{ResponseWriter: w, what: r.Method + " " + r.URL.Path}
		}
		mux.ServeHTTP(w, r)
	})
}

// notOffered replaces the text of an answer, and keeps its code and headers.
type notOffered struct {
	http.ResponseWriter

	what string
}

// WriteHeader implements http.ResponseWriter.
func (n *notOffered) WriteHeader(code int) {
	reply(n.ResponseWriter, code, failure{n.what + ": " + http.StatusText(code) + "; is it meant for a vipspeaker of this version?"})
}

// Write implements http.ResponseWriter. The text has been written.
func (n *notOffered) Write(text []byte) (int, error) { return len(text), nil }

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body) //nolint:errcheck,gosec // the client has gone away, nobody else wants to know
}
