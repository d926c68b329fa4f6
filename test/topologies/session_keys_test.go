package topologies

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// setKey gives a router the key of its IPv4 session with the host, and resets
// nothing else.
func setKey(t *testing.T, router *lab.Node, l leg, old, key string) {
	t.Helper()
	if router.Router() == "frr" {
		frrConfigure(router, "router bgp 65000", fmt.Sprintf("neighbor %v password %s", l.local4, key))
		return
	}
	neighbour := fmt.Sprintf("neighbor %v as 65010;", l.local4)
	if old != "" {
		birdRewrite(t, router, fmt.Sprintf("password %q;", old), fmt.Sprintf("password %q;", key))
		return
	}
	birdRewrite(t, router, neighbour, fmt.Sprintf("%s\n  password %q;", neighbour, key))
}

// The key of a session changes in its file and at the router: after a reload that
// session comes up with the new one, says why it ended, and no other is touched.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	c := pathConfig{peers: map[netip.Addr]string{}}
	for _, p := range legs() {
		file := "/etc/vipspeaker/" + p.node + ".secret"
		host.WriteFile(file, "first-"+p.node+"\n")
		host.Run("chmod", "600", host.Path(file))
		c.peers[p.peer4] = "password_file: " + file
		setKey(t, l.Node(p.node), p, "", "first-"+p.node)
	}
	s := startPaths(t, l, c)
	for _, p := range legs() {
		before, err := s.Status()
		if err != nil {
			t.Fatal(err)
		}
		file := "/etc/vipspeaker/" + p.node + ".secret"
		host.WriteFile(file, "second-"+p.node+"\n")
		host.Run("chmod", "600", host.Path(file))
		if out, err := s.Command("reload"); err != nil {
			t.Fatalf("reload: %v\n%s", err, out)
		}
		setKey(t, l.Node(p.node), p, "first-"+p.node, "second-"+p.node)
		var st *status.Status
		s.WaitStatus(20*time.Second, "up with the new key", func(now *status.Status) error {
			st = now
			if was := peerAt(before, p.peer4).Transitions; peerAt(now, p.peer4).Transitions < was+2 {
				return fmt.Errorf("%v has not flapped yet", p.peer4)
			}
			return lab.Established(now)
		})
		for _, peer := range allPeers() {
			want := peerAt(before, peer).Transitions
			if peer == p.peer4 {
				want += 2
			}
			if got := peerAt(st, peer).Transitions; got != want {
				t.Errorf("the key of %v changed: %v has %d transitions, want %d", p.peer4, peer, got, want)
			}
		}
		if log := s.Log(); !strings.Contains(log, "peer reset") || !strings.Contains(log, "password changed") {
			t.Errorf("no reason in the log:\n%s", log)
		}
		if log := s.Log() + host.Run("cat", lab.ConfigPath); strings.Contains(log, "second-") {
			t.Error("the key is in the log")
		}
	}
}

// What a router's operator says when he shuts a session down is shown (RFC 9003),
// and routers show what the host says.
func TestShutdownText(t *testing.T) {
	t.Parallel()
	l, s := startSample(t)
	frr, bird := l.Node("r1"), l.Node("r5")
	began := time.Now()
	frrConfigure(frr, "router bgp 65000", "neighbor 10.68.1.1 shutdown message rack 7 moves")
	bird.BIRDC(`disable host4 "rack 8 moves"`)
	for peer, want := range map[netip.Addr]string{
		r1v4: `received Cease/Administrative Shutdown: "rack 7 moves"`,
		r5v4: `received Cease/Administrative Shutdown: "rack 8 moves"`,
	} {
		// The status has it until the next attempt to connect fails, the events for good.
		lab.Eventually(t, 10*time.Second, "the router's text", func() error {
			lack := lacksEvent(t, s, began, "peer", "peer down", peer.String(), want)
			return lab.That(len(lack) == 0, "%q", lack)
		})
	}
	frrConfigure(frr, "router bgp 65000", "no neighbor 10.68.1.1 shutdown")
	bird.BIRDC("enable host4")
	s.WaitStatus(20*time.Second, "all is up again", lab.Established)

	s.Signal(syscall.SIGTERM)
	s.Wait(20 * time.Second)
	for name, view := range map[string]func() string{
		"FRR":  func() string { return frr.VTY("show bgp neighbors 10.68.1.1 json") },
		"BIRD": func() string { return bird.BIRDC("show protocols all host4") },
	} {
		lab.Eventually(t, 5*time.Second, name+" shows the host's text", func() error {
			out := view()
			return lab.That(strings.Contains(out, "vipspeaker is shut down"), "%s", out)
		})
	}
}

// Routers that have long-lived graceful restart keep the routes of a host that does
// not come back in time as a last resort, and say so (RFC 9494 section 4.3).
func TestLongLivedStaleRoutes(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	frr, bird := l.Node("r1"), l.Node("r5")
	frrConfigure(frr, "router bgp 65000", "bgp long-lived-graceful-restart stale-time 60")
	birdRewrite(t, bird, "neighbor 10.68.5.1 as 65010;", "neighbor 10.68.5.1 as 65010;\n  long lived graceful restart aware;")
	config := strings.Replace(pathConfig{}.String(), "restart_time: 30s}", "restart_time: 2s, long_lived: 60s}", 1)
	l.Node("host").WriteFile(lab.ConfigPath, config)
	s := startSpeaker(t, l)
	st := s.WaitStatus(10*time.Second, "negotiated", lab.Established)
	for _, peer := range []netip.Addr{r1v4, r5v4} {
		if n := peerAt(st, peer).Negotiated; n == nil || !n.LongLived {
			t.Errorf("%v: negotiated %+v", peer, n)
		}
	}
	s.Kill()
	killed := time.Now()
	for name, stale := range map[string]func() (string, bool){
		"FRR": func() (string, bool) {
			out := frr.VTY("show bgp ipv4 unicast 10.68.6.1/32")
			return out, strings.Contains(out, "llgr-stale")
		},
		"BIRD": func() (string, bool) {
			out := bird.BIRDC("show route all for 10.68.6.1 protocol host4")
			return out, strings.Contains(out, "(65535,6)")
		},
	} {
		lab.Eventually(t, 10*time.Second, name+" keeps a stale route", func() error {
			out, ok := stale()
			return lab.That(ok, "%s", out)
		})
		t.Logf("%s: stale seen %v after the end", name, time.Since(killed).Round(100*time.Millisecond))
	}
	for _, p := range legs() {
		waitLegs(t, l.Node(p.node), vip4, p.dev)
	}
}

// Routers that are told to honour GRACEFUL_SHUTDOWN give the paths of a host that
// stops the lowest preference before they go (RFC 8326 section 4.2).
func TestGracefulShutdownIsHonoured(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	frr, bird := l.Node("r1"), l.Node("r5")
	frrConfigure(frr, "bgp community-list standard gshut permit graceful-shutdown",
		"route-map from-host permit 5", "match community gshut", "set local-preference 0", "exit", "route-map from-host permit 10", "exit",
		"router bgp 65000", "address-family ipv4 unicast", "neighbor 10.68.1.1 route-map from-host in")
	birdRewrite(t, bird, "neighbor 10.68.5.1 as 65010;\n  ipv4 {\n    import all;",
		"neighbor 10.68.5.1 as 65010;\n  ipv4 {\n    import filter { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; };")
	s := startPaths(t, l, pathConfig{more: "shutdown: {time: 2m, wait: 500ms, graceful_shutdown: 1m}\n"})
	views := map[string]func() string{
		"localpref 0,":      func() string { return frr.VTY("show bgp ipv4 unicast 10.68.6.1/32") },
		"BGP.local_pref: 0": func() string { return bird.BIRDC("show route all for 10.68.6.1 protocol host4") },
	}
	for want, view := range views {
		// What the host has sent may still be on its way into the router's table.
		lab.Eventually(t, 5*time.Second, "the route with its usual preference", func() error {
			out := view()
			return lab.That(strings.Contains(out, "10.68.6.1") && !strings.Contains(out, want), "%s", out)
		})
	}
	s.Signal(syscall.SIGTERM)
	for want, view := range views {
		lab.Eventually(t, 10*time.Second, want, func() error {
			out := view()
			return lab.That(strings.Contains(out, want), "%s", out)
		})
	}
	s.Kill() // it would go on for a minute
}
