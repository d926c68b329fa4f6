package main

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"vipspeaker/test/netnstest"
)

// Only a process that could change the network is believed to be a daemon.
func TestImpostor(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, _ netnstest.NS) {
		t.Helper()
		if impostor(os.Getpid()) {
			t.Error("a process with CAP_NET_ADMIN is taken for an impostor")
		}
		if impostor(1 << 30) {
			t.Error("a process that cannot be seen is taken for an impostor")
		}
		for _, argv := range [][]string{
			{"setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "sleep", "60"}, // no capability
			{"unshare", "--user", "sleep", "60"},                                       // all, but elsewhere
		} {
			cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			netnstest.Until(t, soon, func() error {
				if !impostor(cmd.Process.Pid) {
					return errors.New(argv[0] + " is believed")
				}
				return nil
			})
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
}
