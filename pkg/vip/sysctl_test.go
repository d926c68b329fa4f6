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

// With check the settings are left alone; pkg/doctor reports them.
func TestSysctlCheckLeavesAlone(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		d := desired(vip4)
		d.Sysctls = SysctlCheck
		d.Interfaces = append(d.Interfaces, Interface{Name: "en9", Usable: true})
		if a := converge(t, m, d); !slices.Equal(a.Problems, []string{"interface en9 does not exist"}) {
			t.Errorf("problems %q", a.Problems)
		}
		sysctlsAre(t, map[string]string{"ipv4/conf/en1/arp_announce": "0"})
	})
}

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
