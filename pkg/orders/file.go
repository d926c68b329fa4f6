package orders

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"vipspeaker/internal/draft"
)

// Name is the file in the directory.
const Name = "orders.json"

// Version is that of the file's format.
const Version = 1

// largest bounds what is read, and so what is written, in bytes.
const largest = 16 << 20

// file is the orders on disk.
type file struct {
	path string
	// unknown are keys of other versions, which are kept.
	unknown map[string]json.RawMessage
	// written is what is on disk; nil for no file.
	written []byte
	// unsure tells that it may be something else: the file was replaced, and nobody
	// knows whether that outlives a loss of power.
	unsure bool
	// sync makes names in a directory outlive a loss of power; tests have it fail.
	sync func(dir string) error
}

// Check returns an error when a process of this version would not understand the
// orders in the directory: for it every VIP would count as drained.
func Check(dir string) error {
	f := newFile(dir)
	_, err := f.read()
	return err
}

func newFile(dir string) file { return file{path: filepath.Join(dir, Name), sync: syncDir} }

// read returns the orders on disk; none if there is no file.
func (f *file) read() (*Orders, error) {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return &Orders{}, nil
	}
	if err == nil && info.Size() > largest {
		err = fmt.Errorf("%s: larger than %d bytes", f.path, largest)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(f.path)
	}
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	o, err := f.decode(data)
	if err != nil {
		return nil, fmt.Errorf("orders in %s: %w", f.path, err)
	}
	f.written = data
	return o, nil
}

func (f *file) decode(data []byte) (*Orders, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	var version int
	if err := json.Unmarshal(all["version"], &version); err != nil {
		return nil, fmt.Errorf("version: %w", err)
	}
	if version != Version {
		return nil, fmt.Errorf("version %d was written by another vipspeaker; this one knows %d", version, Version)
	}
	// Within a known key every field counts: one that is not understood may be
	// what makes an order another one.
	known := map[string]json.RawMessage{}
	for _, key := range keys() {
		if value, ok := all[key]; ok {
			known[key] = value
			delete(all, key)
		}
	}
	delete(all, "version")
	text, err := json.Marshal(known)
	if err != nil {
		return nil, err
	}
	var o Orders
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return nil, err
	}
	for i := range o.VIPs {
		var b bytes.Buffer
		if err := json.Compact(&b, o.VIPs[i].Spec); err != nil {
			return nil, err
		}
		o.VIPs[i].Spec = b.Bytes() // as it was given
	}
	f.unknown = all
	return &o, nil
}

// keys are the names of what this version knows.
func keys() []string {
	var list []string
	for field := range reflect.TypeFor[Orders]().Fields() {
		if key, _, _ := strings.Cut(field.Tag.Get("json"), ","); key != "-" {
			list = append(list, key)
		}
	}
	return list
}

// write replaces the file in one step, unless it says the same already. When it
// returns nil, the orders outlive a loss of power. Only root may read it.
func (f *file) write(o *Orders) error {
	kept := *o
	kept.VIPs = slices.DeleteFunc(slices.Clone(o.VIPs), func(v VIP) bool { return v.Ephemeral })
	text, err := json.Marshal(&kept)
	if err != nil {
		return fmt.Errorf("encode orders: %w", err)
	}
	all := map[string]json.RawMessage{}
	if err = json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("encode orders: %w", err)
	}
	if len(all)+len(f.unknown) == 0 && f.written == nil && !f.unsure {
		return nil // no file says the same
	}
	maps.Copy(all, f.unknown)
	all["version"] = json.RawMessage(fmt.Sprint(Version))
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("encode orders: %w", err)
	}
	data = append(data, '\n')
	if bytes.Equal(data, f.written) && !f.unsure {
		return nil
	}
	if len(data) > largest {
		return fmt.Errorf("keep the order: %s would be larger than %d bytes", f.path, largest)
	}
	if err := f.replace(data); err != nil {
		return fmt.Errorf("keep the order: %w", err)
	}
	f.written, f.unsure = data, false
	return nil
}

func (f *file) replace(data []byte) error {
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	out, err := draft.Create(f.path, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	if err = os.Rename(draft.Path(f.path), f.path); err != nil {
		return err
	}
	f.unsure = true
	return f.sync(dir)
}

func syncDir(dir string) error {
	in, err := os.Open(dir) //nolint:gosec // the operator names the directory
	if err != nil {
		return err
	}
	return errors.Join(in.Sync(), in.Close())
}

// putAside moves the file out of the way and returns where it is now.
func (f *file) putAside() (string, error) {
	to := f.path + ".damaged"
	if err := os.Rename(f.path, to); err != nil {
		return "", fmt.Errorf("put the unreadable orders aside: %w", err)
	}
	f.written, f.unsure, f.unknown = nil, false, nil
	return to, nil
}
