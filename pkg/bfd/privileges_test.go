//go:build !race

package bfd

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// A binary for the race detector uses cgo and cannot drop privileges.

// The process can do nothing but BFD.
func TestProcessHasNoPrivileges(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		_, ca, _ := pair(ns, "10.68.1.1", "10.68.1.2", nil)
		a, _ := apart(t, ns, ca, nil)
		a.m.Set([]SessionConfig{ca})
		pid := onePID(t)
		want := map[string]string{
			"Uid": "65534", "CapInh": "0", "CapPrm": "0", "CapEff": "0", "CapAmb": "0", "NoNewPrivs": "1",
		}
		tasks := func() []string {
			list, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
			if err != nil || len(list) == 0 {
				t.Fatal(list, err)
			}
			return list
		}
		netnstest.Until(t, patience, func() error {
			var best int
			for _, f := range tasks() {
				text, err := os.ReadFile(f)
				if err != nil {
					return err
				}
				got := map[string]string{}
				for line := range strings.Lines(string(text)) {
					name, rest, _ := strings.Cut(line, ":")
					if _, ok := want[name]; ok {
						got[name] = strings.Fields(rest)[0]
						if n, bad := strconv.ParseUint(got[name], 16, 64); bad == nil && n == 0 {
							got[name] = "0"
						}
					}
				}
				if d := cmp.Diff(want, got); d != "" {
					return fmt.Errorf("%s (-want +got):\n%s", f, d)
				}
				id, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				attr, err := unix.SchedGetAttr(id, 0)
				if err != nil || attr.Policy != unix.SCHED_RR {
					return fmt.Errorf("thread %d: %+v, %w", id, attr, err)
				}
				best = max(best, int(attr.Priority))
			}
			if best != 2 {
				return fmt.Errorf("priority %d of the sending thread", best)
			}
			return nil
		})
	})
}

// Where real-time priority is not permitted, the process says so once and does
// what it can.
func TestProcessOfOrdinaryPriority(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, ca, cb := pair(ns, "10.68.1.1", "10.68.1.2", nil)
		lines := &lockedBuffer{}
		a := &end{cfg: ca, m: New(Options{Log: slog.New(slog.NewTextHandler(lines, nil)), Command: func() *exec.Cmd {
			cmd := testCommand()
			cmd.Env = append(cmd.Env, ordinaryVariable+"=1")
			return cmd
		}})}
		a.m.Set([]SessionConfig{ca})
		a.run(t, ns)
		start(t, router, cb)
		a.reaches(t, Up)
		if attr, err := unix.SchedGetAttr(onePID(t), 0); err != nil || attr.Policy != unix.SCHED_NORMAL {
			t.Errorf("%+v, %v", attr, err)
		}
		netnstest.Until(t, patience, func() error { // it comes by another way than the state
			if text := lines.String(); strings.Count(text, "BFD has ordinary priority") != 1 || strings.Count(text, "\n") != 1 {
				return fmt.Errorf("log:\n%s", text)
			}
			return nil
		})
	})
}
