package vip

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

// segments are the largest segments of a connection, what it sends and what it
// told the other end that it takes, both without the 12 bytes of time stamps.
func segments(t *testing.T, c net.Conn) (sends, takes uint32) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return info.Snd_mss, info.Advmss
}

// connect makes a connection from an address, and returns its end here.
func connect(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: soon}
	if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A VIP's MTU is that of its paths to remote networks, in both directions of
// asking for it: connections from it and to it. Its own networks, other VIPs
// and the interface's addresses keep theirs.
func TestMTU(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		before := l.dump()
		other4 := netip.MustParsePrefix("10.68.6.2/32")
		d := desired(vip4, vip6, other4)
		d.MTU = map[netip.Prefix]uint32{vip4: 1300, vip6: 1400}
		converge(t, m, d)
		if a := converge(t, m, d); a.Writes != 0 || len(a.Problems) != 0 {
			t.Errorf("a second pass: %d writes, problems %q", a.Writes, a.Problems)
		}
		echo(t, l.client, "10.68.9.9:7000")
		echo(t, l.client, "[fd68:9::9]:7000")
		echo(t, l.r1, "10.68.1.2:7000")
		check := func(what string, c net.Conn, mtu, headers uint32) {
			t.Helper()
			sends, takes := segments(t, c)
			if takes != mtu-headers-12 || sends != mtu-headers-12 {
				t.Errorf("%s: sends %d, takes %d; want those of an MTU of %d", what, sends, takes, mtu)
			}
		}
		check("unbound", connect(t, "", "10.68.9.9:7000"), 1300, 40)
		check("bound", connect(t, "10.68.6.1:0", "10.68.9.9:7000"), 1300, 40)
		check("unbound, IPv6", connect(t, "", "[fd68:9::9]:7000"), 1400, 60)
		check("another VIP", connect(t, "10.68.6.2:0", "10.68.9.9:7000"), 1500, 40)
		check("interface", connect(t, "10.68.1.1:0", "10.68.9.9:7000"), 1500, 40)
		check("network of en1", connect(t, "10.68.6.1:0", "10.68.1.2:7000"), 1500, 40)

		listener, err := net.Listen("tcp", "10.68.6.1:7001")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		l.client.Do(func() error {
			// Both routers know this one of its addresses.
			d := net.Dialer{Timeout: soon, LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.68.9.9:0"))}
			c, failed := d.Dial("tcp", "10.68.6.1:7001")
			if failed == nil {
				t.Cleanup(func() { _ = c.Close() })
			}
			return failed
		})
		if err = listener.(*net.TCPListener).SetDeadline(time.Now().Add(soon)); err != nil {
			t.Fatal(err)
		}
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = accepted.Close() }()
		check("accepted", accepted, 1300, 40)

		// What an interface cannot carry is never used, and told.
		l.IP("link set en5 mtu 1280")
		l.IP("link set en1 mtu 1350")
		a := converge(t, m, d)
		for _, want := range []string{"vip 10.68.6.1/32 wants an mtu of 1300 and interface en5 has 1280", "vip fd68:6::1/128 wants an mtu of 1400 and interface en1 has 1350"} {
			if !slices.ContainsFunc(a.Problems, func(s string) bool { return strings.HasPrefix(s, want) }) {
				t.Errorf("problems %q lack %q", a.Problems, want)
			}
		}
		check("smaller interface", connect(t, "", "10.68.9.9:7000"), 1280, 40)
		l.IP("link set en5 mtu 1500")
		l.IP("link set en1 mtu 1500")
		d.MTU = nil
		converge(t, m, d)
		check("no MTU", connect(t, "", "10.68.9.9:7000"), 1500, 40)
		if err = m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.sameButOrder(t, before)
	})
}

// A route of the main table keeps its own metrics, and a lower MTU among them.
func TestMTUKeepsMetrics(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add 10.99.1.0/24 via 10.68.1.2 mtu lock 1200 initcwnd 20 advmss 900")
		l.IP("route add 10.99.2.0/24 via 10.68.1.2 mtu 1450 hoplimit 9")
		l.IP("-6 route add fd99::/64 via fd68:1::2 mtu 1350 hoplimit 9 pref high")
		m := l.manager(t)
		d := desired(vip4, vip6)
		d.MTU = map[netip.Prefix]uint32{vip4: 1300, vip6: 1300}
		converge(t, m, d)
		if a := converge(t, m, d); a.Writes != 0 {
			t.Errorf("a second pass makes %d writes", a.Writes)
		}
		for command, want := range map[string]string{
			"route show table 6865 10.99.1.0/24": "mtu lock 1200 advmss 900 initcwnd 20",
			"route show table 6865 10.99.2.0/24": "mtu 1300 hoplimit 9",
			"-6 route show table 6865 fd99::/64": "mtu 1300 hoplimit 9 pref high",
			"route show table 6802 10.99.2.0/24": "src 10.68.6.1 mtu 1300 hoplimit 9",
		} {
			if got := strings.Join(strings.Fields(l.IP("%s", command)), " "); !strings.Contains(got, want) {
				t.Errorf("ip %s: %q, want %q", command, got, want)
			}
		}
	})
}
