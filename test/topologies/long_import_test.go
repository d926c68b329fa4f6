//go:build long

package topologies

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/topologies/lab"
)

// TestLongImportRecovers: a router that has sent too much is tried again later,
// in longer and longer intervals, and is a router like any other once it has
// come to its senses.
func TestLongImportRecovers(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		router string
		peer   netip.Addr
		flood  func(*testing.T, *lab.Node, int)
		calm   func(*lab.Node)
	}{
		"FRR": {"r1", r1v4, floodFromFRR, func(n *lab.Node) {
			n.Run("vtysh", "-c", "configure terminal", "-c", "router bgp 65000", "-c", "address-family ipv4 unicast",
				"-c", "no redistribute kernel", "-c", "no neighbor 10.68.1.1 default-originate")
			n.Run("ip", "route", "flush", "proto", "static")
		}},
		"BIRD": {"r5", r5v4, floodFromBIRD, func(n *lab.Node) { n.BIRDC(`configure "/etc/bird/bird.conf"`) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t, "vipa")
			host, router := l.Node("host"), l.Node(r.router)
			wire := host.Capture()
			s := startWith(t, l, hostConfig{vips: sampleVIPs()})
			s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
			before := host.State()

			refused := func(m lab.Message) bool { return m.Type == lab.Notification && m.Code == 6 && m.Subcode == 1 }
			since := time.Now()
			r.flood(t, router, floodPrefixes)
			first := waitSent(t, wire, time.Minute, "NOTIFICATION 6/1", r.peer, since, refused)
			again := waitSent(t, wire, time.Minute, "NOTIFICATION 6/1 again", r.peer, first.Time.Add(time.Second), refused)
			pause := again.Time.Sub(first.Time)
			if pause < 25*time.Second {
				t.Errorf("tried again after %v, want 30 s", pause)
			}
			lab.Within(t, "a pause of 30 s and another flood", first.Time, pause, 40*time.Second)
			r.calm(router)
			s.WaitStatus(20*time.Second, "the session is down", pinned{peer: r.peer}.down)
			s.WaitStatus(90*time.Second, "everything is announced", lab.Established)
			if pause := time.Since(again.Time); pause < 50*time.Second {
				t.Errorf("tried for the third time after %v, want 60 s", pause)
			}
			routersHave(t, l, vip4, true)
			s.WaitStatus(20*time.Second, "both are source everywhere", bothSources)
			lab.Eventually(t, 20*time.Second, "the host is as before", func() error {
				diff := cmp.Diff(before, host.State())
				return lab.That(diff == "", "(-before +is):\n%s", diff)
			})
		})
	}
}
