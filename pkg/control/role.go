package control

import (
	"context"
	"errors"
	"net/http"
	"net/url"
)

// Done is the answer to an order that has no other.
type Done struct {
	OK bool `json:"ok"`
	// Revision is that of the order in etcd, if it is one: it is in force while
	// status.Role has the same.
	Revision int64 `json:"revision,omitempty"`
}

// handleRoles adds the orders about ranks.
func handleRoles(mux *http.ServeMux, o Options) {
	if o.Failback != nil {
		mux.HandleFunc("POST /v1/failback", func(w http.ResponseWriter, r *http.Request) {
			answerOrder(w, 0, o.Failback(r.Context(), r.URL.Query().Get("vip")))
		})
	}
	if o.Move != nil {
		mux.HandleFunc("POST /v1/move", func(w http.ResponseWriter, r *http.Request) {
			revision, err := o.Move(r.Context(), r.URL.Query().Get("vip"), r.URL.Query().Get("to"))
			answerOrder(w, revision, err)
		})
	}
}

// answerOrder tells whether an order was taken. It is refused with the code of a
// Refusal, else because things are not as it takes.
func answerOrder(w http.ResponseWriter, revision int64, err error) {
	code := http.StatusConflict
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		code = refusal.Code
	}
	if err != nil {
		reply(w, code, failure{err.Error()})
		return
	}
	reply(w, http.StatusOK, Done{OK: true, Revision: revision})
}

// Failback makes the daemon announce a VIP, by its name or address, with its rank
// again.
func (c *Client) Failback(ctx context.Context, vip string) error {
	return c.call(ctx, http.MethodPost, "/v1/failback?"+url.Values{"vip": {vip}}.Encode(), &Done{})
}

// Move makes the owner of a VIP, given by its name or address, hand it over to a
// host. It returns the revision of the order when that is in etcd.
func (c *Client) Move(ctx context.Context, vip, to string) (revision int64, err error) {
	var done Done
	err = c.call(ctx, http.MethodPost, "/v1/move?"+url.Values{"vip": {vip}, "to": {to}}.Encode(), &done)
	return done.Revision, err
}
