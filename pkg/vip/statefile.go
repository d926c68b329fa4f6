package vip

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"vipspeaker/internal/draft"
)

// stateName is the file in the state directory that exists from before our
// first change of the host until after the last one is undone.
const stateName = "vip.json"

// stateVersion is that of the file's format. A new key that describes nothing
// which has to be undone needs no other one: versions that do not know the key
// keep what is in it. Everything else does, and older ones refuse to start over it.
const stateVersion = 1

// state is what cannot be marked in the kernel: which device is ours between
// its creation and its alias, and former values of sysctls.
type state struct {
	Version int            `json:"version"`
	Devices []deviceRecord `json:"devices,omitempty"`
	Sysctls []sysctlRecord `json:"sysctls,omitempty"`
	// Main are our routes in the main table, Learned those that are in our tables
	// because routers told them.
	Main    []mainKey `json:"main,omitempty"`
	Learned []Learned `json:"learned,omitempty"`
}

// deviceRecord is a device that we make, or made.
type deviceRecord struct {
	Name string `json:"name"`
	// Index tells whether a device of that name is still the one that we made; it
	// is 0 until the kernel has told it.
	Index int `json:"index,omitempty"`
}

// sysctlRecord is a sysctl of an interface that we changed.
type sysctlRecord struct {
	// Index tells whether a device of the same name is still the same one, and
	// finds it when it was renamed; Interface is its name at the time.
	Interface string `json:"interface"`
	Index     int    `json:"index"`
	Family    string `json:"family"` // ipv4 or ipv6
	Key       string `json:"key"`
	Old       string `json:"old"`
	Ours      string `json:"ours"`
}

// stateFile is the state and its file. The file is never behind what we have
// changed: it is written first. So writing cannot be left to somebody beside the control
// loop; but a disk that hangs is waited for only so long, and what was to be changed
// then stays as it is.
type stateFile struct {
	path  string
	allow func(n int) int
	state
	exists bool
	// unknown are keys of other versions, which are kept.
	unknown map[string]json.RawMessage
	// hung is what the disk still does, nil for nothing: until that has ended, nobody
	// knows what is in the file.
	hung *diskWork
	// bound is for how long the disk is waited for.
	bound time.Duration
}

// diskWork is something that is done to the file.
type diskWork struct {
	next    state // what it says then
	removes bool  // there is none then
	ended   chan error
}

// diskBound is how long a pass waits for the disk, once: the watchdog ends the daemon
// after a pass of ten seconds.
const diskBound = time.Second

// errDisk is the error of a disk that hangs.
var errDisk = errors.New("the disk does not answer")

// otherVersionError says that a state file is not damaged, but another version's.
type otherVersionError struct{ path, what string }

func (e *otherVersionError) Error() string {
	return fmt.Sprintf("state file %s was written by another version of vipspeaker (%s) and stays as it is: "+
		"start that version again, or have it take its state back ('vipspeaker cleanup') before this one starts", e.path, e.what)
}

// CheckState returns an error when a process of this version would not understand
// what another one left in the state directory. New refuses a file of another
// version, and does without one that is damaged.
func CheckState(dir string) error {
	_, err := newStateFile(dir).read()
	return err
}

func newStateFile(dir string) *stateFile {
	return &stateFile{path: filepath.Join(dir, stateName), state: state{Version: stateVersion}, bound: diskBound}
}

// openState reads what a former process left; found tells whether it left any. A
// file that is damaged comes with an error.
func openState(dir string) (f *stateFile, found bool, err error) {
	//nolint:gosec // /run/vipspeaker also holds the control socket, which its group may reach
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return nil, false, fmt.Errorf("make state directory %s: %w", dir, err)
	}
	f = newStateFile(dir)
	usable, err := f.read()
	if !usable {
		return nil, false, err
	}
	return f, f.exists, err
}

// largestState bounds what is read of the state file, in bytes: some hundred times what
// ten thousand VIPs need.
const largestState = 64 << 20

var errTooLarge = fmt.Errorf("it is larger than %d bytes", largestState)

// readBounded reads a file that somebody else may have made of any size.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the directory
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, largestState+1))
	if err == nil && len(data) > largestState {
		return nil, errTooLarge
	}
	return data, err
}

// read takes what is on disk. It is usable unless it may not be read or is another
// version's; what a damaged file said is lost.
func (f *stateFile) read() (usable bool, err error) {
	data, err := readBounded(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil && !errors.Is(err, errTooLarge) {
		return false, fmt.Errorf("read state file: %w", err)
	}
	f.exists = true
	if err == nil {
		err = f.decode(data)
	}
	_, other := errors.AsType[*otherVersionError](err)
	if err != nil && !other {
		f.state, f.unknown = state{Version: stateVersion}, nil
		err = fmt.Errorf("state file %s is damaged: %w", f.path, err)
	}
	return !other, err
}

func (f *stateFile) decode(data []byte) error {
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	version := stateVersion
	if text, ok := all["version"]; ok {
		if err := json.Unmarshal(text, &version); err != nil {
			return err
		}
	}
	if version != stateVersion {
		return &otherVersionError{f.path, fmt.Sprintf("its version is %d, this one knows %d", version, stateVersion)}
	}
	if err := json.Unmarshal(data, &f.state); err != nil {
		return err
	}
	// Within a known key every field counts: one that is not understood may be what
	// has to be undone.
	known := map[string]json.RawMessage{}
	for field := range reflect.TypeFor[state]().Fields() {
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if value, ok := all[key]; ok {
			known[key] = value
			delete(all, key)
		}
	}
	text, err := json.Marshal(known)
	if err != nil {
		return err
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&state{}); err != nil {
		return &otherVersionError{f.path, err.Error()}
	}
	f.unknown = all
	return nil
}

// has tells whether something is recorded. While the disk hangs it must be so both before
// and after what that does: else nobody knows, which is an error.
func (f *stateFile) has(is func(s *state) bool) (bool, error) {
	f.poll()
	if f.hung == nil {
		return is(&f.state), nil
	}
	if is(&f.state) && is(&f.hung.next) {
		return true, nil
	}
	return false, fmt.Errorf("state file %s: %w", f.path, errDisk)
}

// poll notes what the disk has done at last.
func (f *stateFile) poll() {
	if f.hung == nil {
		return
	}
	select {
	case err := <-f.hung.ended:
		f.end(f.hung, err)
		f.hung = nil
	default:
	}
}

// work does something to the file, in bounded time, and nothing beside it.
func (f *stateFile) work(w *diskWork, do func() error) error {
	if f.poll(); f.hung != nil {
		return fmt.Errorf("state file %s: %w", f.path, errDisk)
	}
	w.ended = make(chan error, 1)
	go func() { w.ended <- do() }()
	timer := time.NewTimer(f.bound)
	defer timer.Stop()
	var err error
	select {
	case err = <-w.ended:
	case <-timer.C:
		select {
		case err = <-w.ended: // both: it was this process that did not go on
		default:
			f.hung = w
			return fmt.Errorf("state file %s: %w within %s", f.path, errDisk, f.bound)
		}
	}
	f.end(w, err)
	return err
}

// end notes what is in the file once something has been done to it. With an error that
// is what was there before.
func (f *stateFile) end(w *diskWork, err error) {
	if err != nil {
		return
	}
	if f.state, f.exists = w.next, !w.removes; w.removes {
		f.unknown = nil
	}
}

// setDevice records that the device of that name is ours: with index 0 before it
// is created, and with its index then.
func (f *stateFile) setDevice(name string, index int) error {
	r := deviceRecord{name, index}
	if ok, err := f.has(func(s *state) bool { return slices.Contains(s.Devices, r) }); ok || err != nil {
		return err
	}
	next := f.state
	next.Devices = append(f.otherDevices(name), r)
	return f.write(next)
}

// dropDevice forgets a device that is gone.
func (f *stateFile) dropDevice(name string) error {
	f.poll()
	rest := f.otherDevices(name)
	if len(rest) == len(f.Devices) {
		return nil
	}
	next := f.state
	next.Devices = rest
	return f.write(next)
}

func (f *stateFile) otherDevices(name string) []deviceRecord {
	return slices.DeleteFunc(slices.Clone(f.Devices), func(r deviceRecord) bool { return r.Name == name })
}

// made tells whether we made the device. One of the same name with another index
// is somebody else's. Without an index we were about to make it and to give it
// the alias, so one that has any alias is not it.
func (f *stateFile) made(l link) bool {
	return slices.Contains(f.Devices, deviceRecord{l.name, l.index}) ||
		l.alias == "" && slices.Contains(f.Devices, deviceRecord{l.name, 0})
}

// setSysctls records the sysctls that are about to be changed.
func (f *stateFile) setSysctls(records []sysctlRecord) error {
	if ok, err := f.has(func(s *state) bool { return slices.Equal(records, s.Sysctls) }); ok || err != nil {
		return err
	}
	next := f.state
	next.Sysctls = records
	return f.write(next)
}

// touch makes the file exist.
func (f *stateFile) touch() error {
	f.poll()
	if f.exists && (f.hung == nil || !f.hung.removes) {
		return nil
	}
	return f.write(f.state)
}

// write replaces the file in one step; only root may read it.
func (f *stateFile) write(next state) error {
	if f.allow(1) < 1 {
		return errStopped
	}
	data, err := f.encode(next)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	path := f.path
	return f.work(&diskWork{next: next}, func() error {
		if err := draft.Write(path, append(data, '\n'), 0o600); err != nil {
			return fmt.Errorf("write state file: %w", err)
		}
		return nil
	})
}

// encode is a state with what other versions had in the file beside it.
func (f *stateFile) encode(s state) ([]byte, error) {
	if len(f.unknown) == 0 {
		return json.MarshalIndent(s, "", "  ")
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	maps.Copy(all, f.unknown)
	return json.MarshalIndent(all, "", "  ")
}

// draft is where the next version is written before it takes the file's place.
func (f *stateFile) draft() string { return draft.Path(f.path) }

// remove deletes the file: nothing of ours is left on the host.
func (f *stateFile) remove() error {
	if f.allow(1) < 1 {
		return errStopped
	}
	names := []string{f.draft(), f.path}
	return f.work(&diskWork{next: state{Version: stateVersion}, removes: true}, func() error {
		for _, name := range names {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove state file: %w", err)
			}
		}
		return nil
	})
}
