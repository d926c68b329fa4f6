package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// configPath is where the demo puts the daemon's configuration. /run is a file
// system of the demo's own.
const configPath = "/run/demo.yaml"

// configuration is what a user would write for the host of the picture.
const configuration = `bgp:
  asn: 65010
interfaces:
  - name: en1
    hold_up: 1s
    gateway: 10.68.1.2
    peers: [{address: 10.68.1.2, asn: 65000}]
  - name: en5
    hold_up: 1s
    gateway: 10.68.5.2
    peers: [{address: 10.68.5.2, asn: 65000}]
vips:
  - name: vipa
    address: 10.68.6.1/32
    preferred_source: true
    checks:
      - name: service
        tcp: {address: "10.68.6.1:8080"}
        interval: 1s
        timeout: 500ms
http: {listen: "off"}
`

// daemon is a running "vipspeaker run" on the host.
type daemon struct {
	executable string
	cmd        *exec.Cmd
	log        tail
	// exited is closed when the process has ended, with err as its end.
	exited  chan struct{}
	err     error
	stopped bool // we asked it to end
}

// startDaemon starts the daemon in the host's namespace. It is killed with ctx.
func startDaemon(ctx context.Context, executable string, host *namespace) (*daemon, error) {
	if err := os.WriteFile(configPath, []byte(configuration), 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	d := &daemon{executable: executable, exited: make(chan struct{})}
	d.cmd = exec.CommandContext(ctx, executable, "run", "--config", configPath, "--data-dir", "/run/demo") // not the orders of the host
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C at a terminal is not for it
	if err := host.do(d.cmd.Start); err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.exited)
	}()
	return d, nil
}

// running returns an error when the process has ended without being asked to.
func (d *daemon) running() error {
	select {
	case <-d.exited:
		if d.stopped {
			return nil
		}
		return fmt.Errorf("the daemon ended by itself: %s", d.cmd.ProcessState)
	default:
		return nil
	}
}

// stop asks the daemon to end, as a service manager does, and tells how long
// it took. An exit code other than 0 is an error.
func (d *daemon) stop(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	d.stopped = true
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, fmt.Errorf("stop the daemon: %w", err)
	}
	err := await(ctx, 15*time.Second, "end of the daemon after SIGTERM", func() (bool, error) {
		select {
		case <-d.exited:
			return true, nil
		default:
			return false, nil
		}
	})
	if err == nil && d.err != nil {
		err = fmt.Errorf("the daemon stopped badly: %w", d.err)
	}
	return time.Since(start), err
}

// status returns what "vipspeaker status" prints.
func (d *daemon) status(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, d.executable, "status", "--config", configPath).CombinedOutput() //nolint:gosec // this program itself
	if err != nil {
		return "", fmt.Errorf("vipspeaker status: %w: %s", err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// tail keeps the last lines that were written to it.
type tail struct {
	mu    sync.Mutex
	lines []string
	rest  string // the begin of a line whose end was not yet written
}

// tailLines is how many lines a tail keeps.
const tailLines = 40

// Write takes log output.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(t.rest+string(p), "\n")
	t.rest = lines[len(lines)-1]
	t.lines = append(t.lines, lines[:len(lines)-1]...)
	t.lines = t.lines[max(0, len(t.lines)-tailLines):]
	return len(p), nil
}

// String returns the kept lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
