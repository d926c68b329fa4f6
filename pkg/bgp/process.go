package bgp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxLogLine   = 16 << 10 // longer lines of a process are cut
	logPerSecond = 500      // more lines of one process are dropped and counted
	maxTrace     = 64       // lines of a panic that are kept
	maxLastExit  = 512
)

// process is one running speaker process.
type process struct {
	conn    net.Conn
	cmd     *exec.Cmd
	started time.Time
	exited  chan struct{} // closed after reason is set
	reason  string
}

// startProcess starts a speaker process with one end of a socket pair. It dies
// at the latest with the thread that started it (PR_SET_PDEATHSIG), so that
// thread is kept until the process has ended.
func startProcess(ctx context.Context, cmd *exec.Cmd, log *slog.Logger) (*process, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close() //nolint:errcheck // the process has its own
	out, in, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make pipe for speaker's log: %w", err), ours.Close())
	}
	defer in.Close() //nolint:errcheck // the process has its own
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = in
	cmd.SysProcAttr = confinement().Attributes()
	p := &process{conn: ours, cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		logs := &logReader{log: log, done: make(chan struct{})}
		go logs.run(ctx, out)
		err = cmd.Wait()
		select {
		case <-logs.done:
		case <-time.After(time.Second): // someone else holds the pipe
			_ = out.Close() // only read from
		}
		p.reason = exitReason(err, logs.trace())
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start speaker process: %w", err), ours.Close(), out.Close())
	}
	p.started = time.Now()
	return p, nil
}

// kill ends the process at once, also one that is stopped or hangs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only if it has ended already
}

func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "daemon")
	f := os.NewFile(uintptr(fds[0]), "speaker")
	defer f.Close() //nolint:errcheck // FileConn has a duplicate
	ours, err = net.FileConn(f)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("use socket pair: %w", err), theirs.Close())
	}
	return ours, theirs, nil
}

// exitReason says in one line why a process ended.
func exitReason(err error, trace []string) string {
	status := "exit status 0"
	if err != nil {
		status = err.Error()
	}
	var what, where string
	for i, line := range trace {
		if what == "" && (strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:")) {
			what = line
		}
		frame := i > 0 && what != "" && strings.HasPrefix(trace[min(i+1, len(trace)-1)], "\t")
		if frame && where == "" && !strings.HasPrefix(line, "panic(") && !strings.HasPrefix(line, "runtime.") {
			where, _, _ = strings.Cut(line, "(0x")
			where = " in " + strings.TrimSuffix(where, "(...)")
		}
	}
	if what == "" && len(trace) > 0 {
		what = trace[len(trace)-1]
	}
	if what == "" {
		return status
	}
	return strings.ToValidUTF8((what + where)[:min(len(what)+len(where), maxLastExit)], "?") + " (" + status + ")"
}

// logReader forwards what a process writes to its log.
type logReader struct {
	log  *slog.Logger
	done chan struct{}

	mu    sync.Mutex
	lines []string
}

func (l *logReader) run(ctx context.Context, out io.ReadCloser) {
	defer close(l.done)
	defer out.Close() //nolint:errcheck // only read from
	r := bufio.NewReaderSize(out, maxLogLine)
	window, count := time.Now(), 0
	for {
		line, more, err := r.ReadLine()
		if err != nil {
			return
		}
		for more && err == nil { // the rest of a line that is too long
			_, more, err = r.ReadLine()
		}
		if time.Since(window) > time.Second {
			if count > logPerSecond {
				l.log.Warn("speaker process logs too much", "dropped", count-logPerSecond)
			}
			window, count = time.Now(), 0
		}
		if count++; count <= logPerSecond {
			l.forward(ctx, line)
		}
	}
}

// forward hands one line on: a JSON record as it was meant, anything else as
// part of a panic's trace.
func (l *logReader) forward(ctx context.Context, line []byte) {
	var rec map[string]any
	if json.Unmarshal(line, &rec) != nil || rec[slog.MessageKey] == nil {
		l.mu.Lock()
		if len(l.lines) < maxTrace {
			l.lines = append(l.lines, strings.ToValidUTF8(string(line), "?"))
		}
		l.mu.Unlock()
		l.log.Error("speaker process says", "line", strings.ToValidUTF8(string(line), "?"))
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
	for _, k := range sortedKeys(rec) {
		if k != slog.TimeKey && k != slog.LevelKey && k != slog.MessageKey {
			out.AddAttrs(slog.Any(k, rec[k]))
		}
	}
	_ = l.log.Handler().Handle(ctx, out) // there is nowhere to say so
}

func (l *logReader) trace() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines
}
