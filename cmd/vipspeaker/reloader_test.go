package main

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// TestReload: a good file is handed on; a bad one, and one that cannot be taken
// over, leave what was in force and say so in the status and in one log line.
func TestReload(t *testing.T) {
	path := write(t, "c.yaml", goodConfig)
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	var logged strings.Builder
	var published status.Config
	var applied []*config.Config
	var refuse error
	var events []status.Event
	r := &reloader{
		path: path, log: slog.New(slog.NewTextHandler(&logged, nil)), now: func() time.Time { return now },
		publish: func(c status.Config) { published = c }, record: func(e status.Event) { events = append(events, e) },
		apply: func(c *config.Config) error {
			if refuse == nil {
				applied = append(applied, c)
			}
			return refuse
		},
	}
	r.loaded()
	start := now
	steps := []struct {
		name, file string
		refuse     error
		mistakes   int
		applied    int
		want       status.Config
	}{
		{"good", goodConfig, nil, 0, 1, status.Config{ReloadOK: true, ReloadsOK: 1}},
		{"bad", badConfig, nil, 2, 1, status.Config{ReloadsOK: 1, ReloadsError: 1}},
		{"refused", goodConfig, errors.New("no"), 1, 1, status.Config{ReloadsOK: 1, ReloadsError: 2, Error: "no"}},
		{"good again", goodConfig, nil, 0, 2, status.Config{ReloadOK: true, ReloadsOK: 2, ReloadsError: 2}},
	}
	for _, s := range steps {
		now = now.Add(time.Minute)
		if s.want.ReloadOK {
			start = now
		}
		logged.Reset()
		refuse = s.refuse
		if err := os.WriteFile(path, []byte(s.file), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := r.reload(t.Context()); len(got) != s.mistakes {
			t.Errorf("%s: mistakes %q, want %d", s.name, got, s.mistakes)
		}
		if len(applied) != s.applied {
			t.Errorf("%s: %d configurations taken over, want %d", s.name, len(applied), s.applied)
		}
		if n := strings.Count(logged.String(), "\n"); n != 1 {
			t.Errorf("%s: %d log lines, want 1:\n%s", s.name, n, &logged)
		}
		s.want.Path, s.want.LoadedAt, s.want.ReloadedAt = path, start, now
		if s.name == "bad" {
			if !strings.HasSuffix(published.Error, "(and 1 more mistake)") || strings.Contains(published.Error, "\n") {
				t.Errorf("bad: error %q", published.Error)
			}
			published.Error = ""
		}
		if diff := cmp.Diff(s.want, published); diff != "" {
			t.Errorf("%s:\n%s", s.name, diff)
		}
		event := status.Event{Time: now, Level: "info", Kind: "config", Subject: path, Message: "configuration reloaded"}
		if s.mistakes > 0 {
			event.Level, event.Message = "warn", "configuration refused, the one before it stays in force"
			event.Cause = s.want.Error
		}
		got := events[len(events)-1]
		if s.name == "bad" {
			got.Cause = ""
		}
		if diff := cmp.Diff(event, got); diff != "" {
			t.Errorf("%s: event\n%s", s.name, diff)
		}
	}
}
