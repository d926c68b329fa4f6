package topologies

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// besideOthers is a host that something else configures too, and that takes default
// routes from its routers also for its main table.
type besideOthers struct {
	t    *testing.T
	l    *lab.Lab
	host *lab.Node
	s    *lab.Speaker
	// theirs is what the others had before the daemon started.
	theirs string
}

// besideConfig is the part of the configuration that the tests change.
const besideConfig = "  install: main\n  metric: 30\n"

// layOutBeside lays out topology vipa, whose host has no default route of its own,
// with routers that send one.
func layOutBeside(t *testing.T) *besideOthers {
	t.Helper()
	l := lab.Start(t, "vipa")
	b := &besideOthers{t: t, l: l, host: l.Node("host")}
	b.host.Run("ip", "route", "del", "default")
	b.host.Run("ip", "-6", "route", "del", "default")
	settled(t, b.host)
	sendDefaults(t, l)
	return b
}

// start starts the daemon and checks that it has what it should.
func (b *besideOthers) start() {
	b.t.Helper()
	b.theirs = foreign(b.host)
	b.host.WriteFile(lab.ConfigPath, learning(besideConfig, ""))
	b.s = startSpeaker(b.t, b.l)
	b.whole("started")
}

// whole checks that ours is as configured, that theirs is what it was, and that
// what is from the VIPs leaves as documented: by both routers, whatever default
// routes the others have.
func (b *besideOthers) whole(when string) {
	b.t.Helper()
	b.s.WaitStatus(20*time.Second, when+": both are source everywhere", bothSources)
	for _, prefix := range []string{"0.0.0.0/0", "::/0"} {
		b.s.WaitStatus(20*time.Second, when+": a default in main by both routers", func(st *status.Status) error {
			if r := learnedRoute(st, prefix); !r.Main {
				return lab.That(false, "%+v", r)
			}
			return usesLegs(prefix, "en1", "en5")(st)
		})
	}
	waitTable(b.t, b.host, "main", "default proto 68", "default src 10.68.6.1 metric 30 "+by1+" "+by5)
	waitTable(b.t, b.host, "6802", "default", "default "+src4+by1+" "+by5)
	b.untouched(when)
	waitEgress(b.t, b.host, time.Second, "en1", "en5")
	for to, want := range map[string]netip.Addr{client4.String(): vip4.Addr(), client6.String(): vip6.Addr()} {
		if got := source(b.t, b.host, "udp", to); got != want {
			b.t.Errorf("%s: source towards %s is %v", when, to, got)
		}
	}
}

// untouched checks that the routes and rules of the others are what they were.
func (b *besideOthers) untouched(when string) {
	b.t.Helper()
	lab.Eventually(b.t, 10*time.Second, when+": the others have what they had", func() error {
		now := foreign(b.host)
		return lab.That(now == b.theirs, "-before +now:\n%s", differing(b.theirs, now))
	})
}

// stop ends the daemon, which leaves nothing and takes nothing along.
func (b *besideOthers) stop() {
	b.t.Helper()
	b.s.Signal(syscall.SIGTERM)
	if code := b.s.Wait(15 * time.Second); code != 0 {
		b.t.Errorf("exit status %d", code)
	}
	b.untouched("stopped")
	if left := own(b.host); left != "" {
		b.t.Errorf("after the stop there is still\n%s", left)
	}
}

// foreign is what others than the daemon have: routes of all tables, and rules,
// without the time until a route expires.
func foreign(host *lab.Node) string {
	return kernelLines(host, func(line string) bool { return !isOwn(line) })
}

// own is what the daemon has of the same.
func own(host *lab.Node) string { return kernelLines(host, isOwn) }

// isOwn tells lines of the daemon: its number, and what the kernel itself adds
// for the addresses on its device.
func isOwn(line string) bool {
	return strings.Contains(line, "proto 68 ") || strings.HasSuffix(strings.TrimSpace(line), "proto 68") || strings.Contains(line, "dev vi0 ")
}

func kernelLines(host *lab.Node, ok func(line string) bool) string {
	expiry := regexp.MustCompile(`expires -?\d+sec `)
	var b strings.Builder
	for _, args := range []string{"-4 -o -d route show table all", "-6 -o -d route show table all", "-4 rule", "-6 rule"} {
		// The kernel lists routes that come back behind the others.
		for _, line := range slices.Sorted(strings.Lines(host.Run(append([]string{"ip"}, strings.Fields(args)...)...))) {
			if ok(line) {
				b.WriteString(expiry.ReplaceAllString(line, ""))
			}
		}
	}
	return b.String()
}

// has waits until the others have a route.
func (b *besideOthers) has(what string, texts ...string) {
	b.t.Helper()
	lab.Eventually(b.t, 20*time.Second, what, func() error {
		now := foreign(b.host)
		for _, text := range texts {
			if !strings.Contains(now, text) {
				return lab.That(false, "no %q in\n%s", text, now)
			}
		}
		return nil
	})
}

// hasNot waits until they have it no more.
func (b *besideOthers) hasNot(what, text string) {
	b.t.Helper()
	lab.Eventually(b.t, 20*time.Second, what, func() error {
		now := foreign(b.host)
		return lab.That(!strings.Contains(now, text), "%s", now)
	})
}

// routesAndRules are the changes of both among what a watch has seen.
func routesAndRules(w *netlinkWatch) []string {
	return slices.DeleteFunc(w.take(), func(change string) bool {
		return !strings.Contains(change, " route ") && !strings.Contains(change, " rule ")
	})
}

// BIRD on the same host looks at all routes of the kernel every second, takes
// them into its own table and would give them back. Neither side touches or
// adopts a route of the other, whoever starts, stops or comes first.
func TestBesideBIRD(t *testing.T) {
	t.Parallel()
	b := layOutBeside(t)
	host := b.host
	start := func() {
		t.Helper()
		host.StartRouter(lab.BIRD, "beside-bird")
		b.has("BIRD has its routes in", "192.0.2.0/24", "2001:db8:1::/48")
	}
	// scans waits until BIRD has looked at the kernel's routes twice more.
	scans := func() {
		t.Helper()
		count := func() int { return strings.Count(host.Log("bird"), "kernel4: Pruning") }
		from := count()
		lab.Eventually(t, 10*time.Second, "BIRD looks at the kernel's routes", func() error {
			return lab.That(count() >= from+2, "%d times", count()-from)
		})
	}
	// quiet checks that nobody writes while BIRD looks.
	quiet := func(when string) {
		t.Helper()
		w := watchNetlink(t, host)
		scans()
		if changes := routesAndRules(w); len(changes) > 0 {
			t.Errorf("%s: somebody writes: %q", when, changes)
		}
	}
	start()
	before := host.State()
	b.start()
	lab.Eventually(t, 10*time.Second, "BIRD has learned our default", func() error {
		out := host.BIRDC("show route 0.0.0.0/0 protocol kernel4")
		return lab.That(strings.Contains(out, "via 10.68.1.2 on en1") && strings.Contains(out, "via 10.68.5.2 on en5"), "%s", out)
	})
	// Where one of its routes leaves by a listed interface, the VIP is its source.
	waitTable(t, host, "6802", "198.51.101.0/24", "198.51.101.0/24 via 10.68.1.2 dev en1 "+src4+"metric 32")
	quiet("both have a default")
	b.whole("both have a default")

	ours := own(host)
	bird := host.Daemon("bird")
	bird.Signal(syscall.SIGTERM)
	bird.Wait(10 * time.Second)
	b.hasNot("BIRD has taken its IPv6 routes along", "2001:db8:1::/48")
	if now := foreign(host); !strings.Contains(now, "198.51.100.0/24") {
		t.Errorf("BIRD's IPv4 routes should outlive it:\n%s", now)
	}
	b.oursAre("BIRD has stopped", ours, "2001:db8:1::/48")
	start()
	scans()
	b.whole("BIRD runs again")
	b.oursAre("BIRD runs again", ours)

	// With BIRD's own metric there is room for one of each family: the first one.
	sameMetric := strings.Replace(besideConfig, "30", "32", 1)
	host.WriteFile(lab.ConfigPath, learning(sameMetric, ""))
	if out, err := b.s.Command("reload"); err != nil {
		t.Fatalf("reload: %v\n%s", err, out)
	}
	const taken = "another owner has one with the metric 32"
	b.s.WaitStatus(10*time.Second, "main is BIRD's", func(st *status.Status) error {
		n := 0
		for _, p := range st.Kernel.Problems {
			if strings.Contains(p, taken) {
				n++
			}
		}
		return lab.That(n == 2 && !learnedRoute(st, "0.0.0.0/0").Main, "problems %q", st.Kernel.Problems)
	})
	quiet("both want the metric 32")
	b.untouched("both want the metric 32")
	waitEgress(t, host, time.Second, "en1", "en5")
	host.BIRDC("disable static4")
	const first = "default src 10.68.6.1 metric 32 " + by1 + " " + by5
	waitTable(t, host, "main", "default proto 68", first)
	host.BIRDC("enable static4")
	b.has("BIRD's other routes are back", "192.0.2.0/24")
	quiet("BIRD comes second")
	waitTable(t, host, "main", "default proto 68", first)
	b.stop() // and BIRD's takes the place
	if now := host.State(); !sameLines(now, before) {
		t.Errorf("the host is not as before, -before +now:\n%s", differing(before, now))
	}
}

// oursAre waits until ours is as it was, but for copies of routes that the others
// do not have any more.
func (b *besideOthers) oursAre(when, want string, gone ...string) {
	b.t.Helper()
	kept := strings.Join(slices.DeleteFunc(slices.Collect(strings.Lines(want)), func(line string) bool {
		return slices.ContainsFunc(gone, func(text string) bool { return strings.Contains(line, text) })
	}), "")
	lab.Eventually(b.t, 5*time.Second, when+": ours is as it was", func() error {
		now := own(b.host)
		return lab.That(now == kept, "-before +now:\n%s", differing(kept, now))
	})
}

// A DHCP client has the address and a default route of one of our interfaces. It
// renews its lease from the interface's own address, gives it back and gets it
// again while the daemon runs.
func TestBesideDHCPClient(t *testing.T) {
	t.Parallel()
	b := layOutBeside(t)
	host, r1 := b.host, b.l.Node("r1")
	host.Run("ip", "addr", "del", "10.68.1.1/24", "dev", "en1")
	r1.StartDHCPServer("e1", netip.MustParsePrefix("10.68.1.1/24"), r1v4)
	client := host.StartDHCPClient("en1")
	const leased = "default via 10.68.1.2 dev en1 "
	b.has("there is a lease", leased)
	b.start()
	// Its default has no metric, so main cannot be led; the VIPs' tables are.
	b.s.WaitStatus(5*time.Second, "the status tells of the default without a metric", func(st *status.Status) error {
		return lab.That(slices.ContainsFunc(st.Kernel.Problems, func(p string) bool {
			return strings.Contains(p, "one of another owner with the metric 0 comes before")
		}), "problems %q", st.Kernel.Problems)
	})
	wire := host.Capture()
	lab.Eventually(t, 15*time.Second, "the lease is renewed, from its own address", func() error {
		renewals := wire.Packets(func(p lab.Packet) bool { return p.Out && p.Proto == unix.IPPROTO_UDP && p.SrcPort == 68 })
		for _, p := range renewals {
			if p.Src != legs()[0].local4 || p.Dst != r1v4 || p.Dev != "en1" {
				t.Fatalf("a renewal is %v", p)
			}
		}
		return lab.That(len(renewals) >= 2 && strings.Count(host.Log("dhclient"), "DHCPACK") > 2, "%d renewals", len(renewals))
	})
	b.whole("renewed")

	host.ReleaseDHCP("en1")
	client.Wait(10 * time.Second)
	b.hasNot("the lease is gone", leased)
	b.s.WaitStatus(10*time.Second, "the IPv4 default by r5 alone", usesLegs("0.0.0.0/0", "en5"))
	b.s.WaitStatus(10*time.Second, "the IPv6 default by both", usesLegs("::/0", "en1", "en5"))
	waitTable(t, host, "main", "default", "default via 10.68.5.2 dev en5 proto 68 src 10.68.6.1 metric 30")
	waitTable(t, host, "6802", "default", "default via 10.68.5.2 dev en5 "+strings.TrimSpace(src4))

	host.StartDHCPClient("en1")
	b.has("there is a lease again", leased)
	b.whole("leased again")
	b.stop()
}

// Router advertisements give the kernel a default route by one of our interfaces,
// which expires when they end, goes when the router says so, and comes back.
func TestBesideRouterAdvertisements(t *testing.T) {
	t.Parallel()
	b := layOutBeside(t)
	host, r1 := b.host, b.l.Node("r1")
	// So that the kernel removes what has expired at once, and not within 30 s.
	host.Run("sysctl", "-w", "net.ipv6.route.gc_interval=1")
	const advertised = "dev en1 table main proto ra "
	radvd := r1.StartRouterAdvertisements("e1")
	b.has("there is an advertised default", advertised)
	b.start()
	ours := own(host)
	for _, end := range []struct {
		name string
		do   func()
	}{
		{"expired", radvd.Kill},
		{"taken back", func() { radvd.Signal(syscall.SIGTERM) }},
	} {
		end.do()
		b.hasNot("the advertised default is "+end.name, advertised)
		b.oursAre(end.name, ours)
		waitEgress(t, host, time.Second, "en1", "en5")
		radvd = r1.StartRouterAdvertisements("e1")
		b.has("there is an advertised default again", advertised)
		b.whole("advertised again")
		b.oursAre("advertised again", ours)
	}
	b.stop()
}

// networkdEn1 has systemd-networkd configure en1 as the topology does. Without
// KeepConfiguration it would take its own IPv4 address away for a moment whenever
// it starts (252), and the session over it with that.
const networkdEn1 = `[Match]
Name=en1
[Network]
KeepConfiguration=static
Address=10.68.1.1/24
Address=fd68:1::1/64
IPv6AcceptRA=no
[Route]
Destination=198.51.100.0/24
Gateway=10.68.1.2
`

// systemd-networkd removes routes and rules of others when it starts, and doctor
// says so. Ours come back within a second; with the drop-in of doctor they stay.
func TestBesideNetworkd(t *testing.T) {
	t.Parallel()
	b := layOutBeside(t)
	host := b.host
	// Its addresses are networkd's: of an IPv4 address that is there without a
	// broadcast address it would configure the same 65,533 times and give up (252).
	host.Run("ip", "addr", "flush", "dev", "en1", "scope", "global")
	host.WriteFile("/etc/systemd/network/10-en1.network", networkdEn1)
	host.StartBus()
	host.StartNetworkd("en1")
	b.has("networkd has its route in", "198.51.100.0/24 via 10.68.1.2 dev en1 table main proto static")
	b.start()
	b.finds("networkd-foreign")
	ours := own(host)
	deleted := b.restartNetworkd("en1")
	b.oursAre("networkd has started again", ours)
	t.Logf("networkd's start deletes %d routes and rules of ours", len(deleted))
	if len(deleted) == 0 {
		t.Error("networkd deletes nothing, so there is no condition to find")
	}
	b.whole("networkd has started again")

	b.fixes("networkd-foreign", "/etc/systemd/networkd.conf.d/50-vipspeaker.conf")
	if deleted := b.restartNetworkd("en1"); len(deleted) != 0 {
		t.Errorf("with the drop-in networkd's start deletes %q", deleted)
	}
	b.oursAre("networkd has started again, with the drop-in", ours)

	// It takes its own address and route away with the carrier, and gives them back.
	b.l.Unplug("host", "en1")
	b.s.WaitStatus(10*time.Second, "the default by r5 alone", usesLegs("0.0.0.0/0", "en5"))
	b.hasNot("networkd has taken its route away", "198.51.100.0/24")
	b.l.Plug("host", "en1")
	b.whole("the carrier is back")
	b.oursAre("the carrier is back", ours)
	b.stop()
}

// systemd-networkd with a file that is for the virtual interface too takes the
// VIPs off it when it starts; with the file of doctor it leaves it alone.
func TestBesideNetworkdMatch(t *testing.T) {
	t.Parallel()
	b := layOutBeside(t)
	host := b.host
	host.StartBus()
	b.start()
	ours := own(host)
	host.WriteFile("/etc/systemd/networkd.conf.d/50-vipspeaker.conf", "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n")
	host.WriteFile("/etc/systemd/network/20-virtual.network", "[Match]\nName=v*\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n")
	watch, began := watchAddresses(t, host), time.Now()
	host.StartNetworkd("vi0")
	for _, p := range []netip.Prefix{vip4, vip6} {
		watch.wait(5*time.Second, p, began, "networkd has deleted it", deleted)
	}
	b.oursAre("networkd has started", ours)
	b.whole("networkd has started")
	b.finds("networkd-match")
	b.fixes("networkd-match", "/etc/systemd/network/00-vipspeaker.network")
	if out := host.Run("networkctl", "--no-pager", "list", "vi0"); !strings.Contains(out, "unmanaged") {
		t.Errorf("after the fix networkctl says\n%s", out)
	}
	again := time.Now()
	b.restartNetworkd("vi0")
	b.oursAre("networkd has started again, with the file", ours)
	for _, p := range []netip.Prefix{vip4, vip6} {
		if events := watch.of(p, again); len(events) > 0 {
			t.Errorf("while networkd started again: %v", events)
		}
	}
	b.stop()
}

// restartNetworkd starts it again and tells what went while it started.
func (b *besideOthers) restartNetworkd(interfaces ...string) (deleted []string) {
	b.t.Helper()
	networkd := b.host.Daemon("networkd")
	networkd.Signal(syscall.SIGTERM)
	networkd.Wait(10 * time.Second)
	w := watchNetlink(b.t, b.host)
	b.host.StartNetworkd(interfaces...)
	return slices.DeleteFunc(routesAndRules(w), func(change string) bool { return !strings.HasPrefix(change, "del ") })
}

// finds checks that doctor finds exactly this about networkd.
func (b *besideOthers) finds(condition string) {
	b.t.Helper()
	r := diagnosis(b.t, b.s, "networkd-match", "networkd-foreign")
	if len(r.Findings) != 1 || r.Findings[0].Condition != condition {
		b.t.Errorf("found %+v, want %s", r.Findings, condition)
	}
}

// fixes has doctor cure it, by writing that file.
func (b *besideOthers) fixes(condition, file string) {
	b.t.Helper()
	r := diagnosis(b.t, b.s, "--fix", condition)
	if !r.Good() || len(r.Fixed) != 1 || r.Fixed[0].Error != "" || !slices.Contains(r.Fixed[0].Did, "wrote "+file) {
		b.t.Errorf("after the fix: %+v", r)
	}
}
