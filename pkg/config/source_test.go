package config

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSourceRules compares the rules of a file in the order in which they count.
func TestSourceRules(t *testing.T) {
	cfg, err := parseFile(t, "testdata/good/source.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.VIPs[0].MTU != 1400 || cfg.VIPs[1].MTU != 0 {
		t.Errorf("MTUs are %d and %d", cfg.VIPs[0].MTU, cfg.VIPs[1].MTU)
	}
	if !cfg.VIPs[0].Source.Always || cfg.VIPs[1].Source.Always {
		t.Error("when: always is not where the file has it")
	}
	var got []string
	for _, v := range cfg.VIPs {
		for _, s := range v.Source.Rules {
			text := fmt.Sprintf("%02d %s rule %d to %s mark %#x/%#x", s.Rank, v.Name, s.Entry, s.Destination, s.Mark, s.Mask)
			if s.Users != nil {
				text += fmt.Sprintf(" users %d-%d", s.Users.First, s.Users.Last)
			}
			got = append(got, strings.ReplaceAll(strings.ReplaceAll(text, " to invalid Prefix", ""), " mark 0x0/0x0", ""))
		}
	}
	slices.Sort(got)
	want := []string{
		"00 10.68.6.2 rule 2 to 10.1.0.0/16 users 1000-1000",
		"01 10.68.6.2 rule 1 mark 0x10/0xff users 0-0",
		"02 10.68.6.2 rule 1 mark 0x10/0xff users 1000-1999",
		"03 10.68.6.3 rule 0 mark 0x10/0xffffffff",
		"04 fd68:6::2 rule 1 mark 0x10/0xff",
		"05 10.68.6.3 rule 1 users 1000-1000",
		"06 fd68:6::2 rule 0 to fd99::1/128",
		"07 10.68.6.2 rule 0 to 10.2.0.0/24",
		"08 10.68.6.2 rule 0 to 10.1.0.0/16",
		"09 fd68:6::2 rule 0 to fd99::/16",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

// TestSourceLimits wants an error for more rules, or more sources, than the
// kernel has room for, and none for just as many.
func TestSourceLimits(t *testing.T) {
	const head = "bgp: {asn: 65010}\ninterfaces: [{name: en1, peers: [{address: 10.0.0.2, asn: 65001}]}]\nvips:\n"
	rules := func(n int) string {
		var b strings.Builder
		b.WriteString(head + "  - {address: 10.68.6.1, source: {rules: [{users: [")
		for i := range n {
			fmt.Fprintf(&b, "%d, ", i)
		}
		return b.String() + "]}]}}\n"
	}
	vips := func(n int) string {
		var b strings.Builder
		b.WriteString(head)
		for i := range n {
			fmt.Fprintf(&b, "  - {address: 10.68.6.%d, source: {rules: [{users: [%d]}]}}\n", i+1, i)
		}
		return b.String() + "  - {address: \"fd68::1\", source: {rules: [{users: [1]}]}}\n"
	}
	mtus := func(n int) string {
		var b strings.Builder
		b.WriteString(head)
		for i := range n {
			fmt.Fprintf(&b, "  - {address: 10.68.6.%d, mtu: %d}\n", i+1, 1300+i)
		}
		return b.String() + "  - {address: 10.68.7.1, mtu: 1300}\n  - {address: \"fd68::1\", mtu: 1290}\n"
	}
	for name, c := range map[string]struct{ file, want string }{
		"mtus":           {mtus(MaxMTUs), ""},
		"too many mtus":  {mtus(MaxMTUs + 1), "vips[16].mtu: 1316: is one more than the 16 different ones"},
		"rules":          {rules(MaxSourceRules), ""},
		"too many rules": {rules(MaxSourceRules + 1), "vips[0].source.rules: are too many"},
		"vips":           {vips(MaxSources), ""},
		"too many vips":  {vips(MaxSources + 1), "vips[63]: is one preferred source too many"},
	} {
		switch _, err := Parse([]byte(c.file), "yaml", "x.yaml"); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "\n") > 0):
			t.Errorf("%s: %v, want %q alone", name, err, c.want)
		}
	}
}

// TestUserNames takes names from /etc/passwd.
func TestUserNames(t *testing.T) {
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	tested := 0
	for line := range strings.Lines(string(passwd)) {
		fields := strings.Split(line, ":")
		if len(fields) < 3 || strings.HasPrefix(line, "#") {
			continue
		}
		var got users
		problem := userRange(&node{kind: kindText, text: fields[0]}, &got)
		if problem != "" || fmt.Sprint(got.First) != fields[2] || got.First != got.Last {
			t.Errorf("user %s is %d-%d (%s), want %s", fields[0], got.First, got.Last, problem, fields[2])
		}
		tested++
	}
	if tested < 2 {
		t.Errorf("%d users tested", tested)
	}
	if compareRules(&SourceRule{Destination: netip.MustParsePrefix("10.0.0.0/8")}, &SourceRule{Users: &Users{}}) <= 0 {
		t.Error("a destination counts more than a user")
	}
}
