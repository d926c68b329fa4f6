package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"
)

// soon is for how long is waited for what comes sooner. Only a failure uses it up, or a
// machine that stands still.
const soon = 30 * time.Second

// programMarker is the environment variable that makes the test binary be the
// program, for the daemon and for its speaker processes.
const programMarker = "VIPSPEAKER_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programMarker) != "" {
		os.Exit(run(context.Background(), os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const labConfig = `
bgp: {asn: 65010}
interfaces:
  - {name: en1, hold_up: 0s, peers: [{address: 10.68.1.2, asn: 65001}]}
vips:
  - {name: vipa, address: 10.68.6.1/32, preferred_source: true}
  - {name: six, address: "fd68:6::1/128"}
`

// lab is a host with one interface in a namespace of its own, and what to
// compare its state with.
type lab struct {
	netnstest.NS

	config string
	before string
}

func newLab(t *testing.T, ns netnstest.NS, config string) *lab {
	t.Helper()
	ns.Sysctl("net/ipv6/conf/default/addr_gen_mode", "1") // no link-local addresses that come when they like
	ns.Veth("en1", "sw1")
	ns.IP("addr add 10.68.1.1/24 dev en1")
	ns.IP("route add default via 10.68.1.2")
	// The carrier comes a moment after the devices are up.
	netnstest.Until(t, soon, func() error {
		if links := ns.IP("-br link show type veth"); strings.Count(links, " UP ") != 2 {
			return errors.New(links)
		}
		return nil
	})
	path := "/run/vipspeaker.yaml"
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	l := &lab{NS: ns, config: path}
	l.before = l.state(t)
	return l
}

// state is everything that a daemon may change.
func (l *lab) state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, what := range []string{"-d addr", "-4 route show table all", "-6 route show table all", "-4 rule", "-6 rule"} {
		b.WriteString(l.IP("%s", what))
	}
	files, err := filepath.Glob("/proc/sys/net/ipv[46]/conf/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if value, err := os.ReadFile(f); err == nil && filepath.Base(f) != "stable_secret" {
			fmt.Fprintf(&b, "%s=%s", f, value)
		}
	}
	return b.String()
}

// same fails the test when the host is not as it was.
func (l *lab) same(t *testing.T) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(l.before, "\n"), strings.Split(l.state(t), "\n")); diff != "" {
		t.Errorf("the host is not as it was (-before +now):\n%s", diff)
	}
}

// holds tells whether the kernel has the VIPs.
func (l *lab) holds() bool {
	return strings.Contains(l.IP("addr"), "10.68.6.1/32") && strings.Contains(l.IP("addr"), "fd68:6::1/128")
}

// program is a running command of ours.
type program struct {
	cmd *exec.Cmd
	log safeBuffer
	end chan error
}

// safeBuffer is a buffer for two goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String returns what has been written.
func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// start starts a command; it is killed at the end of the test.
func start(t *testing.T, attr *syscall.SysProcAttr, env []string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command("/proc/self/exe", args...), end: make(chan error, 1)}
	p.cmd.Env = append(append(os.Environ(), programMarker+"=1"), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = attr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.end <- p.cmd.Wait() }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("%q:\n%s", args, &p.log)
		}
	})
	return p
}

// daemon starts a daemon and waits until it has bound the VIPs.
func (l *lab) daemon(t *testing.T, env ...string) *program {
	t.Helper()
	p := start(t, nil, env, "run", "--config", l.config, "--data-dir", "/run/data")
	l.ready(t, p)
	return p
}

func (l *lab) ready(t *testing.T, p *program) {
	t.Helper()
	netnstest.Until(t, soon, func() error {
		select {
		case err := <-p.end:
			p.end <- err
			t.Fatalf("the daemon ended: %v\n%s", err, &p.log)
		default:
		}
		s, err := picture(t)
		if err != nil {
			return err
		}
		for i := range s.VIPs {
			if !s.VIPs[i].Bound {
				return fmt.Errorf("%s is not bound", s.VIPs[i].Name)
			}
		}
		return nil
	})
}

// says waits until the log has a text: lines of it are written beside the control loop.
func (p *program) says(t *testing.T, text string) {
	t.Helper()
	netnstest.Until(t, soon, func() error {
		if log := p.log.String(); !strings.Contains(log, text) {
			return fmt.Errorf("it does not say %s:\n%s", text, log)
		}
		return nil
	})
}

// signal sends a signal and returns the exit code, -1 if a signal ended it.
func (p *program) signal(t *testing.T, s syscall.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	return p.wait(t)
}

func (p *program) wait(t *testing.T) int {
	t.Helper()
	select {
	case err := <-p.end:
		p.end <- err // for whoever asks next
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(soon):
		t.Fatalf("it does not end:\n%s", &p.log)
		return 0
	}
}

// picture asks the daemon for its status by the command.
func picture(t *testing.T) (*status.Status, error) {
	t.Helper()
	got := call(t, "status", "-o", "json")
	if got.Code != exitGood {
		return nil, errors.New(got.Stderr)
	}
	var s status.Status
	if err := json.Unmarshal([]byte(got.Stdout), &s); err != nil {
		return nil, err
	}
	return &s, nil
}
