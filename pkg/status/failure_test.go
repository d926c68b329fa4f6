package status

import (
	"strings"
	"testing"
	"time"
)

func TestFailureText(t *testing.T) {
	tests := map[string]struct {
		failure Failure
		want    string
	}{
		"attachment": {
			Failure{Layer: LayerAttachment, Target: "10.68.1.2", Since: ago(12 * time.Second), Failed: 3, Of: 3, Reason: "10.68.1.2: no answer"},
			"10.68.1.2 unreachable since 12 s (3 of 3 probes)",
		},
		"path": {
			Failure{Layer: LayerPath, Target: "192.0.2.1", Since: ago(4 * time.Second), Failed: 2, Of: 3},
			"192.0.2.1 does not answer since 4 s (2 of 3 probes)",
		},
		"path with a reason": {
			Failure{Layer: LayerPath, Target: "192.0.2.1", Since: ago(4 * time.Second), Failed: 5, Of: 3, Reason: "192.0.2.1: network is unreachable"},
			"192.0.2.1 does not answer since 4 s (3 of 3 probes): network is unreachable",
		},
		"bfd": {
			Failure{Layer: LayerBFD, Target: "10.68.1.2", Since: ago(3 * time.Second), Reason: "control detection time expired"},
			"BFD with 10.68.1.2 down since 3 s: control detection time expired",
		},
		"the target named again": {
			Failure{Layer: LayerPath, Target: "10.99.0.2", Since: ago(5 * time.Second), Failed: 3, Of: 3, Reason: "icmp 10.99.0.2 by en1: timeout after 500ms"},
			"10.99.0.2 does not answer since 5 s (3 of 3 probes): timeout after 500ms",
		},
		"the target named later": {
			Failure{Layer: LayerPath, Target: "10.99.0.2", Reason: "no route: to 10.99.0.2: at all"},
			"10.99.0.2 does not answer: no route: to 10.99.0.2: at all",
		},
		"the target named last": {
			Failure{Layer: LayerPath, Target: "fd68:9::2", Reason: "no route to fd68:9::2"},
			"fd68:9::2 does not answer: no route to fd68:9::2",
		},
		"nothing known": {Failure{Layer: LayerAttachment, Target: "fe80::1"}, "fe80::1 unreachable"},
		"another layer": {Failure{Layer: "x", Target: "y", Since: noon}, "y failed since 0 s"},
	}
	for name, tt := range tests {
		if got := tt.failure.Text(noon); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestFailuresInShort(t *testing.T) {
	fail := func(layer, target string, since time.Duration) Failure {
		return Failure{Layer: layer, Target: target, Since: ago(since), Failed: 3, Of: 3, Reason: "why"}
	}
	list := []Failure{
		fail(LayerPath, "192.0.2.1", 4*time.Second), fail(LayerBFD, "10.68.5.2", 2*time.Second), fail(LayerBFD, "fd68:5::2", 3*time.Second),
	}
	want := "192.0.2.1 does not answer since 4 s; BFD with 10.68.5.2, fd68:5::2 down since 3 s"
	if got := inShort(noon)(nil, list); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestBFDText(t *testing.T) {
	since := ago(21 * time.Second)
	tests := map[string]struct {
		bfd           BFD
		text, trouble string
	}{
		"up": {
			BFD{State: "Up", Since: since, DetectionTime: 150 * time.Millisecond, Dropped: 2, LastDrop: "TTL too low"},
			"Up for 21s, down after 150ms of silence", "",
		},
		"another key": {
			BFD{State: "Up", Since: since, DetectionTime: 150 * time.Millisecond, Rotating: true},
			"Up for 21s, down after 150ms of silence; the router still uses the former authentication", "BFD: the router still uses the former authentication",
		},
		"wrong key": {
			BFD{State: "Down", Since: since, Dropped: 104, LastDrop: "not authenticated"},
			"Down for 21s: 104 packets dropped: not authenticated", "BFD: 104 packets dropped: not authenticated",
		},
		"wrong key at the other end, too": {
			BFD{State: "Init", Since: since, Dropped: 1, LastDrop: "not authenticated", RemoteState: "Down"},
			"Init for 21s: the other end is Down; 1 packet dropped: not authenticated", "BFD: 1 packet dropped: not authenticated",
		},
		"was up": {
			BFD{State: "Down", Since: since, Diagnostic: "control detection time expired", LastDrop: "TTL too low", Downs: 1},
			"Down for 21s: control detection time expired; packets dropped: TTL too low", "BFD: packets dropped: TTL too low",
		},
		"not to run, no time": {BFD{State: "AdminDown", LastDrop: "TTL too low"}, "AdminDown", ""},
		"down, no time":       {BFD{State: "Down"}, "Down", ""},
		"cannot run": {
			BFD{State: "Down", Error: "listen: address in use", Dropped: 2, LastDrop: "TTL too low"},
			"Down: 2 packets dropped: TTL too low; listen: address in use", "BFD: listen: address in use; 2 packets dropped: TTL too low",
		},
	}
	for name, tt := range tests {
		if got := tt.bfd.text(noon); got != tt.text {
			t.Errorf("%s: %q, want %q", name, got, tt.text)
		}
		if got := tt.bfd.trouble(); got != tt.trouble {
			t.Errorf("%s: trouble %q, want %q", name, got, tt.trouble)
		}
	}
}

// What a link that is gone brings with it is no failure of its own.
func TestNoFailuresOfALinkThatIsGone(t *testing.T) {
	for _, reason := range []Reason{InterfaceAbsent, InterfaceDown, InterfaceCarrier, InterfaceAddress, InterfaceAttachment, InterfaceHoldUp} {
		s := failing()
		s.Interfaces[0].Reason = reason
		told := strings.Contains(tables(t, s, Style{}), "failure  interface en1")
		if want := reason == InterfaceAttachment || reason == InterfaceHoldUp; told != want {
			t.Errorf("%s: told %t, want %t", reason, told, want)
		}
	}
}

// A failure is told with its age as of now, wherever it is shown, and not with
// that of the text which was made when it began.
func TestAgesOfFailures(t *testing.T) {
	s := failing()
	text := tables(t, s, Style{})
	e, err := s.Explain("vipa", noon)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := e.WriteText(&b, Style{}); err != nil {
		t.Fatal(err)
	}
	text += b.String()
	if frozen, live := strings.Count(text, "since 1 s"), strings.Count(text, "10.68.1.2 unreachable since 12 s"); frozen != 0 || live != 6 {
		t.Errorf("%d frozen ages and %d live ones, want 0 and 6:\n%s", frozen, live, text)
	}
}

func TestDegradedBy(t *testing.T) {
	check := func(name, verdict, reason string) Check { return Check{Name: name, Verdict: verdict, Reason: reason} }
	suppressed := Penalty{Value: 2300, Flaps: 3, Suppressed: true}
	tests := map[string]struct {
		vip  VIP
		want string
	}{
		"a check":      {VIP{Detail: "degraded: x", Checks: []Check{check("web", "unhealthy", "got 503"), check("tcp", "healthy", "")}}, "check web: got 503"},
		"two checks":   {VIP{Checks: []Check{check("web", "unhealthy", "got 503"), check("tcp", "stale", "")}}, "check web: got 503; check tcp: stale"},
		"flaps":        {VIP{Penalty: suppressed, Checks: []Check{check("web", "healthy", "")}}, "penalty 2300, 3 flaps, suppressed"},
		"nothing else": {VIP{Detail: "degraded: just now"}, "just now"},
	}
	for name, tt := range tests {
		if got := tt.vip.degradedBy(); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestWords(t *testing.T) {
	tests := map[time.Duration]string{
		-time.Second: "0 s", 0: "0 s", 99 * time.Millisecond: "0 s", 1649 * time.Millisecond: "1.6 s", 4 * time.Second: "4 s",
		9999 * time.Millisecond: "9.9 s", 10500 * time.Millisecond: "10 s", 59999 * time.Millisecond: "59 s", time.Minute: "1 min",
		75 * time.Second: "1 min 15 s", 3 * time.Hour: "3 h", 3*time.Hour + 61*time.Second: "3 h 1 min", 49 * time.Hour: "2 d 1 h",
	}
	for d, want := range tests {
		if got := words(d); got != want {
			t.Errorf("words(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestPenaltyText(t *testing.T) {
	until := noon.Add(5 * time.Second)
	tests := map[Penalty]string{
		{}:                        "",
		{Flaps: 7}:                "",
		{Value: 1000, Flaps: 1}:   "penalty 1000, 1 flap",
		{Value: 2300, Flaps: 3}:   "penalty 2300, 3 flaps",
		{Suppressed: true}:        "penalty 0, 0 flaps, suppressed",
		{2300, 3, true, until}:    "penalty 2300, 3 flaps, suppressed until 12:00:05",
		{Value: 20, Until: until}: "penalty 20, 0 flaps",
	}
	for p, want := range tests {
		if got := p.Text(); got != want {
			t.Errorf("%+v: %q, want %q", p, got, want)
		}
	}
}
