package topologies

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// manyVIPs is how many VIPs there are beside those with checks.
const manyVIPs = 100

// TestScenario26SharedVIP: a VIP that two services share is announced while
// both are well. A service that fails takes its own VIP along and no other.
func TestScenario26SharedVIP(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	wire := host.Capture()
	for _, name := range []string{"web", "dns", "mail"} {
		host.WriteFile("/run/"+name, "")
	}
	shared, apart := prefix4(2), prefix4(3)
	c := hostConfig{vips: append(sampleVIPs(),
		vipLine("shared", shared, checks(fileCheck("web", "/run/web"), fileCheck("dns", "/run/dns"))),
		vipLine("apart", apart, checks(fileCheck("mail", "/run/mail"))))}
	for i := range manyVIPs {
		c.vips = append(c.vips, vipLine(fmt.Sprintf("many%d", i), prefix4(100+i)))
	}
	s := startWith(t, l, c)
	routersHave(t, l, prefix4(100+manyVIPs-1), true)
	since := waitQuiet(t, wire, allPeers()...)
	// step breaks or repairs a service and checks that it changes one VIP only.
	step := func(what, path string, repair bool, want map[string]bool, messages ...string) {
		t.Helper()
		if repair {
			host.WriteFile(path, "")
		} else {
			host.Run("rm", path)
		}
		s.WaitStatus(5*time.Second, what, func(st *status.Status) error {
			for name, announced := range want {
				v, err := vipNamed(st, name)
				if err != nil {
					return err
				}
				if v.Announced != announced || !announced && v.Reason != status.CheckFailed {
					return fmt.Errorf("vip %s: announced %t, reason %q", name, v.Announced, v.Reason)
				}
			}
			return nil
		})
		quiet := waitQuiet(t, wire, allPeers()...)
		for _, peer := range allPeers() {
			var got []string
			for _, m := range to(wire, peer, since, changes) {
				got = append(got, fmt.Sprintf("+%v -%v", m.Announced, m.Withdrawn))
			}
			expected := messages
			if peer.Is6() {
				expected = nil
			}
			if !slices.Equal(got, expected) {
				t.Errorf("%s: %v got %v, want %v", what, peer, got, expected)
			}
		}
		since = quiet
	}
	step("dns fails", "/run/dns", false, map[string]bool{"shared": false, "apart": true}, "+[] -[10.68.6.2/32]")
	routersHave(t, l, shared, false)
	routersHave(t, l, apart, true)
	step("web fails too", "/run/web", false, map[string]bool{"shared": false, "apart": true})
	step("dns is well", "/run/dns", true, map[string]bool{"shared": false, "apart": true})
	step("mail fails", "/run/mail", false, map[string]bool{"shared": false, "apart": false}, "+[] -[10.68.6.3/32]")
	step("web is well", "/run/web", true, map[string]bool{"shared": true, "apart": false}, "+[10.68.6.2/32] -[]")
	routersHave(t, l, shared, true)
	routersHave(t, l, apart, false)
}
