package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const serviceFile = "../../examples/vipspeaker.service"

// TestServiceVerifies lets systemd itself look for unknown keys and bad values.
func TestServiceVerifies(t *testing.T) {
	unit, err := os.ReadFile(serviceFile)
	if err != nil {
		t.Fatal(err)
	}
	// systemd wants the program to exist.
	text := strings.ReplaceAll(string(unit), "/usr/bin/vipspeaker", "/bin/true")
	path := filepath.Join(t.TempDir(), "vipspeaker.service")
	if err = os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// TestServiceKeepsItsPromises checks the settings without which the daemon
// would lose what it promises, and that each command line of the unit exists.
func TestServiceKeepsItsPromises(t *testing.T) {
	unit, err := os.ReadFile(serviceFile)
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(unit)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(line, "#") {
			settings[key] = value
		}
	}
	for key, want := range map[string]string{
		"KillMode":                 "mixed", // speakers end by the daemon's order only
		"Restart":                  "always",
		"StartLimitIntervalSec":    "0",
		"RuntimeDirectoryPreserve": "yes", // the state file outlives the process
		"StateDirectory":           "vipspeaker",
		"ProtectKernelTunables":    "no",
		"AmbientCapabilities":      "CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_SYS_NICE",
		"RestrictRealtime":         "no", // the BFD process
		"Type":                     "notify",
	} {
		if settings[key] != want {
			t.Errorf("%s=%s, want %s", key, settings[key], want)
		}
	}
	for _, key := range []string{"ExecStart", "ExecReload", "ExecStopPost"} {
		words := strings.Fields(settings[key])
		cmd, args, err := newRoot().Find(words[1:])
		if err != nil || cmd.Name() != words[1] {
			t.Errorf("%s=%s: no such command: %v", key, settings[key], err)
			continue
		}
		if err := parses(cmd, args); err != nil {
			t.Errorf("%s=%s: %v", key, settings[key], err)
		}
	}
}

func parses(cmd *cobra.Command, args []string) error {
	if err := cmd.ParseFlags(args); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}
