package topologies

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// leaver is a host of the topology mobility that is taken out of use, and the
// router in front of it, which has another way by the other router.
type leaver struct {
	software    string // of the router
	host, other string
	router      string // the node
	own, around string // its interfaces, towards the host and the other router
	peer        netip.Addr
	client      string // the node whose packets the router sends on, or the router itself
	honours     func(t *testing.T, router *lab.Node)
	paths       func(router *lab.Node) int // how many the router has to the VIP
}

func leavers() []leaver {
	return []leaver{
		{"frr", "a", "b", "r1", "e1", "e2", netip.MustParseAddr("10.68.1.2"), "client", frrHonoursGSHUT, frrPaths},
		{"bird", "b", "a", "r2", "e5", "e2", netip.MustParseAddr("10.68.5.2"), "r2", birdHonoursGSHUT, birdPaths},
	}
}

func frrPaths(router *lab.Node) int {
	_, rest, _ := strings.Cut(router.VTY("show bgp ipv4 unicast "+vip4.String()), "Paths: (")
	text, _, _ := strings.Cut(rest, " available")
	n, _ := strconv.Atoi(text) // none without a path
	return n
}

func birdPaths(router *lab.Node) int {
	out, _ := router.Try("birdc", "show", "route", "for", vip4.String(), "all") // which fails without one
	return strings.Count(out, "BGP.as_path")
}

// frrHonoursGSHUT and birdHonoursGSHUT configure what docs/routers.md says.
func frrHonoursGSHUT(_ *testing.T, router *lab.Node) {
	frrConfigure(router, "bgp community-list standard gshut permit graceful-shutdown",
		"route-map from-host permit 5", "match community gshut", "set local-preference 0", "exit",
		"route-map from-host permit 10", "exit",
		"router bgp 65001", "address-family ipv4 unicast", "neighbor 10.68.1.1 route-map from-host in")
}

func birdHonoursGSHUT(t *testing.T, router *lab.Node) {
	t.Helper()
	const path, plain = "/etc/bird/bird.conf", "neighbor 10.68.5.1 as 65010;"
	text := router.Run("cat", path)
	if !strings.Contains(text, plain) {
		t.Fatalf("no %q in\n%s", plain, text)
	}
	router.WriteFile(path, strings.Replace(text, plain, plain+`
  ipv4 {
    import filter { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; };
    export all;
  };`, 1))
	if out := router.BIRDC("configure"); !strings.Contains(out, "Reconfig") {
		t.Fatalf("bird: %s", out)
	}
}

// A router that has another way to the VIP is on it before ours is withdrawn: a
// drain, and a stop with shutdown.graceful_shutdown, lose no packet.
func TestGracefulShutdownMovesTraffic(t *testing.T) {
	t.Parallel()
	for _, p := range leavers() {
		for way, order := range map[string]func(s *lab.Speaker) error{
			"drain": func(s *lab.Speaker) error {
				_, err := s.Command("drain", "vipa")
				return err
			},
			"stop": func(s *lab.Speaker) error {
				s.Signal(syscall.SIGTERM)
				return nil
			},
		} {
			t.Run(p.software+"/"+way, func(t *testing.T) {
				t.Parallel()
				gshutMoves(t, p, order)
			})
		}
	}
}

func gshutMoves(t *testing.T, p leaver, order func(s *lab.Speaker) error) {
	t.Helper()
	// told is how long routers know before the withdraw.
	const told = 2 * time.Second
	m := startMobility(t)
	router := m.l.Node(p.router)
	p.honours(t, router)
	n := m.l.Node(p.host)
	n.WriteFile(lab.ConfigPath, strings.Replace(movable(p.host, "drain: {time: "+told.String()+"}"), "wait: 200ms", "wait: 200ms, graceful_shutdown: "+told.String(), 1))
	m.hosts[p.host] = lab.StartSpeaker(n, binary(t))
	m.start(p.other)
	m.gate("a", "announced", announcedVIP)
	m.gate("b", "announced", announcedVIP)
	watch := router.WatchRoute(vip4)
	by := func(dev string) func([]lab.Hop) bool {
		return func(hops []lab.Hop) bool { return slices.Equal(lab.LiveDevs(hops), []string{dev}) }
	}
	watch.Wait(20*time.Second, time.Now(), "by its own host", by(p.own))
	lab.Eventually(t, 20*time.Second, "the router has two paths", func() error {
		return lab.That(p.paths(router) == 2, "it has %d", p.paths(router))
	})
	client := m.l.Node(p.client)
	probe := lab.StartProbe(client, client, mobileEcho, lab.ProbeOptions{})
	probe.WaitAnswered(10 * time.Second)
	wire := n.Capture()

	ordered := time.Now()
	if err := order(m.hosts[p.host]); err != nil {
		t.Fatal(err)
	}
	moved := watch.Wait(10*time.Second, ordered, "by the other router", by(p.around)).Time
	gone := wire.WaitMessage(20*time.Second, "the withdraw", func(msg lab.Message) bool {
		return msg.Out && msg.Dst.Addr() == p.peer && msg.Withdraws(vip4) && msg.Time.After(ordered)
	}).Time
	t.Logf("the router has moved %s after the order, %s before the withdraw", millis(moved.Sub(ordered)), millis(gone.Sub(moved)))
	if after := gone.Sub(ordered); after < told {
		t.Errorf("withdrawn %v after the order, want %v", after, told)
	}
	lab.Within(t, "the router's move", ordered, moved.Sub(ordered), told/2)
	lab.Eventually(t, 10*time.Second, "the router has one path", func() error {
		return lab.That(p.paths(router) == 1, "it has %d", p.paths(router))
	})
	result := probe.Stop()
	t.Logf("%v", result)
	if result.Lost() != 0 {
		t.Errorf("%d probes lost", result.Lost())
	}
	watch.Stop()
	changes := slices.DeleteFunc(watch.Events(), func(e lab.RouteEvent) bool { return !e.Time.After(ordered) })
	if len(changes) != 1 {
		t.Errorf("the route changed more than once: %v", watch)
	}
}
