package vip

import (
	"os"
	"slices"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

func sysctlOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func sysctlsAre(t *testing.T, want map[string]string) {
	t.Helper()
	for path, value := range want {
		if got := sysctlOf(t, path); got != value {
			t.Errorf("%s = %s, want %s", path, got, value)
		}
	}
}

// Sysctls are set where the effective value is wrong, and given back unless
// somebody else changed them since.
func TestSysctlsSetAndRestored(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.Sysctl("net/ipv4/conf/en1/rp_filter", "1")
		l.Sysctl("net/ipv4/conf/en5/arp_announce", "2")
		l.Sysctl("net/ipv4/conf/en5/rp_filter", "0")
		m := l.manager(t)
		d := desired(vip4)
		converge(t, m, d)
		sysctlsAre(t, map[string]string{
			"ipv4/conf/en1/arp_announce": "2", "ipv4/conf/en1/rp_filter": "2",
			"ipv4/conf/en1/ignore_routes_with_linkdown": "1", "ipv6/conf/en1/ignore_routes_with_linkdown": "1",
			"ipv4/conf/en5/arp_announce": "2", "ipv4/conf/en5/rp_filter": "0", "ipv4/conf/en7/arp_announce": "0",
		})
		m.Close() // killed: the next process knows the former values
		m = l.manager(t)
		converge(t, m, d)
		l.IP("link set en5 down")
		l.IP("link set en5 name wan5") // renamed: still the same device
		l.Sysctl("net/ipv6/conf/en1/ignore_routes_with_linkdown", "0")
		l.Sysctl("net/ipv4/conf/en1/rp_filter", "0") // somebody's decision, and harmless
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		sysctlsAre(t, map[string]string{
			"ipv4/conf/en1/arp_announce": "0", "ipv4/conf/en1/rp_filter": "0",
			"ipv4/conf/en1/ignore_routes_with_linkdown": "0", "ipv6/conf/en1/ignore_routes_with_linkdown": "0",
			"ipv4/conf/wan5/arp_announce": "2", "ipv4/conf/wan5/ignore_routes_with_linkdown": "0",
		})
	})
}

// An interface that is no longer listed, and the mode off, get theirs back.
func TestSysctlsGivenBackOnReload(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4)
		converge(t, m, d)
		less := d
		less.Interfaces = d.Interfaces[:1]
		converge(t, m, less)
		sysctlsAre(t, map[string]string{"ipv4/conf/en1/arp_announce": "2", "ipv4/conf/en5/arp_announce": "0"})
		less.Sysctls = SysctlOff
		converge(t, m, less)
		sysctlsAre(t, map[string]string{"ipv4/conf/en1/arp_announce": "0"})
	})
}

func TestSysctlCheckOnlyReports(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.Sysctl("net/ipv4/conf/all/rp_filter", "1")
		l.Sysctl("net/ipv4/fib_multipath_hash_policy", "0")
		l.IP("rule add pref 31000 lookup 100")
		m := l.manager(t)
		d := desired(vip4)
		d.Sysctls = SysctlCheck
		d.Interfaces = append(d.Interfaces, Interface{Name: "en9", Usable: true})
		converge(t, m, d)
		l.IP("addr add 10.68.6.1/24 dev en7") // too late to refuse the VIP
		a := converge(t, m, d)
		for _, want := range []string{
			"net.ipv4.conf.en1.arp_announce is 0, should be 2",
			"net.ipv4.conf.en5.rp_filter is 0, should be 2",
			"net.ipv6.conf.en5.ignore_routes_with_linkdown is 0, should be 1",
			"net.ipv4.fib_multipath_hash_policy is 0",
			"rule 31000 lookup 100 of another owner comes before ours",
			"vip 10.68.6.1/32 is inside the network 10.68.6.0/24 of en7",
			"vip 10.68.6.1 is also on en7",
			"interface en9 does not exist",
		} {
			if !slices.ContainsFunc(a.Problems, func(s string) bool { return strings.HasPrefix(s, want) }) {
				t.Errorf("no problem %q in %q", want, a.Problems)
			}
		}
		sysctlsAre(t, map[string]string{"ipv4/conf/en1/arp_announce": "0"})
		// What the configuration decides does not come and go with the links.
		hash := func(text string) bool { return strings.Contains(text, "fib_multipath_hash_policy") }
		d.Interfaces = d.Interfaces[:2]
		if a, err := m.Steer(t.Context(), d.usable(true, false)); err != nil || !slices.ContainsFunc(a.Problems, hash) {
			t.Errorf("one interface failed: problems %q, %v", a.Problems, err)
		}
		d.Interfaces = d.Interfaces[:1]
		if a, err := m.Steer(t.Context(), d); err != nil || slices.ContainsFunc(a.Problems, hash) {
			t.Errorf("one interface listed: problems %q, %v", a.Problems, err)
		}
	})
}

// In a container /proc/sys is read-only: a problem, not a failure.
func TestReadOnlySysctls(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		if err := unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		m := l.manager(t)
		converge(t, m, desired(vip4, vip6))
		a := converge(t, m, desired(vip4, vip6))
		want := "net.ipv4.conf.en1.arp_announce is 0, cannot be set to 2 (read-only file system)"
		if !slices.ContainsFunc(a.Problems, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("no problem %q in %q", want, a.Problems)
		}
		if len(a.Bound) != 2 || len(a.Sources) != 4 || a.Writes != 0 || len(a.Repaired) != 0 {
			t.Errorf("%+v", a)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
