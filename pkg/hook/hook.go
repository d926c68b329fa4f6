// Package hook runs commands when a VIP changes its state: announced, withdrawn,
// bound, unbound, owner, lost. It decides nothing and holds nobody up.
//
// It is level triggered: it is told what is, compares that with what it has last
// told a command, and runs at most one command for a VIP at a time. What came and
// went while one ran is not told.
package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

// The events.
const (
	Announced = "announced"
	Withdrawn = "withdrawn"
	Bound     = "bound"
	Unbound   = "unbound"
	Owner     = "owner"
	Lost      = "lost"
)

const (
	// parallel is how many commands run at a time; the others wait.
	parallel = 8
	// outputBytes is how much of a command's output is logged.
	outputBytes = 2 << 10
	// pipeBytes is the most of it that is read after the command's end, which is more
	// than a pipe holds.
	pipeBytes = 1 << 20
	// lastWait is how long commands get that are due when the process ends.
	lastWait = 2 * time.Second
	// gone is why a host ceases to be the owner of a VIP that it does not have any more.
	gone       = "given_up"
	searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// State is what a VIP is, and what is to be run when it changes.
type State struct {
	// Name is unique. Address is the VIP.
	Name, Address    string
	Announced, Bound bool
	// Reason and Detail say why it is not announced, Interfaces where it is.
	Reason, Detail string
	Interfaces     []string
	// Owns tells that this host is the owner of a VIP that has one, Ceased why it is
	// not any more. Owner is the name of the one there is, Epoch grows with each.
	Owns          bool
	Ceased, Owner string
	Epoch         int64
	// Commands are those of the events that have one: a program's absolute path
	// and its arguments.
	Commands map[string][]string
	// Timeout is how long a command may run before it is killed with its group.
	Timeout time.Duration
}

// Options are what a Runner needs.
type Options struct {
	Log *slog.Logger
}

// Runner runs hooks. Set may be called from any goroutine.
type Runner struct {
	log  *slog.Logger
	wake chan struct{}

	mu   sync.Mutex
	want map[string]State // what is
	told map[string]State // what commands were told of: see same
	busy map[string]bool
	left int // commands that run
}

// New returns a runner that was told of nothing: no VIP is announced, bound or owned.
func New(o Options) *Runner {
	return &Runner{log: o.Log, wake: make(chan struct{}, 1), want: map[string]State{}, told: map[string]State{}, busy: map[string]bool{}}
}

// Set tells what all VIPs are. It never blocks. Those that are left out are
// neither announced nor bound nor owned any more.
func (r *Runner) Set(list []State) {
	r.mu.Lock()
	next := make(map[string]State, len(list))
	for _, s := range list {
		next[s.Name] = s
	}
	for name, s := range r.want {
		told := r.told[name]
		if _, ok := next[name]; !ok && (!told.same(&State{}) || r.busy[name]) {
			s.Announced, s.Bound, s.Reason, s.Detail, s.Interfaces = false, false, "", "no longer configured", nil
			s.Owns, s.Ceased, s.Owner, s.Epoch = false, gone, "", 0
			next[name] = s
		}
	}
	r.want = next
	r.mu.Unlock()
	r.poke()
}

func (r *Runner) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run runs commands until ctx ends, then those that are due, for a bounded time.
func (r *Runner) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	// Commands are ended by their own bounds.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var last <-chan time.Time
	for {
		for {
			name, event, s, ok := r.take()
			if !ok {
				break
			}
			running.Go(func() {
				r.run(life, event, &s)
				r.done(name)
			})
		}
		if last != nil && r.idle() {
			return nil
		}
		done := ctx.Done()
		if last != nil {
			done = nil
		}
		select {
		case <-r.wake:
		case <-done:
			last = time.After(lastWait)
		case <-last:
			return nil
		}
	}
}

// take returns the next command that is due and may run now. Events without one
// are over at once.
func (r *Runner) take() (name, event string, s State, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left >= parallel {
		return "", "", s, false
	}
	for name, s = range r.want {
		if r.busy[name] {
			continue
		}
		told := r.told[name]
		event = told.follow(&s)
		for event != "" && len(s.Commands[event]) == 0 {
			event = told.follow(&s)
		}
		if told.same(&State{}) {
			delete(r.told, name) // as one that was never told
		} else {
			r.told[name] = told
		}
		if event == "" {
			continue
		}
		r.busy[name] = true
		r.left++
		return name, event, s, true
	}
	return "", "", s, false
}

// same tells whether no event lies between two states of a VIP.
func (s *State) same(o *State) bool {
	return s.Announced == o.Announced && s.Bound == o.Bound && s.Owns == o.Owns
}

// follow makes the next step to what a VIP is and returns its event, empty if there
// is none. What is due at one time is told in this order: that it is owned and no
// longer owned first, for the latter is urgent; on the way up bound before
// announced, on the way down withdrawn before unbound.
func (s *State) follow(to *State) string {
	switch {
	case s.Owns != to.Owns:
		if s.Owns = to.Owns; s.Owns {
			return Owner
		}
		return Lost
	case s.Announced && !to.Announced:
		s.Announced = false
		return Withdrawn
	case s.Bound != to.Bound:
		if s.Bound = to.Bound; s.Bound {
			return Bound
		}
		return Unbound
	case s.Announced != to.Announced:
		s.Announced = true
		return Announced
	}
	return ""
}

func (r *Runner) done(name string) {
	r.mu.Lock()
	delete(r.busy, name)
	r.left--
	r.mu.Unlock()
	r.poke()
}

// idle tells whether nothing runs and nothing is due.
func (r *Runner) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, s := range r.want {
		if told := r.told[name]; !told.same(&s) {
			return false
		}
	}
	return r.left == 0
}

// run runs the command of an event and logs how it ended.
func (r *Runner) run(ctx context.Context, event string, s *State) {
	command := s.Commands[event]
	began := time.Now() // before its timeout begins: what is killed has taken no less
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // the operator's command
	cmd.Dir = "/"
	cmd.Env = s.environment(event)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := outputOf(cmd)
	took := time.Since(began).Round(time.Millisecond)
	err = outcome(ctx, cmd.ProcessState, err, s.Timeout)
	attrs := []any{"vip", s.Name, "event", event, "command", command[0], "took", took, "output", clean(string(out))}
	if err != nil {
		r.log.WarnContext(ctx, "hook failed", append(attrs, "error", err)...)
		return
	}
	r.log.InfoContext(ctx, "hook ran", attrs...)
}

// outcome is the error of a command. What the process itself says counts: its time may
// have been up when it had ended already, and nobody had looked.
func outcome(ctx context.Context, state *os.ProcessState, err error, timeout time.Duration) error {
	switch {
	case state == nil: // it was not started
		return err
	case state.Success():
		return nil
	case state.ExitCode() < 0 && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("killed after %s", timeout)
	case errors.Is(err, context.DeadlineExceeded):
		return &exec.ExitError{ProcessState: state}
	}
	return err
}

// outputOf runs a command to its end and returns the beginning of what it has written
// until then. Nobody waits for processes that it leaves behind, nor hears them.
func outputOf(cmd *exec.Cmd) ([]byte, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close() //nolint:errcheck // it was only read
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Start()
	_ = out.Close() // the command has its own
	if err != nil {
		return nil, err
	}
	var text limited
	var reader sync.WaitGroup
	reader.Go(func() { _, _ = io.Copy(&text, in) }) // to the end, or to the command's
	err = cmd.Wait()
	_ = in.SetReadDeadline(time.Now())
	reader.Wait()
	text.rest(in)
	return text.kept, err
}

// environment is that of the command of an event.
func (s *State) environment(event string) []string {
	reason := s.Reason
	if event == Lost {
		reason = s.Ceased
	}
	env := []string{
		searchPath, "VIPSPEAKER_EVENT=" + event, "VIPSPEAKER_VIP=" + s.Name, "VIPSPEAKER_ADDRESS=" + s.Address,
		"VIPSPEAKER_REASON=" + reason, "VIPSPEAKER_DETAIL=" + clean(s.Detail), "VIPSPEAKER_INTERFACES=" + strings.Join(s.Interfaces, " "),
		"VIPSPEAKER_OWNER=" + clean(s.Owner), "VIPSPEAKER_EPOCH=",
	}
	if s.Epoch > 0 {
		env[len(env)-1] += strconv.FormatInt(s.Epoch, 10)
	}
	return env
}

// limited keeps the beginning of what is written.
type limited struct{ kept []byte }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if room := outputBytes - len(l.kept); room > 0 {
		l.kept = append(l.kept, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// rest takes what a pipe holds and waits for nothing.
func (l *limited) rest(in *os.File) {
	raw, err := in.SyscallConn()
	if err != nil || in.SetReadDeadline(time.Time{}) != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for total, n := 0, 1; n > 0 && total < pipeBytes; total += n {
		if raw.Read(func(fd uintptr) bool {
			n, err = syscall.Read(int(fd), buf)
			return true
		}) != nil || err != nil {
			return
		}
		l.kept = append(l.kept, buf[:min(n, outputBytes-len(l.kept))]...)
	}
}

// clean makes one line of a text: what a router or a program said must not be
// more.
func clean(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, strings.TrimSpace(text))
}
