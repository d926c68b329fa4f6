package topologies

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestScenario14ReloadKeepsSessions: a reload sends what has changed and nothing
// else; a bad file changes nothing at all.
func TestScenario14ReloadKeepsSessions(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	wire := host.Capture()
	c := hostConfig{vips: sampleVIPs()}
	s := startWith(t, l, c)
	st := s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	up, pids := uptimes(st), speakerPIDs(st)
	// only tells what every peer has got since a reload: those UPDATEs and no more.
	only := func(since time.Time, want map[netip.Addr][]string) {
		t.Helper()
		waitQuiet(t, wire, allPeers()...)
		got := map[netip.Addr][]string{}
		for _, peer := range allPeers() {
			for _, m := range to(wire, peer, since, func(m lab.Message) bool { return m.Type != lab.Keepalive }) {
				got[peer] = append(got[peer], fmt.Sprintf("%v +%v -%v %x", m.Type, m.Announced, m.Withdrawn, m.Communities))
			}
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("sent by a reload (-want +got):\n%s", diff)
		}
		st, err := s.Status()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(up, uptimes(st)); diff != "" {
			t.Errorf("sessions were touched:\n%s", diff)
		}
		if diff := cmp.Diff(pids, speakerPIDs(st)); diff != "" {
			t.Errorf("speaker processes were touched:\n%s", diff)
		}
	}

	waitQuiet(t, wire, allPeers()...)
	since, more := time.Now(), prefix4(2)
	c.vips = append(c.vips, vipLine("more", more))
	reload(t, host, s, c)
	s.WaitStatus(5*time.Second, "the new VIP is announced", lab.Established)
	routersHave(t, l, more, true)
	only(since, map[netip.Addr][]string{r1v4: {"UPDATE +[10.68.6.2/32] -[] []"}, r5v4: {"UPDATE +[10.68.6.2/32] -[] []"}})

	since = time.Now()
	c.vips[0] = vipLine("vipa", vip4, "preferred_source: true", `announce: {communities: ["65010:100"]}`)
	reload(t, host, s, c)
	only(since, map[netip.Addr][]string{r1v4: {"UPDATE +[10.68.6.1/32] -[] [fdf20064]"}, r5v4: {"UPDATE +[10.68.6.1/32] -[] [fdf20064]"}})

	since, before := time.Now(), host.State()
	host.WriteFile(lab.ConfigPath, strings.Replace(c.String(), "asn: 65010", "asn: -1", 1)+"nonsense: {}\n")
	out, err := s.Command("reload")
	if err == nil || !strings.Contains(out+err.Error(), "bgp.asn") || !strings.Contains(out+err.Error(), "nonsense") {
		t.Errorf("reload of a bad file: %v\n%s", err, out)
	}
	only(since, map[netip.Addr][]string{})
	if diff := cmp.Diff(before, host.State()); diff != "" {
		t.Errorf("a bad file changed the host:\n%s", diff)
	}
	if got := metric(t, host, "vipspeaker_config_reload_successful"); got != "0" {
		t.Errorf("vipspeaker_config_reload_successful is %q after a bad file", got)
	}
	if n := strings.Count(s.Log(), "configuration refused"); n != 1 {
		t.Errorf("%d lines of the log tell of the bad file", n)
	}

	since = time.Now()
	host.WriteFile(lab.ConfigPath, c.String())
	s.Signal(syscall.SIGHUP)
	s.WaitStatus(5*time.Second, "the reload is good", func(st *status.Status) error {
		return lab.That(st.Config.ReloadOK, "%s", st.Config.Error)
	})
	only(since, map[netip.Addr][]string{})
	if got := metric(t, host, "vipspeaker_config_reload_successful"); got != "1" {
		t.Errorf("vipspeaker_config_reload_successful is %q after a good file", got)
	}
}

// speakerPIDs are the processes that serve the interfaces.
func speakerPIDs(st *status.Status) map[string]int {
	list := map[string]int{}
	for _, i := range st.Interfaces {
		list[i.Name] = i.Speaker.PID
	}
	return list
}
