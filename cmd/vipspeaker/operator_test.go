package main

import (
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/control"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/status"
)

const twoVIPs = `
bgp: {asn: 65010, router_id: 10.68.1.1}
interfaces: [{name: en1, peers: [{address: 10.68.1.2, asn: 65001}]}]
vips:
  - {name: vipa, address: 10.68.6.1, drain: {time: 1m}}
  - {name: vipb, address: 10.68.7.0/24}
`

// testOperator is an operator of a daemon of which only the orders live.
func testOperator(t *testing.T, dir, text string) *operator {
	t.Helper()
	c, err := config.Parse([]byte(text), "yaml", "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{log: slog.New(slog.DiscardHandler), events: status.NewEvents(100)}
	d.config.Store(c)
	d.orders = orders.Open(orders.Options{Log: d.log, Dir: dir, Changed: func() {}})
	return &operator{d: d}
}

// refusal is the code of an answer, 200 for a good one.
func refusal(err error) int {
	if err == nil {
		return http.StatusOK
	}
	if r, ok := errors.AsType[*control.Refusal](err); ok {
		return r.Code
	}
	return http.StatusInternalServerError
}

func TestOperatorDrains(t *testing.T) {
	dir := t.TempDir()
	o := testOperator(t, dir, twoVIPs)
	for _, tt := range []struct {
		r    control.DrainRequest
		code int
		want string
	}{
		{control.DrainRequest{}, 400, "give a vip, or all"},
		{control.DrainRequest{VIP: "vipa", All: true}, 400, "give one of them"},
		{control.DrainRequest{VIP: "vipx"}, 404, `no VIP "vipx": the VIPs are vipa, vipb`},
		{control.DrainRequest{VIP: "vipa", For: "2"}, 400, `for "2": must be a duration such as 2h or 30m`},
		{control.DrainRequest{VIP: "vipa", For: "-2h"}, 400, "must be a duration"},
		{control.DrainRequest{VIP: "vipa", Reason: "two\nlines"}, 400, "must be one line"},
		{control.DrainRequest{VIP: "vipa", Reason: strings.Repeat("x", 201)}, 400, "at most 200 bytes"},
	} {
		if _, err := o.Drain(t.Context(), tt.r); refusal(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %d %v", tt.r, refusal(err), err)
		}
	}
	if len(o.d.orders.Orders().Drains) > 0 {
		t.Error("a refused order has an effect")
	}
	for _, name := range []string{"vipb", "10.68.7.0/24", "10.68.7.9/24"} {
		began := time.Now()
		out, err := o.Drain(t.Context(), control.DrainRequest{VIP: name, For: "1h"})
		if err != nil || len(out.VIPs) != 1 || out.VIPs[0].Name != "vipb" {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		// The default is 30s; a second order does not begin anew.
		if v := out.VIPs[0]; v.Changed != (name == "vipb") || v.Withdraw.Sub(began) > 30*time.Second+time.Second || v.Until.Sub(began) < time.Hour {
			t.Errorf("%s: %+v", name, v)
		}
	}
	out, err := o.Drain(t.Context(), control.DrainRequest{All: true, Reason: "all"})
	if err != nil || len(out.VIPs) != 2 || !out.VIPs[0].Changed || out.VIPs[1].Changed || !out.VIPs[1].Until.IsZero() {
		t.Errorf("all: %+v, %v", out, err)
	}
	if left := time.Until(out.VIPs[0].Withdraw); left < 55*time.Second || left > time.Minute {
		t.Errorf("vipa is withdrawn in %s, want its drain.time", left)
	}

	if _, err = o.Undrain(t.Context(), control.DrainRequest{VIP: "vipa", Reason: "no"}); refusal(err) != 400 {
		t.Errorf("undrain with a reason: %v", err)
	}
	if _, err = o.Undrain(t.Context(), control.DrainRequest{VIP: "vipx"}); refusal(err) != 404 {
		t.Errorf("undrain of an unknown VIP: %v", err)
	}
	for _, changed := range []bool{true, false} {
		out, err = o.Undrain(t.Context(), control.DrainRequest{VIP: "10.68.6.1"})
		if err != nil || len(out.VIPs) != 1 || out.VIPs[0].Name != "vipa" || out.VIPs[0].Changed != changed {
			t.Errorf("undrain: %+v, %v", out, err)
		}
	}
	// A VIP that is no longer configured is still known by its order.
	gone := testOperator(t, dir, strings.ReplaceAll(twoVIPs, "  - {name: vipb, address: 10.68.7.0/24}\n", ""))
	if out, err = gone.Undrain(t.Context(), control.DrainRequest{VIP: "vipb"}); err != nil || !out.VIPs[0].Changed {
		t.Errorf("undrain of what is gone: %+v, %v", out, err)
	}
	if out, err = gone.Undrain(t.Context(), control.DrainRequest{All: true}); err != nil || len(out.VIPs) != 1 {
		t.Errorf("undrain of all: %+v, %v", out, err)
	}
	messages := []string{}
	list, _ := gone.d.events.Since(0)
	for _, e := range list {
		messages = append(messages, e.Message+" "+e.Subject)
	}
	if want := []string{"undrain ordered vipb", "undrain ordered all VIPs"}; !slices.Equal(messages, want) {
		t.Errorf("events %q, want %q", messages, want)
	}

	if err := os.WriteFile(filepath.Join(dir, orders.Name), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := testOperator(t, dir, twoVIPs)
	if _, err = damaged.Drain(t.Context(), control.DrainRequest{VIP: "vipa"}); refusal(err) != 409 {
		t.Errorf("damaged: %v", err)
	}
	if out, err = damaged.Undrain(t.Context(), control.DrainRequest{All: true}); err != nil || !out.VIPs[0].Changed {
		t.Errorf("damaged, undrain of all: %+v, %v", out, err)
	}
}
