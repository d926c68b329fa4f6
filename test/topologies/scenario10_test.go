package topologies

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/topologies/lab"
)

// TestScenario10Stop: SIGTERM withdraws everywhere, waits, ends the sessions
// with a reason, and leaves the host as it was.
func TestScenario10Stop(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host, client := l.Node("host"), l.Node("client")
	settled(t, host)
	before := host.State()
	kernel, wire := watchAddresses(t, host), host.Capture()
	s := startWith(t, l, hostConfig{vips: sampleVIPs()})
	clientHas(t, client, vip4)
	probe := lab.StartProbe(client, host, netip.AddrPortFrom(vip4.Addr(), 7), lab.ProbeOptions{Ports: []uint16{40001, 40002, 40003, 40004}})
	probe.WaitAnswered(10 * time.Second)
	if cmp.Equal(before, host.State()) {
		t.Fatal("the daemon has changed nothing that State shows")
	}

	told := time.Now()
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(10 * time.Second); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.Log())
	}
	t.Logf("ended after %v", time.Since(told))
	for _, vip := range []netip.Prefix{vip4, vip6} {
		gone := kernel.wait(time.Second, vip, told, "RTM_DELADDR", deleted)
		for _, peer := range peersOf(vip) {
			withdrawn := waitSent(t, wire, time.Second, "withdraw", peer, told, withdraws(vip))
			cease := waitSent(t, wire, time.Second, "NOTIFICATION", peer, told, func(m lab.Message) bool { return m.Type == lab.Notification })
			if cease.Code != 6 || cease.Subcode != 2 || !strings.Contains(cease.Text, "vipspeaker") {
				t.Errorf("%v: want Cease/Administrative Shutdown with a text, got %v", peer, cease)
			}
			if wait := cease.Time.Sub(withdrawn.Time); wait < 450*time.Millisecond {
				t.Errorf("%v: NOTIFICATION %v after the withdraw, want 500 ms (shutdown.wait)", peer, wait)
			}
			if gone.By.Before(cease.Time) {
				t.Errorf("%v: unbound before the NOTIFICATION: %v, %s %v", peer, gone, cease.Time.Format("05.000000"), cease)
			}
		}
		routersHave(t, l, vip, false)
	}
	probe.Stop()
	noBounce(t, wire, vip4.Addr())
	if diff := cmp.Diff(before, host.State()); diff != "" {
		t.Errorf("the host is not as before (-before +after):\n%s", diff)
	}
}
