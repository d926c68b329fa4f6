package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

// bfdRouter runs the router's end of the session of behindLab until the test ends.
func bfdRouter(t *testing.T, router netnstest.NS) func() bfd.SessionState {
	t.Helper()
	far := bfd.New(bfd.Options{})
	own := bfd.SessionConfig{
		Peer: netip.MustParseAddr("10.68.1.1"), Local: netip.MustParseAddr("10.68.1.2"), Interface: "sw1",
		MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 100,
	}
	far.Set([]bfd.SessionConfig{own})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		router.Do(func() error { return far.Run(ctx) })
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return func() bfd.SessionState { return far.State().Sessions[0] }
}

// bfdProcesses are the BFD processes in this network namespace.
func bfdProcesses(t *testing.T) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	// Not of the process: its first thread may be in the router's namespace.
	network, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, f := range files {
		dir := filepath.Dir(f)
		text, err := os.ReadFile(f)
		if ns, nserr := os.Readlink(dir + "/ns/net"); err == nil && nserr == nil && ns == network && bytes.Contains(text, []byte(bfdCommand)) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, pid)
		}
	}
	return out
}

func bfdUp(s *status.Status) bool {
	b := s.Peers[0].BFD
	return b != nil && b.State == "Up" && b.TxInterval == 50*time.Millisecond && b.Downs == 0 && b.Error == ""
}

// TestBFDProcessDies: the sessions come back by themselves, and nothing takes it
// for a path that failed.
func TestBFDProcessDies(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, d := behindLab(t, ns, behindConfig)
		bfdRouter(t, router)
		shows(t, "up", bfdUp)
		before := bfdProcesses(t)
		if len(before) != 1 {
			t.Fatalf("BFD processes %v", before)
		}
		if err := unix.Kill(before[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		netnstest.Until(t, soon, func() error {
			if after := bfdProcesses(t); len(after) != 1 || after[0] == before[0] {
				return fmt.Errorf("BFD processes %v, then %v", before, after)
			}
			return nil
		})
		shows(t, "up again", func(s *status.Status) bool {
			return bfdUp(s) && s.Interfaces[0].Usable && len(s.Interfaces[0].Failures) == 0
		})
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		if left := bfdProcesses(t); len(left) > 0 {
			t.Errorf("BFD processes %v are left", left)
		}
		if text := d.log.String(); strings.Count(text, `msg="BFD process ended"`) != 1 || !strings.Contains(text, "signal: killed") {
			t.Error("the end of the process is not in the log once")
		}
	})
}

// TestBFDOfAKilledDaemon: the router hears that BFD is no longer wanted, so that
// it keeps the routes (RFC 5882 section 4.3).
func TestBFDOfAKilledDaemon(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, d := behindLab(t, ns, behindConfig)
		far := bfdRouter(t, router)
		shows(t, "up", bfdUp)
		d.signal(t, syscall.SIGKILL)
		netnstest.Until(t, soon, func() error {
			if s := far(); s.RemoteStatus != bfd.AdminDown || s.Downs != 0 {
				return fmt.Errorf("the router sees %+v", s)
			}
			if left := bfdProcesses(t); len(left) > 0 {
				return fmt.Errorf("BFD processes %v are left", left)
			}
			return nil
		})
	})
}
