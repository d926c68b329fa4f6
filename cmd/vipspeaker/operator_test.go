package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/control"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/speaker"
	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"
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
	d.signal, d.orders = speaker.NewSignal(), orders.Open(orders.Options{Log: d.log, Dir: dir, Changed: d.ordersChanged, Expired: d.expired})
	c, made := d.withVIPs(c)
	d.made.Store(made)
	d.config.Store(c)
	if d.loop, err = speaker.New(speaker.Options{Config: c, Signal: d.signal}); err != nil {
		t.Fatal(err)
	}
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

// between tells whether a time is neither before one nor after another.
func between(first, at, last time.Time) bool { return !at.Before(first) && !at.After(last) }

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
	var first control.DrainedVIP
	for _, name := range []string{"vipb", "10.68.7.0/24", "10.68.7.9/24"} {
		began := time.Now()
		out, err := o.Drain(t.Context(), control.DrainRequest{VIP: name, For: "1h"})
		if err != nil || len(out.VIPs) != 1 || out.VIPs[0].Name != "vipb" {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		// The default is 30s; a second order does not begin anew.
		v := out.VIPs[0]
		if name == "vipb" {
			first = v
			if !between(began, v.Withdraw.Add(-30*time.Second), time.Now()) {
				t.Errorf("%s: withdrawn at %s, ordered at %s", name, v.Withdraw, began)
			}
		}
		if v.Changed != (name == "vipb") || !v.Withdraw.Equal(first.Withdraw) || !between(began, v.Until.Add(-time.Hour), time.Now()) {
			t.Errorf("%s: %+v", name, v)
		}
	}
	began := time.Now()
	out, err := o.Drain(t.Context(), control.DrainRequest{All: true, Reason: "all"})
	if err != nil || len(out.VIPs) != 2 || !out.VIPs[0].Changed || out.VIPs[1].Changed || !out.VIPs[1].Until.IsZero() {
		t.Errorf("all: %+v, %v", out, err)
	}
	if at := out.VIPs[0].Withdraw; !between(began, at.Add(-time.Minute), time.Now()) {
		t.Errorf("vipa is withdrawn %s after the order, want its drain.time", at.Sub(began))
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

	if err = os.WriteFile(filepath.Join(dir, orders.Name), []byte("{"), 0o600); err != nil {
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

// TestUndrainByName: a VIP that is called like the address of another is meant by
// that name, in a drain and in its end.
func TestUndrainByName(t *testing.T) {
	o := testOperator(t, t.TempDir(), strings.Replace(twoVIPs, "name: vipb", "name: 10.68.6.1", 1))
	r := control.DrainRequest{VIP: "10.68.6.1"}
	if out, err := o.Drain(t.Context(), r); err != nil || out.VIPs[0].Prefix.String() != "10.68.7.0/24" {
		t.Fatalf("drain: %+v, %v", out, err)
	}
	if out, err := o.Undrain(t.Context(), r); err != nil || len(out.VIPs) != 1 || out.VIPs[0].Prefix.String() != "10.68.7.0/24" || !out.VIPs[0].Changed {
		t.Errorf("undrain: %+v, %v", out, err)
	}
	if left := o.d.orders.Orders().Drains; len(left) > 0 {
		t.Errorf("still drained: %+v", left)
	}
}

// TestUndrainDuringReload: a VIP that a reload adds or takes away meanwhile is there
// or is not, and is never half of it.
func TestUndrainDuringReload(t *testing.T) {
	o := testOperator(t, t.TempDir(), twoVIPs)
	with := o.d.config.Load()
	without := *with
	without.VIPs = without.VIPs[:1]
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				o.d.config.Store(&without)
				o.d.config.Store(with)
			}
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // no loop runs here that would show what was ordered: it is not waited for
	for range 5000 {
		out, err := o.Undrain(ctx, control.DrainRequest{VIP: "vipb"})
		if err == nil && len(out.VIPs) != 1 || err != nil && refusal(err) != 404 {
			t.Errorf("%+v, %v", out, err)
			break
		}
	}
	close(stop)
	<-ended
}

// TestOperatorAddsVIPs: a run-time VIP is judged, kept, renewed, and dies with its
// owner; the configuration wins over it.
func TestOperatorAddsVIPs(t *testing.T) {
	dir := t.TempDir()
	text := twoVIPs + "runtime_vips: {allowed_prefixes: [10.68.8.0/24], limit: 2}\n"
	o := testOperator(t, dir, text)
	put := func(o *operator, name, body string) (*control.RuntimeVIP, error) {
		var r control.VIPRequest
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			t.Fatal(err)
		}
		return o.PutVIP(t.Context(), name, r)
	}
	names := func(o *operator) (list []string) {
		for _, v := range o.d.config.Load().VIPs {
			list = append(list, v.Name)
		}
		return list
	}
	for _, tt := range []struct {
		name, body string
		code       int
		want       string
	}{
		{"one", `{"address": "10.68.9.1"}`, 400, "vip one: address: \"10.68.9.1\": is not in runtime_vips.allowed_prefixes"},
		{"vipa", `{"address": "10.68.8.1"}`, 400, `name: "vipa": is the name of VIP vipa too`},
		{"one", `{"address": "10.68.8.1", "ttl": "1ms"}`, 400, `ttl "1ms": must be a duration from 1s to 24h`},
		{"one", `{"address": "10.68.8.1", "ttl": "5"}`, 400, "must be a duration"},
	} {
		if _, err := put(o, tt.name, tt.body); refusal(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: %d %v", tt.name, tt.body, refusal(err), err)
		}
	}
	if len(names(o)) != 2 || len(o.RuntimeVIPs()) != 0 {
		t.Errorf("a refused VIP has an effect: %v", names(o))
	}
	began := time.Now()
	v, err := put(o, "one", `{"address": "10.68.8.1", "ttl": "10m"}`)
	if err != nil || v.TTL != "10m0s" || !between(began, v.Expires.Add(-10*time.Minute), time.Now()) {
		t.Fatalf("%+v, %v", v, err)
	}
	if _, err = put(o, "two", `{"address": "10.68.8.2", "ephemeral": true}`); err != nil {
		t.Fatal(err)
	}
	if _, err = put(o, "three", `{"address": "10.68.8.3"}`); refusal(err) != 409 || !strings.Contains(err.Error(), "which is runtime_vips.limit") {
		t.Errorf("over the limit: %v", err)
	}
	if got := names(o); !slices.Equal(got, []string{"vipa", "vipb", "one", "two"}) {
		t.Errorf("in force: %v", got)
	}
	if list, _ := o.d.events.Since(0); len(list) == 0 || list[0].Message != "run-time vip added" || list[0].Cause != "10.68.8.1/32" {
		t.Errorf("events %+v", list)
	}
	// To register again and to renew touch nothing.
	before := o.d.config.Load()
	if _, err = put(o, "one", `{"ttl": "10m", "address": "10.68.8.1"}`); err != nil {
		t.Error(err)
	}
	if renewed, renewErr := o.RenewVIP(t.Context(), "one"); renewErr != nil || renewed.Expires.Before(v.Expires) {
		t.Errorf("renewed: %+v, %v", renewed, renewErr)
	}
	if o.d.config.Load() != before {
		t.Error("a renewal makes another configuration")
	}
	if _, err = o.RenewVIP(t.Context(), "x"); refusal(err) != 404 || err.Error() != `no run-time VIP "x": there are one, two` {
		t.Errorf("renew of an unknown VIP: %v", err)
	}
	// A run-time VIP can be drained as another one.
	if _, err = o.Drain(t.Context(), control.DrainRequest{VIP: "one"}); err != nil {
		t.Error(err)
	}

	// A reload that takes its address wins; one that gives it back brings it back.
	reload := func(text string) {
		t.Helper()
		c, parseErr := config.Parse([]byte(text), "yaml", "c.yaml")
		if parseErr != nil {
			t.Fatal(parseErr)
		}
		o.d.merge.Lock()
		defer o.d.merge.Unlock()
		if takeErr := o.d.takeOver(c); takeErr != nil {
			t.Fatal(takeErr)
		}
	}
	reload(strings.Replace(text, "vips:\n", "vips:\n  - {name: mine, address: 10.68.8.1}\n", 1))
	if got := names(o); !slices.Equal(got, []string{"mine", "vipa", "vipb", "two"}) {
		t.Errorf("the configuration takes the address: %v", got)
	}
	if list := o.RuntimeVIPs(); !strings.Contains(list[0].Error, "is the address of VIP mine too") || list[1].Error != "" {
		t.Errorf("shown: %+v", list)
	}
	reload(text)
	if got := names(o); !slices.Equal(got, []string{"vipa", "vipb", "one", "two"}) {
		t.Errorf("and gives it back: %v", got)
	}

	again := testOperator(t, dir, text)
	if got := names(again); !slices.Equal(got, []string{"vipa", "vipb", "one"}) {
		t.Errorf("after a restart: %v", got)
	}
	if _, err = again.RemoveVIP(t.Context(), "two"); refusal(err) != 404 {
		t.Errorf("remove of what was ephemeral: %v", err)
	}
	if _, err = again.RemoveVIP(t.Context(), "one"); err != nil || len(names(again)) != 2 {
		t.Errorf("removed: %v, %v", names(again), err)
	}
}

// TestRuntimeVIPsGoWithoutFiles: while a file of a check cannot be read, a reload is
// refused and leaves all as it is, and VIPs that are removed or expire go all the same.
func TestRuntimeVIPsGoWithoutFiles(t *testing.T) {
	text := strings.Replace(twoVIPs, "{name: vipb, address: 10.68.7.0/24}", "{name: vipb, address: 10.68.7.1, checks: [{tcp: {address: \"10.68.7.1:80\"}}]}", 1) +
		"runtime_vips: {allowed_prefixes: [10.68.8.0/24]}\n"
	o := testOperator(t, t.TempDir(), twoVIPs)
	c, err := config.Parse([]byte(text), "yaml", "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var unreadable atomic.Bool
	o.d.loop, err = speaker.New(speaker.Options{Config: o.d.config.Load(), Signal: o.d.signal, NewChecker: func(config.Check) (health.Checker, error) {
		if unreadable.Load() {
			return nil, errors.New("no such file")
		}
		return nil, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	reload := func() error {
		o.d.merge.Lock()
		defer o.d.merge.Unlock()
		return o.d.takeOver(c)
	}
	if err = reload(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- o.d.orders.Run(ctx) }()
	defer func() {
		cancel()
		if failed := <-ended; failed != nil {
			t.Error(failed)
		}
	}()
	for _, r := range []struct{ name, spec, ttl string }{
		{"stays", `{"address": "10.68.8.1"}`, ""}, {"removed", `{"address": "10.68.8.2"}`, ""}, {"expires", `{"address": "10.68.8.3"}`, "1h"},
	} {
		if _, err = o.PutVIP(t.Context(), r.name, control.VIPRequest{Spec: json.RawMessage(r.spec), TTL: r.ttl}); err != nil {
			t.Fatal(err)
		}
	}
	unreadable.Store(true)
	before := o.d.config.Load()
	if err = reload(); err == nil || o.d.config.Load() != before {
		t.Errorf("reload: %v", err)
	}
	if _, err = o.PutVIP(t.Context(), "expires", control.VIPRequest{Spec: json.RawMessage(`{"address": "10.68.8.3"}`), TTL: "1s"}); err != nil {
		t.Error(err)
	}
	if _, err = o.RemoveVIP(t.Context(), "removed"); err != nil {
		t.Error(err)
	}
	if _, err = o.PutVIP(t.Context(), "added", control.VIPRequest{Spec: json.RawMessage(`{"address": "10.68.8.4"}`)}); err != nil {
		t.Error(err)
	}
	netnstest.Until(t, soon, func() error {
		var names []string
		for _, v := range o.d.config.Load().VIPs {
			names = append(names, v.Name)
		}
		if !slices.Equal(names, []string{"vipa", "vipb", "stays", "added"}) {
			return fmt.Errorf("in force: %v", names)
		}
		return nil
	})
}

// TestRoleOrders: failback and move say of a VIP that there is not what a drain says.
func TestRoleOrders(t *testing.T) {
	d := testOperator(t, t.TempDir(), twoVIPs).d
	d.store = status.NewStore()
	orders := map[string]func(string) error{
		"failback": func(vip string) error { return d.failback(t.Context(), vip) },
		"move":     func(vip string) error { _, err := d.move(t.Context(), vip, "b"); return err },
	}
	for name, order := range orders {
		if err := order("vipa"); refusal(err) != http.StatusServiceUnavailable {
			t.Errorf("%s before the first pass: %v", name, err)
		}
	}
	s := &status.Status{}
	for i := range d.config.Load().VIPs {
		v := &d.config.Load().VIPs[i]
		s.VIPs = append(s.VIPs, status.VIP{Name: v.Name, Prefix: v.Prefix})
	}
	d.store.Publish(s)
	for name, order := range orders {
		for _, vip := range []string{"vipx", "10.68.6.2", ""} {
			_, drain := (&operator{d}).Drain(t.Context(), control.DrainRequest{VIP: vip})
			got := order(vip)
			if refusal(got) != refusal(drain) || vip != "" && got.Error() != drain.Error() {
				t.Errorf("%s of %q: %d %v, a drain says %d %v", name, vip, refusal(got), got, refusal(drain), drain)
			}
		}
		for _, vip := range []string{"vipa", "10.68.6.1", "10.68.6.1/32"} {
			if err := order(vip); err == nil || !strings.HasPrefix(err.Error(), "vipa has no ") {
				t.Errorf("%s of %q: %v", name, vip, err)
			}
		}
	}
	if _, err := d.move(t.Context(), "vipa", ""); refusal(err) != http.StatusBadRequest {
		t.Errorf("move to nowhere: %v", err)
	}
	// An etcd that has never been reached.
	s.VIPs[0].Role = &status.Role{Leased: true}
	d.owners = owner.New(owner.Options{Log: d.log})
	if _, err := d.move(t.Context(), "vipa", "b"); refusal(err) != http.StatusServiceUnavailable || !strings.Contains(err.Error(), "etcd") {
		t.Errorf("move without etcd: %d %v", refusal(err), err)
	}
}
