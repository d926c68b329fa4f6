package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// repairTime is how long a repair may take.
const repairTime = time.Second

// drift is something that somebody does to what is ours.
type drift struct {
	name string
	// commands are arguments of ip, run by one shell.
	commands []string
	// unbound are VIPs that it unbinds.
	unbound []netip.Prefix
	// object is what must be counted as repaired; empty if nothing of ours is
	// taken away.
	object string
	// foreign tells that somebody writes into our tables.
	foreign bool
}

// drifts are what is done to a daemon that runs.
func drifts() []drift {
	return []drift{
		{"IPv4 address deleted", []string{"addr del 10.68.6.1/32 dev vi0"}, []netip.Prefix{vip4}, "address", false},
		{"IPv6 address deleted", []string{"addr del fd68:6::1/128 dev vi0"}, []netip.Prefix{vip6}, "address", false},
		{"addresses flushed", []string{"addr flush dev vi0"}, []netip.Prefix{vip4, vip6}, "address", false},
		{"device deleted", []string{"link del vi0"}, []netip.Prefix{vip4, vip6}, "link", false},
		{"device renamed", []string{"link set vi0 name gone"}, nil, "", false},
		// The topology's host keeps IPv6 addresses on devices that are down.
		{"device down and up", []string{"link set vi0 down", "link set vi0 up"}, nil, "", false},
		{"device down", []string{"link set vi0 down"}, nil, "link", false},
		{"IPv4 rules flushed", []string{"-4 rule flush", "rule add pref 32766 lookup main", "rule add pref 32767 lookup default"}, nil, "rule", false},
		{"IPv6 rules flushed", []string{"-6 rule flush", "-6 rule add pref 32766 lookup main"}, nil, "rule", false},
		{"our rules deleted", []string{"rule flush protocol 68", "-6 rule flush protocol 68"}, nil, "rule", false},
		{"IPv4 tables flushed", []string{"-4 route flush table 6801", "-4 route flush table 6802"}, nil, "route", false},
		{"IPv6 tables flushed", []string{"-6 route flush table 6801", "-6 route flush table 6802"}, nil, "route", false},
		{"a leg removed", []string{"route replace default via 10.68.1.2 dev en1 table 6802 src 10.68.6.1"}, nil, "route", true},
		{"a source removed", []string{"-6 route replace default via fd68:1::2 dev en1 table 6802 metric 1024"}, nil, "route", true},
	}
}

// held is what the kernel holds of ours, without settings: it is read often. The
// kernel lists what comes back behind the rest, so each part is sorted.
func held(host *lab.Node, device string) string {
	var b strings.Builder
	for _, args := range []string{
		"-br addr show scope global dev " + device, "-4 rule", "-6 rule", "-4 -o route show table 6801", "-4 -o route show table 6802",
		"-6 -o route show table 6801", "-6 -o route show table 6802",
	} {
		out, err := host.Try(append([]string{"ip"}, strings.Fields(args)...)...)
		if err != nil {
			out = "missing\n"
		}
		fmt.Fprintf(&b, "# %s\n%s", args, strings.Join(slices.Sorted(strings.Lines(out)), ""))
	}
	return b.String()
}

// waitHeld waits until the kernel holds what it should.
func waitHeld(t *testing.T, host *lab.Node, device string, d time.Duration, what, want string) {
	t.Helper()
	lab.Eventually(t, d, what+": repaired", func() error {
		diff := cmp.Diff(want, held(host, device))
		return lab.That(diff == "", "(-want +is):\n%s", diff)
	})
}

// TestScenario16DriftRepair: whoever takes something of ours away, it is back
// within a second, and a VIP is withdrawn while it is not bound.
func TestScenario16DriftRepair(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	kernel, wire := watchAddresses(t, host), host.Capture()
	s := startWith(t, l, hostConfig{vips: sampleVIPs()})
	s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	want := held(host, "vi0")
	for _, d := range drifts() {
		t.Run(d.name, func(t *testing.T) {
			before, err := s.Status()
			if err != nil {
				t.Fatal(err)
			}
			since := time.Now()
			host.Run("sh", "-c", "ip "+strings.Join(d.commands, " && ip "))
			done := time.Now()
			waitHeld(t, host, "vi0", 10*time.Second, d.name, want)
			took := time.Since(done)
			t.Logf("repaired after at most %v", took.Round(time.Millisecond))
			lab.Within(t, "the repair", done, took, repairTime)
			st := s.WaitStatus(5*time.Second, "everything is announced", lab.Established)
			if diff := cmp.Diff(uptimes(before), uptimes(st)); diff != "" {
				t.Errorf("sessions were touched:\n%s", diff)
			}
			if d.object != "" {
				s.WaitStatus(5*time.Second, "counted", func(st *status.Status) error {
					return lab.That(st.Kernel.Repaired[d.object] > before.Kernel.Repaired[d.object], "%s repaired: %d, before %d",
						d.object, st.Kernel.Repaired[d.object], before.Kernel.Repaired[d.object])
				})
			}
			for _, vip := range d.unbound {
				withdrawnWhileUnbound(t, kernel, wire, vip, since)
			}
			for _, vip := range []netip.Prefix{vip4, vip6} {
				routersHave(t, l, vip, true)
			}
		})
	}
}

// unnoticed is for how long a VIP may be unbound and still be announced. Mostly
// it is bound again after a few milliseconds, before the withdraw is out.
const unnoticed = 200 * time.Millisecond

// withdrawnWhileUnbound checks that a VIP that somebody has unbound was
// withdrawn, bound again, and announced again, in this order.
func withdrawnWhileUnbound(t *testing.T, kernel *addressWatch, wire *lab.Capture, vip netip.Prefix, since time.Time) {
	t.Helper()
	gone := kernel.wait(time.Second, vip, since, "RTM_DELADDR", deleted)
	back := kernel.wait(time.Second, vip, gone.After, "RTM_NEWADDR", added)
	quiet := waitQuiet(t, wire, peersOf(vip)...)
	for _, peer := range peersOf(vip) {
		list := to(wire, peer, since, func(m lab.Message) bool { return m.Withdraws(vip) || m.Announces(vip) })
		// The times between which it was so are as far apart as the machine stood still.
		if len(list) == 0 && (back.By.Sub(gone.After) < unnoticed || lab.Busy(gone.After, back.By, unnoticed/10) != "") {
			t.Logf("%v: bound again before the withdraw: %v", peer, back)
			continue
		}
		if len(list) < 2 || !list[0].Withdraws(vip) || !list[len(list)-1].Announces(vip) {
			t.Errorf("%v: %v, %v: want a withdraw and then an announcement, got %v until %s", peer, gone, back, list, quiet.Format("05.000000"))
			continue
		}
		if list[1].Time.Before(back.After) {
			t.Errorf("%v: %v, but announced at %s", peer, back, list[1].Time.Format("05.000000"))
		}
		lab.Within(t, fmt.Sprintf("%v: the withdraw of what is unbound", peer), gone.By, list[0].Time.Sub(gone.By), repairTime)
	}
}

// TestScenario16KeptUnbound: what cannot be repaired is withdrawn until it can.
func TestScenario16KeptUnbound(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	kernel, wire := watchAddresses(t, host), host.Capture()
	host.Run("sh", "-c", "ip link add x0 type bridge && ip link set x0 up")
	// A device that it is given, the daemon never makes itself.
	s := startWith(t, l, hostConfig{vips: sampleVIPs(), more: "virtual_interface: {name: x0, kind: existing}"})
	s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	want := held(host, "x0")
	for _, d := range []struct {
		name, prevent, allow string
		vips                 []netip.Prefix
		names                []string
	}{
		{
			"the device is deleted", "ip link del x0", "ip link add x0 type bridge && ip link set x0 up",
			[]netip.Prefix{vip4, vip6},
			[]string{"vipa", "vipa6"},
		},
		{
			"IPv6 is switched off on the device", "sysctl -qw net.ipv6.conf.x0.disable_ipv6=1", "sysctl -qw net.ipv6.conf.x0.disable_ipv6=0",
			[]netip.Prefix{vip6},
			[]string{"vipa6"},
		},
	} {
		since := time.Now()
		host.Run("sh", "-c", d.prevent)
		for i, vip := range d.vips {
			gone := kernel.wait(5*time.Second, vip, since, "RTM_DELADDR", deleted)
			for _, peer := range peersOf(vip) {
				m := waitSent(t, wire, 5*time.Second, "withdraw", peer, since, withdraws(vip))
				t.Logf("%s: %v was withdrawn %v after it was unbound", d.name, vip, m.Time.Sub(gone.After).Round(100*time.Microsecond))
				lab.Within(t, fmt.Sprintf("%s: the withdraw of %v, which is unbound,", d.name, vip), gone.By, m.Time.Sub(gone.By), repairTime)
			}
			s.WaitStatus(5*time.Second, d.name, withheld(d.names[i], status.NotBound))
			routersHave(t, l, vip, false)
		}
		allowed := time.Now()
		host.Run("sh", "-c", d.allow)
		// Nothing tells of the second one, so it takes a while until the next try.
		s.WaitStatus(20*time.Second, d.name+": over", lab.Established)
		waitHeld(t, host, "x0", 5*time.Second, d.name, want)
		for _, vip := range d.vips {
			back := kernel.wait(time.Second, vip, allowed, "RTM_NEWADDR", added)
			for _, peer := range peersOf(vip) {
				for _, m := range to(wire, peer, since, announces(vip)) {
					if m.Time.Before(back.After) {
						t.Errorf("%s: %v, but announced at %s", d.name, back, m.Time.Format("05.000000"))
					}
				}
			}
		}
	}
}

// TestScenario16LinkFlap: an interface that flaps loses its routes in every
// table, and gets them back with the VIP as their source.
func TestScenario16LinkFlap(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	s := startWith(t, l, hostConfig{vips: sampleVIPs()})
	s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	want := held(host, "vi0")
	for _, ifc := range []string{"en1", "en5"} {
		host.LinkDown(ifc)
		s.WaitStatus(5*time.Second, ifc+" is down", func(st *status.Status) error {
			for _, i := range st.Interfaces {
				if i.Name == ifc && i.Usable {
					return fmt.Errorf("%s is usable", ifc)
				}
			}
			return nil
		})
		host.LinkUp(ifc)
		s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
		waitHeld(t, host, "vi0", 5*time.Second, ifc+" flapped", want)
		for _, dst := range []netip.Addr{client4, client6} {
			sourceIs(t, host, dst, "")
		}
	}
}

// sourceIs checks that traffic which names no source leaves with the VIP.
func sourceIs(t *testing.T, host *lab.Node, dst netip.Addr, what string) {
	t.Helper()
	want := vip4.Addr()
	if dst.Is6() {
		want = vip6.Addr()
	}
	r, err := host.RouteGet(dst.String())
	if err != nil {
		t.Errorf("%s: %v", what, err)
	} else if r.Source != want {
		t.Errorf("%s: traffic to %v leaves by %s with source %v", what, dst, r.Dev, r.Source)
	}
}

// TestScenario16Renew: a DHCP client that renews its lease writes its route and
// its address again, and a manager that restarts replaces both. Neither takes
// the VIP off as source nor ends a session.
func TestScenario16Renew(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	wire := host.Capture()
	s := startWith(t, l, hostConfig{vips: sampleVIPs()})
	st := s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	up, since := uptimes(st), waitQuiet(t, wire, allPeers()...)
	for _, line := range []string{
		"ip route replace default via 10.68.1.2 dev en1 proto dhcp src 10.68.1.1 metric 100",
		"ip addr replace 10.68.1.1/24 dev en1 valid_lft 3600 preferred_lft 3600",
		"ip route del default metric 100",
		"ip route replace default via 10.68.1.2 dev en1 proto dhcp",
		"ip route del default",
		"ip route add default via 10.68.5.2 dev en5 proto dhcp metric 1024",
		"ip -6 route del default",
		"ip -6 addr replace fd68:1::1/64 dev en1 nodad",
		"ip -6 route replace default via fd68:1::2 dev en1 proto ra metric 1024 expires 600",
	} {
		host.Run(strings.Fields(line)...)
		for _, dst := range []netip.Addr{client4, client6} {
			sourceIs(t, host, dst, line)
		}
		for _, way := range [][2]string{{"10.68.1.2@en1", "10.68.5.2@en5"}, {"fd68:1::2@en1", "fd68:5::2@en5"}} {
			legsOfDefault(t, host, line, way)
		}
	}
	waitQuiet(t, wire, allPeers()...)
	for _, peer := range allPeers() {
		if list := to(wire, peer, since, func(m lab.Message) bool { return m.Type != lab.Keepalive }); len(list) > 0 {
			t.Errorf("a renewal was told to %v: %v", peer, list)
		}
	}
	st, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(up, uptimes(st)); diff != "" {
		t.Errorf("sessions were touched:\n%s", diff)
	}
}

// legsOfDefault checks that the default route of the source table uses both
// interfaces.
func legsOfDefault(t *testing.T, host *lab.Node, what string, legs [2]string) {
	t.Helper()
	family := "-4"
	if strings.Contains(legs[0], ":") {
		family = "-6"
	}
	began := time.Now()
	lab.Eventually(t, 10*time.Second, what+": both legs", func() error {
		out := host.Run("ip", family, "route", "show", "default", "table", "6802")
		for _, leg := range legs {
			via, dev, _ := strings.Cut(leg, "@")
			if !strings.Contains(out, "via "+via+" dev "+dev) {
				return fmt.Errorf("no leg %s:\n%s", leg, out)
			}
		}
		return nil
	})
	lab.Within(t, what+": both legs", began, time.Since(began), repairTime)
}
