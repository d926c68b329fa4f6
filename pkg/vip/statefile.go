package vip

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// stateName is the file in the state directory that exists from before our
// first change of the host until after the last one is undone.
const stateName = "vip.json"

// stateVersion is that of the file's format.
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
// changed: it is written first.
type stateFile struct {
	path  string
	allow func(n int) int
	state
	exists bool
}

// openState reads what a former process left; found tells whether it left any.
func openState(dir string) (f *stateFile, found bool, err error) {
	//nolint:gosec // /run/vipspeaker also holds the control socket, which its group may reach
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return nil, false, fmt.Errorf("make state directory %s: %w", dir, err)
	}
	f = &stateFile{path: filepath.Join(dir, stateName), state: state{Version: stateVersion}}
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read state file: %w", err)
	}
	f.exists = true
	if err = json.Unmarshal(data, &f.state); err != nil {
		f.state = state{Version: stateVersion}
		return f, true, fmt.Errorf("state file %s is damaged: %w", f.path, err)
	}
	return f, true, nil
}

// setDevice records that the device of that name is ours: with index 0 before it
// is created, and with its index then.
func (f *stateFile) setDevice(name string, index int) error {
	r := deviceRecord{name, index}
	if slices.Contains(f.Devices, r) && f.exists {
		return nil
	}
	next := f.state
	next.Devices = append(f.otherDevices(name), r)
	return f.write(next)
}

// dropDevice forgets a device that is gone.
func (f *stateFile) dropDevice(name string) error {
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
	if slices.Equal(records, f.Sysctls) {
		return nil
	}
	next := f.state
	next.Sysctls = records
	return f.write(next)
}

// touch makes the file exist.
func (f *stateFile) touch() error {
	if f.exists {
		return nil
	}
	return f.write(f.state)
}

// write replaces the file in one step; only root may read it.
func (f *stateFile) write(next state) error {
	if f.allow(1) < 1 {
		return errStopped
	}
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if err := os.WriteFile(f.draft(), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	if err := os.Rename(f.draft(), f.path); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	f.state, f.exists = next, true
	return nil
}

// draft is where the next version is written before it takes the file's place.
func (f *stateFile) draft() string { return f.path + ".new" }

// remove deletes the file: nothing of ours is left on the host.
func (f *stateFile) remove() error {
	if f.allow(1) < 1 {
		return errStopped
	}
	for _, name := range []string{f.draft(), f.path} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove state file: %w", err)
		}
	}
	f.state, f.exists = state{Version: stateVersion}, false
	return nil
}
