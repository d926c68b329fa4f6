package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

const (
	base     = 6801
	priority = 32100
)

// lab is a host with two interfaces, a bound VIP and tables as the daemon makes
// them, and a network behind both with a client in it.
type lab struct {
	netnstest.NS

	t   *testing.T
	far netnstest.NS
	in  *Input
}

// newLab makes a host on which nothing is wrong.
func newLab(t *testing.T, ns netnstest.NS) *lab {
	t.Helper()
	l := &lab{NS: ns, t: t, far: ns.New("far")}
	for _, n := range []netnstest.NS{l.NS, l.far} {
		for _, key := range []string{"all/rp_filter", "default/rp_filter", "all/arp_announce", "default/arp_announce"} {
			n.Sysctl("net/ipv4/conf/"+key, "0")
		}
		n.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	}
	for _, n := range []string{"1", "5"} {
		ns.VethTo("en"+n, l.far, "p"+n)
		ns.IP("addr add 10.68.%s.1/24 dev en%s", n, n)
		ns.IP("addr add fd68:%s::1/64 dev en%s nodad", n, n)
		l.far.IP("addr add 10.68.%s.2/24 dev p%s", n, n)
		l.far.IP("addr add fd68:%s::2/64 dev p%s nodad", n, n)
		for _, key := range []string{"ipv4/conf/en%s/ignore_routes_with_linkdown", "ipv6/conf/en%s/ignore_routes_with_linkdown"} {
			ns.Sysctl("net/"+fmt.Sprintf(key, n), "1")
		}
		ns.Sysctl("net/ipv4/conf/en"+n+"/arp_announce", "2")
		ns.Sysctl("net/ipv4/conf/en"+n+"/rp_filter", "2")
	}
	l.far.Sysctl("net/ipv4/conf/all/arp_announce", "2")
	ns.Sysctl("net/ipv4/fib_multipath_hash_policy", "1")
	ns.Sysctl("net/ipv6/fib_multipath_hash_policy", "1")
	l.far.IP("addr add 10.68.9.9/32 dev lo")
	l.far.IP("addr add fd68:9::9/128 dev lo nodad")
	ns.IP("route add default via 10.68.1.2")
	ns.IP("-6 route add default via fd68:1::2")
	l.bind()
	local(t, l.NS, "fd68:1::1", "fd68:5::1", vip6)
	local(t, l.far, "fd68:1::2", "fd68:5::2", client6)
	l.in = &Input{
		Interfaces: []Interface{
			{Name: "en1", Peers: []Peer{l.peer("10.68.1.2"), l.peer("fd68:1::2")}},
			{Name: "en5", Peers: []Peer{l.peer("10.68.5.2"), l.peer("fd68:5::2")}},
		},
		VIPs: []VIP{
			{Name: "vipa", Prefix: netip.MustParsePrefix("10.68.6.1/32"), Interfaces: []string{"en1", "en5"}, PreferredSource: true},
			{Name: "six", Prefix: netip.MustParsePrefix("fd68:6::1/128"), Interfaces: []string{"en1", "en5"}},
		},
		Device: "vi0", DeviceKind: "auto", Sysctls: SysctlSet,
		Table: base, Priority: priority, Protocol: 68, ListenPort: 179,
		Daemon: &Daemon{}, Root: t.TempDir(), Unsynchronised: func() (bool, error) { return false, nil },
	}
	return l
}

func (*lab) peer(address string) Peer {
	return Peer{Address: netip.MustParseAddr(address), Port: 179}
}

// soon is for how long is waited for what comes sooner. Only a failure uses it up.
const soon = 30 * time.Second

// local waits until the kernel takes packets for IPv6 addresses, which is after it lists
// them, and until the devices with neighbours have seen their carrier.
func local(t *testing.T, ns netnstest.NS, addresses ...string) {
	t.Helper()
	netnstest.Until(t, soon, func() error {
		routes := ns.IP("-6 route show table local")
		for _, a := range addresses {
			if !strings.Contains(routes, "local "+a+" ") {
				return fmt.Errorf("no local route for %s:\n%s", a, routes)
			}
		}
		if links := ns.IP("-br link show type veth"); strings.Count(links, " UP ") != 2 {
			return errors.New(links)
		}
		return nil
	})
}

// becomes waits for what is so at once where packets are not lost. What they are lost by
// is told from a moment in which the machine stood still by its lasting.
func (l *lab) becomes(what string, is func() bool) {
	l.t.Helper()
	netnstest.Until(l.t, soon, func() error {
		if !is() {
			return fmt.Errorf("not so: %s", what)
		}
		return nil
	})
}

// leaves fails the test if the client does not see that source of what the host sends
// from it.
func (l *lab) leaves(source string) {
	l.t.Helper()
	l.becomes("packets arrive", func() bool {
		from := l.leavesAs(source, client4)
		if from != "" && from != source {
			l.t.Errorf("packet from %q, not %q", from, source)
		}
		return from != ""
	})
}

// bind makes what the daemon makes.
func (l *lab) bind() {
	l.t.Helper()
	l.IP("link add vi0 type bridge")
	l.IP("link set dev vi0 addrgenmode none")
	l.IP("link set dev vi0 arp off")
	l.IP("link set dev vi0 up")
	l.IP("addr add 10.68.6.1/32 dev vi0")
	l.IP("addr add fd68:6::1/128 dev vi0 nodad noprefixroute")
	l.IP("route add default proto 68 table 6801 nexthop via 10.68.1.2 dev en1 nexthop via 10.68.5.2 dev en5")
	l.IP("route add default proto 68 src 10.68.6.1 table 6802 nexthop via 10.68.1.2 dev en1 nexthop via 10.68.5.2 dev en5")
	l.IP("-6 route add default proto 68 table 6801 nexthop via fd68:1::2 dev en1 nexthop via fd68:5::2 dev en5")
	l.IP("rule add pref 32101 from 10.68.6.1 lookup 6801 protocol 68")
	l.IP("rule add pref 32110 from 0.0.0.0/32 lookup 6802 protocol 68")
	l.IP("-6 rule add pref 32101 from fd68:6::1 lookup 6801 protocol 68")
}

// examine looks for the named conditions, all if there are none.
func (l *lab) examine(names ...string) *Report {
	l.t.Helper()
	r, err := Examine(l.t.Context(), l.in, names...)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// clean fails the test if there is any finding or note of the conditions.
func (l *lab) clean(names ...string) {
	l.t.Helper()
	for _, f := range l.examine(names...).All() {
		l.t.Errorf("on a host that is well: %s %s: %s", f.Severity, f.Condition, f.Text())
	}
}

// finding is the only one of the condition, of the severity and with the text.
func (l *lab) finding(condition string, severity Severity, found string) Finding {
	l.t.Helper()
	list := l.examine(condition).All()
	i := slices.IndexFunc(list, func(f Finding) bool { return f.Severity == severity && strings.Contains(f.Found, found) })
	if i < 0 {
		l.t.Fatalf("no %s finding of %s with %q, but %d: %+v", severity, condition, found, len(list), list)
	}
	f := list[i]
	if f.Condition != condition || f.Why == "" || f.Command == "" || f.Remedy == "" {
		l.t.Fatalf("incomplete: %+v", f)
	}
	l.t.Logf("%s %s: %s\nfix: %s", f.Severity, f.Condition, f.Text(), f.Command)
	return f
}

// run executes the command of a finding, as somebody who copies it would.
func (l *lab) run(f *Finding) {
	l.t.Helper()
	l.shell(f.Command)
	l.clean(f.Condition)
}

func (l *lab) shell(command string) {
	l.t.Helper()
	if out, err := exec.CommandContext(l.t.Context(), "sh", "-ec", command).CombinedOutput(); err != nil {
		l.t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// fix cures by --fix, with the conditions named, and wants silence afterwards.
func (l *lab) fix(names ...string) *Report {
	l.t.Helper()
	r, err := Fix(l.t.Context(), l.in, names...)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range r.Fixed {
		if f.Error != "" {
			l.t.Errorf("fix %s: %s", f.Condition, f.Error)
		}
		l.t.Logf("fixed %s: %s; undo: %s", f.Condition, strings.Join(f.Did, "; "), f.Undo)
	}
	if len(r.Fixed) == 0 || len(r.All()) > 0 {
		l.t.Fatalf("after the fix: %+v", r)
	}
	return r
}

// vip4 and vip6 are the VIPs of the lab, client4 and client6 the client.
const (
	vip4, vip6       = "10.68.6.1", "fd68:6::1"
	client4, client6 = "10.68.9.9", "fd68:9::9"
)

// arrives tells whether a packet of a client for an address gets to a socket of
// the host when it comes by the interface (en1 or en5), and from where it says it
// is.
func (l *lab) arrives(source, target, device string) bool {
	l.t.Helper()
	l.routeTo(target, device)
	got := false
	server, err := net.ListenPacket("udp", net.JoinHostPort(target, "0"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer server.Close() //nolint:errcheck // of a test
	l.far.Do(func() error {
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(source)}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(server.LocalAddr().String())))
		if err != nil {
			return err
		}
		defer c.Close() //nolint:errcheck // of a test
		for range 20 {
			_, _ = c.Write([]byte("x")) // an error tells of an earlier one
			if got = received(server, 20*time.Millisecond) != ""; got {
				return nil
			}
		}
		return nil
	})
	return got
}

// routeTo makes the network send for the target by the host's interface.
func (l *lab) routeTo(target, device string) {
	l.t.Helper()
	n := strings.TrimPrefix(device, "en")
	if strings.Contains(target, ":") {
		l.far.IP("-6 route replace %s/128 via fd68:%s::1 dev p%s", target, n, n)
		return
	}
	l.far.IP("route replace %s/32 via 10.68.%s.1 dev p%s", target, n, n)
}

// received is the sender of the next packet, empty if none comes in time.
func received(c net.PacketConn, within time.Duration) string {
	_ = c.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 2000)
	_, from, err := c.ReadFrom(b)
	if err != nil {
		return ""
	}
	host, _, _ := net.SplitHostPort(from.String())
	return host
}

// leavesAs is the source that the client sees of a packet that the host sends
// from the address, empty if none arrives.
func (l *lab) leavesAs(source, target string) string {
	l.t.Helper()
	var server net.PacketConn
	l.far.Do(func() (err error) {
		server, err = net.ListenPacket("udp", net.JoinHostPort(target, "0"))
		return err
	})
	defer server.Close() //nolint:errcheck // of a test
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(source)}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(server.LocalAddr().String())))
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // of a test
	for range 20 {
		if _, err := c.Write([]byte("x")); err != nil && !errors.Is(err, syscall.EPERM) && !errors.Is(err, unix.ECONNREFUSED) {
			l.t.Fatal(err)
		}
		if from := received(server, 20*time.Millisecond); from != "" {
			return from
		}
	}
	return ""
}

// fromTwin tells whether a packet from the VIP of another host arrives.
func (l *lab) fromTwin(server net.PacketConn) (got bool) {
	l.t.Helper()
	l.far.Do(func() error {
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(vip4)}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(server.LocalAddr().String())))
		if err != nil {
			return err
		}
		defer c.Close() //nolint:errcheck // of a test
		for range 20 {
			_, _ = c.Write([]byte("x")) // an error tells of an earlier one
			if got = received(server, 20*time.Millisecond) != ""; got {
				return nil
			}
		}
		return nil
	})
	return got
}
