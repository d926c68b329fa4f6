package netnstest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// commandTimeout bounds one command of a test.
const commandTimeout = 20 * time.Second

// NS is a network namespace of a running test: the test's own, or one beside it
// made by New. Its methods end the test on errors.
type NS struct {
	t    testing.TB
	name string // empty for the test's own
}

// Name is the name for `ip -n`; empty for the test's own namespace.
func (n NS) Name() string { return n.name }

// New makes a second namespace with lo up, a router or a client. It goes away
// with the test.
func (n NS) New(name string) NS {
	n.t.Helper()
	NS{t: n.t}.IP("netns add %s", name)
	other := NS{t: n.t, name: name}
	other.IP("link set dev lo up")
	return other
}

// IP runs ip(8) in the namespace with the words of the formatted text as its
// arguments and returns what it prints.
func (n NS) IP(format string, args ...any) string {
	n.t.Helper()
	out, err := n.TryIP(format, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// TryIP is IP for commands that may fail.
func (n NS) TryIP(format string, args ...any) (string, error) {
	words := strings.Fields(fmt.Sprintf(format, args...))
	if n.name != "" {
		words = append([]string{"-n", n.name}, words...)
	}
	return run(n.t.Context(), "ip", words...)
}

// Do runs fn on a thread in the namespace. Sockets stay in the namespace in
// which they are made; goroutines that fn starts run in the test's own.
func (n NS) Do(fn func() error) {
	n.t.Helper()
	if n.name == "" {
		if err := fn(); err != nil {
			n.t.Fatal(err)
		}
		return
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		f, err := os.Open("/run/netns/" + n.name)
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = f.Close() }()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

// Exec runs a program in the namespace to its end and returns what it prints.
func (n NS) Exec(program string, args ...string) string {
	n.t.Helper()
	if n.name != "" {
		args = append([]string{"netns", "exec", n.name, program}, args...)
		program = "ip"
	}
	out, err := run(n.t.Context(), program, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// Veth makes a pair of devices in the namespace, both up, and waits for neither
// address nor carrier.
func (n NS) Veth(a, b string) {
	n.t.Helper()
	n.IP("link add %s type veth peer name %s", a, b)
	n.IP("link set dev %s up", a)
	n.IP("link set dev %s up", b)
}

// VethTo makes a pair with its second device in another namespace, both up.
func (n NS) VethTo(a string, other NS, b string) {
	n.t.Helper()
	n.IP("link add %s type veth peer name %s netns %s", a, b, other.name)
	n.IP("link set dev %s up", a)
	other.IP("link set dev %s up", b)
}

// Sysctl sets a kernel parameter of the network, such as
// net/ipv4/conf/en1/rp_filter, in the test's own namespace.
func (n NS) Sysctl(key, value string) {
	n.t.Helper()
	if n.name != "" {
		n.Exec("sysctl", "-qw", key+"="+value)
		return
	}
	path := filepath.Join("/proc/sys", filepath.Clean("/"+key))
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		n.t.Fatalf("set sysctl %s to %s: %v", key, value, err)
	}
}

// Until calls check until it returns nil, every 2 ms, and ends the test with
// its last error when that takes longer than within. It looks once more then: the
// machine may have stood still for the rest of that time.
func Until(tb testing.TB, within time.Duration, check func() error) {
	tb.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			if err = check(); err != nil {
				tb.Fatalf("not within %s: %v", within, err)
			}
			return
		case <-tick.C:
		}
	}
}

func run(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput() //nolint:gosec // tests name the programs
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
