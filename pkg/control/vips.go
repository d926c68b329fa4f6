package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"vipspeaker/pkg/status"
)

// VIPRequest is the body of PUT /v1/vips/NAME: an object with the keys that an
// entry of vips in the configuration has, and these two.
type VIPRequest struct {
	// TTL is how long the VIP lives without being renewed, such as 10s; empty for
	// ever.
	TTL string
	// Ephemeral VIPs do not outlive the process.
	Ephemeral bool
	// Spec are the other keys, a JSON object.
	Spec json.RawMessage
}

// MarshalJSON implements json.Marshaler.
func (r VIPRequest) MarshalJSON() ([]byte, error) {
	all := map[string]any{}
	if err := json.Unmarshal(r.Spec, &all); err != nil {
		return nil, err
	}
	if r.TTL != "" {
		all["ttl"] = r.TTL
	}
	if r.Ephemeral {
		all["ephemeral"] = true
	}
	return json.Marshal(all)
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *VIPRequest) UnmarshalJSON(data []byte) error {
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &all); err != nil {
		return errors.New("must be a JSON object")
	}
	for key, into := range map[string]any{"ttl": &r.TTL, "ephemeral": &r.Ephemeral} {
		if value, ok := all[key]; ok {
			if err := json.Unmarshal(value, into); err != nil {
				return fmt.Errorf("%s: %w", key, wrongBody(err))
			}
			delete(all, key)
		}
	}
	spec, err := json.Marshal(all)
	r.Spec = spec
	return err
}

// RuntimeVIP is a VIP that was added at run time.
type RuntimeVIP struct {
	Name string `json:"name"`
	// Spec is the entry, without TTL.
	Spec      json.RawMessage `json:"spec"`
	TTL       string          `json:"ttl,omitempty"`
	Ephemeral bool            `json:"ephemeral"`
	Added     time.Time       `json:"added"`
	// Expires is when it goes unless it is renewed, zero for never.
	Expires time.Time `json:"expires,omitzero"`
	// Error is why it has no effect: the configuration has changed since.
	Error string `json:"error,omitempty"`

	// As of the last pass; nothing before the first one with it.
	Prefix    netip.Prefix  `json:"prefix,omitzero"`
	Announced bool          `json:"announced"`
	Reason    status.Reason `json:"reason,omitempty"`
}

// RuntimeVIPs is the answer to GET /v1/vips.
type RuntimeVIPs struct {
	VIPs []RuntimeVIP `json:"vips"`
}

func runtimeVIPs(mux *http.ServeMux, o Options) {
	list := func() []RuntimeVIP {
		vips := o.Operator.RuntimeVIPs()
		if s := o.Status(); s != nil {
			for i := range vips {
				vips[i].look(s)
			}
		}
		return vips
	}
	mux.HandleFunc("GET /v1/vips", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, RuntimeVIPs{list()})
	})
	mux.HandleFunc("GET /v1/vips/{name}", func(w http.ResponseWriter, r *http.Request) {
		vips, name := list(), r.PathValue("name")
		if i := slices.IndexFunc(vips, func(v RuntimeVIP) bool { return v.Name == name }); i >= 0 {
			reply(w, http.StatusOK, vips[i])
			return
		}
		reply(w, http.StatusNotFound, failure{NoRuntimeVIP(name, vips).Error()})
	})
	looked := func(v *RuntimeVIP, err error) (*RuntimeVIP, error) {
		if s := o.Status(); err == nil && s != nil {
			v.look(s)
		}
		return v, err
	}
	mux.HandleFunc("PUT /v1/vips/{name}", func(w http.ResponseWriter, r *http.Request) {
		order(o.Log, func(ctx context.Context, in VIPRequest) (*RuntimeVIP, error) {
			return looked(o.Operator.PutVIP(ctx, r.PathValue("name"), in))
		})(w, r)
	})
	mux.HandleFunc("POST /v1/vips/{name}/renew", func(w http.ResponseWriter, r *http.Request) {
		v, err := looked(o.Operator.RenewVIP(r.Context(), r.PathValue("name")))
		answer(w, o.Log, r, v, err)
	})
	mux.HandleFunc("DELETE /v1/vips/{name}", func(w http.ResponseWriter, r *http.Request) {
		v, err := looked(o.Operator.RemoveVIP(r.Context(), r.PathValue("name")))
		answer(w, o.Log, r, v, err)
	})
}

// NoRuntimeVIP is the error for a name that no run-time VIP has.
func NoRuntimeVIP(name string, vips []RuntimeVIP) error {
	known := "none was added"
	if len(vips) > 0 {
		names := make([]string, len(vips))
		for i := range vips {
			names[i] = vips[i].Name
		}
		known = "there are " + status.Names(names)
	}
	return Refuse(http.StatusNotFound, "no run-time VIP %q: %s", name, known)
}

// look fills in what the last pass says.
func (v *RuntimeVIP) look(s *status.Status) {
	i := slices.IndexFunc(s.VIPs, func(o status.VIP) bool { return o.Name == v.Name })
	if i >= 0 && v.Error == "" {
		v.Prefix, v.Announced, v.Reason = s.VIPs[i].Prefix, s.VIPs[i].Announced, s.VIPs[i].Reason
	}
}

// vipPath is the path of a run-time VIP. Without a name, or with one that stands for a
// directory, it would be cleaned, and then be that of something else.
func vipPath(name string) (string, error) {
	escaped := url.PathEscape(name)
	switch name {
	case "":
		return "", errors.New("the name of the run-time VIP is empty")
	case ".", "..":
		escaped = strings.ReplaceAll(name, ".", "%2E")
	}
	return "/v1/vips/" + escaped, nil
}

// PutVIP adds a run-time VIP, or changes and renews the one of its name.
func (c *Client) PutVIP(ctx context.Context, name string, r VIPRequest) (*RuntimeVIP, error) {
	path, err := vipPath(name)
	if err != nil {
		return nil, err
	}
	var v RuntimeVIP
	return &v, c.send(ctx, http.MethodPut, path, r, &v)
}

// RenewVIP lets a run-time VIP live for another TTL.
func (c *Client) RenewVIP(ctx context.Context, name string) (*RuntimeVIP, error) {
	return c.onVIP(ctx, http.MethodPost, name, "/renew")
}

// RemoveVIP removes a run-time VIP.
func (c *Client) RemoveVIP(ctx context.Context, name string) (*RuntimeVIP, error) {
	return c.onVIP(ctx, http.MethodDelete, name, "")
}

// RuntimeVIP shows one.
func (c *Client) RuntimeVIP(ctx context.Context, name string) (*RuntimeVIP, error) {
	return c.onVIP(ctx, http.MethodGet, name, "")
}

func (c *Client) onVIP(ctx context.Context, method, name, order string) (*RuntimeVIP, error) {
	path, err := vipPath(name)
	if err != nil {
		return nil, err
	}
	var v RuntimeVIP
	return &v, c.call(ctx, method, path+order, &v)
}

// RuntimeVIPs lists all.
func (c *Client) RuntimeVIPs(ctx context.Context) (*RuntimeVIPs, error) {
	var list RuntimeVIPs
	return &list, c.call(ctx, http.MethodGet, "/v1/vips", &list)
}
