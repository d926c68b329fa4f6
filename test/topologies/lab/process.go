package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs in a node until it is stopped.
type Process struct {
	Name string
	PID  int

	node *Node
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended and was waited for
}

// StartProcess starts a program in the node. Its output goes to the log of that
// name; it is killed at the end of the test at the latest.
func (n *Node) StartProcess(name string, args ...string) *Process {
	n.lab.t.Helper()
	cmd := n.Command(args...)
	out, err := os.OpenFile(n.lab.logPath(n.Name, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.lab.t.Fatalf("lab: node %s: %v", n.Name, err)
	}
	defer out.Close() //nolint:errcheck // the child has its own copy
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		n.lab.t.Fatalf("lab: node %s: %s: %v", n.Name, strings.Join(args, " "), err)
	}
	// nsenter makes way for the program, which so has its process number.
	p := &Process{Name: name, PID: cmd.Process.Pid, node: n, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	n.mu.Lock()
	n.daemons = append(n.daemons, p)
	n.mu.Unlock()
	return p
}

// Signal sends a signal to the process, and to nothing else.
func (p *Process) Signal(sig syscall.Signal) {
	p.node.lab.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.node.lab.t.Fatalf("node %s: %s (pid %d): signal %v: %v", p.node.Name, p.Name, p.PID, sig, err)
	}
}

// Kill ends the process with SIGKILL and waits for its end. A process that has
// ended already is fine.
func (p *Process) Kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.node.lab.t.Errorf("node %s: %s: kill: %v", p.node.Name, p.Name, err)
		return
	}
	<-p.done
}

// Wait waits for the process to end by itself and returns its exit code, -1 if
// a signal ended it. The test fails when it still runs after d.
func (p *Process) Wait(d time.Duration) int {
	p.node.lab.t.Helper()
	Eventually(p.node.lab.t, d, fmt.Sprintf("node %s: %s (pid %d) ends", p.node.Name, p.Name, p.PID), func() error {
		return That(!p.Running(), "it runs")
	})
	return p.cmd.ProcessState.ExitCode()
}

// Running tells whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Log returns what the process has written.
func (p *Process) Log() string { return p.node.Log(p.Name) }

// ended is an error that says that and how the process ended, nil while it runs.
func (p *Process) ended() error {
	if p.Running() {
		return nil
	}
	return fmt.Errorf("%s ended: %v: %s", p.Name, p.cmd.ProcessState, tail(p.Log(), 5))
}
