// Package netnstest runs a test in a network namespace of its own.
//
// The test binary is executed again for the one test, in new network and mount
// namespaces (and a user namespace, unless root may do without). So the whole
// process is in there: every goroutine and every child of the test sees the
// same empty network, whatever thread it runs on, and nothing of it outlives
// the process. /run is a fresh tmpfs, so `ip netns add` works and collides
// with nobody; /sys shows the new network.
//
// A machine on which no namespace can be made fails the test: nothing skips.
package netnstest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// marker is the environment variable that tells a process that it is already
// inside, and for which test.
const marker = "VIPSPEAKER_NETNSTEST"

// childTimeout bounds one test; the child's own -test.timeout is a bit shorter,
// so that it prints its goroutines before it is killed.
const childTimeout = 3 * time.Minute

// Run executes fn in a process of its own in a fresh network namespace whose
// only device is lo, up. Logs and failures of fn appear as those of t. Call it
// first in the test; what precedes it runs twice.
func Run(t *testing.T, fn func(t *testing.T, ns NS)) {
	t.Helper()
	if os.Getenv(marker) == t.Name() {
		enter(t)
		fn(t, NS{t: t})
		return
	}
	out, err := reexec(t, "-test.run="+exact(t.Name()), "-test.v")
	t.Logf("in a network namespace:\n%s", indent(out))
	if err != nil {
		t.Fatalf("test in its own network namespace: %v", err)
	}
	if !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")) {
		t.Fatalf("test %s did not run in its own network namespace", t.Name())
	}
}

// Bench is Run for a benchmark. The figures that the child reports (ns/op and
// those of ReportMetric) become those of b.
func Bench(b *testing.B, fn func(b *testing.B, ns NS)) {
	b.Helper()
	if os.Getenv(marker) == b.Name() {
		enter(b)
		fn(b, NS{t: b})
		return
	}
	var out []byte
	var err error
	for i := 0; b.Loop(); i++ {
		if i > 0 {
			continue // the child has run for the whole bench time
		}
		out, err = reexec(b, "-test.run=^$", "-test.bench="+exact(b.Name()),
			"-test.benchtime="+flag.Lookup("test.benchtime").Value.String())
	}
	if err != nil {
		b.Fatalf("benchmark in its own network namespace: %v\n%s", err, out)
	}
	figures(b, out)
}

// figures reports those of the child's line, such as
// "BenchmarkX-2  100  52 ns/op  7 p99-µs".
func figures(b *testing.B, out []byte) {
	b.Helper()
	b.ReportMetric(0, "ns/op") // our own figure, unless the child has one
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], b.Name()) {
			continue
		}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				b.Fatalf("figure %q of line %q: %v", f[i], line, err)
			}
			b.ReportMetric(v, f[i+1])
		}
		return
	}
	b.Fatalf("no figures from the child:\n%s", out)
}

// exact is the -test.run pattern that matches this test only.
func exact(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

func indent(out []byte) string {
	return "\t" + strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n\t")
}

// reexec runs the test binary again in new namespaces. Root without a user
// namespace comes first because only then all of the host's privileges (forced
// socket buffers, sysctls) are at hand.
func reexec(tb testing.TB, args ...string) ([]byte, error) {
	tb.Helper()
	const spaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS
	if os.Geteuid() == 0 {
		out, err := start(tb, &syscall.SysProcAttr{Cloneflags: spaces}, args)
		if !errors.Is(err, unix.EPERM) {
			return out, err
		}
	}
	return start(tb, &syscall.SysProcAttr{
		Cloneflags:  spaces | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}, args)
}

func start(tb testing.TB, attr *syscall.SysProcAttr, args []string) ([]byte, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), childTimeout)
	defer cancel()
	all := append([]string{
		"-test.count=1",
		fmt.Sprintf("-test.short=%t", testing.Short()),
		fmt.Sprintf("-test.timeout=%s", childTimeout-5*time.Second),
	}, args...)
	// No shell, no other program: our own binary.
	cmd := exec.CommandContext(ctx, "/proc/self/exe", all...) //nolint:gosec // arguments are our own
	cmd.Env = append(os.Environ(), marker+"="+tb.Name())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// Whatever the test left running dies with it: same process group.
	attr.Setpgid = true
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = attr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s in new namespaces: %w", all, err)
	}
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // ESRCH when nothing is left
	if err != nil {
		return out.Bytes(), fmt.Errorf("child: %w", err)
	}
	return out.Bytes(), nil
}

// enter makes the new mount namespace private and its views of the network new.
func enter(tb testing.TB) {
	tb.Helper()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		tb.Fatalf("make mounts private: %v", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		tb.Fatalf("mount tmpfs on /run: %v", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		tb.Fatalf("mount sysfs on /sys: %v", err)
	}
	NS{t: tb}.IP("link set dev lo up")
}
