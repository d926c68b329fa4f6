package bgp

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

const processEnv = "VIPSPEAKER_TEST_SPEAKER"

// TestMain runs the test binary as a speaker process where a Manager starts it.
func TestMain(m *testing.M) {
	if os.Getenv(processEnv) != "" {
		if err := ServeInherited(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func testCommand(string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{processEnv + "=1"}
	return cmd
}
