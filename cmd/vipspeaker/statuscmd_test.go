package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"vipspeaker/pkg/control"
	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"
)

// fakeDaemon serves a picture on a socket and returns its path.
func fakeDaemon(t *testing.T, store *status.Store) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	l, err := control.Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- control.Serve(ctx, l, control.Options{
			Log: slog.New(slog.DiscardHandler), Status: store.Load,
			Reload: func(context.Context) []string { return []string{"bgp.asn: -1: too small", "vips: required"} },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func onePicture(at time.Time) *status.Status {
	return &status.Status{
		Version: "v1", ASN: 65010, StartedAt: at, Time: at, Config: status.Config{ReloadOK: true},
		VIPs: []status.VIP{{
			Name: "vipa", Prefix: netip.MustParsePrefix("10.68.6.1/32"), Reason: status.NoSession, Detail: "en1: no router",
			Interfaces: []status.VIPInterface{{Interface: "en1", Wanted: true, Reason: status.NoSession}},
		}},
		Interfaces: []status.Interface{{Name: "en1", Usable: true, Since: at, Speaker: status.Speaker{Phase: "running"}}},
	}
}

func TestStatusCommand(t *testing.T) {
	store := status.NewStore()
	store.Publish(onePicture(time.Now()))
	socket := fakeDaemon(t, store)
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"all":        {nil, exitGood, "vipa      all  no_session  en1: no router\n"},
		"why":        {[]string{"vipa"}, exitGood, "announced   en1  no     no_session\n"},
		"by address": {[]string{"10.68.6.1"}, exitGood, "vipa 10.68.6.1/32 is withheld: no_session: en1: no router\n"},
		"json":       {[]string{"-o", "json"}, exitGood, `"reason": "no_session",`},
		"why, json":  {[]string{"vipa", "-o", "json"}, exitGood, `"gate": "configured",`},
		"no such":    {[]string{"vipb"}, exitBad, `no VIP "vipb": the VIPs are vipa`},
		"no name":    {[]string{""}, exitBad, `no VIP "": the VIPs are vipa`},
		"watch none": {[]string{"", "--watch"}, exitBad, `no VIP "": the VIPs are vipa`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := call(t, append([]string{"--socket", socket, "status"}, tt.args...)...)
			if got.Code != tt.code || !strings.Contains(got.Stdout+got.Stderr, tt.want) {
				t.Errorf("%+v, want %d with %q", got, tt.code, tt.want)
			}
		})
	}
	got := call(t, "__complete", "--socket", socket, "status", "")
	if !strings.Contains("\n"+got.Stdout, "\nvipa\n") {
		t.Errorf("completion: %+v", got)
	}
	// What takes no argument offers no file for one.
	for _, name := range []string{"run", "cleanup", "reload", "version", "demo", "vip", "events"} {
		if got = call(t, "__complete", "--socket", socket, name, ""); !strings.HasSuffix("\n"+got.Stdout, "\n:4\n") {
			t.Errorf("completion of %s: %+v", name, got)
		}
	}
	one := onePicture(time.Now())
	one.VIPs[0].Role = &status.Role{Ready: []string{"b", "a"}}
	store.Publish(one)
	if got = call(t, "__complete", "--socket", socket, "move", "vipa", "--to", ""); got.Stdout != "a\nb\n:4\n" {
		t.Errorf("completion of a host: %+v", got)
	}
	got = call(t, "--socket", socket, "reload")
	if got.Code != exitBad || got.Stdout != "bgp.asn: -1: too small\nvips: required\n" || !strings.Contains(got.Stderr, "stays in force") {
		t.Errorf("reload: %+v", got)
	}
}

// TestWatchFitsTheScreen: what is drawn in place has no line that would wrap,
// also when the width changes.
func TestWatchFitsTheScreen(t *testing.T) {
	at := time.Now()
	for _, columns := range []int{0, 10, 40} {
		var b strings.Builder
		v := &statusView{
			out: &b, style: status.Style{Marks: true, Colour: true}, screen: true, form: asTable,
			whole: true, now: func() time.Time { return at }, columns: func() int { return columns },
		}
		if err := v.showNext(onePicture(at)); err != nil {
			t.Fatal(err)
		}
		text, cleared := strings.CutPrefix(b.String(), clearScreen)
		if !cleared {
			t.Errorf("the screen is not cleared: %q", text)
		}
		longest := 0
		for line := range strings.Lines(regexp.MustCompile("\x1b\\[[0-9]*m").ReplaceAllString(text, "")) {
			longest = max(longest, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")))
		}
		if columns > 0 && longest != columns || columns == 0 && longest <= 40 {
			t.Errorf("%d columns: the longest line has %d", columns, longest)
		}
	}
}

// TestStatusWatch: one line of JSON for each pass, and the end with the context.
func TestStatusWatch(t *testing.T) {
	store := status.NewStore()
	at := time.Now()
	store.Publish(onePicture(at))
	socket := fakeDaemon(t, store)
	for _, args := range [][]string{{"-o", "json"}, {"vipa", "-o", "json"}, {}} {
		ctx, cancel := context.WithCancel(t.Context())
		var stdout, stderr safeBuffer
		done := make(chan int, 1)
		go func() {
			line := append([]string{"vipspeaker", "--socket", socket, "status", "--watch"}, args...)
			done <- run(ctx, line, &bytes.Buffer{}, &stdout, &stderr)
		}()
		// grown waits until that much is printed and returns it.
		grown := func(size int) string {
			t.Helper()
			netnstest.Until(t, soon, func() error {
				if have := len(stdout.String()); have < size {
					return fmt.Errorf("%d octets, want %d", have, size)
				}
				return nil
			})
			return stdout.String()
		}
		first := grown(1)
		at = at.Add(time.Second)
		store.Publish(onePicture(at))
		grown(2 * len(first))
		cancel()
		if code := <-done; code != exitGood {
			t.Errorf("%q: code %d: %s", args, code, &stderr)
		}
		if len(args) == 0 {
			continue
		}
		for line := range strings.Lines(stdout.String()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%q: not a line of JSON: %s", args, line)
			}
		}
	}
}
