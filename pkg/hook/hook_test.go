package hook

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// note is a command that appends what it is told to a file.
const note = `echo "$VIPSPEAKER_EVENT $VIPSPEAKER_VIP $VIPSPEAKER_ADDRESS $VIPSPEAKER_REASON [$VIPSPEAKER_INTERFACES]" >>"$0"`

type fixture struct {
	*Runner
	t    *testing.T
	path string
	log  *logBuffer
	stop func()
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T) *fixture {
	t.Helper()
	return startIn(t, t.TempDir())
}

// startIn is start with its notes in a directory.
func startIn(t *testing.T, dir string) *fixture {
	t.Helper()
	f := &fixture{t: t, path: filepath.Join(dir, "notes"), log: &logBuffer{}}
	f.Runner = New(Options{Log: slog.New(slog.NewTextHandler(f.log, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = f.Run(ctx) }()
	f.stop = func() { cancel(); <-ended }
	t.Cleanup(f.stop)
	return f
}

// vip is a state whose events all run one script.
func (f *fixture) vip(name, script string, announced, bound bool) State {
	command := []string{"/bin/sh", "-c", script, f.path}
	s := State{
		Name: name, Address: "10.68.6.1/32", Announced: announced, Bound: bound, Timeout: 10 * time.Second,
		Commands: map[string][]string{Announced: command, Withdrawn: command, Bound: command, Unbound: command, Owner: command, Lost: command},
	}
	if announced {
		s.Interfaces = []string{"en1", "en5"}
	} else {
		s.Reason = "no_session"
	}
	return s
}

// notes waits until the file says this.
func (f *fixture) notes(want ...string) {
	f.t.Helper()
	text := strings.Join(want, "\n")
	eventually(f.t, func() error {
		got, _ := os.ReadFile(f.path)
		if strings.TrimSpace(string(got)) != text {
			return fmt.Errorf("notes\n%s\nwant\n%s", got, text)
		}
		return nil
	})
}

func eventually(t *testing.T, ok func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-tick.C
	}
}

// TestHooksFollowTheState: bound before announced, withdrawn before unbound, once
// each; one that has no command is passed over, and what is left out is gone.
func TestHooksFollowTheState(t *testing.T) {
	f := start(t)
	f.Set([]State{f.vip("a", note, false, false)})
	f.Set([]State{f.vip("a", note, true, true)})
	up := []string{"bound a 10.68.6.1/32  [en1 en5]", "announced a 10.68.6.1/32  [en1 en5]"}
	f.notes(up...)
	f.Set([]State{f.vip("a", note, true, true)})
	half := f.vip("a", note, false, true)
	delete(half.Commands, Withdrawn)
	f.Set([]State{half})
	eventually(t, func() error {
		if !f.idle() {
			return fmt.Errorf("not idle")
		}
		return nil
	})
	f.notes(up...)
	f.Set([]State{f.vip("a", note, true, true)})
	f.notes(append(up, up[1])...)
	f.Set(nil)
	f.notes(append(up, up[1], "withdrawn a 10.68.6.1/32  []", "unbound a 10.68.6.1/32  []")...)
	eventually(t, func() error {
		if n := strings.Count(f.log.String(), `msg="hook ran"`); n != 5 {
			return fmt.Errorf("%d lines of log, want one for each of 5:\n%s", n, f.log)
		}
		return nil
	})
}

// owned is a VIP that has an owner.
func (f *fixture) owned(owns, announced, bound bool, why string) State {
	s := f.vip("a", `echo "$VIPSPEAKER_EVENT $VIPSPEAKER_REASON by $VIPSPEAKER_OWNER $VIPSPEAKER_EPOCH" >>"$0"`, announced, bound)
	s.Owns, s.Ceased, s.Owner, s.Epoch = owns, why, "b", 8
	if owns {
		s.Owner, s.Epoch = "a", 7
	}
	return s
}

// TestHooksOfOwners: what is due at one time begins with who owns it, and why it is
// no longer owned is told.
func TestHooksOfOwners(t *testing.T) {
	f := start(t)
	var told []string
	step := func(s State, more ...string) {
		t.Helper()
		f.Set([]State{s})
		told = append(told, more...)
		f.notes(told...)
	}
	step(f.owned(true, true, true, ""), "owner  by a 7", "bound  by a 7", "announced  by a 7")
	step(f.owned(false, false, false, "lease_ended"), "lost lease_ended by b 8", "withdrawn no_session by b 8", "unbound no_session by b 8")
	// A handover: it is announced before it is owned, and no longer owned before it is
	// withdrawn.
	step(f.owned(false, true, true, "lease_ended"), "bound  by b 8", "announced  by b 8")
	step(f.owned(true, true, true, ""), "owner  by a 7")
	step(f.owned(false, true, true, "handed_over"), "lost handed_over by b 8")
	step(f.owned(true, true, true, ""), "owner  by a 7")
	f.Set(nil)
	f.notes(append(told, "lost given_up by  ", "withdrawn  by  ", "unbound  by")...)
}

// TestHooksKeepNothing: VIPs without commands cost no turn, and those that come and
// go leave nothing behind.
func TestHooksKeepNothing(t *testing.T) {
	r := New(Options{Log: slog.New(slog.DiscardHandler)})
	for i := range 100 {
		s := State{Name: fmt.Sprint("vip", i), Announced: true, Bound: true}
		r.Set([]State{s})
		if name, event, _, ok := r.take(); ok || !r.idle() {
			t.Fatalf("%s %s is due", event, name)
		}
		if told := r.told[s.Name]; !told.Announced || !told.Bound {
			t.Fatalf("told %+v", r.told)
		}
		r.Set(nil)
		if name, event, _, ok := r.take(); ok {
			t.Fatalf("%s %s is due", event, name)
		}
	}
	r.Set(nil)
	if len(r.told) != 0 || len(r.want) != 0 || len(r.busy) != 0 {
		t.Errorf("left: told %v, want %v, busy %v", r.told, r.want, r.busy)
	}
}

// TestHooksTellTheLatest: while a command runs, nobody waits, and what came and
// went is not told.
func TestHooksTellTheLatest(t *testing.T) {
	f := start(t)
	gate := f.path + ".gate"
	slow := `while [ ! -e "$0.gate" ]; do sleep 0.01; done; ` + note
	f.Set([]State{f.vip("a", slow, false, true), f.vip("b", note, false, true)})
	f.notes("bound b 10.68.6.1/32 no_session []") // not held up by a
	for range 100 {
		f.Set([]State{f.vip("a", slow, true, true), f.vip("b", note, false, true)})
		f.Set([]State{f.vip("a", slow, false, true), f.vip("b", note, false, true)})
	}
	f.Set([]State{f.vip("a", slow, true, true), f.vip("b", note, false, true)})
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.notes("bound b 10.68.6.1/32 no_session []", "bound a 10.68.6.1/32 no_session []", "announced a 10.68.6.1/32  [en1 en5]")
}

// TestHooksAreBounded: one that hangs is killed with what it has started; output
// and exit status are logged once, cleaned and cut.
func TestHooksAreBounded(t *testing.T) {
	f := start(t)
	const hanging = `echo $$ >"$0"; sleep 1000 & sleep 1000`
	hangs := f.vip("hangs", hanging, false, true)
	hangs.Timeout = 300 * time.Millisecond
	fails := f.vip("fails", `printf 'a\033[31m\nb'; exit 7`, false, true)
	chatty := f.vip("chatty", `head -c 1000000 /dev/zero | tr '\0' x; exit 0`, false, true)
	missing := f.vip("missing", "", false, true)
	missing.Commands = map[string][]string{Bound: {"/no/such/program"}}
	f.Set([]State{hangs, fails, chatty, missing})
	eventually(t, func() error {
		for _, want := range []string{
			`vip=hangs event=bound command=/bin/sh`, `error="killed after 300ms"`, `output="a [31m b" error="exit status 7"`,
			`vip=missing event=bound command=/no/such/program`, `vip=chatty event=bound`,
		} {
			if strings.Count(f.log.String(), want) != 1 {
				return fmt.Errorf("no %s in\n%.4000s", want, f.log)
			}
		}
		return nil
	})
	if n := len(f.log.String()); n > 2*outputBytes {
		t.Errorf("%d bytes of log", n)
	}
	leader, err := os.ReadFile(f.path)
	// A busy machine may have had no time to run it until then: another one, for longer.
	for n := 2; len(leader) == 0 && n < 6; n++ {
		again := f.vip(fmt.Sprint("hangs", n), hanging, false, true)
		again.Timeout = hangs.Timeout << n
		f.Set([]State{again})
		killed := fmt.Sprintf("killed after %s", again.Timeout)
		eventually(t, func() error {
			if !strings.Contains(f.log.String(), killed) {
				return fmt.Errorf("no %s in\n%.4000s", killed, f.log)
			}
			return nil
		})
		leader, err = os.ReadFile(f.path)
	}
	if err != nil || len(leader) == 0 {
		t.Fatalf("it never ran: %v", err)
	}
	eventually(t, func() error { // nobody of its group is left
		list, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range list {
			text, _ := os.ReadFile(path)
			_, rest, _ := strings.Cut(string(text), ") ")
			if fields := strings.Fields(rest); len(fields) > 2 && fields[2] == strings.TrimSpace(string(leader)) && fields[0] != "Z" {
				return fmt.Errorf("%s is left: %s", path, text)
			}
		}
		return nil
	})
}

// TestHooksLeaveProcesses: one that leaves a process behind has ended all the same, well
// and with its output, and nobody waits for the other one.
func TestHooksLeaveProcesses(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := startIn(t, dir)
		f.Set([]State{f.vip("a", `sleep 1000 & echo $! >"$0"; head -c 60000 /dev/zero | tr '\0' x`, false, true)})
		var pid int
		eventually(t, func() error {
			text, _ := os.ReadFile(f.path)
			_, err := fmt.Sscan(string(text), &pid)
			return err
		})
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		f.stop()
		if text := f.log.String(); !strings.Contains(text, `msg="hook ran"`) || !strings.Contains(text, "took=0s output="+strings.Repeat("x", outputBytes)+"\n") {
			t.Errorf("log %.300s", text)
		}
	})
}

// TestHookOutcome: what the process says of its end counts, also when nobody looked
// before its time was up.
func TestHookOutcome(t *testing.T) {
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for script, want := range map[string]string{"exit 0": "<nil>", "exit 7": "exit status 7", "kill -9 $$": "killed after 4s"} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
		_, _ = outputOf(cmd)
		if err := outcome(late, cmd.ProcessState, late.Err(), 4*time.Second); fmt.Sprint(err) != want {
			t.Errorf("%s: %v, want %s", script, err, want)
		}
	}
}

// TestHooksEndAtOnce: with nothing due nobody waits. In a bubble no time passes while
// a command runs, however long that takes.
func TestHooksEndAtOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := startIn(t, dir)
		f.Set([]State{f.vip("a", note, true, true)})
		f.notes("bound a 10.68.6.1/32  [en1 en5]", "announced a 10.68.6.1/32  [en1 en5]")
		began := time.Now()
		f.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("the end took %s", took)
		}
	})
}

// TestHooksAtTheEnd: what is due when the process ends is still told.
func TestHooksAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := startIn(t, dir)
		f.Set([]State{f.vip("a", note, true, true)})
		f.notes("bound a 10.68.6.1/32  [en1 en5]", "announced a 10.68.6.1/32  [en1 en5]")
		f.Set(nil)
		f.stop()
		got, err := os.ReadFile(f.path)
		if err != nil || !strings.HasSuffix(string(got), "withdrawn a 10.68.6.1/32  []\nunbound a 10.68.6.1/32  []\n") {
			t.Errorf("notes %s, %v", got, err)
		}
	})
}
