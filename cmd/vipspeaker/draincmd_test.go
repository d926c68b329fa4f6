package main

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"vipspeaker/pkg/control"
	"vipspeaker/pkg/status"
)

// noTimes is an operator who refuses what asks for a time of 0.
type noTimes struct{ control.Operator }

func (noTimes) Drain(_ context.Context, r control.DrainRequest) (*control.DrainResult, error) {
	if r.For == "0s" {
		return nil, control.Refuse(http.StatusBadRequest, "for 0s")
	}
	return &control.DrainResult{}, nil
}

func (noTimes) PutVIP(_ context.Context, _ string, r control.VIPRequest) (*control.RuntimeVIP, error) {
	if r.TTL == "0s" {
		return nil, control.Refuse(http.StatusBadRequest, "ttl 0s")
	}
	return &control.RuntimeVIP{Name: "shop", Spec: r.Spec}, nil
}

// TestZeroIsNotForEver: a time of 0, such as the result of somebody's calculation,
// does not count as none at all.
func TestZeroIsNotForEver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := control.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	go control.Serve(t.Context(), l, control.Options{ //nolint:errcheck // ends with the test
		Log: slog.New(slog.DiscardHandler), Status: status.NewStore().Load, Operator: noTimes{},
	})
	for _, args := range [][]string{{"drain", "vipa", "--for", "0s"}, {"vip", "add", "10.68.8.1", "--ttl", "0s"}} {
		args = append([]string{"--socket", path}, args...)
		if got := call(t, args...); got.Code != exitBad || got.Stderr == "" {
			t.Errorf("%v: %+v", args, got)
		}
		if got := call(t, args[:len(args)-2]...); got.Code != exitGood {
			t.Errorf("%v: %+v", args[:len(args)-2], got)
		}
	}
	want := result{exitGood, "shop 10.68.8.1: added\n", ""}
	if got := call(t, "--socket", path, "vip", "add", "10.68.8.1", "--med", "5"); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	// Nor does a name that is empty.
	for flag, want := range map[string]string{"": "the address is empty: ", "--name": "the name of the run-time VIP is empty\n"} {
		args := []string{"--socket", path, "vip", "add", "10.68.8.1", flag, ""}
		if flag == "" {
			args = []string{"--socket", path, "vip", "add", ""}
		}
		if got := call(t, args...); got.Code != exitBad || !strings.HasPrefix(got.Stderr, "vipspeaker: "+want) {
			t.Errorf("%q: %+v, want %s", args, got, want)
		}
	}
	got := call(t, "--socket", path, "vip", "add", "10.68.8.1", "--interfaces", "", "-o", "json")
	if got.Code != exitGood || !strings.Contains(got.Stdout, `"interfaces": []`) { // which the daemon refuses
		t.Errorf("on no interface: %+v", got)
	}
}
