//go:build long

package demo_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"vipspeaker/test/stopwatch"
)

// program builds the real program where any user can execute it.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "vipspeaker")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../../cmd/vipspeaker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return path
}

// machine is what the demo could leave behind on the real machine.
func machine(t *testing.T, path string) []string {
	t.Helper()
	var left []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if regexp.MustCompile(`^(vi|en|r|c)\d`).MatchString(l.Attrs().Name) {
			left = append(left, "link "+l.Attrs().Name)
		}
	}
	for _, pattern := range []string{"/run/vipspeaker/*", "/run/demo*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, files...)
	}
	return append(left, processes(t, path)...)
}

// processes lists the processes that execute the program.
func processes(t *testing.T, path string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(exe string) bool {
		target, err := os.Readlink(exe)
		return err != nil || target != path // it ended meanwhile
	})
}

// essentials are the lines that the demo must show, in this order.
const essentials = `(?s)vipspeaker demo: .*` +
	`before: the host reaches the client by en0, as 10\.68\.0\.1\n.*` +
	`after \S+ the router has 10\.68\.6\.1/32 twice.*` +
	`nexthop via 10\.68\.1\.1 dev r1\n.*nexthop via 10\.68\.5\.1 dev r5\n.*` +
	`\$ vipspeaker status\n.*vipa.*` +
	`no bind\(\): all from 10\.68\.6\.1\n.*` +
	`the host still is 10\.68\.0\.1\n.*` +
	`TCP session from the client to the VIP, from 10\.68\.9\.9.*` +
	`TCP session from the host to the client, from 10\.68\.6\.1.*` +
	`nothing fails: longest gap .*` +
	`the router has moved to en5 alone\n.*` +
	`en1 down: longest gap \S+, \d+ of \d+ probes lost, both TCP sessions alive\n.*` +
	`all probes come in by en5 now\n.*` +
	`en1 back: longest gap \S+, \d+ of \d+ probes lost, both TCP sessions alive\n.*` +
	`en5 down: longest gap .*` +
	`en5 back: longest gap .*` +
	`one connection all along\n.*` +
	`withdrawn, unbound and exit code 0 in .*` +
	`the router has no route to 10\.68\.6\.1 any more\n.*` +
	`are as before the start\n.*` +
	`All of this held, in \d+ s\. Nothing of the demo remains\.\n$`

// The demo ends well within a minute, for root and for a user who may make user
// namespaces, and leaves nothing behind. In a pipe it prints no escape codes.
func TestLongDemo(t *testing.T) {
	path := program(t)
	before := machine(t, path)
	for name, uid := range map[string]uint32{"root": 0, "nobody": 65534} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			watch := stopwatch.Start(t)
			cmd := exec.CommandContext(ctx, path, "demo")
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Errorf("demo: %v (%v)", err, context.Cause(ctx))
			}
			if took := watch.Elapsed(); took > time.Minute {
				t.Errorf("it took %s", took)
			}
			if !regexp.MustCompile(essentials).Match(out) {
				t.Errorf("the output lacks essential lines")
			}
			if bytes.ContainsRune(out, '\x1b') {
				t.Errorf("the output has escape codes")
			}
			if diff := cmp.Diff(before, machine(t, path)); diff != "" {
				t.Errorf("what the demo left behind (-before +after):\n%s", diff)
			}
		})
	}
}

// untilStatus starts the demo and reads its output until it shows the status:
// then the daemon and its speakers run. It returns where to read on.
func untilStatus(t *testing.T, demo *exec.Cmd) io.Reader {
	t.Helper()
	out, err := demo.StdoutPipe()
	if err == nil {
		err = demo.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	seen := ""
	for buf := make([]byte, 4096); !strings.Contains(seen, "$ vipspeaker status"); {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("%v after %s", err, seen)
		}
		seen += string(buf[:n])
	}
	return out
}

// A daemon that dies fails the demo, which says so and shows its log.
func TestLongDemoDaemonDies(t *testing.T) {
	path := program(t)
	cmd := exec.CommandContext(t.Context(), path, "demo")
	out := untilStatus(t, cmd)
	killed := 0
	for _, exe := range processes(t, path) {
		dir := filepath.Dir(exe)
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !bytes.Contains(args, []byte("\x00run\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
		killed++
	}
	rest, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if killed != 1 || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("killed %d daemons, the demo ended with %v; want 1 and exit code 1", killed, err)
	}
	for _, want := range []string{"FAILED: ", "the daemon ended by itself: signal: killed", "The daemon's last lines:", "msg=started"} {
		if !bytes.Contains(rest, []byte(want)) {
			t.Errorf("the output lacks %q:\n%s", want, rest)
		}
	}
}

// Whatever ends the command, in the middle of its work, ends all of the demo.
func TestLongDemoInterrupted(t *testing.T) {
	path := program(t)
	before := machine(t, path)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), path, "demo")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			untilStatus(t, cmd)
			if got := len(processes(t, path)); got < 4 {
				t.Errorf("%d processes of the demo while it runs, want the command, the stage, the daemon and its speakers", got)
			}
			target := -cmd.Process.Pid // all of the group, as a terminal does
			if sig == syscall.SIGKILL {
				target = cmd.Process.Pid
			}
			if err := syscall.Kill(target, sig); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			if sig != syscall.SIGKILL && (cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "interrupted")) {
				t.Errorf("after %v: %v, %q; want exit code 1", sig, err, stderr.String())
			}
			deadline := time.Now().Add(30 * time.Second)
			for tick := time.NewTicker(20 * time.Millisecond); time.Now().Before(deadline) && len(processes(t, path)) > 0; {
				<-tick.C
			}
			if diff := cmp.Diff(before, machine(t, path)); diff != "" {
				t.Errorf("what the demo left behind (-before +after):\n%s", diff)
			}
		})
	}
}
