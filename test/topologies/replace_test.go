package topologies

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// upWithin bounds the time from the order to the last session of the daemon that
// has taken over; the restart time is 30 s.
const upWithin = 10 * time.Second

// lockPath is where the daemon says which process it is.
const lockPath = "/run/vipspeaker/lock"

// buildVersion builds a binary of that version.
func buildVersion(t *testing.T, version string) string {
	t.Helper()
	path, err := lab.BuildVersion(t.Context(), t.TempDir(), version)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A running daemon is replaced by one of another version, and that one by the
// former version again: its only router keeps the routes, and a client loses no
// packet. Neither does it when the new one's configuration is bad, which changes
// nothing, and when the new one dies as soon as it has taken over.
func TestReplaceKeepsRoutes(t *testing.T) {
	t.Parallel()
	older, newer := buildVersion(t, "v1.0.0"), buildVersion(t, "v1.1.0")
	for _, topology := range []string{"onerouter-frr", "onerouter-bird"} {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			replaceKeepsRoutes(t, topology, older, newer)
		})
	}
}

func replaceKeepsRoutes(t *testing.T, topology, older, newer string) {
	t.Helper()
	l := lab.Start(t, topology)
	host, router := l.Node("host"), l.Node("router")
	wire := host.Capture()
	good := pathConfig{}.String() // its shutdown mode is drain
	host.WriteFile(lab.ConfigPath, good)
	s := lab.StartSpeaker(host, older)
	s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
	waitRouterHasBoth(t, router)
	watches := []*lab.RouteWatch{router.WatchRoute(vip4), router.WatchRoute(vip6)}
	probes := probeVIPs(l, []uint16{43001, 43002, 43003, 43004}, []uint16{44001, 44002, 44003, 44004})
	began := time.Now()

	s = replaced(t, host, wire, s, newer, "v1.1.0")
	s = replaced(t, host, wire, s, older, "v1.0.0")

	before, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	host.WriteFile(lab.ConfigPath, good+"bogus: 1\n")
	bad := lab.ReplaceSpeaker(host, newer)
	if code := bad.Wait(10 * time.Second); code != 1 || !strings.Contains(bad.Log(), "bogus: unknown key") {
		t.Errorf("with a bad configuration it ends with %d:\n%s", code, bad.Log())
	}
	host.WriteFile(lab.ConfigPath, good)
	after := s.WaitStatus(time.Second, "the running one goes on", lab.Established)
	for _, ifc := range []string{"en1", "en5"} {
		untouched(t, before, after, ifc)
	}

	ordered := time.Now()
	crashes := lab.ReplaceSpeaker(host, newer)
	lab.Eventually(t, 10*time.Second, "the new one has taken over", func() error {
		text, err := os.ReadFile(host.Path(lockPath))
		if err != nil {
			return err
		}
		return lab.That(strings.HasPrefix(string(text), fmt.Sprintf("%d\n", crashes.PID)), "the lock says %q", text)
	})
	crashes.Kill()
	if code := s.Wait(10 * time.Second); code != 0 {
		t.Errorf("the one before ended with %d", code)
	}
	s = lab.StartSpeaker(host, older)
	up(t, wire, s, ordered, "v1.0.0")

	noLoss(t, probes)
	unchanged(t, watches)
	for _, m := range wire.Messages() {
		if m.Type == lab.Notification && m.Time.After(began) {
			t.Errorf("sent %v", m)
		}
	}
}

// replaced replaces the daemon and returns the new one once all is as before.
func replaced(t *testing.T, host *lab.Node, wire *lab.Capture, s *lab.Speaker, binary, version string) *lab.Speaker {
	t.Helper()
	ordered := time.Now()
	next := lab.ReplaceSpeaker(host, binary)
	if code := s.Wait(20 * time.Second); code != 0 {
		t.Errorf("the one before ended with %d", code)
	}
	t.Logf("the one before has ended %s after the start of %s", millis(time.Since(ordered)), version)
	up(t, wire, next, ordered, version)
	return next
}

// up waits until a daemon of that version has all sessions, and routers know that
// they have all paths.
func up(t *testing.T, wire *lab.Capture, s *lab.Speaker, ordered time.Time, version string) {
	t.Helper()
	st := s.WaitStatus(20*time.Second, version+" announces everything", func(st *status.Status) error {
		if st.Version != version {
			return fmt.Errorf("it is %s", st.Version)
		}
		return lab.Established(st)
	})
	var last time.Time
	for _, p := range st.Peers {
		if p.Since.After(last) {
			last = p.Since
		}
	}
	t.Logf("%s: the last session is up %s after the order", version, millis(last.Sub(ordered)))
	lab.Within(t, "the last session after the order", ordered, last.Sub(ordered), upWithin)
	for _, peer := range allPeers() {
		wire.WaitMessage(10*time.Second, "End-of-RIB to "+peer.String(), func(m lab.Message) bool {
			return m.Out && m.Dst.Addr() == peer && endOfFamily(m, peer) && m.Time.After(ordered)
		})
	}
}
