package bfd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// The tests in the interop files run real daemons: FRR's bfdd and BIRD, in the
// namespace r1 behind a switch, so that a path can fail with all carriers up.

const (
	// patience bounds everything that a daemon may take its time for.
	patience = 30 * time.Second
	interval = 50 * time.Millisecond
	// calm is the multiplier, so that no machine makes a failure that is busy, or
	// stands still for a second or two: both ends would be right then to go down.
	calm = 40
)

// world is a host with en1, a switch and a router r1 with wan.
type world struct {
	netnstest.NS
	t      *testing.T
	sw, r1 netnstest.NS
}

func newWorld(t *testing.T, ns netnstest.NS) *world {
	t.Helper()
	w := &world{NS: ns, t: t, sw: ns.New("sw"), r1: ns.New("r1")}
	for _, n := range []netnstest.NS{w.NS, w.r1} {
		n.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	}
	w.sw.IP("link add br0 type bridge")
	w.sw.IP("link set br0 up")
	w.VethTo("en1", w.sw, "port1")
	w.r1.VethTo("wan", w.sw, "port2")
	w.sw.IP("link set port1 master br0")
	w.sw.IP("link set port2 master br0")
	w.IP("addr add 10.68.1.1/24 dev en1")
	w.IP("addr add fd68:1::1/64 dev en1 nodad")
	w.r1.IP("addr add 10.68.1.2/24 dev wan")
	w.r1.IP("addr add fd68:1::2/64 dev wan nodad")
	return w
}

// cut drops all frames between host and router while every carrier stays up, and
// returns a time before.
func (w *world) cut() time.Time {
	w.t.Helper()
	before := time.Now()
	w.sw.Exec("nft", "add table bridge cut; add chain bridge cut c { type filter hook forward priority 0; policy drop; }")
	return before
}

func (w *world) heal() {
	w.t.Helper()
	w.sw.Exec("nft", "delete table bridge cut")
}

// over is where a session runs, and the multiplier of both sides.
type over struct {
	local, peer netip.Addr
	mult        uint8
}

func families() map[string]over {
	return map[string]over{
		"ipv4": {netip.MustParseAddr("10.68.1.1"), netip.MustParseAddr("10.68.1.2"), calm},
		"ipv6": {netip.MustParseAddr("fd68:1::1"), netip.MustParseAddr("fd68:1::2"), calm},
	}
}

// detection is the detection time of a session with the interval of these tests.
func (o over) detection() time.Duration { return time.Duration(o.mult) * interval }

// wish is our side's configuration of a session over one hop.
func (o over) wish() SessionConfig {
	return SessionConfig{Peer: o.peer, Local: o.local, Interface: "en1", MinTx: interval, MinRx: interval, Multiplier: o.mult}
}

// ours is our side: a Manager that runs in the test's own namespace.
type ours struct {
	t   *testing.T
	m   *Manager
	cfg SessionConfig
	end func()
}

func (w *world) run(cfg SessionConfig) *ours {
	w.t.Helper()
	o := &ours{t: w.t, m: New(Options{}), cfg: cfg}
	o.m.Set([]SessionConfig{cfg})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.m.Run(ctx) }()
	ended := false
	o.end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("run: %v", err)
		}
	}
	w.t.Cleanup(o.end)
	return o
}

func (o *ours) set(cfg SessionConfig) {
	o.cfg = cfg
	o.m.Set([]SessionConfig{cfg})
}

func (o *ours) state() SessionState {
	o.t.Helper()
	s, ok := o.m.State().Session(o.cfg.Peer, o.cfg.Local, o.cfg.Interface)
	if !ok {
		o.t.Fatalf("no session to %s: %+v", o.cfg.Peer, o.m.State())
	}
	return s
}

// await waits until the session is as ok says.
func (o *ours) await(what string, ok func(SessionState) bool) SessionState {
	o.t.Helper()
	var s SessionState
	netnstest.Until(o.t, patience, func() error {
		if s = o.state(); !ok(s) {
			return fmt.Errorf("our session is not %s: %+v", what, s)
		}
		return nil
	})
	return s
}

func (o *ours) awaitStatus(want SessionStatus) SessionState {
	o.t.Helper()
	return o.await(string(want), func(s SessionState) bool { return s.Status == want })
}

// stays tells that the session was Up since then, all the time.
func (o *ours) stays(since SessionState) {
	o.t.Helper()
	if s := o.state(); s.Status != Up || !s.Since.Equal(since.Since) || s.Downs != since.Downs {
		o.t.Errorf("our session left Up: %+v, was %+v", s, since)
	}
}

// theirs is the other end's view of a session, in the words of this package.
type theirs struct {
	Status                SessionStatus
	RemoteDiag            string
	MinTx, MinRx          time.Duration // its own
	RemoteTx, RemoteRx    time.Duration // as it heard from us
	Mult, RemoteMult      int
	Interval, DetectAfter time.Duration
}

// router is a daemon that speaks BFD in r1.
type router interface {
	// configure makes the sessions of the daemon these; start is with them.
	configure(peers ...remote)
	start()
	kill() // SIGKILL
	view(local netip.Addr) (theirs, error)
	// shut takes its sessions down by order, or lets them be again.
	shut(down bool)
}

// remote is what a router is to have: our session from the other side.
type remote struct {
	over

	multihop bool
	minTx    time.Duration
	minRx    time.Duration
	times    uint8 // its multiplier
	auth     *Auth
	passive  bool
	echo     bool
}

func (o over) remote() remote {
	return remote{over: o, minTx: interval, minRx: interval, times: o.mult}
}

// awaitTheirs waits until the router's view is as ok says. It asks less often
// than netnstest.Until, because each question is a process.
func (w *world) awaitTheirs(r router, o over, what string, ok func(theirs) bool) theirs {
	w.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err := r.view(o.local)
		if err == nil && ok(v) {
			return v
		}
		select {
		case <-deadline.C:
			w.t.Fatalf("the router's session is not %s: %+v, %v", what, v, err)
		case <-tick.C:
		}
	}
}

func (w *world) awaitTheirStatus(r router, o over, want SessionStatus) theirs {
	w.t.Helper()
	return w.awaitTheirs(r, o, string(want), func(v theirs) bool { return v.Status == want })
}

// daemon is one process in a namespace. The namespaces and the processes in
// them end with the test.
type daemon struct {
	t    *testing.T
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// daemonize starts a program in r1 and waits until it listens at the sockets.
func (w *world) daemonize(name string, sockets []string, program string, args ...string) *daemon {
	w.t.Helper()
	return startDaemon(w.t, name, sockets, exec.Command("ip", append([]string{"netns", "exec", "r1", program}, args...)...))
}

func startDaemon(t *testing.T, name string, sockets []string, cmd *exec.Cmd) *daemon {
	t.Helper()
	d := &daemon{t: t, name: name, log: filepath.Join(t.TempDir(), name+".log"), cmd: cmd, done: make(chan struct{})}
	out, err := os.Create(d.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	for _, s := range sockets {
		if err := os.Remove(s); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			text, _ := os.ReadFile(d.log)
			t.Logf("%s said:\n%s", name, text)
		}
	})
	netnstest.Until(t, patience, func() error {
		select {
		case <-d.done:
			text, _ := os.ReadFile(d.log)
			t.Fatalf("%s ended: %s: %s", name, cmd.ProcessState, text)
		default:
		}
		for _, s := range sockets {
			if _, err := os.Stat(s); err != nil {
				return err
			}
		}
		return nil
	})
	return d
}

// kill ends the process, by its id, without a chance to say anything.
func (d *daemon) kill() {
	if err := d.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Error(err)
	}
	<-d.done
}

// childEnv tells a test process what session to run until it is killed.
const childEnv = "VIPSPEAKER_BFD_SESSION"

// TestInteropChild is our side as a process of its own, which can be killed. It
// does nothing unless one of the tests below starts it so.
func TestInteropChild(t *testing.T) {
	text := os.Getenv(childEnv)
	if text == "" {
		return
	}
	var cfg SessionConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	m := New(Options{})
	m.Set([]SessionConfig{cfg})
	if err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// child starts our side as a process of its own.
func (w *world) child(cfg SessionConfig) *daemon {
	w.t.Helper()
	text, err := json.Marshal(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInteropChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	return startDaemon(w.t, "child", nil, cmd)
}

// fields are the words of the lines of a table that begin with a word.
func fields(table, first string) ([]string, bool) {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == first {
			return f, true
		}
	}
	return nil, false
}

// farther are the addresses of a session over a router in between.
func farther(o over) over {
	if o.peer.Is4() {
		return over{netip.MustParseAddr("10.68.5.1"), netip.MustParseAddr("10.68.7.2"), o.mult}
	}
	return over{netip.MustParseAddr("fd68:5::1"), netip.MustParseAddr("fd68:7::2"), o.mult}
}
