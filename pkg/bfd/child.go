package bfd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxLogLine   = 4 << 10 // longer lines of the process are cut
	logPerSecond = 200     // more lines of the process are lost
)

// child is a running BFD process.
type child struct {
	conn   net.Conn
	cmd    *exec.Cmd
	exited chan struct{} // closed after reason is set
	reason string
}

// startChild starts a BFD process in the network namespace of the calling
// thread, with one end of a socket pair. The thread has to live as long as the
// process (PR_SET_PDEATHSIG).
func startChild(ctx context.Context, cmd *exec.Cmd, log *slog.Logger) (*child, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "bfd"), os.NewFile(uintptr(fds[1]), "daemon")
	conn, err := net.FileConn(ours) // a duplicate
	err = errors.Join(err, ours.Close())
	out, in, pipeErr := os.Pipe()
	defer theirs.Close() //nolint:errcheck // the process has its own
	if pipeErr == nil {
		defer in.Close() //nolint:errcheck // the process has its own
	}
	if err = errors.Join(err, pipeErr); err == nil {
		cmd.ExtraFiles, cmd.Stderr, cmd.SysProcAttr = []*os.File{theirs}, in, confinement().Attributes()
		err = cmd.Start()
	}
	if err != nil {
		if conn != nil {
			_ = conn.Close() // nothing was written
		}
		if pipeErr == nil {
			_ = out.Close() // nothing was read
		}
		return nil, fmt.Errorf("start: %w", err)
	}
	c := &child{conn: conn, cmd: cmd, exited: make(chan struct{})}
	logs := &childLog{log: log, done: make(chan struct{})}
	go logs.run(ctx, out)
	go func() {
		err := cmd.Wait()
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		select {
		case <-logs.done:
		case <-timer.C: // somebody else holds the pipe
			_ = out.Close() // only read from
			<-logs.done
		}
		c.reason = exitReason(err, logs.what)
		close(c.exited)
	}()
	return c, nil
}

// kill ends the process at once, also one that is stopped or hangs. Without an
// error it has ended or will soon, unless it hangs in the kernel.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", c.cmd.Process.Pid, err)
	}
	return nil
}

func exitReason(err error, what string) string {
	status := "exit status 0"
	if err != nil {
		status = err.Error()
	}
	if what == "" {
		return status
	}
	return clip(what) + " (" + status + ")"
}

// clip makes a text of the process fit to be shown.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxText)], "?")
}

// childLog forwards what a process writes to its log.
type childLog struct {
	log  *slog.Logger
	done chan struct{}
	what string // the first line of a panic, or the last one that is no record; read after done
}

func (l *childLog) run(ctx context.Context, out io.ReadCloser) {
	defer close(l.done)
	defer out.Close() //nolint:errcheck // only read from
	r := bufio.NewReaderSize(out, maxLogLine)
	window, count := time.Now(), 0
	for {
		line, more, err := r.ReadLine()
		if err != nil {
			return
		}
		for rest := more; rest && err == nil; { // of a line that is too long
			_, rest, err = r.ReadLine()
		}
		if time.Since(window) > time.Second {
			window, count = time.Now(), 0
		}
		if count++; count <= logPerSecond {
			l.forward(ctx, line)
		}
	}
}

// forward hands one line on: a JSON record as it was meant, anything else as
// part of a panic's trace.
func (l *childLog) forward(ctx context.Context, line []byte) {
	var rec map[string]any
	parse := json.NewDecoder(bytes.NewReader(line))
	parse.UseNumber() // 15000000000 is not to become 1.5e+10
	if parse.Decode(&rec) != nil || rec[slog.MessageKey] == nil {
		text := strings.ToValidUTF8(string(line), "?")
		if text != "" && !strings.HasPrefix(l.what, "panic:") && !strings.HasPrefix(l.what, "fatal error:") {
			l.what = text
		}
		l.log.Error("BFD process says", "line", text)
		return
	}
	var level slog.Level
	if name, ok := rec[slog.LevelKey].(string); !ok || level.UnmarshalText([]byte(name)) != nil {
		level = slog.LevelInfo
	}
	if !l.log.Enabled(ctx, level) {
		return
	}
	out := slog.NewRecord(time.Now(), level, fmt.Sprint(rec[slog.MessageKey]), 0)
	for _, k := range slices.Sorted(maps.Keys(rec)) {
		if k != slog.TimeKey && k != slog.LevelKey && k != slog.MessageKey {
			out.AddAttrs(slog.Any(k, rec[k]))
		}
	}
	_ = l.log.Handler().Handle(ctx, out) // there is nowhere to say so
}
