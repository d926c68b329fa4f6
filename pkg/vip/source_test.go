package vip

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

// sourcesTo checks the source that the kernel chooses per destination.
func sourcesTo(t *testing.T, want map[string]string) {
	t.Helper()
	for to, source := range want {
		got, err := trySource("udp", to)
		if err != nil || got != netip.MustParseAddr(source) {
			t.Errorf("source towards %s = %s (%v), want %s", to, got, err, source)
		}
	}
}

// What leaves by a listed interface and names no source has the VIP; what
// leaves by another, or must not have it, keeps the interface's address.
func TestPreferredSource(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4, vip6)
		d.Exclude = []netip.Prefix{
			netip.MustParsePrefix("10.68.1.2/32"), netip.MustParsePrefix("10.99.0.0/16"),
			netip.MustParsePrefix("fd68:1::2/128"), netip.MustParsePrefix("fd99::/16"),
		}
		converge(t, m, d)
		echo(t, l.client, "10.68.9.9:7000")
		echo(t, l.client, "[fd68:9::9]:7000")
		for to, want := range map[string]netip.Prefix{"10.68.9.9:7000": vip4, "[fd68:9::9]:7000": vip6} {
			if got := sourceTo(t, "tcp", to); got != want.Addr() {
				t.Errorf("tcp source towards %s = %s, want %s", to, got, want.Addr())
			}
		}
		sourcesTo(t, map[string]string{
			"10.68.9.9:53":       "10.68.6.1", // by default route
			"10.68.1.77:53":      "10.68.6.1", // connected network of en1
			"10.68.5.77:53":      "10.68.6.1", // of en5
			"10.68.7.77:53":      "10.68.7.1", // unlisted interface
			"10.68.1.2:179":      "10.68.1.1", // excluded: a BGP peer
			"10.99.1.1:53":       "10.68.1.1", // excluded by the user
			"127.0.0.1:53":       "127.0.0.1", // local
			"10.68.5.1:53":       "10.68.5.1", // an address of our own
			"[fd68:9::9]:53":     "fd68:6::1", //
			"[fd68:1::77]:53":    "fd68:6::1", //
			"[fd68:5::77]:53":    "fd68:6::1", //
			"[fd68:7::77]:53":    "fd68:7::1", //
			"[fd68:1::2]:179":    "fd68:1::1", //
			"[fd99::1]:53":       "fd68:1::1", //
			"[::1]:53":           "::1",       //
			"169.254.169.254:80": "10.68.1.1", // instance metadata
			"224.0.0.5:5000":     "10.68.1.1", // multicast
			"[fd68:5::1]:53":     "fd68:5::1", //
			"[2001:db8::1]:53":   "fd68:6::1", //
		})
		linkLocal := strings.Fields(l.r1.IP("-6 -br addr show dev wan"))
		i := slices.IndexFunc(linkLocal, func(s string) bool { return strings.HasPrefix(s, "fe80") })
		to, _, _ := strings.Cut(linkLocal[i], "/")
		if got := sourceTo(t, "udp", "["+to+"%en1]:53"); !got.IsLinkLocalUnicast() {
			t.Errorf("source towards %s%%en1 = %s, want a link-local address", to, got)
		}
	})
}

// An address that the program chose stays, and so does that of a DHCP client.
func TestBoundSocketsAreLeftAlone(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		converge(t, l.manager(t), desired(vip4, vip6))
		for name, c := range map[string]struct {
			bind unix.Sockaddr
			want string
		}{
			"address of en5": {&unix.SockaddrInet4{Addr: [4]byte{10, 68, 5, 1}}, "10.68.5.1"},
			"dhcp client":    {&unix.SockaddrInet4{Port: dhcpClientPort}, "10.68.1.1"},
			"another port":   {&unix.SockaddrInet4{Port: 1068}, "10.68.6.1"},
		} {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Close(fd) }()
			if err = unix.Bind(fd, c.bind); err != nil {
				t.Fatal(err)
			}
			if err = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 68, 9, 9}, Port: 67}); err != nil {
				t.Fatal(err)
			}
			sa, err := unix.Getsockname(fd)
			if err != nil {
				t.Fatal(err)
			}
			if got := netip.AddrFrom4(sa.(*unix.SockaddrInet4).Addr); got != netip.MustParseAddr(c.want) {
				t.Errorf("%s: source %s, want %s", name, got, c.want)
			}
		}
	})
}

// Each interface can have a VIP of its own as source; the first in the order of
// the configuration takes the default route, and the other takes over.
func TestSourcePerInterface(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		other4, other6 := netip.MustParsePrefix("10.68.6.200/32"), netip.MustParsePrefix("fd68:6::200/128")
		d := desired(vip4, vip6, other4, other6)
		d.Interfaces[1].Source4, d.Interfaces[1].Source6 = other4.Addr(), other6.Addr()
		converge(t, m, d)
		a := converge(t, m, d)
		if a.Writes != 0 {
			t.Errorf("%d writes in a pass that changes nothing", a.Writes)
		}
		want := []SourceState{{"en1", vip4.Addr()}, {"en1", vip6.Addr()}, {"en5", other4.Addr()}, {"en5", other6.Addr()}}
		if !slices.Equal(a.Sources, want) {
			t.Errorf("sources = %v, want %v", a.Sources, want)
		}
		sourcesTo(t, map[string]string{
			"10.68.9.9:53": "10.68.6.1", "10.68.1.77:53": "10.68.6.1", "10.68.5.77:53": "10.68.6.200", "10.68.7.77:53": "10.68.7.1",
			"[fd68:9::9]:53": "fd68:6::1", "[fd68:1::77]:53": "fd68:6::1", "[fd68:5::77]:53": "fd68:6::200",
		})
		converge(t, m, d.usable(false, true))
		sourcesTo(t, map[string]string{
			"10.68.9.9:53": "10.68.6.200", "10.68.1.77:53": "10.68.6.200", "[fd68:9::9]:53": "fd68:6::200",
		})
		// Replies of both VIPs leave by what is left.
		for _, from := range []string{"10.68.9.9 from 10.68.6.1", "fd68:9::9 from fd68:6::1", "10.68.1.77 from 10.68.6.200"} {
			if got := l.IP("route get %s", from); !strings.Contains(got, "dev en5") {
				t.Errorf("route get %s: %s", from, got)
			}
		}
	})
}

// Without a preferred source replies of the VIPs still use all usable
// interfaces, and nobody's source changes.
func TestNoPreferredSource(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4, vip6)
		for i := range d.Interfaces {
			d.Interfaces[i].Source4, d.Interfaces[i].Source6 = netip.Addr{}, netip.Addr{}
		}
		a := converge(t, m, d.usable(false, true))
		if len(a.Sources) != 0 {
			t.Errorf("sources = %v, want none", a.Sources)
		}
		sourcesTo(t, map[string]string{"10.68.9.9:53": "10.68.1.1", "[fd68:9::9]:53": "fd68:1::1"})
		for _, from := range []string{"10.68.9.9 from 10.68.6.1", "fd68:9::9 from fd68:6::1"} {
			if got := l.IP("route get %s", from); !strings.Contains(got, "dev en5") {
				t.Errorf("route get %s: %s", from, got)
			}
		}
	})
}

// A VIP that is not bound is never a source: the kernel would refuse it or,
// worse, keep it.
func TestUnboundSourceIsNotTurnedOn(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		a, err := m.Steer(t.Context(), desired(vip4, vip6))
		if err != nil || len(a.Sources) != 0 || len(a.Bound) != 0 {
			t.Errorf("steer before bind: %+v, %v", a, err)
		}
		sourcesTo(t, map[string]string{"10.68.9.9:53": "10.68.1.1", "[fd68:9::9]:53": "fd68:1::1"})
	})
}

// A strict reverse path filter lets packets to the VIP in by every usable
// interface, because the return table is multipath.
func TestStrictReversePathFilter(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.Sysctl("net/ipv4/conf/all/rp_filter", "1")
		m := l.manager(t)
		d := desired(vip4)
		d.Sysctls = SysctlOff
		converge(t, m, d)
		for _, side := range []string{"1", "5"} {
			l.clientVia(side)
			out, in := l.streams(t, vip4, "10.68.9.9")
			out.flowing(t, soon)
			in.flowing(t, soon)
		}
	})
}
