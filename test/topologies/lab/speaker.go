package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"vipspeaker/pkg/control"
	"vipspeaker/pkg/status"
)

// The paths that the daemon has in its node.
const (
	ConfigPath = "/etc/vipspeaker/vipspeaker.yaml"
	SocketPath = "/run/vipspeaker/control.sock"
)

// Speaker is the daemon under test, running in a node.
type Speaker struct {
	*Process

	binary string
	client *control.Client
}

// StartSpeaker starts the daemon with the node's configuration, which the
// topology file has put there or WriteFile has replaced. env is added to its
// environment ("NAME=value").
func StartSpeaker(n *Node, binary string, env ...string) *Speaker {
	n.lab.t.Helper()
	args := append([]string{"env"}, env...)
	return startSpeaker(n, binary, append(args, binary, "run", "--config", ConfigPath))
}

// StartSpeakerAt is StartSpeaker in a time namespace of its own, whose CLOCK_BOOTTIME
// and CLOCK_MONOTONIC are ahead of the machine's.
func StartSpeakerAt(n *Node, binary string, ahead time.Duration, env ...string) *Speaker {
	n.lab.t.Helper()
	seconds := strconv.Itoa(int(ahead / time.Second))
	args := append([]string{"unshare", "--time", "--boottime", seconds, "--monotonic", seconds, "env"}, env...)
	return startSpeaker(n, binary, append(args, binary, "run", "--config", ConfigPath))
}

// ReplaceSpeaker is StartSpeaker for a daemon that replaces the one which runs in
// the node.
func ReplaceSpeaker(n *Node, binary string) *Speaker {
	n.lab.t.Helper()
	return startSpeaker(n, binary, []string{binary, "run", "--replace", "--config", ConfigPath})
}

func startSpeaker(n *Node, binary string, command []string) *Speaker {
	n.lab.t.Helper()
	p := n.StartProcess("vipspeaker", command...)
	return &Speaker{Process: p, binary: binary, client: control.NewClient(n.Path(SocketPath))}
}

// Status returns the picture of the daemon's last pass.
func (s *Speaker) Status() (*status.Status, error) {
	ctx, cancel := context.WithTimeout(s.node.lab.ctx, 5*time.Second)
	defer cancel()
	return s.client.Status(ctx)
}

// WaitStatus waits until ok returns nil for the status, and returns that status.
// The test fails when the daemon ends, or after d.
func (s *Speaker) WaitStatus(d time.Duration, what string, ok func(*status.Status) error) *status.Status {
	s.node.lab.t.Helper()
	var st *status.Status
	Eventually(s.node.lab.t, d, "status: "+what, func() (err error) {
		if err = s.ended(); err != nil {
			s.node.lab.t.Fatal(err)
		}
		if st, err = s.Status(); err != nil {
			return err
		}
		return ok(st)
	})
	return st
}

// Established is a condition for WaitStatus: every peer's session is up and
// every VIP is announced on every interface.
func Established(st *status.Status) error {
	for _, p := range st.Peers {
		if p.State != "Established" {
			return fmt.Errorf("peer %v on %s is %s: %s", p.Address, p.Interface, p.State, p.LastError)
		}
	}
	for _, v := range st.VIPs {
		for _, i := range v.Interfaces {
			if !i.Announced {
				return fmt.Errorf("vip %s is not announced on %s: %s %s", v.Name, i.Interface, i.Reason, i.Detail)
			}
		}
	}
	return That(len(st.Peers) > 0 && len(st.VIPs) > 0, "no peers or VIPs yet")
}

// Command runs another command of the daemon's binary in its node, such as
// "reload" or "status", and returns its standard output.
func (s *Speaker) Command(args ...string) (string, error) {
	return s.node.Try(append([]string{s.binary}, args...)...)
}

// Build builds the daemon's binary into dir and returns its path.
func Build(ctx context.Context, dir string) (string, error) { return build(ctx, dir, "") }

// BuildVersion is Build of a binary that says it is of that version.
func BuildVersion(ctx context.Context, dir, version string) (string, error) {
	return build(ctx, dir, "-X main.version="+version)
}

func build(ctx context.Context, dir, linkerFlags string, more ...string) (string, error) {
	path := dir + "/vipspeaker"
	// It may be all of the standard library, while others measure times.
	args := append([]string{"-n", "19", "go", "build", "-ldflags", linkerFlags, "-o", path}, more...)
	cmd := exec.CommandContext(ctx, "nice", append(args, "vipspeaker/cmd/vipspeaker")...) //nolint:gosec // the path is a directory of the test
	// As it is shipped: without cgo it takes other ways to give up privileges.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}
