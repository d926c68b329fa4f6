package topologies

import (
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/topologies/lab"
)

// TestScenario11KillAndRestart: after SIGKILL the next process takes over what
// is ours and touches nothing else.
func TestScenario11KillAndRestart(t *testing.T) {
	t.Parallel()
	t.Run("cold", func(t *testing.T) { killAndRestart(t, hostConfig{vips: sampleVIPs(), coldStart: true}) })
	t.Run("graceful restart", func(t *testing.T) { killAndRestart(t, hostConfig{vips: sampleVIPs()}) })
}

func killAndRestart(t *testing.T, c hostConfig) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	for _, line := range []string{
		"ip addr add 192.0.2.1/32 dev lo", "ip route add 192.0.2.128/25 via 10.68.7.2 proto 99",
		"ip route add 198.51.100.0/24 via 10.68.1.2 table 99 proto static", "ip rule add from 192.0.2.1 lookup 99 pref 31000",
		"ip -6 route add 2001:db8:99::/48 via fd68:5::2 proto static",
	} {
		host.Run(strings.Fields(line)...)
	}
	settled(t, host)
	untouched := host.State()
	s := startWith(t, l, c)
	routersHave(t, l, vip4, true)
	routersHave(t, l, vip6, true)
	s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	running := host.State()
	watches := map[string]*lab.RouteWatch{}
	for node, vips := range map[string][]netip.Prefix{"r1": {vip4, vip6}, "r5": {vip4, vip6}} {
		for _, vip := range vips {
			watches[node+" "+vip.String()] = l.Node(node).WatchRoute(vip)
		}
	}

	s.Signal(syscall.SIGKILL)
	if code := s.Wait(5 * time.Second); code != -1 {
		t.Errorf("exit code %d after SIGKILL", code)
	}
	if diff := cmp.Diff(running, host.State()); diff != "" {
		t.Errorf("the death of the process changed the host (-before +after):\n%s", diff)
	}
	if c.coldStart {
		routersHave(t, l, vip4, false)
		routersHave(t, l, vip6, false)
	}
	s = startSpeaker(t, l)
	routersHave(t, l, vip4, true)
	routersHave(t, l, vip6, true)
	s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	if diff := cmp.Diff(running, host.State()); diff != "" {
		t.Errorf("the next process has not what the former one had (-before +after):\n%s", diff)
	}
	for name, w := range watches {
		w.Stop()
		lost := slices.ContainsFunc(w.Events(), func(e lab.RouteEvent) bool { return len(lab.Live(e.Hops)) == 0 })
		if lost != c.coldStart {
			t.Errorf("%s: the route was lost: %t, want %t: %v", name, lost, c.coldStart, w)
		}
	}

	s.Signal(syscall.SIGTERM)
	if code := s.Wait(10 * time.Second); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.Log())
	}
	if diff := cmp.Diff(untouched, host.State()); diff != "" {
		t.Errorf("after the stop of the second process (-before the first +after):\n%s", diff)
	}
}
