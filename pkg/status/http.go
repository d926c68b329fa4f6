package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewHandler serves /metrics from the gatherer, /healthz and /readyz.
//
// /healthz answers 200 while alive returns nil, else 503 with its error: then
// the process should be replaced. /readyz answers 200 when Ready does.
func NewHandler(store *Store, gatherer prometheus.Gatherer, alive func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 8}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, alive()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, store.Load().Ready()) })
	return mux
}

// Ready returns nil when a pass has ended, the daemon is not stopping, and each
// VIP that should be announced is bound. A VIP that is withheld by its checks
// does not count: the daemon then does what it is for.
func (s *Status) Ready() error {
	switch {
	case s == nil:
		return errors.New("no pass has ended yet")
	case s.Stopping:
		return errors.New("stopping")
	}
	for i := range s.VIPs {
		if v := &s.VIPs[i]; v.Wanted && !v.Bound {
			return fmt.Errorf("%s is not bound", v.Name)
		}
	}
	return nil
}

// verdict is the body of /healthz and /readyz.
type verdict struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

func answer(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	v := verdict{OK: err == nil}
	if err != nil {
		v.Error = err.Error()
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(v) //nolint:errcheck,gosec // the client has gone away, nobody else wants to know
}
