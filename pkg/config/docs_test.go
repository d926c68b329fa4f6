package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const reference = "../../docs/configuration.md"

// schemaKey is a leaf of the schema.
type schemaKey struct {
	path string
	tags reflect.StructTag
	kind reflect.Type
}

// schemaKeys lists the leaves below t, a section. A template is one of them, and
// what all peers have is listed once.
func schemaKeys(t reflect.Type, path string) []schemaKey {
	var keys []schemaKey
	for field := range t.Fields() {
		if field.Anonymous {
			if path != "peers[]" {
				keys = append(keys, schemaKeys(field.Type, path)...)
			}
			continue
		}
		place := strings.TrimPrefix(path+"."+field.Tag.Get("key"), ".")
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Slice && isSection(inner.Elem()) {
			inner, place = inner.Elem(), place+"[]"
		}
		if field.Tag.Get("word") != "" {
			keys = append(keys, schemaKey{place, field.Tag, nil})
		}
		if isSection(inner) && field.Tag.Get("template") == "" {
			keys = append(keys, schemaKeys(inner, place)...)
		} else {
			keys = append(keys, schemaKey{place, field.Tag, inner})
		}
	}
	return keys
}

// TestReferenceIsComplete wants a row for each key, with its default and its
// range, and no row for a key that is not there.
func TestReferenceIsComplete(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	about := "" // what the first column of the table is about
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		switch {
		case len(cells) <= 3:
			about = ""
		case about == "":
			about = strings.TrimSpace(cells[1])
		case about == "key" && strings.HasPrefix(cells[1], " `"):
			rows[strings.Trim(cells[1], " `")] = cells
		}
	}
	for _, key := range schemaKeys(reflect.TypeFor[rawConfig](), "") {
		cells, ok := rows[key.path]
		delete(rows, key.path)
		switch {
		case !ok:
			t.Errorf("%s: no row", key.path)
			continue
		case len(cells) < 7:
			t.Errorf("%s: the row has too few columns", key.path)
			continue
		}
		fallback, limits := strings.TrimSpace(cells[3]), strings.TrimSpace(cells[4])
		if want := key.tags.Get("default") + key.tags.Get("word"); want != "" && fallback != want {
			t.Errorf("%s: default is %q, want %q", key.path, fallback, want)
		}
		if key.tags.Get("required") != "" && fallback != "required" {
			t.Errorf("%s: default is %q, want required", key.path, fallback)
		}
		want := key.tags.Get("range") + strings.Join(strings.Fields(key.tags.Get("oneof")), ", ")
		if want != "" && limits != want {
			t.Errorf("%s: range is %q, want %q", key.path, limits, want)
		}
	}
	for path := range rows {
		t.Errorf("%s: a row for no key", path)
	}
}

// TestReferenceBlocks parses each YAML block of the reference.
func TestReferenceBlocks(t *testing.T) {
	dir := secrets(t)
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```yaml\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("no YAML block")
	}
	for i, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		block = strings.ReplaceAll(block, "/etc/vipspeaker/r1.secret", filepath.Join(dir, "good.secret"))
		if _, err := Parse([]byte(block), "yaml", "block"); err != nil {
			t.Errorf("block %d: %v", i, err)
		}
	}
}

// TestReferenceMessages wants the messages that the reference shows.
func TestReferenceMessages(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(text), "```text\n")
	shown, _, _ = strings.Cut(shown, "```")
	file := "bgp:\n  asn: -1\n\ninterfaces:\n  - name: en1\n\n    peers:\n\n      - {address: 10.68.1.2, asn: 65001, prot: 179}\n\n" +
		"vips:\n  - address: 10.68.6.1\n    checks:\n      - tcp: {address: 10.68.6.1:80}\n        interval: 5\n"
	if _, err := Parse([]byte(file), "yaml", "vipspeaker.yaml"); err == nil || err.Error()+"\n" != shown {
		t.Errorf("messages are\n%v\nwant\n%s", err, shown)
	}
}
