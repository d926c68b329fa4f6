package netnstest_test

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// The namespace is empty but for lo, whatever thread looks.
func TestRunIsolates(t *testing.T) {
	netnstest.Run(t, func(_ *testing.T, ns netnstest.NS) {
		links := make(chan []net.Interface)
		go func() {
			l, err := net.Interfaces()
			if err != nil {
				t.Error(err)
			}
			links <- l
		}()
		if l := <-links; len(l) != 1 || l[0].Name != "lo" {
			t.Fatalf("links of a fresh namespace = %v, want only lo", l)
		}
		ns.Veth("en1", "p1")
		if _, err := os.Stat("/sys/class/net/en1"); err != nil {
			t.Errorf("sysfs shows another network: %v", err)
		}
		router := ns.New("r1")
		ns.VethTo("en5", router, "p5")
		router.IP("addr add 10.68.5.2/24 dev p5")
		ns.Sysctl("net/ipv4/conf/en5/rp_filter", "2")
		router.Sysctl("net/ipv4/conf/p5/rp_filter", "1")
		if got := ns.Exec("cat", "/proc/sys/net/ipv4/conf/en5/rp_filter"); got != "2\n" {
			t.Errorf("rp_filter of en5 = %q, want 2", got)
		}
		netnstest.Until(t, 20*time.Second, func() error {
			if !strings.Contains(router.IP("-br addr show dev p5"), "10.68.5.2/24") {
				return errors.New("no address in r1")
			}
			return nil
		})
	})
}

// Subtests get namespaces of their own, side by side.
func TestRunSubtests(t *testing.T) {
	for _, name := range []string{"a", "b (c)"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(_ *testing.T, ns netnstest.NS) { ns.Veth("en1", "p1") })
		})
	}
}

func BenchmarkIP(b *testing.B) {
	netnstest.Bench(b, func(_ *testing.B, ns netnstest.NS) {
		for b.Loop() {
			ns.IP("link show dev lo")
		}
		b.ReportMetric(42, "answers")
	})
}
