package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"vipspeaker/pkg/status"
)

// fakeOperator notes what it is told and answers as it is told.
type fakeOperator struct {
	drained, undrained []DrainRequest
	result             *DrainResult
	err                error
	vips               []RuntimeVIP
}

func (o *fakeOperator) Drain(_ context.Context, r DrainRequest) (*DrainResult, error) {
	o.drained = append(o.drained, r)
	return o.result, o.err
}

func (o *fakeOperator) Undrain(_ context.Context, r DrainRequest) (*DrainResult, error) {
	o.undrained = append(o.undrained, r)
	return o.result, o.err
}

func (o *fakeOperator) PutVIP(_ context.Context, name string, r VIPRequest) (*RuntimeVIP, error) {
	v := RuntimeVIP{Name: name, Spec: r.Spec, TTL: r.TTL, Ephemeral: r.Ephemeral}
	o.vips = append(o.vips, v)
	return &v, o.err
}

func (o *fakeOperator) RenewVIP(ctx context.Context, name string) (*RuntimeVIP, error) {
	return o.RemoveVIP(ctx, name)
}

func (o *fakeOperator) RemoveVIP(_ context.Context, name string) (*RuntimeVIP, error) {
	for i := range o.vips {
		if o.vips[i].Name == name {
			return &o.vips[i], nil
		}
	}
	return nil, NoRuntimeVIP(name, o.vips)
}

func (o *fakeOperator) RuntimeVIPs() []RuntimeVIP { return slices.Clone(o.vips) }

// TestRuntimeVIPs: names may hold what a path may not; the answers tell what the
// last pass says.
func TestRuntimeVIPs(t *testing.T) {
	store := status.NewStore()
	o := &fakeOperator{}
	path := start(t, &daemon{store: store, operator: o})
	c := newClient(t, path)
	const name = "10.68.6.0/28"
	spec := json.RawMessage(`{"address":"10.68.6.0/28","announce":{"med":5}}`)
	put, err := c.PutVIP(t.Context(), name, VIPRequest{Spec: spec, TTL: "10s", Ephemeral: true})
	want := &RuntimeVIP{Name: name, Spec: spec, TTL: "10s", Ephemeral: true}
	if diff := cmp.Diff(want, put, cmpopts.EquateComparable(netip.Prefix{})); err != nil || diff != "" {
		t.Fatalf("put: %v %s", err, diff)
	}
	for what, do := range map[string]func(context.Context, string) (*RuntimeVIP, error){
		"show": c.RuntimeVIP, "renew": c.RenewVIP, "remove": c.RemoveVIP,
	} {
		if v, doErr := do(t.Context(), name); doErr != nil || v.Name != name {
			t.Errorf("%s: %+v, %v", what, v, doErr)
		}
		for _, none := range []string{"x", ".", "..", "../status"} {
			if _, err = do(t.Context(), none); err == nil || err.Error() != fmt.Sprintf("no run-time VIP %q: there are 10.68.6.0/28", none) {
				t.Errorf("%s of what there is not: %v", what, err)
			}
		}
		if _, err = do(t.Context(), ""); err == nil || err.Error() != "the name of the run-time VIP is empty" {
			t.Errorf("%s without a name: %v", what, err)
		}
	}
	if _, err = c.PutVIP(t.Context(), "", VIPRequest{Spec: spec}); err == nil || len(o.vips) != 1 {
		t.Errorf("put without a name: %+v, %v", o.vips, err)
	}
	if put, err = c.PutVIP(t.Context(), "..", VIPRequest{Spec: spec}); err != nil || put.Name != ".." {
		t.Errorf("put of ..: %+v, %v", put, err)
	}
	o.vips = o.vips[:1]
	store.Publish(&status.Status{VIPs: []status.VIP{{Name: name, Prefix: netip.MustParsePrefix(name), Reason: status.NoSession}}})
	list, err := c.RuntimeVIPs(t.Context())
	if err != nil || len(list.VIPs) != 1 || list.VIPs[0].Reason != status.NoSession || list.VIPs[0].Prefix.String() != name {
		t.Errorf("list: %+v, %v", list, err)
	}
	if v, err := c.RenewVIP(t.Context(), name); err != nil || v.Reason != status.NoSession {
		t.Errorf("renewed: %+v, %v", v, err)
	}
	if v, err := c.PutVIP(t.Context(), name, VIPRequest{Spec: spec}); err != nil || v.Reason != status.NoSession {
		t.Errorf("put again: %+v, %v", v, err)
	}
	for body, want := range map[string]string{
		`[]`: "must be a JSON object", `{"ttl": 10}`: "ttl: is of the type number: must be a string", `{"ephemeral": "yes"}`: "ephemeral: is of the type string: must be true or false",
	} {
		req, err := http.NewRequest(http.MethodPut, "http://x/v1/vips/a", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), want) {
			t.Errorf("%s: %d %s, want %s", body, res.StatusCode, text, want)
		}
	}
}

func TestDrainAndUndrain(t *testing.T) {
	now := time.Now().Round(0)
	o := &fakeOperator{result: &DrainResult{VIPs: []DrainedVIP{
		{Name: "vipa", Prefix: netip.MustParsePrefix("10.68.6.1/32"), Changed: true, Withdraw: now, Until: now.Add(time.Hour)},
	}}}
	c := newClient(t, start(t, &daemon{store: status.NewStore(), operator: o}))
	drain := DrainRequest{VIP: "vipa", Reason: "new disks", For: "1h"}
	got, err := c.Drain(t.Context(), drain)
	if diff := cmp.Diff(o.result, got, cmpopts.EquateComparable(netip.Prefix{})); err != nil || diff != "" {
		t.Errorf("drain: %v %s", err, diff)
	}
	if _, err = c.Undrain(t.Context(), DrainRequest{All: true}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]any{[]DrainRequest{drain}, []DrainRequest{{All: true}}}, []any{o.drained, o.undrained}); diff != "" {
		t.Errorf("ordered:\n%s", diff)
	}
	o.err = Refuse(http.StatusNotFound, "no VIP %q: the VIPs are vipa, vipb", "vipx")
	if _, err = c.Drain(t.Context(), DrainRequest{VIP: "vipx"}); err == nil || err.Error() != `no VIP "vipx": the VIPs are vipa, vipb` {
		t.Errorf("refused: %v", err)
	}
}

// TestOrdersAreExact: only a whole and known request is an order.
func TestOrdersAreExact(t *testing.T) {
	o := &fakeOperator{result: &DrainResult{}}
	client := newClient(t, start(t, &daemon{store: status.NewStore(), operator: o})).http
	for _, tt := range []struct {
		method, path, body string
		err                error
		code               int
		want               string
	}{
		{"POST", "/v1/drain", `{"vip": "a"}`, nil, 200, "vips"},
		{"POST", "/v1/drain", ``, nil, 400, "the body of the request: is empty: must be a JSON object"},
		{"POST", "/v1/drain", `{"vip"`, nil, 400, "the body of the request: is cut off: must be a whole JSON object of at most 65536 bytes"},
		{"POST", "/v1/drain", `{"vip": 7}`, nil, 400, `"the body of the request: vip: is of the type number: must be a string"`},
		{"POST", "/v1/drain", `{"vip": "a", "all": "yes"}`, nil, 400, "all: is of the type string: must be true or false"},
		{"POST", "/v1/drain", `["a"]`, nil, 400, "the body of the request: is of the type array: must be an object"},
		{"PUT", "/v1/vips/a", `{"ttl": 10}`, nil, 400, "the body of the request: ttl: is of the type number: must be a string"},
		{"POST", "/v1/drain", `{"vip": "a", "froce": true}`, nil, 400, `"the body of the request: \"froce\": no such key"`},
		{"POST", "/v1/drain", `{"vip": "a"} {"vip": "b"}`, nil, 400, "one JSON object and nothing else"},
		{"POST", "/v1/undrain", `{"vip": "` + strings.Repeat("x", maxBody) + `"}`, nil, 400, "the body of the request"},
		{"POST", "/v1/drain", `{"vip": "a"}`, Refuse(http.StatusConflict, "damaged"), 409, "damaged"},
		{"POST", "/v1/undrain", `{"vip": "a"}`, errors.New("disk is full"), 500, "disk is full"},
		{"GET", "/v1/drain", ``, nil, 405, `{"error":"GET /v1/drain: Method Not Allowed; is it meant for a vipspeaker of this version?"}`},
	} {
		o.err = tt.err
		before := len(o.drained) + len(o.undrained)
		req, err := http.NewRequest(tt.method, "http://x"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != tt.code || !strings.Contains(string(body), tt.want) {
			t.Errorf("%s %s %.40s: %d %s %v, want %d %s", tt.method, tt.path, tt.body, res.StatusCode, body, err, tt.code, tt.want)
		}
		if ordered := len(o.drained) + len(o.undrained) - before; (ordered == 1) != (tt.code == 200 || tt.err != nil) {
			t.Errorf("%s %s %.40s: %d orders", tt.method, tt.path, tt.body, ordered)
		}
	}
}
