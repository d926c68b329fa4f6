package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestScenario08BindBeforeAnnounce: nothing is announced that the kernel does
// not hold.
func TestScenario08BindBeforeAnnounce(t *testing.T) {
	t.Parallel()
	t.Run("in order", bindPrecedesAnnouncement)
	t.Run("device of another owner", addressesCannotBeAdded)
	t.Run("IPv6 is off", sixCannotBeAdded)
	t.Run("tentative", addressIsTentative)
	t.Run("duplicate", addressIsDuplicate)
}

func bindPrecedesAnnouncement(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	kernel, wire := watchAddresses(t, host), host.Capture()
	began := time.Now()
	c := hostConfig{vips: sampleVIPs()}
	s := startWith(t, l, c)
	for _, vip := range []netip.Prefix{vip4, vip6} {
		bound := kernel.wait(time.Second, vip, began, "RTM_NEWADDR", added)
		for _, peer := range peersOf(vip) {
			if m := waitSent(t, wire, time.Second, "UPDATE", peer, began, announces(vip)); m.Time.Before(bound.After) {
				t.Errorf("%v, but at %s %v", bound, m.Time.Format("05.000000"), m)
			}
		}
	}
	// With the sessions up, the announcement follows within milliseconds.
	for i := range 5 {
		vip, since := prefix4(10+i), time.Now()
		c.vips = append(c.vips, vipLine(fmt.Sprintf("more%d", i), vip))
		reload(t, host, s, c)
		bound := kernel.wait(5*time.Second, vip, since, "RTM_NEWADDR", added)
		for _, peer := range peersOf(vip) {
			if m := waitSent(t, wire, 5*time.Second, "UPDATE", peer, since, announces(vip)); m.Time.Before(bound.After) {
				t.Errorf("%v, but at %s %v", bound, m.Time.Format("05.000000"), m)
			}
		}
	}
}

// silent waits until all sessions are up and in sync and checks that none has
// announced the prefix, while the status says that the VIP is not bound.
func silent(t *testing.T, s *lab.Speaker, wire *lab.Capture, name string, p netip.Prefix) {
	t.Helper()
	s.WaitStatus(15*time.Second, "sessions are up", sessionsUp)
	st := s.WaitStatus(5*time.Second, "not bound", withheld(name, status.NotBound))
	if v, err := vipNamed(st, name); err != nil || v.Bound {
		t.Errorf("vip %s: bound %t, %v", name, v.Bound, err)
	}
	waitQuiet(t, wire, allPeers()...)
	announcedNever(t, wire, p, time.Now())
}

// announcedNever checks that nothing until then announces the prefix.
func announcedNever(t *testing.T, wire *lab.Capture, p netip.Prefix, until time.Time) {
	t.Helper()
	for _, m := range wire.Messages() {
		if m.Out && m.Announces(p) && m.Time.Before(until) {
			t.Errorf("announced although not bound before %s: at %s %v", until.Format("05.000000"), m.Time.Format("05.000000"), m)
		}
	}
}

// addressesCannotBeAdded: the device's name is taken, so no address can be added.
func addressesCannotBeAdded(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	kernel, wire := watchAddresses(t, host), host.Capture()
	host.Run("ip", "link", "add", "vi0", "type", "bridge")
	host.WriteFile(lab.ConfigPath, hostConfig{vips: sampleVIPs()}.String())
	s := lab.StartSpeaker(host, binary(t))
	silent(t, s, wire, "vipa", vip4)
	silent(t, s, wire, "vipa6", vip6)
	if alias := host.Run("ip", "link", "show", "vi0"); strings.Contains(alias, "alias") {
		t.Errorf("the device of another owner was marked:\n%s", alias)
	}

	freed := time.Now()
	host.Run("ip", "link", "del", "vi0")
	s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
	for _, vip := range []netip.Prefix{vip4, vip6} {
		bound := kernel.wait(time.Second, vip, freed, "RTM_NEWADDR", added)
		announcedNever(t, wire, vip, bound.After)
		routersHave(t, l, vip, true)
	}
}

// sixCannotBeAdded: the kernel refuses IPv6 addresses on the device, which does
// not concern the IPv4 VIP.
func sixCannotBeAdded(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	kernel, wire := watchAddresses(t, host), host.Capture()
	host.Run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
	host.WriteFile(lab.ConfigPath, hostConfig{vips: sampleVIPs()}.String())
	s := lab.StartSpeaker(host, binary(t))
	silent(t, s, wire, "vipa6", vip6)
	routersHave(t, l, vip4, true)

	allowed := time.Now()
	host.Run("sysctl", "-qw", "net.ipv6.conf.vi0.disable_ipv6=0")
	s.WaitStatus(20*time.Second, "everything is announced", lab.Established)
	bound := kernel.wait(time.Second, vip6, allowed, "RTM_NEWADDR", added)
	announcedNever(t, wire, vip6, bound.After)
	routersHave(t, l, vip6, true)
}

// onEN7 makes en7 the device of the VIPs: unlike a virtual interface, it has a
// neighbour that can claim an address.
func onEN7() hostConfig {
	return hostConfig{vips: sampleVIPs(), more: "virtual_interface: {name: en7, kind: existing}"}
}

// addressIsTentative: somebody else has bound the VIP, and the kernel is still
// asking whether it is a duplicate.
func addressIsTentative(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	kernel, wire := watchAddresses(t, host), host.Capture()
	// It asks for as long as the test wants, once a second: until told to hurry.
	host.Run("sysctl", "-qw", "net.ipv6.conf.en7.accept_dad=1", "net.ipv6.conf.en7.dad_transmits=60")
	host.Run("ip", "addr", "add", vip6.String(), "dev", "en7")
	began := time.Now()
	host.WriteFile(lab.ConfigPath, onEN7().String())
	s := lab.StartSpeaker(host, binary(t))
	silent(t, s, wire, "vipa6", vip6)
	host.Run("sysctl", "-qw", "net.ipv6.neigh.en7.retrans_time_ms=10")
	usable := kernel.wait(10*time.Second, vip6, began, "usable", added)
	s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
	announcedNever(t, wire, vip6, usable.After)
	waitSent(t, wire, 5*time.Second, "UPDATE", r1v6, usable.After, announces(vip6))
	waitQuiet(t, wire, r1v6)
	if n := len(to(wire, r1v6, usable.After, announces(vip6))); n != 1 {
		t.Errorf("announced %d times once it was usable", n)
	}
}

// addressIsDuplicate: a neighbour has the VIP, so the kernel does not use it.
func addressIsDuplicate(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	kernel, wire := watchAddresses(t, host), host.Capture()
	host.Run("sysctl", "-qw", "net.ipv6.conf.en7.accept_dad=1")
	l.Node("x7").Run("ip", "addr", "add", vip6.String(), "dev", "e7", "nodad")
	host.Run("ip", "addr", "add", vip6.String(), "dev", "en7")
	lab.Eventually(t, 10*time.Second, "the kernel has found the duplicate", func() error {
		out := host.Run("ip", "-6", "-o", "addr", "show", "dev", "en7", "dadfailed")
		return lab.That(strings.Contains(out, vip6.Addr().String()), "%s", out)
	})
	host.WriteFile(lab.ConfigPath, onEN7().String())
	s := lab.StartSpeaker(host, binary(t))
	silent(t, s, wire, "vipa6", vip6)
	routersHave(t, l, vip4, true)
	s.WaitStatus(5*time.Second, "a problem names "+vip6.Addr().String(), func(st *status.Status) error {
		return lab.That(slices.ContainsFunc(st.Kernel.Problems, func(p string) bool { return strings.Contains(p, vip6.Addr().String()) }), "%q", st.Kernel.Problems)
	})

	removed := time.Now()
	host.Run("ip", "addr", "del", vip6.String(), "dev", "en7")
	s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
	bound := kernel.wait(time.Second, vip6, removed, "RTM_NEWADDR", added)
	announcedNever(t, wire, vip6, bound.After)
}
