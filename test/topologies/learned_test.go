package topologies

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// learning is a host that takes a default route of each family from its routers.
// Nothing else in its configuration names a gateway.
func learning(more, bfd string) string {
	peer := func(address string) string {
		if bfd != "" {
			return fmt.Sprintf("{address: %q, asn: 65000, bfd: %s}", address, bfd)
		}
		return fmt.Sprintf("{address: %q, asn: 65000}", address)
	}
	return fmt.Sprintf(`bgp:
  asn: 65010
  router_id: 10.68.1.1
  timers: {hold_time: 9s, keepalive: 1s, connect_retry: 1s}
interfaces:
  - {name: en1, hold_up: 500ms, peers: [%s, %s]}
  - {name: en5, hold_up: 500ms, peers: [%s, %s]}
shutdown: {time: 10s, wait: 500ms}
vips:
  - %s
egress:
  import: [0.0.0.0/0, "::/0", 203.0.113.0/24]
%s`, peer("10.68.1.2"), peer("fd68:1::2"), peer("10.68.5.2"), peer("fd68:5::2"), strings.Join(sampleVIPs(), "\n  - "), more)
}

// sendDefaults has both routers of topology vipa send default routes: r1 (FRR) by
// default-originate, r5 (BIRD) by static routes, and 203.0.113.0/24 besides.
func sendDefaults(t *testing.T, l *lab.Lab) {
	t.Helper()
	r1, r5 := l.Node("r1"), l.Node("r5")
	r1.Run("vtysh", "-c", "configure terminal", "-c", "router bgp 65000",
		"-c", "address-family ipv4 unicast", "-c", "neighbor 10.68.1.1 default-originate", "-c", "exit-address-family",
		"-c", "address-family ipv6 unicast", "-c", "neighbor fd68:1::1 default-originate")
	r5.WriteFile("/run/defaults.conf", r5.Run("cat", "/etc/bird/bird.conf")+`
protocol static out4 { ipv4; route 0.0.0.0/0 via 10.68.9.9; route 203.0.113.0/24 via 10.68.9.9; }
protocol static out6 { ipv6; route ::/0 via fd68:9::9; }
`)
	if out := r5.BIRDC(`configure "/run/defaults.conf"`); !strings.Contains(out, "Reconfigur") {
		t.Fatal(out)
	}
}

// startLearning starts topology vipa, whose host has no default route of its own,
// with routers that send one, and the daemon. It returns the main table of before.
func startLearning(t *testing.T, more string) (*lab.Lab, *lab.Speaker, string) {
	t.Helper()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	host.Run("ip", "route", "del", "default")
	host.Run("ip", "-6", "route", "del", "default")
	settled(t, host)
	sendDefaults(t, l)
	before := mainTable(host)
	host.WriteFile(lab.ConfigPath, learning(more, ""))
	s := startSpeaker(t, l)
	s.WaitStatus(10*time.Second, "both are source everywhere", bothSources)
	s.WaitStatus(10*time.Second, "defaults by both routers", usesLegs("0.0.0.0/0", "en1", "en5"))
	s.WaitStatus(10*time.Second, "defaults by both routers", usesLegs("::/0", "en1", "en5"))
	return l, s, before
}

func mainTable(host *lab.Node) string {
	return host.Run("ip", "route", "show", "table", "main") + host.Run("ip", "-6", "route", "show", "table", "main")
}

// learnedRoute is what the status says of a learned prefix.
func learnedRoute(st *status.Status, prefix string) status.Route {
	if st.Egress != nil {
		for _, r := range st.Egress.Routes {
			if r.Prefix.String() == prefix {
				return r
			}
		}
	}
	return status.Route{}
}

// usesLegs is a condition for WaitStatus: the learned route leaves by exactly
// these interfaces, and none of its legs looks dead.
func usesLegs(prefix string, names ...string) func(*status.Status) error {
	return func(st *status.Status) error {
		r := learnedRoute(st, prefix)
		var used []string
		for i := range r.Legs {
			if r.Legs[i].Used {
				used = append(used, r.Legs[i].Interface)
			}
		}
		return lab.That(slices.Equal(used, names) && !r.Static, "legs %v, static %t of %+v", used, r.Static, r.Legs)
	}
}

// waitTable waits until a table of the host's kernel has exactly this route to a
// prefix, without spaces that do not matter.
func waitTable(t *testing.T, host *lab.Node, table, prefix, want string) {
	t.Helper()
	args := append([]string{"ip", "route", "show", "table", table}, strings.Fields(prefix)...)
	lab.Eventually(t, 5*time.Second, "table "+table+" has for "+prefix+": "+want, func() error {
		got := strings.Join(strings.Fields(strings.ReplaceAll(host.Run(args...), "pref medium", "")), " ")
		return lab.That(got == want, "%q", got)
	})
}

const (
	by1  = "nexthop via 10.68.1.2 dev en1 weight 1"
	by5  = "nexthop via 10.68.5.2 dev en5 weight 1"
	src4 = "proto 68 src 10.68.6.1 "
)

// A default route that two real routers send becomes one multipath route with the
// VIP as source; the main table is what it was. A leg goes with its session, and
// the last one stays.
func TestLearnedDefault(t *testing.T) {
	t.Parallel()
	l, s, before := startLearning(t, "")
	host, r1, r5 := l.Node("host"), l.Node("r1"), l.Node("r5")
	began := time.Now()
	waitTable(t, host, "6802", "default", "default "+src4+by1+" "+by5)
	waitTable(t, host, "6801", "default", "default proto 68 "+by1+" "+by5)
	waitTable(t, host, "6802", "203.0.113.0/24", "203.0.113.0/24 via 10.68.5.2 dev en5 "+strings.TrimSpace(src4))
	lab.Eventually(t, 5*time.Second, "the IPv6 default has two legs and the VIP as source", func() error {
		got := host.Run("ip", "-6", "route", "show", "default", "table", "6802")
		return lab.That(strings.Count(got, "nexthop via") == 2 && strings.Contains(got, "src fd68:6::1"), "%s", got)
	})
	if got := source(t, host, "udp", client4.String()); got != vip4.Addr() {
		t.Errorf("source towards the client is %v", got)
	}
	if now := mainTable(host); now != before {
		t.Errorf("the main table is not as before:\n%s\nnow:\n%s", before, now)
	}

	shutdown := func(no string) {
		r1.Run("vtysh", "-c", "configure terminal", "-c", "router bgp 65000", "-c", no+"neighbor 10.68.1.1 shutdown")
	}
	shutdown("")
	s.WaitStatus(10*time.Second, "the IPv4 default by r5 alone", usesLegs("0.0.0.0/0", "en5"))
	s.WaitStatus(10*time.Second, "the IPv6 default by both", usesLegs("::/0", "en1", "en5"))
	waitTable(t, host, "6802", "default", "default via 10.68.5.2 dev en5 "+strings.TrimSpace(src4))

	r5.BIRDC("disable host4")
	s.WaitStatus(10*time.Second, "the last leg stays", func(st *status.Status) error {
		r := learnedRoute(st, "0.0.0.0/0")
		return lab.That(r.Static && r.Used("en5") == 1 && r.Used("en1") == 0, "%+v", r)
	})
	// Nobody has the VIP any more, so it is no source; but what is from it has its way.
	waitTable(t, host, "6801", "default", "default via 10.68.5.2 dev en5 proto 68")
	if got := metric(t, host, `vipspeaker_egress_static{prefix="0.0.0.0/0"}`); got != "1" {
		t.Errorf("metric of the last leg is %q", got)
	}
	shutdown("no ")
	s.WaitStatus(15*time.Second, "the IPv4 default by r1 alone", usesLegs("0.0.0.0/0", "en1"))
	r5.BIRDC("enable host4")
	s.WaitStatus(15*time.Second, "the IPv4 default by both", usesLegs("0.0.0.0/0", "en1", "en5"))
	waitTable(t, host, "6802", "default", "default "+src4+by1+" "+by5)
	hasEvent(t, s, began, "egress", "leg of learned route off", "0.0.0.0/0", "session with 10.68.1.2 is down")
	hasEvent(t, s, began, "egress", "all legs of a learned route look dead", "0.0.0.0/0", "10.68.5.2 via en5")

	// A router that takes its path back is believed.
	r1.Run("vtysh", "-c", "configure terminal", "-c", "router bgp 65000", "-c", "address-family ipv4 unicast", "-c", "no neighbor 10.68.1.1 default-originate")
	s.WaitStatus(15*time.Second, "the IPv4 default by r5 alone", usesLegs("0.0.0.0/0", "en5"))
	if now := mainTable(host); now != before {
		t.Errorf("the main table is not as before:\n%s\nnow:\n%s", before, now)
	}
}

// Nothing that one router sends reaches the other, and a router that sends too
// much loses its session and its leg.
func TestLearnedStaysHere(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	wire := host.Capture()
	sendDefaults(t, l)
	host.WriteFile(lab.ConfigPath, learning("  max_prefixes: 50\n", ""))
	s := startSpeaker(t, l)
	s.WaitStatus(10*time.Second, "defaults by both routers", usesLegs("0.0.0.0/0", "en1", "en5"))
	began := time.Now()
	floodFromBIRD(t, l.Node("r5"), 60)
	waitSent(t, wire, 15*time.Second, "NOTIFICATION 6/1", r5v4, began, func(m lab.Message) bool {
		return m.Type == lab.Notification && m.Code == 6 && m.Subcode == 1
	})
	s.WaitStatus(10*time.Second, "the default by r1 alone", usesLegs("0.0.0.0/0", "en1"))
	for _, m := range wire.Messages() {
		for _, p := range m.Announced {
			if m.Out && p != vip4 && p != vip6 {
				t.Errorf("sent on: %v", m)
			}
		}
	}
}

// With install: main the whole host follows, beside FRR and its routes, and at the
// end nothing of it is left.
func TestLearnedInMain(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	host.Run("ip", "route", "del", "default")
	host.Run("ip", "-6", "route", "del", "default")
	host.Run("ip", "route", "add", "default", "via", "10.68.7.2", "dev", "en7", "proto", "dhcp", "metric", "1024")
	host.StartFRR("beside-frr")
	lab.Eventually(t, 10*time.Second, "FRR has its routes in", func() error {
		out := host.Run("ip", "route", "show", "table", "main")
		return lab.That(strings.Contains(out, "198.51.100.0/24"), "%s", out)
	})
	settled(t, host)
	sendDefaults(t, l)
	before := host.State()
	host.WriteFile(lab.ConfigPath, learning("  install: main\n  metric: 30\n", ""))
	s := startSpeaker(t, l)
	s.WaitStatus(10*time.Second, "both are source everywhere", bothSources)
	s.WaitStatus(10*time.Second, "the default is in main", func(st *status.Status) error {
		r := learnedRoute(st, "0.0.0.0/0")
		return lab.That(r.Main && r.Used("") == 2, "%+v", r)
	})
	const want = "default proto 68 src 10.68.6.1 metric 30 " + by1 + " " + by5
	lab.Eventually(t, 5*time.Second, "main has "+want, func() error {
		got := strings.Join(strings.Fields(host.Run("ip", "route", "show", "default", "table", "main")), " ")
		return lab.That(strings.Contains(got, want) && strings.Contains(got, "proto dhcp metric 1024"), "%s", got)
	})
	// FRR starts again, takes over nothing, and takes nothing along.
	table := mainTable(host)
	for _, name := range []string{"staticd", "zebra"} {
		daemon := host.Daemon(name)
		daemon.Signal(syscall.SIGTERM)
		daemon.Wait(10 * time.Second)
	}
	host.StartFRR("beside-frr")
	lab.Eventually(t, 10*time.Second, "main is as before FRR's restart", func() error {
		now := mainTable(host)
		return lab.That(sameLines(now, table), "-before +now:\n%s", differing(table, now))
	})
	l.Unplug("host", "en1")
	s.WaitStatus(10*time.Second, "the default by r5 alone", usesLegs("0.0.0.0/0", "en5"))
	waitTable(t, host, "main", "default proto 68", "default via 10.68.5.2 dev en5 src 10.68.6.1 metric 30")
	l.Plug("host", "en1")
	s.WaitStatus(15*time.Second, "the default by both", usesLegs("0.0.0.0/0", "en1", "en5"))
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(15 * time.Second); code != 0 {
		t.Errorf("exit status %d", code)
	}
	lab.Eventually(t, 10*time.Second, "the host is as before", func() error {
		now := host.State()
		return lab.That(sameLines(now, before), "-before +now:\n%s", differing(before, now))
	})
}

// sameLines compares two texts but for the order of lines, and for the numbers
// that FRR gives its next hops, which each start makes anew.
func sameLines(a, b string) bool {
	lines := func(text string) []string {
		return slices.Sorted(strings.Lines(regexp.MustCompile(`(nhid|nh_info id) \d+ `).ReplaceAllString(text, "")))
	}
	return slices.Equal(lines(a), lines(b))
}

// differing are the lines that only one of two texts has.
func differing(a, b string) string {
	var out strings.Builder
	for _, side := range []struct{ mark, have, other string }{{"-", a, b}, {"+", b, a}} {
		lines := slices.Collect(strings.Lines(side.other))
		for line := range strings.Lines(side.have) {
			if !slices.Contains(lines, line) {
				out.WriteString(side.mark + line)
			}
		}
	}
	return out.String()
}
