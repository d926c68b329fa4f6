package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestLimits wants an answer in reasonable time to files that are made to be
// large, and to large files that are right.
func TestLimits(t *testing.T) {
	var laughs strings.Builder
	laughs.WriteString("a0: &a0 [x]\n")
	for i := range 30 {
		fmt.Fprintf(&laughs, "a%d: &a%d [*a%d, *a%d, *a%d]\n", i+1, i+1, i, i, i)
	}
	var many strings.Builder
	many.WriteString("bgp: {asn: 65010}\ninterfaces: [{name: en1, peers: [{address: 192.0.2.1, asn: 65001}]}]\nvips:\n")
	for i := range 5000 {
		fmt.Fprintf(&many, "  - {address: 10.0.%d.%d, announce: {med: 5}, checks: [{tcp: {address: \"10.0.0.1:80\"}}]}\n", i/256, i%256)
	}
	for name, test := range map[string]struct {
		format, text string
		good         bool
	}{
		"aliases":        {"yaml", laughs.String(), false},
		"many VIPs":      {"yaml", many.String(), true},
		"many mistakes":  {"yaml", strings.ReplaceAll(many.String(), "med: 5", "med: -5"), false},
		"deep YAML":      {"yaml", strings.Repeat("[", 9000) + strings.Repeat("]", 9000), false},
		"deep JSON":      {"json", strings.Repeat("[", 9000) + strings.Repeat("]", 9000), false},
		"large document": {"yaml", strings.Repeat("# comment\n", 1<<20), false},
		"long key":       {"yaml", strings.Repeat("k", 1<<20) + ": 1\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			cfg, err := Parse([]byte(test.text), test.format, "file")
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v", took)
			} else {
				t.Logf("took %v", took)
			}
			if (cfg != nil) != test.good || (err == nil) != test.good {
				t.Errorf("good is %v, want %v", err == nil, test.good)
			}
		})
	}
}
