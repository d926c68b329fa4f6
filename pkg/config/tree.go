package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"
)

// Bounds of a document. YAML aliases can make a small file a huge tree, or an
// endless one.
const (
	maxDepth = 32
	maxNodes = 1_000_000
)

// kind is the type of a value in the document.
type kind int

const (
	kindNull kind = iota
	kindMapping
	kindList
	kindText
	kindNumber
	kindBool
	kindOther // a date or a tagged value
)

// String returns the kind as it is called in messages.
func (k kind) String() string {
	return [...]string{"nothing", "a mapping", "a list", "text", "a number", "true or false", "a date or a tagged value"}[k]
}

// node is a value of the document as the user wrote it, whatever the format.
type node struct {
	kind  kind
	text  string // of a scalar
	line  int    // 0 if unknown
	pairs []pair // of a mapping, in the order of the document, with doubles
	items []*node
	home  string // the path of the value that this one is inherited from
}

type pair struct {
	key   string
	line  int
	value *node
}

// show returns the value for a message.
func (n *node) show() string {
	text := n.text
	if r := []rune(text); len(r) > 80 {
		text = string(r[:77]) + "..."
	}
	switch n.kind {
	case kindMapping, kindList, kindNull:
		return ""
	case kindText:
		return strconv.Quote(text)
	default:
		return text
	}
}

// syntaxError is a document that cannot be read as its format.
type syntaxError struct {
	line    int
	problem string
}

func (e *syntaxError) Error() string { return e.problem }

// parseYAML returns the tree of the only document in data.
func parseYAML(data []byte) (*node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return &node{kind: kindMapping, line: 1}, nil
	case err != nil:
		return nil, yamlError(err)
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		return nil, &syntaxError{line: more.Line, problem: "the file holds a second document; it must hold one"}
	case !errors.Is(err, io.EOF):
		return nil, yamlError(err)
	}
	if len(doc.Content) == 0 {
		return &node{kind: kindMapping, line: 1}, nil
	}
	budget := maxNodes
	return fromYAML(doc.Content[0], maxDepth, &budget)
}

// yamlError takes the line out of the decoder's text.
func yamlError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.Replace(text, "cannot start any token", "cannot start any token, such as a tab, which does not indent in YAML", 1)
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, problem, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(number); err == nil {
				return &syntaxError{line: line, problem: "not valid YAML: " + problem}
			}
		}
	}
	return &syntaxError{problem: "not valid YAML: " + text}
}

func fromYAML(y *yaml.Node, depth int, budget *int) (*node, error) {
	*budget--
	if depth == 0 || *budget < 0 {
		return nil, &syntaxError{line: y.Line, problem: "too deep or too large, perhaps an alias that holds itself"}
	}
	n := &node{text: y.Value, line: y.Line}
	switch y.Kind {
	case yaml.AliasNode:
		return fromYAML(y.Alias, depth-1, budget)
	case yaml.MappingNode:
		n.kind = kindMapping
		for i := 0; i+1 < len(y.Content); i += 2 {
			key := y.Content[i]
			if key.Kind != yaml.ScalarNode {
				return nil, &syntaxError{line: key.Line, problem: "a key must be a plain word"}
			}
			value, err := fromYAML(y.Content[i+1], depth-1, budget)
			if err != nil {
				return nil, err
			}
			n.pairs = append(n.pairs, pair{key: key.Value, line: key.Line, value: value})
		}
	case yaml.SequenceNode:
		n.kind = kindList
		for _, item := range y.Content {
			value, err := fromYAML(item, depth-1, budget)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, value)
		}
	default:
		n.kind = yamlKind(y.ShortTag())
	}
	return n, nil
}

func yamlKind(tag string) kind {
	switch tag {
	case "!!str":
		return kindText
	case "!!int", "!!float":
		return kindNumber
	case "!!bool":
		return kindBool
	case "!!null":
		return kindNull
	default:
		return kindOther
	}
}

// jsonReader builds the tree token by token: encoding/json itself keeps the
// last of two equal keys without a word.
type jsonReader struct {
	dec  *json.Decoder
	data []byte
	read int // bytes whose lines are counted
	line int
}

// parseJSON returns the tree of data.
func parseJSON(data []byte) (*node, error) {
	r := &jsonReader{dec: json.NewDecoder(bytes.NewReader(data)), data: data, line: 1}
	r.dec.UseNumber()
	root, err := r.value(maxDepth)
	if err == nil {
		if _, more := r.dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the end of the document")
		}
	}
	if err != nil {
		r.count(int(r.dec.InputOffset()))
		return nil, &syntaxError{line: r.line, problem: "not valid JSON: " + err.Error()}
	}
	return root, nil
}

func (r *jsonReader) count(end int) {
	end = min(end, len(r.data))
	r.line += bytes.Count(r.data[r.read:end], []byte("\n"))
	r.read = end
}

func (r *jsonReader) value(depth int) (*node, error) {
	if depth == 0 {
		return nil, errors.New("too deep")
	}
	token, err := r.dec.Token()
	if err != nil {
		return nil, err
	}
	r.count(int(r.dec.InputOffset()))
	n := &node{line: r.line, text: fmt.Sprint(token)}
	switch t := token.(type) {
	case json.Delim:
		n.text = ""
		if t == '{' {
			n.kind = kindMapping
		} else {
			n.kind = kindList
		}
		return n, r.members(n, depth)
	case string:
		n.kind = kindText
	case json.Number:
		n.kind = kindNumber
	case bool:
		n.kind = kindBool
	}
	return n, nil
}

func (r *jsonReader) members(n *node, depth int) error {
	for r.dec.More() {
		p := pair{}
		if n.kind == kindMapping {
			token, err := r.dec.Token()
			if err != nil {
				return err
			}
			r.count(int(r.dec.InputOffset()))
			p.key, p.line = fmt.Sprint(token), r.line
		}
		value, err := r.value(depth - 1)
		if err != nil {
			return err
		}
		if n.kind == kindMapping {
			p.value = value
			n.pairs = append(n.pairs, p)
		} else {
			n.items = append(n.items, value)
		}
	}
	_, err := r.dec.Token()
	return err
}

// parseTOML returns the tree of data. The decoder itself refuses equal keys and
// tells no lines of good values.
func parseTOML(data []byte) (*node, error) {
	values := map[string]any{}
	if err := toml.Unmarshal(data, &values); err != nil {
		problem := &syntaxError{problem: "not valid TOML: " + strings.TrimPrefix(err.Error(), "toml: ")}
		if at, ok := errors.AsType[*toml.DecodeError](err); ok {
			problem.line, _ = at.Position()
		}
		return nil, problem
	}
	return fromTOML(values), nil
}

func fromTOML(value any) *node {
	switch v := value.(type) {
	case map[string]any:
		n := &node{kind: kindMapping}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			n.pairs = append(n.pairs, pair{key: key, value: fromTOML(v[key])})
		}
		return n
	case []any:
		n := &node{kind: kindList}
		for _, item := range v {
			n.items = append(n.items, fromTOML(item))
		}
		return n
	case string:
		return &node{kind: kindText, text: v}
	case int64:
		return &node{kind: kindNumber, text: strconv.FormatInt(v, 10)}
	case float64:
		text := strconv.FormatFloat(v, 'f', -1, 64)
		if !strings.Contains(text, ".") {
			text += ".0" // not a whole number, as the user wrote it
		}
		return &node{kind: kindNumber, text: text}
	case bool:
		return &node{kind: kindBool, text: strconv.FormatBool(v)}
	default:
		return &node{kind: kindOther, text: fmt.Sprint(v)}
	}
}
