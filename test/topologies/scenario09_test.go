package topologies

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestScenario09WithdrawBeforeUnbind: a VIP whose check fails is withdrawn and
// stays bound, one that is removed from the configuration is withdrawn, and
// unbound when routers have moved on. No packet bounces meanwhile.
func TestScenario09WithdrawBeforeUnbind(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host, client := l.Node("host"), l.Node("client")
	kernel, wire := watchAddresses(t, host), host.Capture()
	host.WriteFile("/run/healthy", "")
	extra := prefix4(2)
	c := hostConfig{vips: append(sampleVIPs(), vipLine("checked", extra, checks(fileCheck("web", "/run/healthy"))))}
	s := startWith(t, l, c)
	clientHas(t, client, extra)
	probe := lab.StartProbe(client, host, netip.AddrPortFrom(extra.Addr(), 7), lab.ProbeOptions{Ports: []uint16{40001, 40002, 40003, 40004}})
	probe.WaitAnswered(10 * time.Second)

	failed := time.Now()
	host.Run("rm", "/run/healthy")
	st := s.WaitStatus(5*time.Second, "check failed", withheld("checked", status.CheckFailed))
	if v, err := vipNamed(st, "checked"); err != nil || !v.Bound {
		t.Errorf("a VIP whose check fails stays bound: %+v %v", v, err)
	}
	for _, peer := range peersOf(extra) {
		waitSent(t, wire, 5*time.Second, "withdraw", peer, failed, withdraws(extra))
	}
	routersHave(t, l, extra, false)
	waitQuiet(t, wire, peersOf(extra)...)
	if events := kernel.of(extra, failed); len(events) > 0 {
		t.Errorf("a failed check changed the address: %v", events)
	}

	host.WriteFile("/run/healthy", "")
	s.WaitStatus(5*time.Second, "announced again", lab.Established)
	probe.WaitAnswered(10 * time.Second)

	removed := time.Now()
	c.vips = sampleVIPs()
	reload(t, host, s, c)
	gone := kernel.wait(10*time.Second, extra, removed, "RTM_DELADDR", deleted)
	for _, peer := range peersOf(extra) {
		m := waitSent(t, wire, 5*time.Second, "withdraw", peer, removed, withdraws(extra))
		// It was unbound at that time at the latest.
		if wait := gone.By.Sub(m.Time); wait < 500*time.Millisecond {
			t.Errorf("%v: withdrawn only %v before it was unbound, want 500 ms (shutdown.wait)", peer, wait)
		}
	}
	s.WaitStatus(5*time.Second, "the others are announced", lab.Established)
	probe.Stop()
	noBounce(t, wire, extra.Addr())
}

// noBounce checks that the capture's node has sent no packet for the address on
// and has refused none.
func noBounce(t *testing.T, wire *lab.Capture, address netip.Addr) {
	t.Helper()
	bounced := wire.Packets(func(p lab.Packet) bool {
		unreachable := p.Proto == 1 && (p.ICMP == 3 || p.ICMP == 5 || p.ICMP == 11)
		if address.Is6() {
			unreachable = p.Proto == 58 && (p.ICMP == 1 || p.ICMP == 3 || p.ICMP == 137)
		}
		return p.Out && (p.Dst == address || unreachable)
	})
	if len(bounced) > 0 {
		var lines []string
		for _, p := range bounced[:min(5, len(bounced))] {
			lines = append(lines, p.String())
		}
		t.Errorf("%d packets bounced, the first:\n%s", len(bounced), strings.Join(lines, "\n"))
	}
}
