package config

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// worked is for how long this process has had a processor, which is not what others on
// the machine take away.
func worked(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

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
			start := worked(t)
			cfg, err := Parse([]byte(test.text), test.format, "file")
			if took := worked(t) - start; took > 20*time.Second {
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

// TestManyVIPsNeedNames: more VIPs than one device holds are on devices of longer
// names, which the kernel must take.
func TestManyVIPsNeedNames(t *testing.T) {
	for name, test := range map[string]struct {
		vips         int
		device, rest string
		want         string // in the error, empty for none
	}{
		"one device":         {1000, "name: virtual0-of-me1", "", ""},
		"two devices":        {1001, "name: virtual0-of-me", "", "virtual_interface.name: \"virtual0-of-me\": must have at most 13 bytes with so many VIPs"},
		"short enough":       {1001, "name: virtual0-of-m", "", ""},
		"eleven devices":     {10_001, "name: virtual0-of-m", "", "must have at most 12 bytes"},
		"given":              {1001, "name: virtual0-of-me1, kind: existing", "", ""},
		"those to come":      {990, "name: virtual0-of-me", "runtime_vips: {allowed_prefixes: [10.9.0.0/16]}", "must have at most 13 bytes"},
		"taken":              {1001, "name: en1", "", "interfaces[1].name: \"en1.1\": is the name of a virtual interface"},
		"not taken":          {1000, "name: vi0", "", ""},
		"too long in itself": {1001, "name: virtual0-of-me-12", "", "is longer than 15 bytes"},
	} {
		var text strings.Builder
		fmt.Fprintf(&text, "bgp: {asn: 65010}\n%s\nvirtual_interface: {%s}\ninterfaces:\n", test.rest, test.device)
		for i, n := range []string{"en0", "en1.1"} {
			fmt.Fprintf(&text, "  - {name: %s, peers: [{address: 192.0.2.%d, asn: 65001}]}\n", n, i+1)
		}
		text.WriteString("vips:\n")
		for i := range test.vips {
			fmt.Fprintf(&text, "  - {address: 10.0.%d.%d}\n", i/256, i%256)
		}
		_, err := Parse([]byte(text.String()), "yaml", "file")
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if list, ok := errors.AsType[*Errors](err); ok && len(list.List) != 1 {
			t.Errorf("%s: %d mistakes: %v", name, len(list.List), err)
		}
	}
}
