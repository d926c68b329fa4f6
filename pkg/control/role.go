package control

import (
	"context"
	"net/http"
	"net/url"
)

// Done is the answer to an order that has no other.
type Done struct {
	OK bool `json:"ok"`
}

// handleRoles adds the orders about ranks.
func handleRoles(mux *http.ServeMux, o Options) {
	if o.Failback != nil {
		mux.HandleFunc("POST /v1/failback", func(w http.ResponseWriter, r *http.Request) {
			answerOrder(w, o.Failback(r.URL.Query().Get("vip")))
		})
	}
	if o.Move != nil {
		mux.HandleFunc("POST /v1/move", func(w http.ResponseWriter, r *http.Request) {
			answerOrder(w, o.Move(r.Context(), r.URL.Query().Get("vip"), r.URL.Query().Get("to")))
		})
	}
}

// answerOrder tells whether an order was taken.
func answerOrder(w http.ResponseWriter, err error) {
	if err != nil {
		reply(w, http.StatusConflict, failure{err.Error()})
		return
	}
	reply(w, http.StatusOK, Done{OK: true})
}

// Failback makes the daemon announce a VIP, by its name or address, with its rank
// again.
func (c *Client) Failback(ctx context.Context, vip string) error {
	return c.call(ctx, http.MethodPost, "/v1/failback?"+url.Values{"vip": {vip}}.Encode(), &Done{})
}

// Move makes the owner of a VIP, given by its name or address, hand it over to a
// host. It returns when the order is in etcd.
func (c *Client) Move(ctx context.Context, vip, to string) error {
	return c.call(ctx, http.MethodPost, "/v1/move?"+url.Values{"vip": {vip}, "to": {to}}.Encode(), &Done{})
}
