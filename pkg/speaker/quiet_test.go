package speaker

import (
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// A subject that changes all the time tells some of it and then how much was left
// out; the others tell all.
func TestQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got := map[string]int{}
		l := &Loop{quiet: quiet{}, opt: Options{Log: slog.New(slog.DiscardHandler), Record: func(e status.Event) {
			got[fmt.Sprintf("%s %s", e.Subject, e.Message)]++
		}}}
		change := func(subject string, level slog.Level) Transition {
			return Transition{Level: level, Event: status.Event{Kind: kindBFD, Subject: subject, Interface: "en1", Message: "bfd down"}}
		}
		for range 100 {
			l.tell(t.Context(), []Transition{change("10.68.1.2", slog.LevelWarn), change("10.68.1.2", slog.LevelDebug)})
			time.Sleep(50 * time.Millisecond)
		}
		l.tell(t.Context(), []Transition{change("10.68.1.3", slog.LevelWarn)})
		if diff := cmp.Diff(map[string]int{"10.68.1.2 bfd down": tellMost, "10.68.1.3 bfd down": 1}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		clear(got)
		time.Sleep(tellSpan)
		l.tell(t.Context(), nil) // as at the end of each pass
		l.tell(t.Context(), []Transition{change("10.68.1.2", slog.LevelWarn)})
		if diff := cmp.Diff(map[string]int{"10.68.1.2 changes left out": 1, "10.68.1.2 bfd down": 1}, got); diff != "" {
			t.Errorf("later (-want +got):\n%s", diff)
		}
	})
}
