package bfd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"vipspeaker/internal/privilege"
)

// processVariable makes the test binary a BFD process, ordinaryVariable one that
// may not have real-time priority, watcherVariable one that runs tellStandstills.
const (
	watcherVariable  = "VIPSPEAKER_BFD_WATCHER"
	processVariable  = "VIPSPEAKER_BFD_PROCESS"
	ordinaryVariable = "VIPSPEAKER_BFD_ORDINARY"
)

// TestMain runs the test binary as a BFD process where a Manager starts it.
func TestMain(m *testing.M) {
	if os.Getenv(watcherVariable) != "" {
		if err := tellStandstills(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(processVariable) == "" {
		os.Exit(m.Run())
	}
	if os.Getenv(ordinaryVariable) != "" {
		if err := privilege.DropAll(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if err := ServeInherited(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// testCommand is Options.Command of a real BFD process.
func testCommand() *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), processVariable+"=1")
	return cmd
}

// lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
