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
	// homes tells for every path whose value is inherited where that stands.
	homes map[string]string
	// template is set while a section is decoded that others inherit from.
	template bool
}

func newReport() *report {
	return &report{
		lines: map[string]int{}, values: map[string]string{}, bad: map[string]bool{}, around: map[string]bool{}, homes: map[string]string{},
	}
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

// refuse records that n cannot be decoded at path. What is inherited is reported
// only where it stands.
func (r *report) refuse(n *node, path, format string, args ...any) {
	if n.home != "" {
		r.mark(path)
		return
	}
	r.add(path, format, args...)
}

// home returns where the value at path stands.
func (r *report) home(path string) string {
	if home := r.homes[path]; home != "" {
		return home
	}
	return path
}

// instead is what to write to be rid of an inherited value.
func (r *report) instead(path, text string) string {
	if r.homes[path] == "" {
		return ""
	}
	return "; write " + text + " here"
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
	r.place(n, shown(n, v.Type(), tags), path)
	if n.kind == kindNull {
		r.refuse(n, path, "has no value; give it one or remove the key%s", hint(tags))
		return
	}
	if tags.Get("off") != "" && n.kind == kindBool && n.text == "false" {
		return
	}
	if word := tags.Get("word"); word != "" && n.kind != kindMapping {
		if n.kind != kindText || n.text != word {
			r.refuse(n, path, "must be %s or a mapping%s", word, hint(tags))
		}
		return
	}
	problem, isScalar := scalar(n, v.Addr().Interface(), tags)
	switch {
	case problem != "":
		r.refuse(n, path, "%s", problem)
	case isScalar:
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.value(n, v.Elem(), tags, path)
	case v.Kind() == reflect.Slice:
		r.slice(n, v, tags, path)
	case n.kind != kindMapping:
		r.refuse(n, path, "must be a mapping of keys, not %s%s", n.kind, hint(tags))
	default:
		r.template = r.template || tags.Get("template") != ""
		r.section(n, v, path)
		r.template = r.template && tags.Get("template") == ""
	}
}

// place records what stands at path and where. What is inherited has no line of
// its own: mistakes are about the section that inherits it.
func (r *report) place(n *node, value, path string) {
	r.values[path] = value
	if n.home == "" {
		r.lines[path] = n.line
		return
	}
	r.homes[path] = n.home
	if value != "" {
		r.values[path] = value + " (from bgp.defaults)"
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
	if tags.Get("secret") != "" {
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
			r.refuse(n, path, "must be a list, not %s%s", n.kind, hint(tags))
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

// fields returns those of a section, with the fields of embedded structs.
func fields(section reflect.Type) []reflect.StructField {
	return slices.DeleteFunc(reflect.VisibleFields(section), func(f reflect.StructField) bool { return f.Anonymous })
}

// section decodes n, a mapping, into a struct of the schema.
func (r *report) section(n *node, v reflect.Value, path string) {
	known := fields(v.Type())
	seen := map[string]int{}
	for _, p := range n.pairs {
		place := join(path, p.key)
		i := slices.IndexFunc(known, func(f reflect.StructField) bool { return f.Tag.Get("key") == p.key })
		first, double := seen[p.key]
		switch {
		case double:
			problem := "is given twice"
			if first > 0 {
				problem += fmt.Sprintf(", first on line %d", first)
			}
			r.addAt(p.line, place, "", problem)
		case i < 0 && p.value.home != "": // reported where it stands
		case i < 0:
			problem, meant := unknownKey(p.key, v.Type())
			r.addAt(p.line, place, "", problem)
			if meant != "" {
				r.mark(join(path, meant))
			}
		default:
			r.value(p.value, v.FieldByIndex(known[i].Index), known[i].Tag, place)
			if p.value.home == "" {
				r.lines[place] = p.line
			}
		}
		seen[p.key] = p.line
	}
	if !r.template {
		r.absent(known, v, path, seen)
	}
}

// absent fills in the defaults of the keys that are not there and reports those
// that must be.
func (r *report) absent(known []reflect.StructField, v reflect.Value, path string, seen map[string]int) {
	for _, field := range known {
		key := field.Tag.Get("key")
		if _, there := seen[key]; there {
			continue
		}
		value := v.FieldByIndex(field.Index)
		word, hasDefault := field.Tag.Lookup("default")
		switch {
		case hasDefault:
			scalar(&node{kind: defaultKind(field.Type), text: word}, value.Addr().Interface(), "")
			r.assume(join(path, key), word)
		case field.Tag.Get("required") != "":
			if !r.bad[join(path, key)] {
				r.add(join(path, key), "is required")
			}
		case isSection(field.Type) && field.Tag.Get("template") == "":
			r.section(&node{kind: kindMapping}, value, join(path, key))
		}
	}
}

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

// misplaced says where a key belongs that a peer or bgp.defaults cannot have, or
// why no peer has it; "" for another key.
func misplaced(key string, section reflect.Type) string {
	var elsewhere []string
	problem := ""
	switch section {
	case reflect.TypeFor[rawPeer]():
		elsewhere = []string{"local_address", "ttl", "add_path", "multihop", "ebgp_multihop"}
		problem = "is for peers that belong to no interface; list this one in peers at the top level for it"
	case reflect.TypeFor[rawRemote]():
		elsewhere = []string{"unnumbered"}
		problem = "is for peers of an interface; list this one in interfaces[].peers for it"
	case reflect.TypeFor[rawSession]():
		elsewhere = []string{"address", "unnumbered", "router_id", "local_address", "ttl", "add_path"}
		problem = "is each peer's own; here are the keys that peers share"
	case reflect.TypeFor[rawBGP]():
	default:
		return ""
	}
	words := strings.Split(strings.ReplaceAll(strings.ToLower(key), "-", "_"), "_")
	if slices.Contains(words, "ao") || words[0] == "tcpao" {
		return "TCP-AO is not available: GoBGP v3 cannot; use password_file (TCP MD5) or ttl_security"
	}
	if slices.Contains(elsewhere, key) {
		return problem
	}
	return ""
}

// unknownKey says what is wrong with a key that the section does not have, and
// which key was probably meant.
func unknownKey(key string, section reflect.Type) (problem, meant string) {
	var keys []string
	for _, field := range fields(section) {
		keys = append(keys, field.Tag.Get("key"))
	}
	if first, rest, dotted := strings.Cut(key, "."); dotted && slices.Contains(keys, first) {
		return fmt.Sprintf("unknown key; a dot does not nest keys: write %q below %q", rest, first), first
	}
	if key == "<<" {
		return "merge keys are not supported; write the keys out", ""
	}
	if problem := misplaced(key, section); problem != "" {
		return problem, ""
	}
	guess := closest(key, keys)
	if file := key + "_file"; slices.Contains(keys, file) {
		guess = file // a secret is never in the configuration itself
	}
	if guess != "" {
		return fmt.Sprintf("unknown key; did you mean %q?", guess), guess
	}
	return "unknown key; the keys here are " + strings.Join(keys, ", "), ""
}
