package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/viper"
)

// maxFile is the largest configuration file, in bytes.
const maxFile = 8 << 20

// Load reads the file at path, whose extension tells its format: .yaml, .yml,
// .toml or .json. The error is an *Errors.
func Load(path string) (*Config, error) {
	if path == "" {
		return nil, &Errors{Name: "configuration file", List: []Error{{Problem: "its name is empty"}}}
	}
	data, err := readLimited(path, maxFile)
	if err != nil {
		return nil, &Errors{Name: path, List: []Error{{Problem: "cannot be read: " + reason(err)}}}
	}
	return Parse(data, strings.TrimPrefix(filepath.Ext(path), "."), path)
}

// Parse checks and decodes a configuration in the format yaml, toml or json,
// and reads the password files that it names. Name stands for the file in
// messages. The error is an *Errors with all mistakes.
func Parse(data []byte, format, name string) (*Config, error) {
	root, err := readTree(data, strings.ToLower(format))
	if err != nil {
		one := Error{Problem: err.Error()}
		if at, ok := errors.AsType[*syntaxError](err); ok {
			one.Line, one.Problem = at.line, at.problem
		}
		return nil, &Errors{Name: name, List: []Error{one}}
	}
	r := newReport()
	var raw rawConfig
	if root.kind == kindNull {
		root.kind = kindMapping // nothing but comments
	}
	if root.kind == kindMapping {
		var cfg *Config
		inheritDefaults(root)
		r.value(root, reflect.ValueOf(&raw).Elem(), "", "")
		cfg = build(&raw, r)
		validate(cfg, r)
		if len(r.list) == 0 {
			return cfg, nil
		}
	} else {
		r.add("", "the file must be a mapping of keys, not %s", root.kind)
	}
	slices.SortStableFunc(r.list, func(a, b Error) int { return a.Line - b.Line })
	return nil, &Errors{Name: name, List: r.list}
}

// trees gives viper the decoders that keep the document as it was written.
type trees struct{ root *node }

// Decoder returns the decoder for the format.
func (t *trees) Decoder(format string) (viper.Decoder, error) {
	switch format {
	case "yaml", "yml":
		return treeDecoder{t, parseYAML}, nil
	case "toml":
		return treeDecoder{t, parseTOML}, nil
	case "json":
		return treeDecoder{t, parseJSON}, nil
	}
	return nil, viper.UnsupportedConfigError(format)
}

type treeDecoder struct {
	trees *trees
	parse func([]byte) (*node, error)
}

// Decode keeps the tree and leaves viper's own store empty.
func (d treeDecoder) Decode(data []byte, _ map[string]any) error {
	root, err := d.parse(data)
	d.trees.root = root
	return err
}

func readTree(data []byte, format string) (*node, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	found := &trees{}
	v := viper.NewWithOptions(viper.WithDecoderRegistry(found))
	v.SetConfigType(format)
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		if _, ok := errors.AsType[*syntaxError](err); ok {
			return nil, err
		}
		return nil, fmt.Errorf("unknown format %q; the file's name must end in .yaml, .yml, .toml or .json", format)
	}
	return found.root, nil
}

// readLimited returns the content of a regular file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return data, err
}

// reason returns the error without the operation and the path.
func reason(err error) string {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}
