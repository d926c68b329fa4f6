package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var noon = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// tables are those of a picture.
func tables(t *testing.T, s *Status, style Style) string {
	t.Helper()
	var b strings.Builder
	if err := WriteText(&b, s, style, noon); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestText(t *testing.T) {
	empty := &Status{Version: "v0.1.0", StartedAt: ago(time.Second), Time: noon, ASN: 65010, Config: Config{ReloadOK: true}}
	stopping := sample()
	stopping.Stopping = true
	stopping.VIPs[0].Interfaces[0].Wanted = false
	stopping.VIPs[0].Interfaces[1] = VIPInterface{Interface: "en5", Wanted: true}
	degraded := degradedSample()
	tests := map[string]struct {
		status *Status
		style  Style
	}{
		"good":        {sample(), Style{}},
		"good-marks":  {sample(), Style{Marks: true}},
		"good-colour": {sample(), Style{Marks: true, Colour: true}},
		"broken":      {broken(), Style{}},
		"failing":     {failing(), Style{Marks: true}},
		"degraded":    {degraded, Style{Marks: true}},
		"stopping":    {stopping, Style{Marks: true}},
		"empty":       {empty, Style{}},

		"nowhere":     {nowhere(), Style{}},
		"failing-100": {longCauses(), Style{Marks: true, Columns: 100}},
		"failing-60":  {longCauses(), Style{Columns: 60}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := WriteText(&b, tt.status, tt.style, noon); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.String())
			if !tt.style.Marks && strings.ContainsFunc(b.String(), func(r rune) bool { return r > 126 || r < ' ' && r != '\n' }) {
				t.Error("output for a pipe is not plain ASCII")
			}
		})
	}
}

// TestWidth: no text at the end of a line is wider than the terminal, and on a
// wide one everything is as where the width is not known.
func TestWidth(t *testing.T) {
	for _, columns := range []int{92, 100, 120} {
		style := Style{Marks: true, Colour: true, Columns: columns}
		e, err := longCauses().Explain("vipa", noon)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := e.WriteText(&b, style); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(strings.Join(strings.Fields(b.String()), " "), "long word of the router"); got != 15 {
			t.Errorf("%d columns: the explanation has %d of 15 parts of the cause:\n%s", columns, got, &b)
		}
		text := regexp.MustCompile("\x1b\\[[0-9]*m").ReplaceAllString(tables(t, longCauses(), style)+b.String(), "")
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns || strings.HasSuffix(line, " \n") {
				t.Errorf("%d columns: a line has %d: %q", columns, n, line)
			}
		}
		if !strings.Contains(text, "…") {
			t.Errorf("%d columns: what is left out is not marked:\n%s", columns, text)
		}
	}
	if diff := cmp.Diff(tables(t, longCauses(), Style{}), tables(t, longCauses(), Style{Columns: 1000})); diff != "" {
		t.Error(diff)
	}
}

func TestWrap(t *testing.T) {
	tests := []struct {
		text           string
		columns, lines int
		want           []string
	}{
		{"one two three", 13, 0, []string{"one two three"}},
		{"one two three", 12, 0, []string{"one two", "three"}},
		{"one two three", 5, 0, []string{"one", "two", "three"}},
		{"one two three", 7, 1, []string{"one..."}},
		{"one two three four", 5, 2, []string{"one", "tw..."}},
		{"immeasurable one", 8, 0, []string{"immea...", "one"}},
		{"✓ ééé", 5, 1, []string{"✓ ééé"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, wrap(tt.text, tt.columns, tt.lines, "...")); diff != "" {
			t.Errorf("%q in %d columns, %d lines (-want +got):\n%s", tt.text, tt.columns, tt.lines, diff)
		}
	}
}

// TestJoinedErrors: several errors of a pass are shown below each other, those
// in a cell of a table beside each other.
func TestJoinedErrors(t *testing.T) {
	s := sample()
	s.Passes.LastError = errors.Join(errors.New("add rule 32100: busy"), errors.New("add address: no\x1b[2J")).Error()
	s.Interfaces[0].Detail = "one\ntwo"
	for name, style := range map[string]Style{"plain": {}, "marks": {Marks: true}} {
		var b strings.Builder
		if err := WriteText(&b, s, style, noon); err != nil {
			t.Fatal(err)
		}
		indent := "      "
		if style.Marks {
			indent += "  "
		}
		if want := "pass  add rule 32100: busy\n" + indent + "add address: no\\x1b[2J\n"; !strings.Contains(b.String(), want) {
			t.Errorf("%s: want %q:\n%s", name, want, &b)
		}
		if !strings.Contains(b.String(), "one; two") || strings.Contains(b.String(), `\n`) {
			t.Errorf("%s: lines in a cell:\n%s", name, &b)
		}
	}
}

func TestLastErrorOfAPeer(t *testing.T) {
	up := Peer{State: "Established", Since: ago(time.Minute), LastError: "hold timer expired"}
	idle := up
	idle.State = "Idle"
	at := func(p Peer, d time.Duration) Peer {
		p.LastErrorAt = ago(d)
		return p
	}
	bfd := func(p Peer) Peer {
		p.BFD = &BFD{State: "Down", LastDrop: "not authenticated"}
		return p
	}
	tests := map[string]struct {
		peer Peer
		want string
	}{
		"none":             {Peer{State: "Established", Since: ago(time.Minute)}, ""},
		"overcome":         {at(up, 2*time.Minute), "before: hold timer expired (2m00s ago)"},
		"that ended it":    {at(up, time.Minute), "before: hold timer expired (1m00s ago)"},
		"of this session":  {at(up, time.Second), "hold timer expired (1s ago)"},
		"overcome, no age": {up, "before: hold timer expired"},
		"not up":           {at(idle, 2*time.Minute), "hold timer expired (2m00s ago)"},
		"not up, no age":   {idle, "hold timer expired"},
		"BFD, overcome":    {bfd(up), "BFD: packets dropped: not authenticated"},
		"BFD, not up":      {bfd(idle), "hold timer expired; BFD: packets dropped: not authenticated"},
	}
	for name, tt := range tests {
		if got := tt.peer.troubles(nil, noon); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestExplain(t *testing.T) {
	unbound := sample()
	unbound.VIPs[0].Bound, unbound.VIPs[0].Announced, unbound.VIPs[0].Source = false, false, nil
	unbound.VIPs[0].Reason, unbound.VIPs[0].Detail = NotBound, "the kernel does not hold it: add address: operation not permitted"
	for i := range unbound.VIPs[0].Interfaces {
		unbound.VIPs[0].Interfaces[i] = VIPInterface{Interface: unbound.VIPs[0].Interfaces[i].Interface, Wanted: true, Reason: NotBound}
	}
	tests := map[string]struct {
		status *Status
		vip    string
	}{
		"why-good":    {sample(), "vipa"},
		"why-address": {sample(), "fd68:6::80"},
		"why-half":    {broken(), "10.68.6.1/32"},
		"why-check":   {broken(), "web"},
		"why-unbound": {unbound, "vipa"},

		"why-attachment": {failing(), "vipa"},
		"why-damped":     {failing(), "web"},
		"why-nowhere":    {nowhere(), "vipa"},
		"why-degraded":   {degradedSample(), "web"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e, err := tt.status.Explain(tt.vip, noon)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := e.WriteText(&b, Style{}); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.String())
		})
	}
	_, err := sample().Explain("vipb", noon)
	if want := `no VIP "vipb": the VIPs are vipa, web`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if _, err = (&Status{}).Explain("x", noon); err == nil {
		t.Error("no error without VIPs")
	}
}

func TestJSONRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := WriteJSON(&b, broken()); err != nil {
		t.Fatal(err)
	}
	golden(t, "broken-json", b.String())
	var got Status
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	// A byte that is no UTF-8 becomes U+FFFD on the way.
	want := broken()
	want.Peers[1].LastError = strings.ToValidUTF8(want.Peers[1].LastError, "\uFFFD")
	if diff := cmp.Diff(want, &got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("after a round trip (-want +got):\n%s", diff)
	}
}

func TestSpan(t *testing.T) {
	tests := map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m00s", 61 * time.Minute: "1h01m",
		25*time.Hour + 59*time.Minute: "1d01h", 400 * 24 * time.Hour: "400d00h",
	}
	for d, want := range tests {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestNamesAreFew(t *testing.T) {
	for n, want := range map[int]string{0: "", 1: "v0", 10: "v0, v1, v2, v3, v4, v5, v6, v7, v8, v9", 3000: "v0, v1, v2, v3, v4, v5, v6, v7, v8, v9 and 2990 more"} {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("v%d", i)
		}
		if got := Names(names); got != want {
			t.Errorf("%d names: %q, want %q", n, got, want)
		}
	}
}
