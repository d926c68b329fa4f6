//go:build long

package bfd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// roleVariable tells a process that TestLongNoFalseDown starts what it is: near,
// far or busy.
const roleVariable = "VIPSPEAKER_BFD_ROLE"

// loadTime is how long the processors are busy.
const loadTime = 30 * time.Second

// Both ends in processes of their own, with sessions of 50 ms × 3 and 10 ms × 3,
// while busy loops and a Go process that allocates want all processors: not one
// session goes down.
func TestLongNoFalseDown(t *testing.T) {
	if role := os.Getenv(roleVariable); role != "" {
		play(t, role)
		return
	}
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router := ns.New("r1")
		ns.VethTo("en1", router, "p1")
		for _, c := range farEnds() {
			ns.IP("addr add %s/24 dev en1", c.Peer)
			router.IP("addr add %s/24 dev p1", c.Local)
		}
		near, far := role(t, ns, "near"), role(t, router, "far")
		netnstest.Until(t, 10*time.Second, func() error {
			if !strings.Contains(near.out.String(), "up") || !strings.Contains(far.out.String(), "up") {
				return fmt.Errorf("not up:\n%s%s", &near.out, &far.out)
			}
			return nil
		})
		burners := []*process{role(t, ns, "busy")}
		for range runtime.NumCPU() {
			burners = append(burners, begin(t, exec.Command("sh", "-c", "while :; do :; done")))
		}
		timer := time.NewTimer(loadTime)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.Context().Done():
		}
		for _, p := range burners {
			p.end(unix.SIGKILL)
		}
		near.end(unix.SIGUSR1)
		far.end(unix.SIGUSR1)
		for _, p := range []*process{near, far} {
			t.Logf("%s", &p.out)
			if !strings.Contains(p.out.String(), "downs 0,0\n") {
				t.Errorf("a session went down:\n%s", &p.out)
			}
		}
	})
}

// farEnds are the router's sessions.
func farEnds() []SessionConfig {
	var out []SessionConfig
	for i, interval := range []time.Duration{50 * time.Millisecond, 10 * time.Millisecond} {
		out = append(out, SessionConfig{
			Peer: netip.AddrFrom4([4]byte{10, 68, byte(i), 1}), Local: netip.AddrFrom4([4]byte{10, 68, byte(i), 2}),
			Interface: "p1", MinTx: interval, MinRx: interval, Multiplier: 3,
		})
	}
	return out
}

// play is the test in a process of its own.
func play(t *testing.T, role string) {
	if role == "busy" {
		for range 2 * runtime.NumCPU() {
			go churn()
		}
		select {} // until it is killed
	}
	cfgs := farEnds()
	if role == "near" {
		for i := range cfgs {
			c := &cfgs[i]
			c.Peer, c.Local, c.Interface = c.Local, c.Peer, "en1"
		}
	}
	m := New(Options{Dedicated: true})
	m.Set(cfgs)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	over := make(chan os.Signal, 1)
	signal.Notify(over, unix.SIGUSR1)
	netnstest.Until(t, 10*time.Second, func() error {
		for _, s := range m.State().Sessions {
			if s.Status != Up || s.TxInterval > 50*time.Millisecond {
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
	_, _ = os.Stdout.WriteString("up\n")
	<-over
	st := m.State().Sessions
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	text, err := json.Marshal(st)
	if err != nil {
		t.Error(err)
	}
	_, _ = fmt.Fprintf(os.Stdout, "%s: late by at most %s\ndowns %d,%d\n%s\n", role, m.late, st[0].Downs, st[1].Downs, text)
}

// churn makes garbage as fast as it can.
func churn() {
	var keep [][]byte
	for {
		if keep = append(keep, make([]byte, 10_000)); len(keep) > 2000 {
			keep = nil
		}
	}
}

// process is one that ends with the test.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out lockedBuffer
}

// role starts this test in a process of its own in the namespace.
func role(t *testing.T, ns netnstest.NS, name string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{self, "-test.run=^TestLongNoFalseDown$", "-test.timeout=2m"}
	if ns.Name() != "" {
		args = append([]string{"ip", "netns", "exec", ns.Name()}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"="+name)
	return begin(t, cmd)
}

func begin(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(unix.SIGKILL) })
	return p
}

// end signals the process and waits for it, the first time.
func (p *process) end(s unix.Signal) {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(s)
		_ = p.cmd.Wait()
	}
}
