package bfd

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
	"vipspeaker/test/stopwatch"
)

// commands makes commands of real BFD processes and keeps the last one's
// process ID.
type commands struct {
	mu   sync.Mutex
	made []*exec.Cmd
}

func (c *commands) next() *exec.Cmd {
	c.mu.Lock()
	defer c.mu.Unlock()
	cmd := testCommand()
	c.made = append(c.made, cmd)
	return cmd
}

func (c *commands) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.made)
}

// pids are the BFD processes of this test that live.
func pids(tb testing.TB) []int {
	tb.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		tb.Fatal(err)
	}
	var out []int
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) || fields[0] == "Z" {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && bytes.Contains(env, []byte(processVariable+"=1")) {
			out = append(out, pid)
		}
	}
	return out
}

func onePID(t *testing.T) int {
	t.Helper()
	var p []int
	netnstest.Until(t, patience, func() error {
		if p = pids(t); len(p) != 1 {
			return fmt.Errorf("processes %v", p)
		}
		return nil
	})
	return p[0]
}

// apart starts an end whose sessions run in a process of their own.
func apart(t *testing.T, ns netnstest.NS, cfg SessionConfig, log *slog.Logger) (*end, *commands) {
	t.Helper()
	c := &commands{}
	e := &end{cfg: cfg}
	e.m = New(Options{Log: log, Command: c.next, Poke: func() {
		e.pokes.Add(1)
		if f := e.onPoke.Load(); f != nil {
			(*f)()
		}
	}})
	e.run(t, ns)
	return e, c
}

// A process runs sessions as the Manager itself does, from the first one on.
func TestProcess(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		key := &Auth{Type: MeticulousKeyedSHA1, KeyID: 1, Key: "a key \xff no text"}
		router, ca, cb := pair(ns, "10.68.1.1", "10.68.1.2", func(c *SessionConfig) { c.Auth = key })
		lines := &lockedBuffer{}
		a, made := apart(t, ns, ca, slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug})))
		b := start(t, router, cb)
		if made.count() != 0 {
			t.Error("a process without a session")
		}
		bad := ca
		bad.MinTx = time.Millisecond
		a.m.Set([]SessionConfig{bad, ca})
		netnstest.Until(t, patience, func() error {
			s := a.m.State().Sessions
			if s[1].Status != Up || s[1].TxInterval != 50*time.Millisecond || s[1].Sent == 0 || s[1].Received == 0 || s[0].Error == "" {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		if a.pokes.Load() == 0 {
			t.Error("no poke")
		}
		sent := a.m.State().Sessions[1].Sent
		netnstest.Until(t, patience, func() error {
			if now := a.m.State().Sessions[1].Sent; now <= sent {
				return fmt.Errorf("%d packets sent, and %d before", now, sent)
			}
			return nil
		})
		a.m.Set(nil)
		if s := b.reaches(t, Down); s.RemoteStatus != AdminDown || s.Downs != 0 {
			t.Errorf("removed: %+v", s)
		}
		a.m.Set([]SessionConfig{ca})
		settled(t, a)
		watch := stopwatch.Start(t)
		a.stop()
		if took := watch.Elapsed(); took > 2*time.Second {
			t.Errorf("the end took %s", took)
		}
		if s := b.reaches(t, Down); s.RemoteStatus != AdminDown || s.Downs != 0 {
			t.Errorf("stopped: %+v", s)
		}
		if p := pids(t); len(p) > 0 || made.count() != 1 {
			t.Errorf("%d processes started, left %v", made.count(), p)
		}
		if text := lines.String(); !strings.Contains(text, "bfd session changed") || strings.Contains(text, "a key") {
			t.Errorf("log:\n%s", text)
		}
	})
}

// A process that dies or hangs is replaced, and that is no failure of the path.
func TestProcessIsReplaced(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, ca, cb := pair(ns, "10.68.1.1", "10.68.1.2", nil)
		a, made := apart(t, ns, ca, nil)
		a.m.Set([]SessionConfig{ca})
		b := start(t, router, cb)
		settled(t, a)
		seen := make(chan SessionState, 10)
		a.onPoke.Store(&[]func(){func() {
			if s := a.m.State().Sessions[0]; strings.HasPrefix(s.Error, "BFD process") {
				seen <- s
			}
		}}[0])
		for name, c := range map[string]struct {
			signal unix.Signal
			want   string
		}{
			"killed":  {unix.SIGKILL, "BFD process ended: signal: killed, started again"},
			"stopped": {unix.SIGSTOP, "BFD process ended: it did not answer for 2s, started again"},
		} {
			before, count, sent := onePID(t), made.count(), a.state(t).Sent
			if err := unix.Kill(before, c.signal); err != nil {
				t.Fatal(err)
			}
			select {
			case s := <-seen:
				if s.Error != c.want || s.Status != Down || !s.WasUp || s.Downs != 0 || s.RemoteStatus != "" || s.DownSince.IsZero() {
					t.Errorf("%s: %+v", name, s)
				}
			case <-time.After(patience):
				t.Fatalf("%s: nobody noticed: %+v", name, a.state(t))
			}
			settled(t, a)
			b.heals(t)
			if s := a.state(t); s.Error != "" || !s.WasUp || s.Downs != 0 || s.Sent <= sent {
				t.Errorf("%s, and came back: %+v", name, s)
			}
			if after := onePID(t); after == before || made.count() != count+1 {
				t.Errorf("%s: process %d, then %d; %d started", name, before, after, made.count()-count)
			}
		}
	})
}

// One that says nonsense, too much, or dies again and again harms nobody, and
// is started less and less often.
func TestProcessThatIsBroken(t *testing.T) {
	frame := func(r any) string {
		var b bytes.Buffer
		if err := writeFrame(&b, r); err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, c := range b.Bytes() {
			text += fmt.Sprintf(`\%03o`, c)
		}
		return "printf '" + text + "' >&3; exec sleep 20"
	}
	for name, c := range map[string]struct{ script, want string }{
		"says nonsense":      {"echo nonsense >&3; exec sleep 20", "message of 1852796531 octets is longer than 33554432"},
		"is no message":      {`printf '\000\000\000\003abc' >&3; exec sleep 20`, "message cannot be decoded"},
		"closes":             {"exec 3>&-; exec sleep 20", "it did not end in time"},
		"is another version": {frame(report{Version: 9}), "it speaks version 9, not 2"},
		"answers before":     {frame(report{Version: protocolVersion, Pong: 7}), "it reports what it was not asked for"},
		"wrong number":       {frame(report{Version: protocolVersion, Revision: 1, Sessions: make([]wireState, 2)}), "it reports what it was not asked for"},
		"panics":             {"echo 'panic: oh' >&2; echo 'x.go:1' >&2; exit 2", "panic: oh (exit status 2)"},
		"is not there":       {"", "start: "},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var starts []time.Time
			m := New(Options{Command: func() *exec.Cmd {
				mu.Lock()
				defer mu.Unlock()
				starts = append(starts, time.Now())
				if c.script == "" {
					return exec.Command("/nonexistent")
				}
				return exec.Command("sh", "-c", c.script)
			}})
			m.Set([]SessionConfig{loopbackConfig()})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- m.Run(ctx) }()
			netnstest.Until(t, patience, func() error {
				mu.Lock()
				defer mu.Unlock()
				if s := m.State().Sessions[0]; len(starts) < 4 || !strings.Contains(s.Error, c.want) || s.Status != Down {
					return fmt.Errorf("%d starts, %+v", len(starts), s)
				}
				return nil
			})
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if gap := starts[3].Sub(starts[2]); gap < 2*firstPause {
				t.Errorf("started again after %s", gap)
			}
		})
	}
}

// When the daemon dies, the other ends hear that the session is not wanted.
func TestProcessOfDeadDaemon(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, ca, cb := pair(ns, "10.68.1.1", "10.68.1.2", nil)
		b := start(t, router, cb)
		cmd := testCommand()
		c, err := startChild(t.Context(), cmd, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.kill() })
		list := []wanted{{cfg: ca}}
		if err := writeFrame(c.conn, order{Version: protocolVersion, Set: newWireSet(1, list)}); err != nil {
			t.Fatal(err)
		}
		b.reaches(t, Up)
		if err := c.conn.Close(); err != nil {
			t.Fatal(err)
		}
		if s := b.reaches(t, Down); s.RemoteStatus != AdminDown || s.Downs != 0 {
			t.Errorf("%+v", s)
		}
		select {
		case <-c.exited:
		case <-time.After(patience):
			t.Error("the process is still there")
		}
	})
}

// A list as long as it may be passes in both directions.
func TestWireHoldsAllSessions(t *testing.T) {
	long := strings.Repeat("x", maxText)
	list, states := make([]wanted, maxSessions), make([]SessionState, maxSessions)
	for i := range list {
		a := netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff:ffff:ffff:ffff:ffff:%x%%abcdefghijklmno", i))
		c := SessionConfig{
			Peer: a, Local: a, Interface: "abcdefghijklmno", Multihop: true, MinTTL: 255, MinTx: time.Minute, MinRx: time.Minute,
			Multiplier: 255, Passive: true, Auth: &Auth{Type: MeticulousKeyedSHA1, KeyID: 255, Key: "\xff1234567890123456789"},
		}
		list[i].cfg = c
		states[i] = SessionState{
			Peer: a, Local: a, Interface: c.Interface, Multihop: true, Status: AdminDown, Since: time.Now(), Diagnostic: long,
			RemoteStatus: AdminDown, RemoteDiagnostic: long, WasUp: true, DownSince: time.Now(), Error: long,
		}
	}
	var b bytes.Buffer
	if err := writeFrame(&b, order{Version: 1, Set: newWireSet(3, list)}); err != nil {
		t.Fatal(err)
	}
	o, err := readFrame[order](&b)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range o.Set.configs() {
		if !sameAuth(c.Auth, list[i].cfg.Auth) || keyOf(&c) != keyOf(&list[i].cfg) {
			t.Fatalf("%+v %q", c, string(c.Auth.Key))
		}
	}
	if err := writeFrame(&b, report{Sessions: newWireStates(states, newClock())}); err != nil {
		t.Fatal(err)
	}
	t.Logf("a report has %d octets", b.Len())
	if _, err := readFrame[report](&b); err != nil {
		t.Fatal(err)
	}
	m := New(Options{Command: testCommand})
	many := make([]SessionConfig, maxSessions+1)
	for i := range many {
		many[i] = netConfig()
		many[i].Peer = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
	}
	m.Set(many)
	if s := m.State().Sessions; s[maxSessions].Error != "more than 20000 sessions are wanted" || s[maxSessions-1].Error != "" {
		t.Errorf("%+v", s[maxSessions-1:])
	}
}

// What a session was in a process that ended is kept over the next ones.
func TestSlotKeepsItsPast(t *testing.T) {
	c := netConfig()
	s := newSlot(keyOf(&c), &c, nil)
	s.remote = true
	then := time.Now().Add(-time.Hour)
	clk := newClock()
	accept := func(v SessionState) bool { return s.accept(&newWireStates([]SessionState{v}, clk)[0], newClock()) }
	accept(SessionState{
		Peer: netip.MustParseAddr("203.0.113.1"), Status: Up, RemoteStatus: Up, Since: then, WasUp: true, DownSince: then, Downs: 2,
		Sent: 10, Received: 20, Dropped: 30, LastDrop: "TTL too low", TxInterval: time.Second, DetectionTime: time.Second,
	})
	if !s.lose("it ended") || s.lose("it ended") {
		t.Error("the end is to be told once")
	}
	lost := s.state()
	if time.Since(lost.Since) > time.Minute || lost.DownSince != lost.Since {
		t.Errorf("%+v", lost)
	}
	want := SessionState{
		Peer: c.Peer, Local: c.Local, Interface: c.Interface, Status: Down, Since: lost.Since, WasUp: true, DownSince: lost.Since, Downs: 2,
		Sent: 10, Received: 20, Dropped: 30, LastDrop: "TTL too low", Error: "it ended",
	}
	if d := cmp.Diff(want, lost, cmp.Comparer(sameAddr)); d != "" {
		t.Errorf("lost (-want +got):\n%s", d)
	}
	now := time.Now()
	if !accept(SessionState{Status: "Upside", RemoteStatus: "Down", Since: now, Sent: 1, Received: 1, Diagnostic: strings.Repeat("x", 300)}) {
		t.Error("nothing to poke about")
	}
	want.Error, want.RemoteStatus, want.Since, want.Sent, want.Received, want.Diagnostic = "", Down, now, 11, 21, strings.Repeat("x", maxText)
	if d := cmp.Diff(want, s.state(), cmp.Comparer(sameAddr), cmpopts.EquateApproxTime(time.Second)); d != "" {
		t.Errorf("the next one (-want +got):\n%s", d)
	}
	accept(SessionState{Status: Down, Since: now, Downs: 1, DownSince: now})
	s.lose("it ended again")
	accept(SessionState{Status: Up, Since: now, Downs: 1})
	if got := s.state(); got.Downs != 4 || got.DownSince.Sub(now).Abs() > time.Second || !got.WasUp {
		t.Errorf("%+v", got)
	}
}
