package lab

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// clockPath is the file in a node by how much the wall clock is off of the daemons
// that BuildSettable has built, and clockVariable tells them so.
const (
	clockPath     = "/run/clock"
	clockVariable = "VIPSPEAKER_TEST_CLOCK"
)

// settable is added to the daemon: it shares the file of the clock with the test.
const settable = `package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

func init() {
	path := os.Getenv("` + clockVariable + `")
	if path == "" {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	shared, err := syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	time.Step = (*int64)(unsafe.Pointer(&shared[0]))
}
`

// BuildSettable is Build of a daemon whose wall clock a test can set while it runs,
// and that of the processes that it starts, without one of the machine's. It is the
// same source with a standard library whose time.Now adds a step to the wall clock,
// as the kernel does after settimeofday(2), and leaves the monotonic one alone.
func BuildSettable(ctx context.Context, dir string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	standard := filepath.Join(strings.TrimSpace(string(root)), "src/time/time.go")
	source, err := os.ReadFile(standard) //nolint:gosec // of the toolchain
	if err != nil {
		return "", err
	}
	const reads = "\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), reads) != 1 {
		return "", fmt.Errorf("%s: time.Now does not read the clock as it did", standard)
	}
	stepped := strings.Replace(string(source), reads, reads+"\tif Step != nil {\n\t\tsec += *Step\n\t}\n", 1) +
		"\n// Step is by how many seconds the wall clock is off.\nvar Step *int64\n"
	replace := map[string]string{}
	for path, text := range map[string]string{
		standard: stepped,
		filepath.Join(strings.TrimSpace(string(module)), "cmd/vipspeaker/settable_clock.go"): settable,
	} {
		at := filepath.Join(dir, filepath.Base(path))
		if err = os.WriteFile(at, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = at
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err = os.WriteFile(overlay, text, 0o600); err != nil {
		return "", err
	}
	return build(ctx, dir, "", "-overlay", overlay)
}

// Clock is the wall clock of the settable daemons of a node.
type Clock struct{ path string }

// NewClock makes the clock of a node, which is right. Env is for its daemons.
func (n *Node) NewClock() (c *Clock, env string) {
	n.lab.t.Helper()
	n.WriteFile(clockPath, strings.Repeat("\x00", 8))
	return &Clock{n.Path(clockPath)}, clockVariable + "=" + clockPath
}

// Set makes it differ from the machine's, in whole seconds.
func (c *Clock) Set(off time.Duration) error {
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()                                                                       //nolint:errcheck // all of it is written by then
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(off/time.Second)), 0) //nolint:gosec // it may be negative
	return err
}
