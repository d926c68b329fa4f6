package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/control"
	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
)

// eventDaemon serves events and a picture on a socket until the test ends or
// stop is called.
func eventDaemon(t *testing.T, events *status.Events) (socket string, stop func()) {
	t.Helper()
	store := status.NewStore()
	store.Publish(onePicture(time.Now()))
	socket = filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	l, err := control.Listen(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- control.Serve(ctx, l, control.Options{Log: slog.New(slog.DiscardHandler), Status: store.Load, Events: events})
		close(done)
	}()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return socket, stop
}

// threeEvents are of en1, of vipa on en1, and of a daemon that says much.
func threeEvents(events *status.Events) {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	events.Add(status.Event{
		Time: at, Level: status.LevelWarn, Kind: "interface", Subject: "en1", Message: "interface unusable",
		From: "usable", To: "attachment", Cause: "10.68.1.2 unreachable since 1.6 s (3 of 3 probes)",
	})
	events.Add(status.Event{
		Time: at.Add(time.Millisecond), Level: status.LevelWarn, Kind: "vip", Subject: "vipa", Message: "vip withheld",
		From: "announced", To: "no_usable_interface",
	})
	events.Add(status.Event{
		Time: at.Add(time.Second), Level: status.LevelInfo, Kind: "config", Subject: "/etc/c\x1b[2J", Message: "config reloaded",
	})
}

func TestEventsCommand(t *testing.T) {
	events := status.NewEvents(3)
	threeEvents(events)
	socket, _ := eventDaemon(t, events)
	all := fmt.Sprintf("%s  warn  %-13s  interface unusable  %-32s  %s\n%s  warn  %-13s  %-18s  %s\n%s  info  %s  %s\n",
		"2026-08-01T12:00:00.000Z", "en1", "usable -> attachment", "10.68.1.2 unreachable since 1.6 s (3 of 3 probes)",
		"2026-08-01T12:00:00.001Z", "vipa", "vip withheld", "announced -> no_usable_interface",
		"2026-08-01T12:00:01.000Z", `/etc/c\x1b[2J`, "config reloaded")
	vipa := "2026-08-01T12:00:00.001Z  warn  vipa  vip withheld  announced -> no_usable_interface\n"
	tests := map[string]struct {
		args []string
		want result
	}{
		"json": {
			[]string{"-o", "json", "--since", "2"},
			result{exitGood, `{"seq":3,"time":"2026-08-01T12:00:01Z","level":"info","kind":"config","subject":"/etc/c\u001b[2J","message":"config reloaded"}` + "\n", ""},
		},
		"none newer": {[]string{"--since", "3"}, result{exitGood, "", ""}},
		"of a VIP":   {[]string{"--vip", "vipa"}, result{exitGood, vipa, ""}},
		"by address": {[]string{"--vip", "10.68.6.1"}, result{exitGood, vipa, ""}},
		"of none":    {[]string{"--vip", "vipx"}, result{exitBad, "", `vipspeaker: no VIP "vipx": the VIPs are vipa` + "\n"}},
		"of nowhere": {[]string{"--interface", "en5"}, result{exitBad, "", `vipspeaker: no interface "en5": the interfaces are en1` + "\n"}},
		"of one":     {[]string{"--vip", "vipa", "--interface", "en5"}, result{exitBad, "", `vipspeaker: no interface "en5": the interfaces are en1` + "\n"}},
		"of neither": {
			[]string{"--vip", "vipx", "--interface", "en5", "-o", "json"},
			result{exitBad, "", `vipspeaker: no VIP "vipx": the VIPs are vipa` + "\n" + `no interface "en5": the interfaces are en1` + "\n"},
		},
		"of no name":   {[]string{"--vip", ""}, result{exitBad, "", `vipspeaker: --vip: "": must be a name` + "\n"}},
		"no interface": {[]string{"--interface", "", "-f"}, result{exitBad, "", `vipspeaker: --interface: "": must be a name` + "\n"}},
		"of both":      {[]string{"--vip", "vipa", "--interface", "en1"}, result{exitGood, "", ""}},
		"not since":    {[]string{"--vip", "vipa", "--since", "3"}, result{exitGood, "", ""}},
		"all":          {nil, result{exitGood, all, ""}},
		"not yet":      {[]string{"--since", "4"}, result{exitBad, "", "vipspeaker: since: 4: the last event is 3; has the daemon been started again?\n"}},
		"not a number": {[]string{"--since", "-1"}, result{exitUsage, "", ""}},
		"an argument":  {[]string{"vipa"}, result{exitUsage, "", ""}},
		"bad form":     {[]string{"-o", "xml"}, result{exitUsage, "", ""}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := call(t, append([]string{"--socket", socket, "events"}, tt.args...)...)
			if tt.want.Code == exitUsage {
				if !strings.Contains(got.Stderr, "Try 'vipspeaker events --help'") && !strings.Contains(got.Stderr, "Try 'vipspeaker --help'") {
					t.Errorf("stderr %q", got.Stderr)
				}
				got.Stderr = ""
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for flag, want := range map[string]string{"--vip": "vipa\n:4\n", "--interface": "en1\n:4\n", "--since": ":4\n", "-o": "table\njson\n:4\n"} {
		if got := call(t, "__complete", "--socket", socket, "events", flag, ""); got.Stdout != want {
			t.Errorf("completion of %s: %+v", flag, got)
		}
	}
	got := call(t, "--socket", "/nonexistent/s", "events", "-f")
	if got.Code != exitBad || !strings.HasPrefix(got.Stderr, "vipspeaker: is vipspeaker running? /nonexistent/s: ") {
		t.Errorf("without a daemon: %+v", got)
	}
}

// TestEventsLost: what the daemon no longer has is missed only where it was
// asked for.
func TestEventsLost(t *testing.T) {
	events := status.NewEvents(3)
	for range 4 {
		threeEvents(events)
	}
	socket, _ := eventDaemon(t, events)
	for since, want := range map[string]string{
		"":           "",
		"--since=0":  "vipspeaker: 9 events before number 10 are lost: the daemon keeps the last 1000\n",
		"--since=7":  "vipspeaker: 2 events before number 10 are lost: the daemon keeps the last 1000\n",
		"--since=9":  "",
		"--since=11": "",
	} {
		args := []string{"--socket", socket, "events"}
		if since != "" {
			args = append(args, since)
		}
		if got := call(t, args...); got.Code != exitGood || got.Stderr != want || got.Stdout == "" {
			t.Errorf("%q: %+v, want %s", since, got, want)
		}
	}
}

// TestEventsFollow: events come as they happen, and the end is said.
func TestEventsFollow(t *testing.T) {
	for _, form := range []string{"table", "json"} {
		events := status.NewEvents(10)
		threeEvents(events)
		socket, stop := eventDaemon(t, events)
		start := func(ctx context.Context) (stdout, stderr *safeBuffer, done chan int) {
			stdout, stderr, done = &safeBuffer{}, &safeBuffer{}, make(chan int, 1)
			go func() {
				done <- run(ctx, []string{"vipspeaker", "--socket", socket, "events", "--follow", "-o", form, "--interface", "en1"},
					&bytes.Buffer{}, stdout, stderr)
			}()
			return stdout, stderr, done
		}
		lines := func(b *safeBuffer, want int) {
			t.Helper()
			netnstest.Until(t, soon, func() error {
				if have := strings.Count(b.String(), "\n"); have != want {
					return fmt.Errorf("%d lines, want %d:\n%s", have, want, b.String())
				}
				return nil
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		left, _, leftDone := start(ctx)
		stdout, stderr, done := start(t.Context())
		lines(left, 1)
		lines(stdout, 1)
		threeEvents(events)
		lines(left, 2)
		lines(stdout, 2)
		cancel()
		if code := <-leftDone; code != exitGood {
			t.Errorf("%s: interrupted: code %d", form, code)
		}
		stop()
		if code := <-done; code != exitBad || stderr.String() != "vipspeaker: "+socket+": the daemon has stopped\n" {
			t.Errorf("%s: code %d: %s", form, code, stderr)
		}
		var seen []string
		for line := range strings.Lines(stdout.String()) {
			if form == "json" && !json.Valid([]byte(line)) {
				t.Errorf("not a line of JSON: %s", line)
			}
			seen = append(seen, line)
		}
		if form == "table" && (len(seen) != 2 || seen[0] != seen[1]) {
			t.Errorf("not aligned: %q", seen)
		}
	}
}

// TestEventsOfWhatIsGone: a VIP or an interface that is gone is known by its events;
// without any, and before the first pass, nothing is.
func TestEventsOfWhatIsGone(t *testing.T) {
	events := status.NewEvents(3)
	socket, _ := eventDaemon(t, events)
	events.Add(status.Event{Kind: "vip", Subject: allVIPs, Message: "drain ordered"})
	events.Add(status.Event{Kind: "source", Subject: "10.68.7.1", VIP: "gone", Interface: "en7", Message: "source off"})
	events.Add(status.Event{Kind: "vip", Subject: "vipz", Message: "vip removed"})
	of := func(args ...string) result {
		return call(t, append([]string{"--socket", socket, "events"}, args...)...)
	}
	for _, args := range [][]string{{"--vip", "gone"}, {"--vip", "vipz"}, {"--interface", "en7"}} {
		if got := of(args...); got.Code != exitGood || strings.Count(got.Stdout, "\n") != 1 || got.Stderr != "" {
			t.Errorf("%q: %+v", args, got)
		}
		// It is known, though what is asked for is newer.
		if got := of(append(args, "--since", "3")...); got != (result{}) {
			t.Errorf("%q since 3: %+v", args, got)
		}
	}
	for flag, want := range map[string]string{
		"--vip":       `vipspeaker: no VIP "x": the VIPs are vipa, and events tell of gone, vipz` + "\n",
		"--interface": `vipspeaker: no interface "x": the interfaces are en1, and events tell of en7` + "\n",
	} {
		if got := of(flag, "x"); got != (result{exitBad, "", want}) {
			t.Errorf("%s x: %+v", flag, got)
		}
	}
	// The ring holds three.
	events.Add(status.Event{Kind: "daemon", Subject: "vipspeaker", Message: "x"})
	events.Add(status.Event{Kind: "daemon", Subject: "vipspeaker", Message: "x"})
	if got := of("--vip", "gone"); got.Code != exitBad || !strings.HasSuffix(got.Stderr, "and events tell of vipz\n") {
		t.Errorf("forgotten: %+v", got)
	}
}

// TestEventsFollowUnknown: who follows what is not known is told so once, and gets
// its events when they come.
func TestEventsFollowUnknown(t *testing.T) {
	events := status.NewEvents(10)
	socket, _ := eventDaemon(t, events)
	ctx, cancel := context.WithCancel(t.Context())
	stdout, stderr, done := &safeBuffer{}, &safeBuffer{}, make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"vipspeaker", "--socket", socket, "events", "-f", "--vip", "later"}, &bytes.Buffer{}, stdout, stderr)
	}()
	const hint = `vipspeaker: no VIP "later": the VIPs are vipa; waiting for one` + "\n"
	netnstest.Until(t, soon, func() error {
		if stderr.String() != hint {
			return errors.New(stderr.String())
		}
		return nil
	})
	threeEvents(events)
	events.Add(status.Event{Kind: "vip", Subject: "later", Message: "run-time vip added"})
	netnstest.Until(t, soon, func() error {
		if text := stdout.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "later") {
			return errors.New(text)
		}
		return nil
	})
	cancel()
	if code := <-done; code != exitGood || stderr.String() != hint {
		t.Errorf("code %d: %s", code, stderr)
	}
}
