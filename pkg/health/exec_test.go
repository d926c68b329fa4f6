package health

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// marked is a long sleep that no other process on the machine has as its
// command line.
func marked(n int) string { return fmt.Sprintf("sleep 60.%07d%d", os.Getpid(), n) }

// those are the processes with the command line; zombies have none.
func those(t *testing.T, command string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, _ := os.ReadFile(f) // gone meanwhile
		if string(bytes.ReplaceAll(bytes.TrimRight(b, "\x00"), []byte{0}, []byte(" "))) == command {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// alive counts them.
func alive(t *testing.T, command string) int {
	t.Helper()
	return len(those(t, command))
}

func dead(t *testing.T, command string) {
	t.Helper()
	until(t, func() bool { return alive(t, command) == 0 }, func() string { return "left behind: " + command })
}

func shell(t *testing.T, script string) Checker {
	t.Helper()
	c, err := NewExec(ExecConfig{Command: []string{"/bin/sh", "-c", script}, Env: []string{"TOKEN=x y"}, Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestExec(t *testing.T) {
	noGoroutines(t)
	t.Setenv("HOME", "/root") // must not get through
	for _, tc := range []struct{ name, script, want string }{
		{"pass", "echo fine", ""},
		{"environment", `test "$VIPSPEAKER_CHECK:$TOKEN:$HOME:$PWD" = "web:x y::/" && test "$(env | wc -l)" = 4`, ""},
		{"slow", "sleep 0.2; echo fine", ""},
		{"no input", "read x; test $? = 1", ""},
		{"own group", `test "$(ps -o pgid= -p $$ | tr -d ' ')" = $$`, ""},
		{"exit code", "exit 3", "exec /bin/sh: exit status 3"},
		{"first line of output", `echo; printf '  no answer\t\033from 10.0.0.1\nmore\n'; echo err >&2; exit 2`, "exec /bin/sh: exit status 2: no answer  from 10.0.0.1"},
		{"first line of errors", "echo oops >&2; exit 1", "exec /bin/sh: exit status 1: oops"},
		{"long line", "head -c 300 /dev/zero | tr '\\0' x; exit 1", "exec /bin/sh: exit status 1: " + strings.Repeat("x", 200)},
		{"much output", "yes | head -c 3000000; exit 1", "exec /bin/sh: exit status 1: y"},
		{"garbage", `printf '\377\376\000ok'; exit 1`, "exec /bin/sh: exit status 1: ? ok"},
		{"signal", "kill -SEGV $$", "exec /bin/sh: signal: segmentation fault…"},
	} {
		t.Run(tc.name, func(t *testing.T) { want(t, shell(t, tc.script), 5*patient, tc.want) })
	}
	absent, err := NewExec(ExecConfig{Command: []string{"/nonexistent/check"}})
	if err != nil {
		t.Fatal(err)
	}
	want(t, absent, patient, "exec /nonexistent/check: no such file or directory")
	if _, err := NewExec(ExecConfig{}); err == nil {
		t.Error("NewExec without a command gives no error")
	}
}

// What hangs is killed with all of its group, in time.
func TestExecTimeout(t *testing.T) {
	noGoroutines(t)
	for i, script := range []string{
		"exec %s",
		"trap '' TERM INT HUP; %[1]s & %[1]s",
		"(%[1]s; :) | (%[1]s; :)",
		"echo busy; %s >/dev/null 2>&1 </dev/null",
		// Output without end, also by a child, while nobody stops.
		"trap '' TERM INT HUP PIPE; (trap '' TERM PIPE; exec %[1]s) & yes %[1]s & yes %[1]s >&2",
		"trap '' TERM; %s & cat /dev/urandom",
		// A pass that comes too late.
		"%s & sleep 2; exit 0",
		// A child in the background of a child that is gone.
		"(trap '' TERM INT HUP; (%[1]s; %[1]s) &) ; %[1]s",
	} {
		command := marked(i)
		t.Run(fmt.Sprintf(script, "sleep"), func(t *testing.T) {
			want(t, shell(t, fmt.Sprintf(script, command)), 300*time.Millisecond, "exec /bin/sh: timeout after …")
			dead(t, command)
			dead(t, "yes "+command)
		})
	}
}

// What a program leaves behind is killed and holds up nobody, even where it
// keeps the output open.
func TestExecLeftBehind(t *testing.T) {
	noGoroutines(t)
	command := marked(10)
	if took := want(t, shell(t, command+" & exit 0"), 5*patient, ""); took > patient { // and it sleeps for a minute
		t.Errorf("took %s, want at once", took)
	}
	dead(t, command)
	command = marked(11)
	want(t, shell(t, command+" & echo broken; exit 1"), 5*patient, "exec /bin/sh: exit status 1: broken")
	dead(t, command)
	// One in a session of its own is out of reach, but does not hang us.
	command = marked(12)
	if took := want(t, shell(t, "setsid "+command+" & exit 0"), 5*patient, ""); took > patient {
		t.Errorf("took %s with the output held open, want at once", took)
	}
	for _, pid := range those(t, command) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// What a program has written is read also when nobody has looked until its end, and a
// pipe that stays open holds nobody up.
func TestExecRest(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	for _, text := range []string{"", "no answer", strings.Repeat("x", 3*outputBytes)} {
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		_ = r.SetReadDeadline(time.Now())
		if got, want := string(rest(r, []byte("> "))), ("> " + text)[:min(outputBytes, 2+len(text))]; got != want {
			t.Errorf("of %d bytes: %.20q of %d, want %.20q of %d", len(text), got, len(got), want, len(want))
		}
	}
}

// A check that is not wanted any more takes its processes along.
func TestExecRemoved(t *testing.T) {
	noGoroutines(t)
	command := marked(20)
	s := spec("web", shell(t, command))
	s.Timeout = time.Minute
	m, _ := runManager(t, s)
	until(t, func() bool { return alive(t, command) == 1 }, func() string { return "check not started" })
	m.Set(nil)
	dead(t, command)
}

// A program that hangs does not outlive a daemon that is killed.
func TestExecDiesWithUs(t *testing.T) {
	command := marked(30)
	us := exec.Command("/proc/self/exe")
	us.Env = append(os.Environ(), execScript+"=exec "+command)
	if err := us.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return alive(t, command) == 1 }, func() string { return "check not started" })
	if err := us.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = us.Wait() // it was killed
	dead(t, command)
}
