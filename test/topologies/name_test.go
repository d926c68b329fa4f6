package topologies

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestSameNameTwice: a second machine with the name of the first takes no part, says
// so wherever one looks, and joins when the first has gone. A daemon that is killed
// and started again is not held up by what it was.
func TestSameNameTwice(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.startEtcd()
	// A name is anybody's again once its lease has ended, which is not to be while the
	// first machine starts again.
	start := func(host, config string) {
		n := m.l.Node(host)
		n.WriteFile(lab.ConfigPath, strings.Replace(config, fmt.Sprintf("lease: %s", lease), "lease: 6s", 1))
		m.hosts[host] = lab.StartSpeaker(n, binary(t))
	}
	start("a", movable("a", "exclusive: true", "role: {rank: 1, failback: manual}"))
	m.gate("a", "owns it", func(v *status.VIP) bool { return v.Announced && v.Role.Owns })

	start("b", strings.Replace(movable("b", "exclusive: true", "role: {rank: 2, failback: manual}"), "host: b", "host: a", 1))
	refused := func(v *status.VIP) bool {
		return v.Reason == status.NotOwner && !v.Bound && strings.Contains(v.Detail, "another machine has the name a (ownership.host)") &&
			strings.Contains(v.Detail, "router id 10.68.1.1") && v.Role.Owner == "a"
	}
	m.gate("b", "is refused", refused)
	for command, want := range map[string]string{"status vipa": "another machine has the name a", "events": "ownership refused"} {
		if out, err := m.hosts["b"].Command(strings.Fields(command)...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}

	// The first one dies and comes back before its lease ends.
	m.hosts["a"].Kill()
	m.hosts["a"] = lab.StartSpeaker(m.l.Node("a"), binary(t))
	began := time.Now()
	m.gate("a", "is ready", func(v *status.VIP) bool { return v.Role != nil && len(v.Role.Ready) == 1 && v.Role.Refused == "" })
	t.Logf("ready after %s", time.Since(began))
	m.gate("a", "owns it again", func(v *status.VIP) bool { return v.Announced && v.Role.Owns })
	t.Logf("owns it after %s", time.Since(began))
	if out, err := m.hosts["a"].Command("events"); err != nil || strings.Contains(out, "ownership refused") {
		t.Errorf("it was held up by what it was: %v\n%s", err, out)
	}
	m.gate("b", "is refused still", refused)

	m.hosts["a"].Signal(syscall.SIGTERM)
	m.hosts["a"].Wait(10 * time.Second)
	m.gate("b", "owns it now", func(v *status.VIP) bool { return v.Announced && v.Role.Owns && v.Role.Refused == "" })
	if out, err := m.hosts["b"].Command("events"); err != nil || !strings.Contains(out, "ownership no longer refused") {
		t.Errorf("%v\n%s", err, out)
	}
}
