package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// outputBytes is how much of a program's output is kept; the rest is read
	// and dropped, so that the program does not block.
	outputBytes = 4 << 10
	searchPath  = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// ExecConfig is a check that runs a program.
type ExecConfig struct {
	// Command is the program and its arguments; no shell is in between.
	Command []string
	// Env are NAME=value entries. Beside them the program has PATH and, if Name
	// is given, VIPSPEAKER_CHECK; nothing of our own environment.
	Env []string
	// Name is the name of the check; may be empty.
	Name string
}

type execCheck struct {
	command []string
	env     []string
}

// NewExec returns a check that passes when the program exits with 0. It runs
// with our user and capabilities, in a process group of its own, in the root
// directory, without input. The group is killed when time is up, and what of it
// outlives the program is killed too; a process that moved to another group or
// session is not. When we are killed, the program is, and its children are not. It fails for an empty command.
func NewExec(c ExecConfig) (Checker, error) {
	if len(c.Command) == 0 || c.Command[0] == "" {
		return nil, errors.New("exec check: empty command")
	}
	env := []string{searchPath}
	if c.Name != "" {
		env = append(env, "VIPSPEAKER_CHECK="+c.Name)
	}
	return &execCheck{command: c.Command, env: append(env, c.Env...)}, nil
}

// Check implements Checker.
func (c *execCheck) Check(ctx context.Context) error {
	start := time.Now()
	target := "exec " + c.command[0]
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%s: pipe: %w", target, err)
	}
	defer func() { _ = read.Close() }()
	// The end of the context is handled by run, which must kill the group before
	// the leader's number can be given to another process.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), c.command[0], c.command[1:]...) //nolint:gosec // the operator's command
	cmd.Env, cmd.Dir = c.env, "/"
	cmd.Stdout, cmd.Stderr = write, write
	// It dies with us, also if we are killed; what it started itself does not. The
	// kernel takes the thread that started it for us, so that is to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	_ = write.Close()
	if err != nil {
		return failure(ctx, start, target, err)
	}
	var output []byte
	var reader sync.WaitGroup
	reader.Go(func() { output = collect(read) })
	err = run(ctx, cmd)
	// All of it is in the pipe, whose end may not come: a process that left the group
	// may hold it open.
	_ = read.SetReadDeadline(time.Now())
	reader.Wait()
	output = rest(read, output)
	if err == nil {
		return nil
	}
	if line := firstLine(string(output), lineBytes); line != "" && ctx.Err() == nil {
		return fmt.Errorf("%s: %w: %s", target, err, line)
	}
	return failure(ctx, start, target, err)
}

// run waits for the started program, no longer than the context, and leaves
// nothing of its process group.
func run(ctx context.Context, cmd *exec.Cmd) error {
	pid := cmd.Process.Pid
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		_ = unix.Kill(-pid, unix.SIGKILL)
	})
	// Wait for the exit without taking it: until Wait does, the number of the
	// process and its group cannot be given to others, so the kill hits ours.
	var err error
	for {
		if err = unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if !stop() {
		<-killed
	}
	_ = unix.Kill(-pid, unix.SIGKILL) // what it left behind
	return errors.Join(cmd.Wait(), err)
}

// rest adds to the output what a pipe holds, and waits for nothing.
func rest(r *os.File, output []byte) []byte {
	raw, err := r.SyscallConn()
	if err != nil || r.SetReadDeadline(time.Time{}) != nil {
		return output
	}
	buf := make([]byte, outputBytes)
	for n := 1; n > 0 && len(output) < outputBytes; output = append(output, buf[:max(n, 0)]...) {
		if raw.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), buf[:outputBytes-len(output)])
			return true
		}) != nil || err != nil {
			break
		}
	}
	return output
}

// collect returns the first bytes of the output and reads it to its end.
func collect(r io.Reader) []byte {
	head, err := io.ReadAll(io.LimitReader(r, outputBytes))
	if err == nil {
		_, _ = io.Copy(io.Discard, r)
	}
	return head
}
