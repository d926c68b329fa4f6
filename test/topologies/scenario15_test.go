package topologies

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestScenario15ReloadDoesNotResurrect: a VIP that is withheld stays so over a
// reload, whatever the reload changes, until its check passes.
func TestScenario15ReloadDoesNotResurrect(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	wire := host.Capture()
	host.WriteFile("/run/healthy", "")
	sick := prefix4(2)
	check := fileCheck("web", "/run/healthy")
	sickLine := func(check string, more ...string) string {
		return vipLine("sick", sick, append(more, checks(check))...)
	}
	c := hostConfig{vips: append(sampleVIPs(), sickLine(check))}
	s := startWith(t, l, c)
	host.Run("rm", "/run/healthy")
	failed := s.WaitStatus(5*time.Second, "check failed", withheld("sick", status.CheckFailed)).Time
	routersHave(t, l, sick, false)

	steps := []struct {
		name string
		vips []string
		want []status.Reason // reasons that the VIP may be withheld for at the end
	}{
		{"same file", c.vips, []status.Reason{status.CheckFailed}},
		{"another VIP added", append(sampleVIPs(), sickLine(check), vipLine("more", prefix4(3))), []status.Reason{status.CheckFailed}},
		{"its attributes changed", append(sampleVIPs(), sickLine(check, "announce: {med: 5}")), []status.Reason{status.CheckFailed}},
		{"its check changed", append(sampleVIPs(), sickLine(strings.Replace(check, "fall: 4", "fall: 3", 1))), []status.Reason{status.CheckFailed}},
		{"its check renamed", append(sampleVIPs(), sickLine(strings.Replace(check, "name: web", "name: other", 1))), []status.Reason{status.CheckFailed}},
		{"its order changed", append([]string{sickLine(check)}, sampleVIPs()...), []status.Reason{status.CheckFailed}},
	}
	for _, step := range steps {
		c.vips = step.vips
		reload(t, host, s, c)
		waitQuiet(t, wire, peersOf(sick)...)
		s.WaitStatus(5*time.Second, step.name, withheld("sick", step.want[0]))
		for _, peer := range peersOf(sick) {
			if list := to(wire, peer, failed, announces(sick)); len(list) > 0 {
				t.Fatalf("%s: announced again: %v", step.name, list)
			}
		}
	}
	s.Signal(syscall.SIGHUP)
	waitQuiet(t, wire, peersOf(sick)...)

	healthy := time.Now()
	host.WriteFile("/run/healthy", "")
	s.WaitStatus(5*time.Second, "announced again", lab.Established)
	for _, peer := range []netip.Addr{r1v4, r5v4} {
		if m := waitSent(t, wire, 5*time.Second, "UPDATE", peer, failed, announces(sick)); m.Time.Before(healthy) {
			t.Errorf("announced before its check passed: %v", m)
		}
	}
	routersHave(t, l, sick, true)
}
