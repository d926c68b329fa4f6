package topologies

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// gracefulShutdown is the community GRACEFUL_SHUTDOWN (RFC 8326 section 4.1).
const gracefulShutdown = 65535 << 16

// drainPhase is a condition for WaitStatus: how far a VIP's drain is, and how many
// connections the VIP has.
func drainPhase(name string, want status.DrainPhase, connections int) func(*status.Status) error {
	return func(st *status.Status) error {
		v, err := vipNamed(st, name)
		if err != nil {
			return err
		}
		if v.Drain == nil || v.Drain.Connections == nil {
			return fmt.Errorf("vip %s: drain %+v", name, v.Drain)
		}
		return lab.That(v.Drain.Phase == want && *v.Drain.Connections == connections,
			"vip %s is %s with %d connections", name, v.Drain.Phase, *v.Drain.Connections)
	}
}

// exitCode is that of a command that has ended.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}

// hasAtRouters waits until the routes that the routers have from the host say what
// is looked for: r1 runs FRR, r5 BIRD.
func hasAtRouters(t *testing.T, l *lab.Lab, p netip.Prefix, frr, bird string) {
	t.Helper()
	lab.Eventually(t, 5*time.Second, "the routes say "+frr, func() error {
		family := map[bool]string{true: "ipv4", false: "ipv6"}[p.Addr().Is4()]
		out1 := l.Node("r1").VTY("show bgp " + family + " unicast " + p.String())
		out5, _ := l.Node("r5").Try("birdc", "show", "route", "for", p.String(), "all") // which fails without one
		return lab.That(strings.Contains(out1, frr) && strings.Contains(out5, bird), "%s\n%s", out1, out5)
	})
}

// TestDrain takes both VIPs of the sample out of use: routers are told ahead and
// then lose the routes, while all sessions stay and connections live on by a way
// that is none of ours; one VIP is done when its client goes, the other when the
// time is over and the client is reset. A reload and a crash meanwhile change
// nothing, and neither does a stop once it is drained.
func TestDrain(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host, client := l.Node("host"), l.Node("client")
	// Long enough to look at both routers meanwhile.
	const ahead = 8 * time.Second
	const rules = "drain: {time: 8s, connections_timeout: %s, unbind: true, med: 77, communities: [\"65010:77\"]}"
	c := hostConfig{vips: []string{
		vipLine("vipa", vip4, "preferred_source: true", fmt.Sprintf(rules, "20s")),
		vipLine("vipa6", vip6, "preferred_source: true", fmt.Sprintf(rules, "1h")),
	}}
	wire := host.Capture()
	s := startWith(t, l, c)
	before := s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	// Ways back to the host when BGP has none, for what is not new.
	for _, n := range []struct{ node, via4, via6 string }{{"r1", "10.68.1.1", "fd68:1::1"}, {"client", "10.68.9.1", "fd68:9::1"}} {
		l.Node(n.node).Run("ip", "route", "add", vip4.String(), "via", n.via4, "metric", "5000")
		l.Node(n.node).Run("ip", "-6", "route", "add", vip6.String(), "via", n.via6, "metric", "5000")
	}
	session4 := lab.StartSession(client, netip.AddrPortFrom(client4, 0), host, netip.AddrPortFrom(vip4.Addr(), 7777))
	session6 := lab.StartSession(client, netip.AddrPortFrom(client6, 0), host, netip.AddrPortFrom(vip6.Addr(), 7777))
	session4.WaitAlive(5 * time.Second)
	session6.WaitAlive(5 * time.Second)

	for _, wrong := range []struct {
		code int
		args []string
	}{{2, []string{"drain"}}, {2, []string{"drain", "vipa", "--all"}}, {2, []string{"undrain"}}, {1, []string{"drain", "vipx"}}, {1, []string{"drain", "vipa", "--for", "-1s"}}} {
		if out, err := s.Command(wrong.args...); exitCode(err) != wrong.code {
			t.Errorf("%v: %v, want exit code %d\n%s", wrong.args, err, wrong.code, out)
		}
	}

	ordered := time.Now()
	if out, err := s.Command("drain", "--all", "--reason", "new disks"); err != nil || strings.Count(out, "about to go, withdrawn in 8s") != 2 {
		t.Fatalf("drain: %v\n%s", err, out)
	}
	hasAtRouters(t, l, vip4, "graceful-shutdown", "(65535,0)")
	hasAtRouters(t, l, vip6, "graceful-shutdown", "(65535,0)")
	s.WaitStatus(5*time.Second, "vipa leaves", drainPhase("vipa", status.DrainLeaving, 1))
	for _, p := range []netip.Prefix{vip4, vip6} {
		for _, peer := range peersOf(p) {
			word := waitSent(t, wire, 5*time.Second, "GRACEFUL_SHUTDOWN", peer, ordered, announces(p))
			if !slices.Contains(word.Communities, gracefulShutdown) || !slices.Contains(word.Communities, 65010<<16|77) || word.MED == nil || *word.MED != 77 {
				t.Errorf("%v was told communities %v, MED %v", peer, word.Communities, word.MED)
			}
			gone := waitSent(t, wire, 20*time.Second, "withdraw", peer, ordered, withdraws(p))
			if after := gone.Time.Sub(ordered); after < ahead || !gone.Time.After(word.Time) {
				t.Errorf("%v: withdrawn %s after the order and %s after the word, want %s", peer, after, gone.Time.Sub(word.Time), ahead)
			} else {
				lab.Within(t, fmt.Sprintf("%v: the word of the drain", peer), ordered, word.Time.Sub(ordered), time.Second)
				lab.Within(t, fmt.Sprintf("%v: the withdraw", peer), ordered, after, ahead+2*time.Second)
			}
		}
		lab.Eventually(t, 5*time.Second, "the routers have it not by BGP", func() error {
			out1 := l.Node("r1").VTY("show bgp " + map[bool]string{true: "ipv4", false: "ipv6"}[p.Addr().Is4()] + " unicast " + p.String())
			out5, _ := l.Node("r5").Try("birdc", "show", "route", "for", p.String(), "all") // which fails without one
			return lab.That(!strings.Contains(out1+out5, "65010"), "%s%s", out1, out5)
		})
	}
	s.WaitStatus(5*time.Second, "vipa waits", drainPhase("vipa", status.DrainWaiting, 1))
	session4.WaitAlive(5 * time.Second)

	// Neither a reload that changes everything about the drain nor a crash brings
	// it back.
	since := time.Now()
	c.vips[0] = vipLine("vipa", vip4, "preferred_source: true", `drain: {time: 1h, connections_timeout: 30s, unbind: true}`)
	reload(t, host, s, c)
	st := s.WaitStatus(5*time.Second, "vipa6 waits", drainPhase("vipa6", status.DrainWaiting, 1))
	if diff := cmp.Diff(uptimes(before), uptimes(st)); diff != "" {
		t.Errorf("sessions were touched:\n%s", diff)
	}
	s.Signal(syscall.SIGKILL)
	s.Wait(5 * time.Second)
	s = lab.StartSpeaker(host, binary(t))
	s.WaitStatus(15*time.Second, "sessions are up", sessionsUp)
	s.WaitStatus(5*time.Second, "vipa waits after the crash", drainPhase("vipa", status.DrainWaiting, 1))
	session4.WaitAlive(5 * time.Second)
	session6.WaitAlive(5 * time.Second)

	// One client goes by itself, the other is sent away.
	session6.Stop()
	s.WaitStatus(5*time.Second, "vipa6 is drained", drainPhase("vipa6", status.DrainDone, 0))
	lab.Eventually(t, 60*time.Second, "the client is reset", func() error {
		return lab.That(errors.Is(session4.Err(), syscall.ECONNRESET), "%v", session4.Err())
	})
	// Read after the reset, so it is no less than the daemon has waited.
	if after := time.Since(ordered); after < ahead+30*time.Second {
		t.Errorf("the client is reset %s after the order, want %s and 30s", after, ahead)
	}
	s.WaitStatus(5*time.Second, "vipa is drained", drainPhase("vipa", status.DrainDone, 0))
	lab.Eventually(t, 5*time.Second, "both are unbound", func() error {
		out := host.Run("ip", "addr")
		return lab.That(!strings.Contains(out, vip4.Addr().String()+"/") && !strings.Contains(out, vip6.Addr().String()+"/"), "%s", out)
	})

	s.Signal(syscall.SIGTERM)
	if code := s.Wait(15 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	s = lab.StartSpeaker(host, binary(t))
	s.WaitStatus(15*time.Second, "sessions are up", sessionsUp)
	s.WaitStatus(5*time.Second, "drained after a restart", withheld("vipa", status.Drained))
	waitQuiet(t, wire, allPeers()...)
	for _, p := range []netip.Prefix{vip4, vip6} {
		for _, peer := range peersOf(p) {
			if list := to(wire, peer, since, announces(p)); len(list) > 0 {
				t.Errorf("%v heard of %v while it was drained: %v", peer, p, list)
			}
		}
	}

	back := time.Now()
	if out, err := s.Command("undrain", "vipa6"); err != nil || !strings.Contains(out, "in use again") {
		t.Fatalf("undrain: %v\n%s", err, out)
	}
	routersHave(t, l, vip6, true)
	first := waitSent(t, wire, 5*time.Second, "announcement", r1v6, back, announces(vip6))
	if slices.Contains(first.Communities, gracefulShutdown) {
		t.Errorf("back with communities %v", first.Communities)
	}
	t.Logf("announced %s after undrain began", first.Time.Sub(back).Round(time.Millisecond))
	s.WaitStatus(5*time.Second, "the other is drained", withheld("vipa", status.Drained))
	if out, err := s.Command("undrain", "--all", "-o", "json"); err != nil || !strings.Contains(out, `"changed": true`) {
		t.Fatalf("undrain: %v\n%s", err, out)
	}
	s.WaitStatus(5*time.Second, "everything is announced", lab.Established)
}
