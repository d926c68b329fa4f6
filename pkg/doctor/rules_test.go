package doctor

import (
	"net"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// A rule before ours decides instead of ours; one that cannot decide about our
// packets is no finding.
func TestForeignRule(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		for _, harmless := range []string{
			"pref 100 from 10.68.1.1 lookup 200", // policy routing of the interface's own address
			"pref 101 iif en1 lookup 200",
			"pref 102 goto 103",
			"pref 103 from all nop",
			"pref 32765 from all lookup 200",
		} {
			ns.IP("rule add %s", harmless)
		}
		l.clean()
		source := func() string {
			c, err := net.Dial("udp", "10.68.9.9:9")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close() //nolint:errcheck // of a test
			host, _, _ := net.SplitHostPort(c.LocalAddr().String())
			return host
		}
		if got := source(); got != vip4 {
			t.Fatalf("source %s", got)
		}
		ns.IP("route add default via 10.68.5.2 table 200")
		ns.IP("rule add pref 31000 to 10.68.9.0/24 fwmark 0/0xff ipproto udp lookup 200")
		f := l.finding("foreign-rule", Warning,
			"IPv4 rule 31000 (from all to 10.68.9.0/24 ipproto 17 fwmark 0x0/0xff lookup 200) of another owner comes before ours, which begin at 32100")
		if got := source(); got != "10.68.5.1" {
			t.Errorf("source %s in spite of the rule", got)
		}
		before := ns.IP("rule show")
		l.run(&f)
		if got := source(); got != vip4 {
			t.Errorf("source %s", got)
		}
		l.shell(f.Undo)
		if now := ns.IP("rule show"); now != before {
			t.Errorf("after the undo:\n%s", now)
		}
		l.run(&f)
		ns.IP("-6 rule add pref 50 from fd68:6::/64 oif en1 uidrange 0-99 lookup 200 suppress_prefixlength 0")
		f = l.finding("foreign-rule", Warning, "IPv6 rule 50 (from fd68:6::/64 oif en1 uidrange 0-99 lookup 200 suppress_prefixlength 0)")
		l.run(&f)
		// One that is not understood in full must not become a rule for more.
		ns.IP("rule add pref 60 to 10.70.0.0/16 lookup 200 suppress_ifgroup 7")
		f = l.finding("foreign-rule", Warning, "IPv4 rule 60 (from all to 10.70.0.0/16 lookup 200, and more)")
		l.shell(f.Command)
		if now := ns.IP("rule show to 10.70.0.0/16"); !strings.HasPrefix(now, "60:") || strings.Count(now, "\n") != 1 {
			t.Errorf("the command made of it:\n%s", now)
		}
	})
}

// Without its rule a reply follows the main table.
func TestOwnRuleMissing(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.IP("route replace default proto 68 table 6801 via 10.68.5.2 dev en5")
		ns.IP("rule del pref 32101")
		f := l.finding("rule-missing", Bad, "no rule leads packets from 10.68.6.1 to routing table 6801")
		if out := ns.IP("route get 10.68.9.9 from 10.68.6.1"); !strings.Contains(out, "dev en1") {
			t.Errorf("route: %s", out)
		}
		l.run(&f)
		if out := ns.IP("route get 10.68.9.9 from 10.68.6.1"); !strings.Contains(out, "dev en5") {
			t.Errorf("route: %s", out)
		}
	})
}

// Rules and tables without the VIP cut the host off.
func TestLeftBehind(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.Daemon = nil
		l.clean()
		ns.IP("addr del 10.68.6.1/32 dev vi0")
		l.finding("left-behind", Bad, "no daemon runs, rule 32110 leads to routing table 6802, and its routes have the source 10.68.6.1, which the host has no more")
		if c, err := net.Dial("udp", "10.68.9.9:9"); err == nil || !strings.Contains(err.Error(), "unreachable") {
			t.Errorf("connected as %v: %v", c, err)
		}
		ns.IP("rule del pref 32110") // as cleanup does, which the command's own tests show
		ns.IP("rule del pref 32101")
		l.clean("left-behind")
	})
}
