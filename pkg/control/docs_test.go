package control

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// TestDocumented: docs/api.md has every object that is printed as JSON, with its
// keys in their order, and nothing else.
func TestDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	key := regexp.MustCompile("^\\| `(\\w+)` \\|")
	_, objects, _ := strings.Cut(string(data), "\n## Objects\n")
	object := ""
	for line := range strings.Lines(objects) {
		if name, is := strings.CutPrefix(strings.TrimSpace(line), "### "); is {
			object = name
		} else if m := key.FindStringSubmatch(line); m != nil {
			got[object] = append(got[object], m[1])
		}
	}
	want := map[string][]string{}
	for _, v := range []any{status.Status{}, status.Event{}, status.Explanation{}, status.Trace{}, RuntimeVIP{}} {
		keysOf(reflect.TypeOf(v), want)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/api.md (-code +document):\n%s", diff)
	}
}

// keysOf collects the keys of an object and of all that it holds.
func keysOf(kind reflect.Type, into map[string][]string) {
	for slices.Contains([]reflect.Kind{reflect.Slice, reflect.Pointer}, kind.Kind()) {
		kind = kind.Elem()
	}
	if kind.Kind() != reflect.Struct || !strings.HasPrefix(kind.PkgPath(), "vipspeaker/") || into[kind.Name()] != nil {
		return
	}
	for field := range kind.Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			into[kind.Name()] = append(into[kind.Name()], name)
			keysOf(field.Type, into)
		}
	}
}

// TestRequestsAreDocumented: docs/api.md has every request that the server knows.
func TestRequestsAreDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	request := regexp.MustCompile(`HandleFunc\("([A-Z]+ /v1/[^"]*)"`)
	var known, told []string
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), "_test.go") || !strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		code, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range request.FindAllStringSubmatch(string(code), -1) {
			known = append(known, strings.ReplaceAll(m[1], "{name}", "NAME"))
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z]+ /v1/[^`]*)` \\|").FindAllStringSubmatch(string(data), -1) {
		told = append(told, m[1])
	}
	slices.Sort(known)
	slices.Sort(told)
	if diff := cmp.Diff(known, told); diff != "" || len(known) == 0 {
		t.Errorf("docs/api.md (-code +document):\n%s", diff)
	}
}
