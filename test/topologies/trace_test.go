package topologies

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// socketSource is the source that the kernel gives a socket of a user with a
// mark, bound to an interface if that is named.
func socketSource(t *testing.T, host *lab.Node, to string, uid, mark int, iface string) (netip.Addr, error) {
	t.Helper()
	var got netip.Addr
	err := host.Do(func() error {
		d := net.Dialer{Timeout: 20 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			if err := c.Control(func(fd uintptr) {
				failed = unix.Fchown(int(fd), uid, -1) // the owner of a socket
				if failed == nil && mark != 0 {
					failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
				}
				if failed == nil && iface != "" {
					failed = unix.BindToDevice(int(fd), iface)
				}
			}); err != nil {
				return err
			}
			return failed
		}}
		c, err := d.DialContext(t.Context(), "udp", net.JoinHostPort(to, "9"))
		if err != nil {
			return err
		}
		got = c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().WithZone("")
		return c.Close()
	})
	return got, err
}

// traceOf runs a command that prints a trace.
func traceOf(t *testing.T, s *lab.Speaker, args ...string) *status.Trace {
	t.Helper()
	out, err := s.Command(append(args, "-o", "json")...)
	var got status.Trace
	if jsonErr := json.Unmarshal([]byte(out), &got); jsonErr != nil {
		t.Fatalf("%v: %v, %v: %s", args, err, jsonErr, out)
	}
	return &got
}

// sourceVIPs are several sources at once, of both families.
func sourceVIPs(check string) []string {
	return []string{
		vipLine("vipa", vip4, "preferred_source: true"), vipLine("vipa6", vip6, "preferred_source: true"),
		vipLine("user", prefix4(2), "source: {rules: [{users: [4321]}]}", checks(check)),
		vipLine("dest", prefix4(3), "source: {rules: [{destinations: [10.68.9.0/24, 10.70.0.0/16]}]}"),
		vipLine("both", prefix4(4), "source: {rules: [{users: [4321, 5000-5099], destinations: [10.70.0.0/16]}]}"),
		vipLine("mark", prefix4(5), "source: {rules: [{marks: [0x10/0xff]}]}", "interfaces: [en5]"),
		vipLine("user6", netip.MustParsePrefix("fd68:6::2/128"), "source: {rules: [{users: [4321]}]}"),
	}
}

// What `status source` says is what a socket gets, and it says why. Rules come
// and go with the announcement of their VIP.
func TestStatusSource(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	host.Run("touch", "/run/healthy")
	s := startWith(t, l, hostConfig{vips: sourceVIPs(fileCheck("file", "/run/healthy")), more: "egress: {exclude: [10.99.0.0/16]}"})
	s.WaitStatus(10*time.Second, "all are sources", func(st *status.Status) error {
		for _, v := range st.VIPs {
			if len(v.Source) == 0 {
				return fmt.Errorf("%s is on no interface", v.Name)
			}
		}
		return nil
	})
	type probe struct {
		to        string
		uid, mark int
		iface     string
		from, vip string
		reason    status.Reason
	}
	check := func(probes ...probe) {
		t.Helper()
		for _, p := range probes {
			args := []string{"status", "source", p.to, "--user", fmt.Sprint(p.uid), "--mark", fmt.Sprint(p.mark)}
			if p.iface != "" {
				args = append(args, "--interface", p.iface)
			}
			told := traceOf(t, s, args...)
			real, err := socketSource(t, host, p.to, p.uid, p.mark, p.iface)
			if err != nil || told.From != real || real.String() != p.from || told.VIP != p.vip || told.Reason != p.reason {
				t.Errorf("%v: a socket gets %v (%v), told is %v of %q, %s: %s; want %s of %q, %s",
					args, real, err, told.From, told.VIP, told.Reason, told.Detail, p.from, p.vip, p.reason)
			}
			if len(told.Steps) == 0 || len(told.Steps[0].Rules) == 0 || told.Steps[0].Route == "" {
				t.Errorf("%v: no rule or route: %+v", args, told.Steps)
			}
		}
	}
	steady := []probe{
		{to: "10.68.5.77", from: "10.68.6.1", vip: "vipa", reason: status.SourcePreferred},
		{to: "192.0.2.1", from: "10.68.6.1", vip: "vipa", reason: status.SourcePreferred},
		{to: "fd99::1", from: "fd68:6::1", vip: "vipa6", reason: status.SourcePreferred},
		{to: "fd99::1", uid: 4321, from: "fd68:6::2", vip: "user6", reason: status.SourceByRule},
		{to: "10.68.9.9", from: "10.68.6.3", vip: "dest", reason: status.SourceByRule},
		{to: "10.70.1.1", uid: 4321, from: "10.68.6.4", vip: "both", reason: status.SourceByRule},
		{to: "10.70.1.1", uid: 5099, from: "10.68.6.4", vip: "both", reason: status.SourceByRule},
		{to: "192.0.2.1", uid: 4321, mark: 0x310, from: "10.68.6.5", vip: "mark", reason: status.SourceByRule},
		{to: "10.68.1.77", uid: 99, mark: 0x310, from: "10.68.6.1", vip: "vipa", reason: status.SourcePreferred},
		{to: "10.68.1.2", uid: 4321, from: "10.68.1.1", reason: status.SourceExcluded},
		{to: "10.99.1.1", uid: 4321, iface: "en5", from: "10.68.5.1", reason: status.SourceExcluded},
		{to: "169.254.169.254", iface: "en1", uid: 4321, from: "10.68.1.1", reason: status.SourceExcluded},
		{to: "10.68.7.2", uid: 4321, from: "10.68.7.1", reason: status.SourceUnlisted},
		{to: "10.68.5.1", uid: 4321, from: "10.68.5.1", reason: status.SourceLocal},
		{to: "10.68.6.1", uid: 4321, from: "10.68.6.1", vip: "vipa", reason: status.SourceLocal},
	}
	check(steady...)
	check(
		probe{to: "192.0.2.1", uid: 4321, from: "10.68.6.2", vip: "user", reason: status.SourceByRule},
		probe{to: "10.68.5.77", uid: 4321, iface: "en5", from: "10.68.6.2", vip: "user", reason: status.SourceByRule},
	)
	// Its check fails: the rule goes, and no other.
	host.Run("rm", "/run/healthy")
	s.WaitStatus(10*time.Second, "user is no source", func(st *status.Status) error {
		i := slices.IndexFunc(st.VIPs, func(v status.VIP) bool { return v.Name == "user" })
		return lab.That(len(st.VIPs[i].Source) == 0, "%v", st.VIPs[i].Source)
	})
	check(steady...)
	check(probe{to: "192.0.2.1", uid: 4321, from: "10.68.6.1", vip: "vipa", reason: status.SourcePreferred})
	// Without the others the answer is why it is none.
	reload(t, host, s, hostConfig{vips: sourceVIPs(fileCheck("file", "/run/healthy"))[2:3]})
	s.WaitStatus(10*time.Second, "one VIP", func(st *status.Status) error { return lab.That(len(st.VIPs) == 1, "%d", len(st.VIPs)) })
	check(
		probe{to: "10.68.5.77", uid: 4321, from: "10.68.5.1", reason: status.CheckFailed},
		probe{to: "10.68.5.77", uid: 1, from: "10.68.5.1", reason: status.SourceNone},
	)
}

// Trace shows how packets leave and come in, and refuses what is no address.
func TestTrace(t *testing.T) {
	t.Parallel()
	_, s := startSample(t)
	s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"trace", "vipa", "10.68.9.9"}, []string{
			"10.68.9.9 from 10.68.6.1 (vipa): bound", "32101: from 10.68.6.1 lookup 6801", "6801", "default nexthop via 10.68.1.2 dev en1 nexthop via 10.68.5.2 dev en5",
			"en1 via 10.68.1.2", "en5 via 10.68.5.2", "10.68.1.2 Established", "10.68.5.2 Established",
		}},
		{[]string{"trace", "fd68:6::1", "fd68:9::9"}, []string{"32101: from fd68:6::1 lookup 6801", "fd68:1::2 Established"}},
		{[]string{"trace", "to", "10.68.9.9"}, []string{"10.68.9.9 from 10.68.6.1 (vipa): preferred_source", "32366: from 0.0.0.0 lookup 6802", "src 10.68.6.1"}},
		{[]string{"trace", "to", "vipa6"}, []string{"vipa6 fd68:6::1 is announced", "path announced, next hop ", "local fd68:6::1", "fd68:5::2 Established"}},
		{[]string{"trace", "10.68.7.1", "10.68.77.1"}, []string{"10.68.77.1 from 10.68.7.1: bound", "main", "en7 via 10.68.7.2"}},
		{[]string{"trace", "to", "127.0.0.1"}, []string{"local: the destination is an address of this host"}},
	} {
		out, err := s.Command(c.args...)
		for _, want := range c.want {
			if err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
				t.Errorf("%v lacks %q (%v):\n%s", c.args, want, err, out)
			}
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"trace", "vipb", "10.68.9.9"}, `"vipb" is neither a VIP nor an address of this host nor the word to`},
		{[]string{"trace", "vipa", "router"}, `"router" is no IP address`},
		{[]string{"trace", "to", "10.68.9.0/24"}, `"10.68.9.0/24" is neither a VIP nor an IP address`},
		{[]string{"trace", "vipa", "fd68:9::9"}, "10.68.6.1 and fd68:9::9 are not of one address family"},
		{[]string{"trace", "vipa", "0.0.0.0"}, "is no host's address"},
		{[]string{"trace", "vipa", "10.68.9.9", "--mark", "red"}, `--mark: "red" is no mark`},
		{[]string{"trace", "vipa", "10.68.9.9", "--user", "no-such"}, `--user: "no-such" is neither a user`},
		{[]string{"trace", "vipa", "10.68.9.9", "--interface", "en9"}, `--interface: "en9" is no interface of this host`},
		{[]string{"status", "source", "::ffff:10.0.0.1"}, "write 10.0.0.1"},
		{[]string{"trace", "vipa"}, "trace takes FROM|to DEST, not 1 argument"},
	} {
		if out, err := s.Command(c.args...); err == nil || !strings.Contains(err.Error()+out, c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
	in := traceOf(t, s, "trace", "to", "vipa")
	if in.Direction != status.TraceIn || len(in.Steps) != 3 || !in.Steps[0].Announced || in.Steps[2].Table != "local" {
		t.Errorf("trace to vipa: %+v", in)
	}
}
