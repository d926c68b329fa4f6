package vip

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

// process is who owns a socket, and the mark on it.
type process struct {
	uid, mark int
	bind      string
}

// source is the source of a connection that the process makes, before and after
// it is made the same.
func (p process) source(network, to string) (netip.Addr, error) {
	d := net.Dialer{Timeout: soon, Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			if p.uid > 0 { // a socket's owner is what fchown says
				failed = unix.Fchown(int(fd), p.uid, -1)
			}
			if p.mark > 0 && failed == nil {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, p.mark)
			}
		})
		if err != nil {
			return err
		}
		return failed
	}}
	if p.bind != "" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(p.bind))
	}
	c, err := d.Dial(network, to)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = c.Close() }()
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	return ap.Addr().WithZone("").Unmap(), err
}

// sourceLab has eight VIPs of a family: 1 for all traffic, and for each kind of
// selector another.
func sourceLab() Desired {
	both := []string{"en1", "en5"}
	d := Desired{Device: Device{Name: "vi0", Kind: KindAuto}, Sysctls: SysctlSet, Interfaces: []Interface{
		{Name: "en1", Usable: true, Source4: vip4.Addr(), Source6: vip6.Addr()},
		{Name: "en5", Usable: true, Source4: vip4.Addr(), Source6: vip6.Addr()},
	}}
	d.VIPs = []netip.Prefix{vip4, vip6}
	rank := 0
	for _, family := range []struct{ vip, inside, far string }{{"10.68.6.", "10.70.1.0/24", "10.70.0.0/16"}, {"fd68:6::", "fd70:1::/32", "fd70::/16"}} {
		last := 10
		add := func(interfaces []string, r SourceRule) {
			last++
			r.Source = netip.MustParseAddr(family.vip + string(rune('0'+last/10)) + string(rune('0'+last%10)))
			r.Interfaces, r.Rank = interfaces, rank
			rank++
			d.SourceRules = append(d.SourceRules, r)
			d.VIPs = append(d.VIPs, host(r.Source))
		}
		add(both, SourceRule{Users: &Users{1000, 1000}, Destination: netip.MustParsePrefix(family.far)}) // 11
		add(both, SourceRule{Mark: 0x10, Mask: 0xff})                                                    // 12
		add(both, SourceRule{Users: &Users{1000, 1999}})                                                 // 13
		add([]string{"en5"}, SourceRule{Users: &Users{3000, 3000}})                                      // 14
		add(both, SourceRule{Destination: netip.MustParsePrefix(family.inside)})                         // 15
		add(both, SourceRule{Destination: netip.MustParsePrefix(family.far)})                            // 16
	}
	return d
}

// The first rule that matches gives the source; what matches none gets that of
// the interface. Exempt destinations, DHCP, bound sockets and unlisted
// interfaces are exempt from the rules too.
func TestSourceRules(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := sourceLab()
		d.Exclude = []netip.Prefix{netip.MustParsePrefix("10.70.9.0/24"), netip.MustParsePrefix("fd70:9::/32")}
		before := l.dump()
		converge(t, m, d)
		if a := converge(t, m, d); a.Writes != 0 || len(a.Problems) > 0 {
			t.Errorf("a second pass: %d writes, problems %q", a.Writes, a.Problems)
		}
		echo(t, l.client, "10.68.9.9:7000")
		echo(t, l.client, "[fd68:9::9]:7000")
		for _, c := range []struct {
			who          process
			to, from     string
			to6, from6   string
			network, why string
		}{
			{process{}, "10.68.9.9:7000", "10.68.6.1", "[fd68:9::9]:7000", "fd68:6::1", "tcp", "no rule"},
			{process{uid: 999}, "10.68.9.9:7000", "10.68.6.1", "[fd68:9::9]:7000", "fd68:6::1", "tcp", "below the users"},
			{process{uid: 1000}, "10.68.9.9:7000", "10.68.6.13", "[fd68:9::9]:7000", "fd68:6::13", "tcp", "first of the users"},
			{process{uid: 1999}, "10.68.9.9:7000", "10.68.6.13", "[fd68:9::9]:7000", "fd68:6::13", "tcp", "last of the users"},
			{process{uid: 2000}, "10.68.9.9:7000", "10.68.6.1", "[fd68:9::9]:7000", "fd68:6::1", "tcp", "above the users"},
			{process{uid: 1000}, "10.70.1.1:53", "10.68.6.11", "[fd70:1::1]:53", "fd68:6::11", "udp", "user and destination"},
			{process{mark: 0x10}, "10.68.9.9:7000", "10.68.6.12", "[fd68:9::9]:7000", "fd68:6::12", "tcp", "mark"},
			{process{mark: 0x3410}, "10.68.9.9:7000", "10.68.6.12", "[fd68:9::9]:7000", "fd68:6::12", "tcp", "mark with other bits"},
			{process{mark: 0x11}, "10.68.9.9:7000", "10.68.6.1", "[fd68:9::9]:7000", "fd68:6::1", "tcp", "another mark"},
			{process{uid: 1000, mark: 0x10}, "10.68.9.9:7000", "10.68.6.12", "[fd68:9::9]:7000", "fd68:6::12", "tcp", "mark before user"},
			{process{}, "10.70.1.1:53", "10.68.6.15", "[fd70:1::1]:53", "fd68:6::15", "udp", "destination"},
			{process{}, "10.70.2.1:53", "10.68.6.16", "[fd70:2::1]:53", "fd68:6::16", "udp", "wider destination"},
			{process{uid: 3000}, "10.68.5.77:53", "10.68.6.14", "[fd68:5::77]:53", "fd68:6::14", "udp", "by its interface"},
			{process{uid: 3000}, "10.68.1.77:53", "10.68.6.1", "[fd68:1::77]:53", "fd68:6::1", "udp", "by another interface"},
			{process{uid: 3000}, "10.68.9.9:53", "10.68.6.14", "[fd68:9::9]:53", "fd68:6::14", "udp", "the default is its interface"},
			{process{uid: 1000}, "10.68.7.77:53", "10.68.7.1", "[fd68:7::77]:53", "fd68:7::1", "udp", "unlisted interface"},
			{process{uid: 1000}, "10.70.9.1:53", "10.68.1.1", "[fd70:9::1]:53", "fd68:1::1", "udp", "excluded"},
			{process{uid: 1000}, "10.68.5.1:53", "10.68.5.1", "[fd68:5::1]:53", "fd68:5::1", "udp", "an own address"},
			{process{uid: 1000, mark: 0x10}, "224.0.0.5:53", "10.68.1.1", "[::1]:53", "::1", "udp", "multicast, loopback"},
			{process{uid: 1000}, "169.254.169.254:80", "10.68.1.1", "[::1]:53", "::1", "udp", "link-local"},
			{process{uid: 1000, bind: "0.0.0.0:68"}, "10.68.9.9:67", "10.68.1.1", "", "", "udp", "dhcp"},
			{process{uid: 1000, bind: "10.68.5.1:0"}, "10.70.1.1:53", "10.68.5.1", "", "", "udp", "bound"},
			{process{uid: 1000, bind: "[fd68:5::1]:0"}, "", "", "[fd70:1::1]:53", "fd68:5::1", "udp", "bound"},
		} {
			for to, from := range map[string]string{c.to: c.from, c.to6: c.from6} {
				if to == "" {
					continue
				}
				if got, err := c.who.source(c.network, to); err != nil || got != netip.MustParseAddr(from) {
					t.Errorf("%s: user %d, mark %#x, towards %s: source %s (%v), want %s", c.why, c.who.uid, c.who.mark, to, got, err, from)
				}
			}
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// A rule whose VIP is not bound, or is taken away, leaves its traffic to the next
// one; the other rules stay as they are.
func TestSourceRuleGoesAlone(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := sourceLab()
		converge(t, m, d)
		others := func() string {
			kept := slices.DeleteFunc(strings.Split(l.IP("rule")+l.IP("-6 rule"), "\n"), func(line string) bool {
				return strings.Contains(line, "uidrange 1000-1000") || strings.Contains(line, "from 10.68.6.") || strings.Contains(line, "from fd68:6::")
			})
			return strings.Join(kept, "\n")
		}
		before := others()
		gone := d
		gone.SourceRules = slices.DeleteFunc(slices.Clone(d.SourceRules), func(r SourceRule) bool { return r.Users != nil && r.Users.Last == 1000 })
		converge(t, m, gone)
		user := process{uid: 1000}
		for to, want := range map[string]string{"10.70.1.1:53": "10.68.6.13", "[fd70:1::1]:53": "fd68:6::13"} {
			if got, err := user.source("udp", to); err != nil || got != netip.MustParseAddr(want) {
				t.Errorf("source towards %s = %s (%v), want %s", to, got, err, want)
			}
		}
		if now := others(); now != before {
			t.Errorf("other rules changed:\n%s\nbefore:\n%s", now, before)
		}
		// Wanted, but not bound: the kernel must not be asked for it.
		gone = d
		gone.VIPs = slices.DeleteFunc(slices.Clone(d.VIPs), func(v netip.Prefix) bool { return v.Addr() == netip.MustParseAddr("10.68.6.11") })
		converge(t, m, gone)
		if got, err := user.source("udp", "10.70.1.1:53"); err != nil || got != netip.MustParseAddr("10.68.6.13") {
			t.Errorf("source of a rule whose vip is not bound = %s (%v)", got, err)
		}
	})
}

// A rule that takes the place of one that selects by more is in effect after one
// pass: the kernel takes it for the one that is there.
func TestSourceRuleSelectsByLess(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		newLab(t, ns)
		m := newManager(t, Options{Log: discard(), StateDir: t.TempDir()})
		d := desired(vip4, vip6, netip.MustParsePrefix("10.68.6.11/32"), netip.MustParsePrefix("fd68:6::11/128"))
		rules := func(far4, far6 netip.Prefix) []SourceRule {
			both := []string{"en1", "en5"}
			return []SourceRule{
				{Source: netip.MustParseAddr("10.68.6.11"), Interfaces: both, Destination: far4, Mark: 1, Mask: ^uint32(0)},
				{Source: netip.MustParseAddr("fd68:6::11"), Interfaces: both, Rank: 1, Destination: far6, Mark: 1, Mask: ^uint32(0)},
			}
		}
		some := rules(netip.MustParsePrefix("10.70.0.0/16"), netip.MustParsePrefix("fd70::/16"))
		for _, list := range [][]SourceRule{some, rules(netip.Prefix{}, netip.Prefix{}), some} {
			d.SourceRules = list
			converge(t, m, d)
			if a := converge(t, m, d); a.Writes != 0 || len(a.Repaired) != 0 {
				t.Errorf("a second pass with %+v: %d writes, repaired %v", list, a.Writes, a.Repaired)
			}
		}
	})
}
