package status

import (
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
		"nothing known": {Failure{Layer: LayerAttachment, Target: "fe80::1"}, "fe80::1 unreachable"},
		"another layer": {Failure{Layer: "x", Target: "y", Since: noon}, "y failed since 0 s"},
	}
	for name, tt := range tests {
		if got := tt.failure.Text(noon); got != tt.want {
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
