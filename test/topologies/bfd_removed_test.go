package topologies

import (
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// A reload takes BFD away from established sessions. We say AdminDown, which by
// RFC 5882 section 3.2 is no failure, but both routers end their BGP sessions for
// it: docs/routers.md says so, and what to do first. The sessions come back without
// BFD.
func TestBFDRemoved(t *testing.T) {
	t.Parallel()
	l, s := bfdSample(t, lasting, withBGP)
	before := waitBFD(t, s, lasting)
	host := l.Node("host")
	wire := host.Capture()
	removed := time.Now()
	host.WriteFile(lab.ConfigPath, pathConfig{}.String())
	if out, err := s.Command("reload"); err != nil {
		t.Fatalf("reload: %v\n%s", err, out)
	}
	for _, p := range legs() {
		for _, peer := range p.peers() {
			m := wire.WaitMessage(20*time.Second, "Cease of "+peer.String(), func(m lab.Message) bool {
				return !m.Out && m.Src.Addr() == peer && m.Type == lab.Notification
			})
			t.Logf("%s: %v after %s", p.router, m, millis(m.Time.Sub(removed)))
			if m.Code != 6 {
				t.Errorf("%s ends its session with %v", p.router, m)
			}
		}
	}
	allBack(t, l, s)
	st := s.WaitStatus(5*time.Second, "all sessions are up", lab.Established)
	for i := range st.Peers {
		if p := &st.Peers[i]; p.BFD != nil {
			t.Errorf("peer %v: %+v", p.Address, p.BFD)
		}
	}
	for _, n := range st.Interfaces {
		if flaps := n.Penalty.Flaps - interfaceAt(before, n.Name).Penalty.Flaps; flaps != 0 {
			t.Errorf("interface %s: the reload counts as %d flaps", n.Name, flaps)
		}
	}
	t.Logf("all is back after %s", millis(time.Since(removed)))
}
