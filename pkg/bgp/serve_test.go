package bgp

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startByHand starts a speaker process without a manager, tells it what to hold
// and returns its end of the conversation.
func startByHand(t *testing.T, hello helloMessage, cfg SpeakerConfig) *process {
	t.Helper()
	p, err := startProcess(t.Context(), testCommand(""), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill(); <-p.exited; _ = p.conn.Close() })
	hello.Version = protocolVersion
	for _, m := range []message{
		{Hello: &hello}, {Paths: &pathsMessage{Seq: 1, Set: cfg.Paths}}, {Sessions: newSessionsMessage(2, cfg)},
	} {
		if err := writeMessage(p.conn, m); err != nil {
			t.Fatal(err)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, p.conn) }()
	return p
}

// pinged pings a process until what it is to do meanwhile is done.
func pinged(t *testing.T, p *process, do func()) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for id := uint64(1); ; id++ {
			if err := writeMessage(p.conn, message{Ping: &pingMessage{ID: id}}); err != nil {
				t.Errorf("ping: %v", err)
				return
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	do()
	close(stop)
	<-done
}

func awaitExit(t *testing.T, p *process, within time.Duration) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		t.Fatalf("process still there after %s", within)
	}
}

// A daemon that is frozen may not go on announcing through its processes.
func TestProcessWithdrawsFromFrozenDaemon(t *testing.T) {
	host, router := addr(t), addr(t)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1)}
	proc := startByHand(t, helloMessage{PingTimeout: 3 * time.Second}, cfg)
	var p *rawPeer
	pinged(t, proc, func() {
		p = dialRaw(t, router, host, 65001, rawOptions{})
		p.await(patience, hasPrefix("[+"))
	})
	got := p.await(patience, hasPrefix("notification"))
	if diff := cmp.Diff([]string{"[-10.100.0.1/32]", "notification 6/2 announcing daemon does not answer"}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	awaitExit(t, proc, patience)
}

// A process that was stopped itself, as with its whole container, has no reason to
// take the daemon for frozen: it waits for the next ping anew.
func TestProcessWasStoppedItself(t *testing.T) {
	t.Parallel()
	const silence = 2 * listenRecheck
	host, router := addr(t), addr(t)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Peers[0].HoldTime = time.Minute
	cfg.Paths = []Path{path4(1)}
	proc := startByHand(t, helloMessage{PingTimeout: silence}, cfg)
	var p *rawPeer
	pinged(t, proc, func() {
		p = dialRaw(t, router, host, 65001, rawOptions{})
		p.await(patience, hasPrefix("[+"))
	})
	if err := syscall.Kill(proc.cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-time.After(silence + time.Second)
	if err := syscall.Kill(proc.cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := p.quiet(silence / 2); got != nil || p.ended() != nil {
		t.Errorf("the router got %q, %v", got, p.ended())
	}
	// Now the daemon says nothing.
	p.await(patience, hasPrefix("notification 6/2 announcing daemon does not answer"))
}

// A daemon that died is mourned in silence: its routers keep the routes.
func TestProcessEndsSilentlyWithItsDaemon(t *testing.T) {
	host, router := addr(t), addr(t)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1)}
	proc := startByHand(t, helloMessage{}, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	p.await(patience, hasPrefix("[+"))
	if err := proc.conn.Close(); err != nil {
		t.Fatal(err)
	}
	awaitExit(t, proc, patience)
	eventually(t, patience, func() string { return "end of stream" }, func() bool { return p.ended() != nil })
	if got := p.seen(); got != nil {
		t.Errorf("router got %q", got)
	}
	if proc.reason != "exit status 0" {
		t.Errorf("process ended with %q", proc.reason)
	}
}

// Whoever stops the daemon often signals its processes too. Only the daemon
// decides how they end.
func TestProcessIgnoresSignals(t *testing.T) {
	host, router := addr(t), addr(t)
	proc := startByHand(t, helloMessage{}, conf("en1", 65010, host, peer(router, 65001)))
	p := dialRaw(t, router, host, 65001, rawOptions{})
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if err := syscall.Kill(proc.cmd.Process.Pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.quiet(200 * time.Millisecond); got != nil || p.ended() != nil {
		t.Errorf("router got %q, %v", got, p.ended())
	}
}

// Nonsense from the daemon's side, or another version, ends the process.
func TestProcessRefusesNonsense(t *testing.T) {
	for name, bytes := range map[string]string{
		"version":  "\x00\x00\x00\x17{\"hello\":{\"version\":99}}",
		"no hello": "\x00\x00\x00\x02{}",
		"too long": "\xff\xff\xff\xff",
		"no json":  "\x00\x00\x00\x03abc",
	} {
		t.Run(name, func(t *testing.T) {
			p, err := startProcess(t.Context(), testCommand(""), testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = p.conn.Close() }()
			if _, err := p.conn.Write([]byte(bytes)); err != nil {
				t.Fatal(err)
			}
			awaitExit(t, p, patience)
			if !strings.Contains(p.reason, "exit status 1") {
				t.Errorf("process ended with %q", p.reason)
			}
		})
	}
}

// withoutCgo is this test's binary, made anew if it uses cgo.
func withoutCgo(t *testing.T) string {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("the binary does not say how it was built")
	}
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "0"}) {
		return own
	}
	binary := filepath.Join(t.TempDir(), "bgp.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build without cgo: %v\n%s", err, out)
	}
	return binary
}

// The process that is built as the product is holds one capability and nothing
// else, on every thread.
func TestProcessHasNoPrivileges(t *testing.T) {
	binary := readable(t, withoutCgo(t))
	host, router := addr(t), addr(t)
	m := startManager(t, Options{Command: func(string) *exec.Cmd {
		cmd := exec.Command(binary)
		cmd.Env = []string{processEnv + "=1"}
		return cmd
	}}, nil)
	announce(m, conf("en1", 65010, host, peer(router, 65001)))
	dialRaw(t, router, host, 65001, rawOptions{})
	awaitUp(t, m, "en1", 1)
	pid := speakerState(m, "en1").PID
	if e := speakerState(m, "en1").Error; e != "" {
		t.Errorf("error: %s", e)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads %v, %v", tasks, err)
	}
	want := map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000400", "CapEff": "0000000000000400", "CapAmb": "0000000000000000", "NoNewPrivs": "1",
	}
	if os.Geteuid() == 0 {
		want["Uid"] = "65534 65534 65534 65534"
		want["Gid"] = "65534 65534 65534 65534"
		want["Groups"] = ""
	}
	for _, file := range tasks {
		if diff := cmp.Diff(want, status(t, file, want)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	var odd []string
	for _, f := range files {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, f.Name()))
		known := []string{"socket:", "pipe:", "anon_inode:", "/dev/null", "/sys/fs/cgroup/"} // the last is the Go runtime's
		if err == nil && !slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(to, k) }) {
			odd = append(odd, to)
		}
	}
	if odd != nil {
		t.Errorf("process has files open: %q", odd)
	}
}

// readable makes a copy of the binary where every user may execute it.
func readable(t *testing.T, binary string) string {
	t.Helper()
	text, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "vipspeaker-bgp-") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "speaker")
	if err := os.WriteFile(copied, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return copied
}

func status(t *testing.T, file string, keys map[string]string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		k, v, _ := strings.Cut(line, ":")
		if _, ok := keys[k]; ok {
			out[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	return out
}

// Crash loops back off, and say why.
func TestCrashLoopBacksOff(t *testing.T) {
	var mu sync.Mutex
	var starts []time.Time
	var out lockedBuffer
	m := startManager(t, Options{Log: slog.New(slog.NewTextHandler(&out, nil)), Command: func(string) *exec.Cmd {
		mu.Lock()
		defer mu.Unlock()
		starts = append(starts, time.Now())
		return exec.Command("/bin/sh", "-c", "echo no speaker >&2; exit 3")
	}}, nil)
	announce(m, conf("en1", 65010, addr(t)))
	st := awaitPhase(t, m, "en1", func(s SpeakerState) bool { return s.Restarts >= 5 && s.Phase == Backoff })
	if st.LastExit != "no speaker (exit status 3)" || st.PID != 0 {
		t.Errorf("state is %+v", st)
	}
	mu.Lock()
	gaps := []time.Duration{starts[1].Sub(starts[0]), starts[2].Sub(starts[1]), starts[3].Sub(starts[2])}
	mu.Unlock()
	// How long a process takes to start and to end is the machine's business.
	for i, least := range []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond} {
		if gaps[i] < least {
			t.Errorf("pause %d is %s, want %s at least", i, gaps[i], least)
		}
	}
	var pauses []string
	for line := range strings.Lines(out.String()) {
		if _, pause, ok := strings.Cut(strings.TrimSpace(line), " restart_in="); ok {
			pauses = append(pauses, pause)
		}
	}
	if want := []string{"0s", "100ms", "200ms", "400ms", "800ms"}; !slices.Equal(pauses[:min(len(want), len(pauses))], want) {
		t.Errorf("pauses %q, want %q", pauses, want)
	}
}

// A stop does not wait for the end of a pause.
func TestStopDuringAPause(t *testing.T) {
	m := startManager(t, Options{Command: func(string) *exec.Cmd { return exec.Command("/nonexistent") }}, func(mt *managerTiming) {
		mt.firstRetry, mt.longRetry = time.Hour, time.Hour
	})
	announce(m, conf("en1", 65010, addr(t)))
	awaitPhase(t, m, "en1", func(s SpeakerState) bool { return s.Restarts == 2 && s.Phase == Backoff })
	stop(t, m, StopDrain, "bye")
}

// A command that cannot be started is a crash like any other.
func TestMissingBinary(t *testing.T) {
	m := startManager(t, Options{Command: func(string) *exec.Cmd { return exec.Command("/nonexistent") }}, nil)
	announce(m, conf("en1", 65010, addr(t)))
	st := awaitPhase(t, m, "en1", func(s SpeakerState) bool { return s.Restarts > 0 })
	if !strings.Contains(st.LastExit, "no such file or directory") {
		t.Errorf("state is %+v", st)
	}
}

func TestMessagesCross(t *testing.T) {
	host, router := addr(t), addr(t)
	p := peer(router, 65001)
	p.Password = "sesame"
	med := uint32(0)
	cfg := conf("en1", 65010, host, p)
	cfg.Paths = []Path{{Prefix: path4(1).Prefix, MED: &med, LargeCommunities: []LargeCommunity{{1, 2, 3}}}}
	r, w := io.Pipe()
	go func() {
		_ = writeMessage(w, message{Sessions: newSessionsMessage(1, cfg)})
		_ = writeMessage(w, message{Paths: &pathsMessage{Seq: 2, Set: cfg.Paths, Delete: []pathKey{{path4(3).Prefix, 4}}}})
		_ = w.Close()
	}()
	first, err := readMessage(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := first.Sessions.config()
	if err != nil {
		t.Fatal(err)
	}
	second, err := readMessage(r)
	if err != nil {
		t.Fatal(err)
	}
	got.Paths = second.Paths.Set
	if !sameSessions(got, cfg) || !slices.EqualFunc(got.Paths, cfg.Paths, samePath) || !slices.Equal(second.Paths.Delete, []pathKey{{path4(3).Prefix, 4}}) {
		t.Errorf("got %#v and %+v, want %#v", got, second.Paths, cfg)
	}
	if _, err := readMessage(r); !errors.Is(err, io.EOF) {
		t.Errorf("end of stream is %v", err)
	}
}

// What a process says is bounded, and never more than an error.
func FuzzReadMessage(f *testing.F) {
	var good strings.Builder
	_ = writeMessage(&good, message{Report: &reportMessage{Seq: 1, State: SpeakerState{Phase: Running}}})
	for _, seed := range []string{good.String(), good.String() + good.String(), "", "\x00", "\xff\xff\xff\xff", "\x00\x00\x00\x02{}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := strings.NewReader(string(in))
		for range 10 {
			m, err := readMessage(r)
			if err != nil {
				return
			}
			if m.Sessions != nil {
				if cfg, err := m.Sessions.config(); err == nil {
					_, _ = clean(cfg)
				}
			}
			// What was read can be said again.
			if err := writeMessage(io.Discard, m); err != nil {
				t.Fatalf("message %+v: %v", m, err)
			}
		}
	})
}

// A process hears how many of our own paths routers may send back before it
// hears of the paths, and also when nothing else of its sessions changes.
func TestLimitOrder(t *testing.T) {
	t.Parallel()
	process := told{paths: map[pathKey]Path{}}
	var got []string
	drive := func(rev uint64, cfg SpeakerConfig) {
		got = nil
		for m, more := process.next(cfg, rev); more; m, more = process.next(cfg, rev) {
			switch {
			case m.Paths != nil:
				got = append(got, fmt.Sprintf("set %d, delete %d", len(m.Paths.Set), len(m.Paths.Delete)))
			case m.Sessions != nil:
				got = append(got, fmt.Sprintf("limit %d", m.Sessions.Config.Reflected))
			}
		}
	}
	cfg := SpeakerConfig{Name: "en1", Paths: []Path{path4(1)}, Reflected: 1}
	drive(1, cfg)
	cfg.Paths, cfg.Reflected = []Path{path4(2), path4(3)}, 2
	drive(2, cfg)
	if want := []string{"set 0, delete 1", "limit 2", "set 2, delete 0"}; !slices.Equal(got, want) {
		t.Errorf("more: told %q, want %q", got, want)
	}
	cfg.Paths, cfg.Reflected = nil, 0
	drive(3, cfg)
	if want := []string{"set 0, delete 2", "limit 0"}; !slices.Equal(got, want) {
		t.Errorf("less: told %q, want %q", got, want)
	}
}
