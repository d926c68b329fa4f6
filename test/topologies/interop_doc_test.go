//go:build long

package topologies

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/topologies/lab"
)

const interopDoc = "../../docs/interoperability.md"

func interopSoftware() []lab.Software {
	return []lab.Software{lab.FRR, lab.BIRD, lab.OpenBGPD, lab.ExaBGP, lab.GoBGP}
}

func softwareName(s lab.Software) string {
	return map[lab.Software]string{lab.FRR: "FRR", lab.BIRD: "BIRD", lab.OpenBGPD: "OpenBGPD", lab.ExaBGP: "ExaBGP", lab.GoBGP: "GoBGP"}[s]
}

// remark is what a cell says besides "yes".
func remark(s lab.Software, feature string) string {
	return map[string]string{
		"bird/unnumbered":     "BIRD waits for the host (`neighbor range fe80::/10`), which finds it by the advertisements of its `radv`.",
		"openbgpd/unnumbered": "OpenBGPD must be told the host's link-local address (`neighbor fe80::…%eth1`), and gets the IPv6 VIP only, for want of RFC 8950.",
		"bird/addpath":        "BIRD shows no IDs; two paths of one neighbour are the proof.",
		"bird/gr":             "BIRD 2.0 does not mark what it keeps; the session is down and the route is there.",
		"gobgp/gshut":         "GoBGP's policies cannot set a local preference of 0; the configuration sets 1.",
		"exabgp/gshut":        "ExaBGP hands the community to its helper program and chooses no route, so there is no preference to lower.",
	}[string(s)+"/"+feature]
}

// matrix collects the results.
type matrix struct {
	mu       sync.Mutex
	good     map[string]bool // by software and feature; not there if the test did not run
	versions map[lab.Software]string
}

// newMatrix returns a matrix that is compared with the document, or is made the
// document, when the test and its subtests have ended.
func newMatrix(t *testing.T) *matrix {
	m := &matrix{good: map[string]bool{}, versions: map[lab.Software]string{}}
	t.Cleanup(func() {
		if !*updateInterop {
			m.compare(t)
			return
		}
		if want := len(interopSoftware()) * len(interopFeatures()); len(m.good) != want {
			t.Fatalf("%d of %d cells have run: the document is not written", len(m.good), want)
		}
		if err := os.WriteFile(interopDoc, []byte(m.render()), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	return m
}

func (m *matrix) result(s lab.Software, feature string, good bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.good[string(s)+"/"+feature] = good
}

func (m *matrix) version(s lab.Software, version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.versions[s] = version
}

// compare fails the test when the document says anything else than the results,
// but for the versions. Cells that have not run are as declared.
func (m *matrix) compare(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(interopDoc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(withoutVersions(m.render()), withoutVersions(string(data))); diff != "" {
		t.Errorf("%s is not what the tests say (-results +document); `make interop` writes it:\n%s", interopDoc, diff)
	}
}

const versionsLine = "Tested with "

func withoutVersions(doc string) []string {
	lines := strings.Split(doc, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, versionsLine) {
			lines[i] = versionsLine
		}
	}
	return lines
}

// cell is the text of a cell. Footnotes are numbered in the order of the table.
func (m *matrix) cell(s lab.Software, f string, notes *[]string) string {
	text, note := "yes", remark(s, f)
	if not := silence(s, f); not != nil {
		text, note = "not spoken", fmt.Sprintf("%s Source: %s", not.why, not.source)
	}
	if good, ran := m.good[string(s)+"/"+f]; ran && !good {
		text = "**fails**"
	}
	if note == "" {
		return text
	}
	*notes = append(*notes, softwareName(s)+", "+title(f)+": "+note)
	return fmt.Sprintf("%s [%d]", text, len(*notes))
}

func title(name string) string {
	for _, f := range interopFeatures() {
		if f.name == name {
			return f.title
		}
	}
	return name
}

func (m *matrix) render() string {
	var b, versions strings.Builder
	b.WriteString(`# Interoperability

This page is written by ` + "`make interop`" + ` from what TestLongInterop in [test/topologies](../test/topologies) has seen, and that test fails when the two differ. It lets the daemon peer with Debian's
packages of each routing software, in the ways below, and looks at the router's side. The configurations are in [test/topologies/interop](../test/topologies/interop), that of the host is the same for
all; [routers.md](routers.md) says what matters in them.

`)
	head, rule := "| |", "|---|"
	for _, f := range interopFeatures() {
		head += " " + f.title + " |"
		rule += "---|"
	}
	fmt.Fprintf(&b, "%s\n%s\n", head, rule)
	var notes []string
	for i, s := range interopSoftware() {
		fmt.Fprintf(&b, "| %s |", softwareName(s))
		for _, f := range interopFeatures() {
			fmt.Fprintf(&b, " %s |", m.cell(s, f.name, &notes))
		}
		b.WriteString("\n")
		if i > 0 {
			versions.WriteString(", ")
		}
		fmt.Fprintf(&versions, "%s %s", softwareName(s), m.versions[s])
	}
	fmt.Fprintf(&b, "\n%s%s.\n\n", versionsLine, &versions)
	for i, note := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, note)
	}
	b.WriteString("\n## What is seen at the router\n\n| | |\n|---|---|\n")
	for _, f := range interopFeatures() {
		fmt.Fprintf(&b, "| %s | %s |\n", f.title, f.meaning)
	}
	return b.String()
}
