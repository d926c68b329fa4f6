package doctor

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// docs/doctor.md has a line for each condition, in the order and with the words
// of the code, and every field of the JSON output.
func TestDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "| `") && strings.Count(line, " | ") == 4 {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	remedies := map[Remedy]string{Fixes: "yes", FixesName: "when named", ByHand: "no"}
	var want []string
	for _, c := range Conditions() {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s | %s |", c.Name, c.Severity, remedies[c.Remedy], c.Title, c.Effect))
	}
	if got, is := strings.Join(lines, "\n"), strings.Join(want, "\n"); got != is {
		t.Errorf("docs/doctor.md should have:\n%s\nand has:\n%s", is, got)
	}
	for _, v := range []any{Report{}, Finding{}, Fixed{}, Unseen{}} {
		kind := reflect.TypeOf(v)
		for field := range kind.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name != "" && !strings.Contains(string(data), "`"+name+"`") {
				t.Errorf("docs/doctor.md does not tell of %s.%s", kind.Name(), name)
			}
		}
	}
}

// Names are unique, and an unknown one is an error that tells the known ones.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Conditions() {
		if seen[c.Name] || c.Title == "" || c.Effect == "" || c.Severity == "" || c.Remedy == "" {
			t.Errorf("condition %+v", c)
		}
		seen[c.Name] = true
	}
	err := Known([]string{"rp-filter", "nonsense"})
	if err == nil || !strings.HasPrefix(err.Error(), `no condition is called "nonsense"; there are rp-filter, `) {
		t.Errorf("error %v", err)
	}
}

// A report has no null in its JSON.
func TestJSON(t *testing.T) {
	in := &Input{Sysctls: SysctlOff}
	r, err := Examine(t.Context(), in, "rp-filter")
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(r)
	if err != nil || strings.Contains(string(data), "null") || !strings.Contains(string(data), `"not_seen":[{"condition":"rp-filter","reason":"host.sysctls is off"}]`) {
		t.Errorf("%s, %v", data, err)
	}
}
