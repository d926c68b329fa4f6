package config

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// report collects mistakes, and where things stand in the file.
type report struct {
	list []Error
	// lines holds the line of every path in the file, values what the file has
	// there or the default, for messages.
	lines  map[string]int
	values map[string]string
	// bad are the paths that have a mistake, around those that have one
	// somewhere below. What depends on such a value is not judged.
	bad, around map[string]bool
}

func newReport() *report {
	return &report{lines: map[string]int{}, values: map[string]string{}, bad: map[string]bool{}, around: map[string]bool{}}
}

// add records a mistake.
func (r *report) add(path, format string, args ...any) {
	line, place := 0, path
	for line == 0 && place != "" {
		line = r.lines[place]
		place = parent(place)
	}
	r.addAt(line, path, r.values[path], fmt.Sprintf(format, args...))
}

func (r *report) addAt(line int, path, value, problem string) {
	r.mark(path)
	r.list = append(r.list, Error{Path: path, Line: line, Value: value, Problem: problem})
}

// assume records the default of a key that the file does not have.
func (r *report) assume(path, value string) {
	if _, there := r.values[path]; !there {
		r.values[path] = strconv.Quote(value) + " (the default)"
	}
}

// inherit records the value that a key has from another place.
func (r *report) inherit(path, value, from string) {
	if _, there := r.values[path]; !there {
		r.values[path] = value + " (from " + from + ")"
	}
}

// mark says that the value at path is not to be judged.
func (r *report) mark(path string) {
	r.bad[path] = true
	for path != "" {
		path = parent(path)
		r.around[path] = true
	}
}

// ok tells whether none of the paths has a mistake, nor anything around it that
// would be its cause, nor anything below it.
func (r *report) ok(paths ...string) bool {
	for _, p := range paths {
		if r.around[p] {
			return false
		}
		for ; p != ""; p = parent(p) {
			if r.bad[p] {
				return false
			}
		}
	}
	return !r.bad[""]
}

// parent returns the path without its last part.
func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// join appends a key to a path. A key that no schema would have is quoted, so
// that a dot in it is not taken for a level.
func join(path, key string) string {
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return !strconv.IsPrint(r) || strings.ContainsRune(" .:[]\"", r) }) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// value decodes n into v. Tags are those of the field that v belongs to.
func (r *report) value(n *node, v reflect.Value, tags reflect.StructTag, path string) {
	r.lines[path], r.values[path] = n.line, shown(n, v.Type(), tags)
	if n.kind == kindNull {
		r.add(path, "has no value; give it one or remove the key%s", hint(tags))
		return
	}
	if word := tags.Get("word"); word != "" && n.kind != kindMapping {
		if n.kind != kindText || n.text != word {
			r.add(path, "must be %s or a mapping%s", word, hint(tags))
		}
		return
	}
	problem, isScalar := scalar(n, v.Addr().Interface(), tags)
	switch {
	case problem != "":
		r.add(path, "%s", problem)
	case isScalar:
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.value(n, v.Elem(), tags, path)
	case v.Kind() == reflect.Slice:
		r.slice(n, v, tags, path)
	case n.kind != kindMapping:
		r.add(path, "must be a mapping of keys, not %s%s", n.kind, hint(tags))
	default:
		r.section(n, v, path)
	}
}

// hint is what the schema adds to a message.
func hint(tags reflect.StructTag) string {
	if text := tags.Get("hint"); text != "" {
		return "; " + text
	}
	return ""
}

// shown returns the value for a message, unless it may hold a secret. Of a URL
// that is all that may stand before its host, and behind its path.
func shown(n *node, t reflect.Type, tags reflect.StructTag) string {
	if tags.Get("secret") != "" || t == reflect.TypeFor[later]() {
		return ""
	}
	if t != reflect.TypeFor[url.URL]() && !strings.Contains(n.text, "://") {
		return n.show()
	}
	if strings.Contains(n.text, "@") {
		return ""
	}
	visible := *n
	if i := strings.IndexAny(n.text, "?#"); i >= 0 {
		visible.text = n.text[:i+1] + "..."
	}
	return visible.show()
}

func (r *report) slice(n *node, v reflect.Value, tags reflect.StructTag, path string) {
	if n.kind != kindList {
		if tags.Get("single") == "" || n.kind == kindMapping {
			r.add(path, "must be a list, not %s%s", n.kind, hint(tags))
			return
		}
		item := reflect.New(v.Type().Elem()).Elem()
		r.value(n, item, tags, path)
		v.Set(reflect.Append(v, item))
		return
	}
	if len(n.items) == 0 && tags.Get("required") != "" {
		r.add(path, "must have at least one entry")
	}
	for i, one := range n.items {
		// A bad entry stays, so that the others keep their place.
		item := reflect.New(v.Type().Elem()).Elem()
		r.value(one, item, tags, index(path, i))
		v.Set(reflect.Append(v, item))
	}
}

// section decodes n, a mapping, into a struct of the schema.
func (r *report) section(n *node, v reflect.Value, path string) {
	keys := make([]string, 0, v.NumField())
	for i := range v.NumField() {
		keys = append(keys, v.Type().Field(i).Tag.Get("key"))
	}
	seen := map[string]int{}
	for _, p := range n.pairs {
		place := join(path, p.key)
		i := slices.Index(keys, p.key)
		first, double := seen[p.key]
		switch {
		case double:
			problem := "is given twice"
			if first > 0 {
				problem += fmt.Sprintf(", first on line %d", first)
			}
			r.addAt(p.line, place, "", problem)
		case i < 0:
			problem, meant := unknownKey(p.key, v.Type())
			r.addAt(p.line, place, "", problem)
			if meant != "" {
				r.mark(join(path, meant))
			}
		default:
			r.value(p.value, v.Field(i), v.Type().Field(i).Tag, place)
			r.lines[place] = p.line
		}
		seen[p.key] = p.line
	}
	r.absent(v, path, seen)
}

// absent fills in the defaults of the keys that are not there and reports those
// that must be.
func (r *report) absent(v reflect.Value, path string, seen map[string]int) {
	reserved := false // then this entry is of another shape, not incomplete
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("key")
		_, there := seen[key]
		reserved = reserved || there && isLater(v.Field(i)) && r.bad[join(path, key)]
	}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		key := field.Tag.Get("key")
		if _, there := seen[key]; there {
			continue
		}
		word, hasDefault := field.Tag.Lookup("default")
		switch {
		case hasDefault:
			scalar(&node{kind: defaultKind(field.Type), text: word}, v.Field(i).Addr().Interface(), "")
			r.assume(join(path, key), word)
		case field.Tag.Get("required") != "":
			if !reserved && !r.bad[join(path, key)] {
				r.add(join(path, key), "is required")
			}
		case isSection(field.Type):
			r.section(&node{kind: kindMapping}, v.Field(i), join(path, key))
		}
	}
}

func isLater(v reflect.Value) bool { return v.Type() == reflect.TypeFor[later]() }

// isSection tells whether t is a struct of the schema.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.NumField() > 0 && t.Field(0).Tag.Get("key") != ""
}

func defaultKind(t reflect.Type) kind {
	switch t.Kind() {
	case reflect.Bool:
		return kindBool
	case reflect.Int, reflect.Uint32:
		return kindNumber
	default:
		return kindText
	}
}

// unknownKey says what is wrong with a key that the section does not have, and
// which key was probably meant.
func unknownKey(key string, section reflect.Type) (problem, meant string) {
	var keys, usable []string
	for field := range section.Fields() {
		known := field.Tag.Get("key")
		keys = append(keys, known)
		if field.Type != reflect.TypeFor[later]() {
			usable = append(usable, known)
		}
	}
	if first, rest, dotted := strings.Cut(key, "."); dotted && slices.Contains(keys, first) {
		return fmt.Sprintf("unknown key; a dot does not nest keys: write %q below %q", rest, first), first
	}
	if key == "<<" {
		return "merge keys are not supported; write the keys out", ""
	}
	guess := closest(key, keys)
	if file := key + "_file"; slices.Contains(keys, file) {
		guess = file // a secret is never in the configuration itself
	}
	if guess != "" {
		return fmt.Sprintf("unknown key; did you mean %q?", guess), guess
	}
	return "unknown key; the keys here are " + strings.Join(usable, ", "), ""
}
