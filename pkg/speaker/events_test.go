package speaker

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// eventsOf runs a world and gives the events of what happens to it, with the
// lines that were logged.
func eventsOf(t *testing.T, happens func(w *world)) (events []status.Event, logged []string) {
	t.Helper()
	bubble(t, func(w *world) {
		var b bytes.Buffer
		w.config.VIPs = w.config.VIPs[:1]
		opt := w.options()
		opt.Log = textLog(&b, slog.LevelInfo)
		var all []status.Event
		opt.Record = func(e status.Event) { all = append(all, e) }
		_, stop := w.start(opt)
		w.settled(time.Second)
		b.Reset()
		all = nil
		happens(w)
		w.sleep(time.Second)
		logged = strings.Split(strings.TrimSpace(b.String()), "\n")
		events = slices.Clone(all)
		w.refuse = false
		w.stop(stop)
	})
	return events, logged
}

// Each transition is an event with its subject and its cause, and one log line.
func TestEvents(t *testing.T) {
	t.Parallel()
	probe := func(from, to, cause string) status.Event {
		return status.Event{Kind: "probe", Subject: "10.68.1.2", Interface: "en1", Message: "probe verdict", From: from, To: to, Cause: cause}
	}
	const silence = "10.68.1.2 unreachable since 1.6 s (3 of 3 probes)"
	peerDown := func(cause string) status.Event {
		return status.Event{Level: "warn", Kind: "peer", Subject: "10.68.1.2", Interface: "en1", Message: "peer down", From: "Established", To: "Down", Cause: cause}
	}
	warn := func(e status.Event) status.Event { e.Level = "warn"; return e }
	tests := []struct {
		name    string
		happens func(w *world)
		want    []status.Event
	}{
		{"nothing", func(w *world) { w.sleep(10 * resync) }, nil},
		{"a silent gateway", func(w *world) { w.do(func() { w.probe("en1", false) }) }, []status.Event{
			{Level: "warn", Kind: "interface", Subject: "en1", Message: "interface unusable", From: "usable", To: "attachment", Cause: silence},
			warn(probe("unknown", "unhealthy", "attachment: no answer")),
			peerDown("interface en1: attachment: " + silence),
		}},
		{"BFD", func(w *world) { w.do(func() { w.path("en1", false) }) }, []status.Event{
			{Level: "warn", Kind: "bfd", Subject: "10.68.1.2", Interface: "en1", Message: "bfd down", From: "Up", To: "Down", Cause: "control detection time expired"},
			peerDown("BFD with 10.68.1.2 down: control detection time expired"),
		}},
		{"a check", func(w *world) { w.do(func() { w.verdict("vipa", "unhealthy", time.Hour) }) }, []status.Event{
			{Level: "warn", Kind: "vip", Subject: "vipa", Message: "vip withheld", From: "announced", To: "check_failed", Cause: "check web"},
			{Level: "warn", Kind: "check", Subject: "web", VIP: "vipa", Message: "check verdict", From: "healthy", To: "unhealthy"},
			{Level: "info", Kind: "source", Subject: "10.68.6.1", VIP: "vipa", Interface: "en1", Message: "preferred source off"},
			{Level: "info", Kind: "source", Subject: "10.68.6.1", VIP: "vipa", Interface: "en5", Message: "preferred source off"},
		}},
		{"a speaker", func(w *world) { w.do(func() { w.crashed["en5"] = true }) }, []status.Event{
			{Level: "warn", Kind: "speaker", Subject: "en5", Interface: "en5", Message: "speaker process waits", From: "running", To: "backoff"},
			{Level: "warn", Kind: "peer", Subject: "10.68.5.2", Interface: "en5", Message: "peer down", From: "Established", To: "Idle"},
		}},
		{"the kernel", func(w *world) { w.do(func() { w.refuse = true }) }, []status.Event{
			{Level: "warn", Kind: "daemon", Subject: "control loop", Message: "pass incomplete", Cause: "steer: injected"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			events, logged := eventsOf(t, tt.happens)
			told := 0
			for i := range events {
				e := &events[i]
				if e.Time.IsZero() {
					t.Errorf("event without a time: %+v", e)
				}
				if e.Kind != "source" { // the writer logs it
					want := "level=" + strings.ToUpper(e.Level) + " msg=\"" + e.Message + `"`
					if told >= len(logged) || !strings.HasPrefix(logged[told], want) {
						t.Errorf("line %d is not %s: %q", told, want, logged)
					}
					told++
				}
				e.Time = time.Time{}
			}
			if logged = slices.DeleteFunc(logged, func(s string) bool { return s == "" }); told != len(logged) {
				t.Errorf("%d lines for %d events: %q", len(logged), told, logged)
			}
			sources := func(a, b status.Event) int { return strings.Compare(a.Interface, b.Interface) }
			if tt.name == "a check" {
				slices.SortFunc(events[2:], sources) // the fake kernel has no order
			}
			if diff := cmp.Diff(tt.want, events); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// What the pictures differ in, where a world has no such.
func TestTransitions(t *testing.T) {
	t.Parallel()
	up, down := &status.BFD{State: "Up"}, &status.BFD{State: "Up", Downs: 1, Diagnostic: "path down", RemoteState: "Down"}
	off := &status.BFD{State: "Down", RemoteState: "AdminDown", RemoteDiagnostic: "administratively down"}
	broken := &status.BFD{State: "Down", Error: "no socket"}
	peer := func(b *status.BFD) *status.Status {
		return &status.Status{Peers: []status.Peer{{State: "Down", BFD: b}}}
	}
	vip := func(degraded bool, detail string) *status.Status {
		return &status.Status{VIPs: []status.VIP{{Name: "v", Announced: true, Degraded: degraded, Detail: detail}}}
	}
	withheld := func(reason status.Reason, bound bool) *status.Status {
		return &status.Status{VIPs: []status.VIP{{Name: "v", Prefix: prefix("10.68.6.1/32"), Reason: reason, Bound: bound, Detail: "why"}}}
	}
	unusable := func(reason status.Reason) *status.Status {
		return &status.Status{Interfaces: []status.Interface{{Name: "en1", Reason: reason, Detail: "why"}}}
	}
	process := func(phase string, pid, restarts int) *status.Status {
		return &status.Status{Interfaces: []status.Interface{{Name: "en1", Usable: true, Speaker: status.Speaker{Phase: phase, PID: pid, Restarts: restarts, LastExit: "killed"}}}}
	}
	probe := func(reason status.Reason, verdict string) *status.Status {
		return &status.Status{Interfaces: []status.Interface{{Name: "en1", Reason: reason, Probes: []status.Probe{{Layer: "path", Target: "192.0.2.1", Verdict: verdict}}}}}
	}
	owned := func(owns bool, ceased string) *status.Status {
		return &status.Status{VIPs: []status.VIP{{Name: "v", Announced: true, Role: &status.Role{Owns: owns, Ceased: ceased}}}}
	}
	refused := func(why string) *status.Status {
		one := status.VIP{Name: "v", Announced: true, Role: &status.Role{Leased: true, Refused: why}}
		two := one
		two.Name = "w"
		return &status.Status{VIPs: []status.VIP{one, two}}
	}
	session := func(transitions uint64, lastError string) *status.Status {
		return &status.Status{Peers: []status.Peer{{State: "Established", Transitions: transitions, LastError: lastError}}}
	}
	for name, tt := range map[string]struct {
		prev, next *status.Status
		want       []string
	}{
		"gone and back":         {peer(up), peer(down), []string{"WARN bfd down Up-Down path down; the other end is Down", "INFO bfd up Down-Up"}},
		"switched off":          {peer(up), peer(off), []string{"WARN bfd down Up-Down the other end is AdminDown: administratively down"}},
		"broken":                {peer(off), peer(broken), []string{"WARN bfd cannot run Down-Down no socket"}},
		"initializing":          {peer(broken), peer(&status.BFD{State: "Init"}), []string{"INFO bfd state Down-Init"}},
		"another key":           {peer(up), peer(&status.BFD{State: "Up", Rotating: true}), []string{"INFO bfd keeps its former authentication Up-Up the router still uses it"}},
		"the router has it":     {peer(&status.BFD{State: "Up", Rotating: true}), peer(up), []string{"INFO bfd has its new authentication Up-Up"}},
		"degraded":              {vip(false, ""), vip(true, "check web"), []string{"WARN vip degraded -degraded check web"}},
		"well again":            {vip(true, "check web"), vip(false, ""), []string{"INFO vip no longer degraded degraded-"}},
		"died":                  {process("running", 7, 0), process("running", 8, 1), []string{"WARN speaker process ended running-running killed", "INFO speaker process runs running-running"}},
		"reason changes":        {unusable("attachment"), unusable("no_carrier"), []string{"INFO interface still unusable attachment-no_carrier why"}},
		"damped after hold-up":  {unusable("hold_up"), unusable("damped"), []string{"WARN interface still unusable hold_up-damped why"}},
		"same reason":           {unusable("hold_up"), unusable("hold_up"), nil},
		"waits for a session":   {withheld("check_unknown", true), withheld("no_session", true), []string{"INFO vip withheld check_unknown-no_session why"}},
		"vip damped":            {withheld("check_failed", true), withheld("damped", true), []string{"WARN vip withheld check_failed-damped why"}},
		"bound":                 {withheld("no_session", false), withheld("no_session", true), []string{"INFO vips bound - 10.68.6.1/32"}},
		"removed":               {vip(false, ""), &status.Status{}, []string{"INFO vip removed announced- no longer configured"}},
		"silent":                {probe("path", "healthy"), probe("path", "unhealthy"), []string{"WARN probe verdict healthy-unhealthy path"}},
		"no carrier":            {probe("no_carrier", "healthy"), probe("no_carrier", "unhealthy"), []string{"INFO probe verdict healthy-unhealthy path"}},
		"answers":               {probe("path", "stale"), probe("path", "healthy"), []string{"INFO probe verdict stale-healthy path"}},
		"begins anew":           {probe("path", "healthy"), probe("path", "unknown"), []string{"DEBUG probe verdict healthy-unknown path"}},
		"stopped":               {process("running", 7, 0), process("stopped", 0, 0), nil},
		"session gone and back": {session(1, ""), session(3, "hold timer expired"), []string{"WARN peer down Established- hold timer expired", "INFO peer up -Established"}},
		"owned":                 {owned(false, "given_up"), owned(true, ""), []string{"INFO vip owned -owner"}},
		"handed over":           {owned(true, ""), owned(false, "handed_over"), []string{"INFO vip no longer owned owner- handed_over"}},
		"lease ended":           {owned(true, ""), owned(false, "lease_ended"), []string{"WARN vip no longer owned owner- lease_ended"}},
		"never owned":           {owned(false, ""), owned(false, "given_up"), nil},
		"refused":               {refused(""), refused("a"), []string{"WARN ownership refused - a"}},
		"refused by another":    {refused("a"), refused("b"), []string{"WARN ownership refused - b"}},
		"still refused":         {refused("b"), refused("b"), nil},
		"no longer refused":     {refused("b"), refused(""), []string{"INFO ownership no longer refused -"}},
		"session goes on":       {session(3, "hold timer expired"), session(3, "hold timer expired"), nil},
	} {
		var got []string
		for _, n := range transitions(tt.prev, tt.next, troubles{}) {
			got = append(got, strings.TrimSpace(n.Level.String()+" "+n.Event.Message+" "+n.Event.From+"-"+n.Event.To+" "+n.Event.Cause))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A stop is an event too, and no more than information.
func TestStopIsAnEvent(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		var events []status.Event
		opt := w.options()
		opt.Record = func(e status.Event) { events = append(events, e) }
		_, stop := w.start(opt)
		w.settled(time.Second)
		events = nil
		w.stop(stop)
		if len(events) == 0 || events[0].Message != "stopping" || events[0].Kind != "daemon" || events[0].Cause != "mode drain" {
			t.Errorf("%+v", events)
		}
		for _, e := range events {
			if e.Level != "info" {
				t.Errorf("a warning while stopping: %+v", e)
			}
		}
	})
}
