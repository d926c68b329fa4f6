package topologies

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// bfdProcessOf is the process that runs the BFD sessions of a daemon.
func bfdProcessOf(s *lab.Speaker) (int, error) {
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.PID))
	if err != nil {
		return 0, err
	}
	for _, file := range children {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for pid := range strings.FieldsSeq(string(text)) {
			command, err := os.ReadFile("/proc/" + pid + "/cmdline")
			if err == nil && bytes.Contains(command, []byte("bfd-process")) {
				var n int
				_, err = fmt.Sscan(pid, &n)
				return n, err
			}
		}
	}
	return 0, errors.New("no BFD process")
}

// backWithin bounds the time from the kill to the last session and the last route.
const backWithin = 10 * time.Second

// bfdKill is a way in which routers have BFD and graceful restart with the host.
type bfdKill struct {
	mode bfdMode
	cold bool // without graceful restart
	// absent is how long the kernel of each router may be without a route.
	absent map[string]time.Duration
}

// The process that speaks BFD is killed: another one takes its place, which begins
// with Down, as the end of the former could say nothing. That is no failure on our
// side, but a router with BFD on its session ends BGP for it, and with a Cease, after
// which graceful restart keeps nothing. It keeps the routes only if it was told that
// BFD goes with the control plane (RFC 5882 section 4.3).
func TestBFDProcessKilled(t *testing.T) {
	t.Parallel()
	dropped := map[string]time.Duration{"frr": backWithin, "bird": backWithin}
	// BIRD takes a route out and in again whose session comes back without the F bit
	// (RFC 4724 section 3), as ours does: no process of it has restarted.
	kept := map[string]time.Duration{"frr": 0, "bird": 50 * time.Millisecond}
	for name, k := range map[string]bfdKill{
		"graceful restart":                  {withBGP, false, dropped},
		"graceful restart, and BFD with it": {graceful, false, kept},
		"no graceful restart":               {withBGP, true, dropped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bfdProcessKilled(t, k)
		})
	}
}

// absence is how long a route had no leg, all in all.
func absence(w *lab.RouteWatch) (sum time.Duration) {
	events := w.Events()
	for i := 1; i < len(events); i++ {
		if len(lab.Live(events[i-1].Hops)) == 0 {
			sum += events[i].Time.Sub(events[i-1].Time)
		}
	}
	return sum
}

func bfdProcessKilled(t *testing.T, k bfdKill) {
	t.Helper()
	l := lab.Start(t, "vipa")
	for _, p := range legs() {
		speakBFD(t, l.Node(p.node), lasting, k.mode, p.local4, p.local6)
	}
	prompt(t, l, "r1", "r5", "client")
	c := pathConfig{bfd: lasting.host()}.String()
	if k.cold {
		c = strings.Replace(c, "graceful_restart: {enabled: true, restart_time: 30s}", "graceful_restart: {enabled: false}", 1)
	}
	l.Node("host").WriteFile(lab.ConfigPath, c)
	s := startSpeaker(t, l)
	waitBFD(t, s, lasting)
	before := s.WaitStatus(20*time.Second, "everything is announced", lab.Established)
	waitClientHasBoth(t, l)
	watches := map[string][]*lab.RouteWatch{}
	for _, p := range legs() {
		watches[p.router] = watchRoutes(t, l, p, vip4, vip6)
	}
	wire := l.Node("host").Capture()
	pid, err := bfdProcessOf(s)
	if err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	if err = syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, 10*time.Second, "another BFD process", func() error {
		next, err := bfdProcessOf(s)
		return errors.Join(err, lab.That(next != pid, "it is process %d", next))
	})
	// Routers hear of the new sessions within a second, and of BGP by then.
	st := s.WaitStatus(20*time.Second, "BFD is up again", func(st *status.Status) error {
		for _, p := range st.Peers {
			if p.BFD.State != "Up" || p.BFD.RemoteState != "Up" || !p.BFD.Since.After(killed) {
				return fmt.Errorf("peer %v: %+v", p.Address, p.BFD)
			}
		}
		return nil
	})
	for _, p := range st.Peers {
		after := p.BFD.Since.Sub(killed)
		t.Logf("%v: BFD is up %s after the kill, %d downs more", p.Address, millis(after), p.BFD.Downs-peerAt(before, p.Address).BFD.Downs)
		lab.Within(t, fmt.Sprintf("the return of BFD with %v", p.Address), killed, after, backWithin)
	}
	s.WaitStatus(20*time.Second, "everything is announced", lab.Established)
	waitClientHasBoth(t, l)
	for _, p := range legs() {
		for _, vip := range []netip.Prefix{vip4, vip6} {
			lab.Eventually(t, 5*time.Second, p.node+" has "+vip.String(), func() error {
				hops, err := l.Node(p.node).Route(vip)
				return errors.Join(err, lab.That(slices.Equal(lab.LiveDevs(hops), []string{p.dev}), "it has %v", hops))
			})
		}
	}
	took := time.Since(killed)
	t.Logf("all is back %s after the kill at the latest", millis(took))
	lab.Within(t, "the return of all", killed, took, backWithin)
	for _, p := range legs() {
		for _, m := range wire.Messages() {
			if m.Type == lab.Notification && slices.Contains(p.peers(), m.Src.Addr()) {
				t.Logf("%s: %v after %s", p.router, m, millis(m.Time.Sub(killed)))
			}
		}
		for _, w := range watches[p.router] {
			w.Stop()
			t.Logf("%s: no route for %s: %v", p.router, millis(absence(w)), w)
			switch most := k.absent[p.router]; {
			case most > 0:
				lab.Within(t, fmt.Sprintf("the absence of the route on %s", p.router), killed, absence(w), most)
			case absence(w) > 0:
				t.Errorf("%s had no route for %v: %v", p.router, absence(w), w)
			}
		}
	}
}
