package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// numbers are the numbers of events.
func numbers(events []Event) []uint64 {
	var list []uint64
	for i := range events {
		list = append(list, events[i].Seq)
	}
	return list
}

func TestEventsSince(t *testing.T) {
	e := NewEvents(3)
	if events, lost := e.Since(0); events != nil || lost || e.Last() != 0 {
		t.Errorf("of an empty ring: %v %v %d", events, lost, e.Last())
	}
	for i := range 5 {
		got := e.Add(Event{Seq: 99, Time: ago(time.Duration(-i) * time.Second), Kind: "vip", Subject: "vipa"})
		if want := (Event{Seq: uint64(i + 1), Time: ago(time.Duration(-i) * time.Second), Kind: "vip", Subject: "vipa"}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	type answer struct {
		Seq  []uint64
		Lost bool
	}
	for seq, want := range map[uint64]answer{
		0: {[]uint64{3, 4, 5}, true}, 1: {[]uint64{3, 4, 5}, true}, 2: {[]uint64{3, 4, 5}, false},
		4: {[]uint64{5}, false}, 5: {}, 6: {}, 1<<64 - 1: {},
	} {
		events, lost := e.Since(seq)
		if diff := cmp.Diff(want, answer{numbers(events), lost}); diff != "" {
			t.Errorf("since %d (-want +got):\n%s", seq, diff)
		}
	}
	if e.Last() != 5 {
		t.Errorf("the last is %d", e.Last())
	}
	if got := NewEvents(0).Add(Event{}); got.Seq != 1 || got.Time.IsZero() {
		t.Errorf("%+v", got)
	}
}

// TestEventsWait: a reader sleeps until there is something for it, and no
// reader holds up Add.
func TestEventsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewEvents(2)
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				var seen []uint64
				for last := uint64(0); last < 4; {
					if err := e.Wait(t.Context(), last); err != nil {
						t.Error(err)
						return
					}
					events, _ := e.Since(last)
					seen = append(seen, numbers(events)...)
					last = seen[len(seen)-1]
				}
				if diff := cmp.Diff([]uint64{1, 3, 4}, seen); diff != "" {
					t.Errorf("seen (-want +got):\n%s", diff)
				}
			})
		}
		synctest.Wait()
		e.Add(Event{})
		synctest.Wait()
		for range 3 { // before any reader runs again
			e.Add(Event{})
		}
		readers.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		if err := e.Wait(ctx, 4); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("waiting for what does not come: %v after %v", err, time.Since(begin))
		}
		if err := e.Wait(ctx, 3); err != nil {
			t.Errorf("there is one already: %v", err)
		}
	})
}

// TestEventsTogether: with many writers and readers nothing is given twice,
// left out or out of order.
func TestEventsTogether(t *testing.T) {
	const writers, each = 8, 500
	e := NewEvents(writers * each)
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				e.Add(Event{Kind: "peer", Level: LevelWarn})
			}
		})
	}
	for range 4 {
		all.Go(func() {
			for last := uint64(0); last < writers*each; {
				if err := e.Wait(t.Context(), last); err != nil {
					t.Error(err)
					return
				}
				events, lost := e.Since(last)
				for i := range events {
					if events[i].Seq != last+1 || lost {
						t.Errorf("%d after %d, lost %v", events[i].Seq, last, lost)
						return
					}
					last = events[i].Seq
				}
			}
		})
	}
	all.Wait()
	if n := testutil.ToFloat64(e.total.WithLabelValues("peer", LevelWarn)); n != writers*each {
		t.Errorf("%v counted, want %d", n, writers*each)
	}
}

func TestEventMetrics(t *testing.T) {
	e := NewEvents(1)
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(e); err != nil {
		t.Fatal(err)
	}
	for _, event := range []Event{
		{Kind: "peer", Level: LevelWarn, Subject: "10.68.1.2"},
		{Kind: "peer", Level: LevelWarn, Subject: "10.68.5.2"},
		{Kind: "bfd", Level: "error"},
		{Kind: "made up by a router", Level: LevelWarn},
	} {
		e.Add(event)
	}
	want := `
# HELP vipspeaker_events_total Transitions of what the daemon watches, as ` + "`vipspeaker events`" + ` shows them; warn is for the worse.
# TYPE vipspeaker_events_total counter
vipspeaker_events_total{kind="other",level="warn"} 1
`
	for _, kind := range eventKinds() {
		have := map[string][2]int{"peer": {0, 2}, "bfd": {1, 0}}[kind]
		for i, level := range []string{LevelInfo, LevelWarn} {
			want += fmt.Sprintf("vipspeaker_events_total{kind=%q,level=%q} %d\n", kind, level, have[i])
		}
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// history are events of all sorts, one of them with a text of a hostile router.
func history() []Event {
	at := noon.Add
	return []Event{
		{Seq: 1, Time: at(0), Level: LevelInfo, Kind: "daemon", Subject: "vipspeaker", Message: "started"},
		{
			Seq: 2, Time: at(1234567 * time.Microsecond), Level: LevelInfo, Kind: "peer", Subject: "10.68.1.2", Interface: "en1",
			Message: "peer up", From: "OpenConfirm", To: "Established",
		},
		{
			Seq: 3, Time: at(2 * time.Second), Level: LevelWarn, Kind: "check", Subject: "http", VIP: "web",
			Message: "check verdict", From: "healthy", To: "unhealthy", Cause: "got 503, want 200-399",
		},
		{
			Seq: 4, Time: at(3 * time.Second), Level: LevelWarn, Kind: "peer", Subject: "10.68.1.2", Interface: "en1",
			Message: "peer down", From: "Established", To: "Idle", Cause: "Cease: \x1b[2J\u009b1m\u202ebye\x7f\nnext line <&> \U000e0001",
		},
		{
			Seq: 5, Time: at(4 * time.Second), Level: LevelWarn, Kind: "interface", Subject: "en1", Interface: "en1",
			Message: "interface unusable", To: "attachment", Cause: "10.68.1.2 unreachable since 1.6 s (3 of 3 probes)",
		},
		{Seq: 6, Time: at(5 * time.Second), Level: LevelWarn, Kind: "vip", Subject: "vipa", VIP: "vipa", Interface: "en1", Message: "vip withheld"},
	}
}

func TestEventText(t *testing.T) {
	for name, style := range map[string]Style{"events": {}, "events-colour": {Marks: true, Colour: true}} {
		var b strings.Builder
		if err := WriteEvents(&b, history(), style); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.String())
	}
}

// TestEventTextFollows: what is written later stands below what came before.
func TestEventTextFollows(t *testing.T) {
	var all, single strings.Builder
	if err := WriteEvents(&all, history(), Style{}); err != nil {
		t.Fatal(err)
	}
	w := NewEventWriter(&single, Style{})
	if err := w.Write(history()); err != nil {
		t.Fatal(err)
	}
	single.Reset()
	for _, e := range history() {
		if err := w.Write([]Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(all.String(), single.String()); diff != "" {
		t.Errorf("one by one (-together +one by one):\n%s", diff)
	}
}

// TestJSONIsHarmless: the lines of JSON say the same and cannot drive a terminal.
func TestJSONIsHarmless(t *testing.T) {
	var b bytes.Buffer
	for _, e := range history() {
		if err := WriteJSONLine(&b, e); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "events-json", b.String())
	var got []Event
	for line := range strings.Lines(b.String()) {
		if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), notPrintable) {
			t.Errorf("not harmless: %q", line)
		}
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		got = append(got, e)
	}
	if diff := cmp.Diff(history(), got); diff != "" {
		t.Errorf("after a round trip (-want +got):\n%s", diff)
	}
}

func TestEventAbout(t *testing.T) {
	tests := map[string]struct {
		iface, vip string
		want       []uint64
	}{
		"all":           {"", "", []uint64{1, 2, 3, 4, 5, 6}},
		"interface":     {"en1", "", []uint64{2, 4, 5, 6}},
		"vip":           {"", "web", []uint64{3}},
		"both":          {"en1", "vipa", []uint64{6}},
		"no such":       {"en5", "", nil},
		"name of a vip": {"vipa", "", nil},
	}
	for name, tt := range tests {
		var got []Event
		for _, e := range history() {
			if e.About(tt.iface, tt.vip) {
				got = append(got, e)
			}
		}
		if diff := cmp.Diff(tt.want, numbers(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
