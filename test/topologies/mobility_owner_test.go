package topologies

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/etcdtest"
	"vipspeaker/test/topologies/lab"
)

// etcdVariable makes a process of the test's binary an etcd in the directory that
// it names.
const etcdVariable = "VIPSPEAKER_TEST_ETCD"

// serveEtcd is the body of such a process; false for any other.
func serveEtcd() (code int, is bool) {
	dir := os.Getenv(etcdVariable)
	if dir == "" {
		return 0, false
	}
	if err := etcdtest.Serve(dir, etcdAddress); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1, true
}

func (m *mobility) startEtcd() *lab.Process {
	m.t.Helper()
	return m.startEtcdWith(m.t.TempDir())
}

// startEtcdWith starts etcd with what a former one has left in a directory.
func (m *mobility) startEtcdWith(dir string) *lab.Process {
	m.t.Helper()
	n := m.l.Node("etcd")
	p := n.StartProcess("etcd", "env", etcdVariable+"="+dir, os.Args[0])
	lab.Eventually(m.t, 30*time.Second, "etcd answers", func() error {
		c, err := n.Dial(m.t.Context(), "tcp", netip.AddrPort{}, netip.MustParseAddrPort(etcdAddress+":2379"))
		if err != nil {
			return err
		}
		return c.Close()
	})
	return p
}

// owned starts both hosts with one owner, a. The options are those of the VIP.
func (m *mobility) owned(options ...string) {
	m.t.Helper()
	m.startEtcd()
	m.start("a", append(options, "exclusive: true", "role: {rank: 1, failback: manual}")...)
	m.gate("a", "owns it", func(v *status.VIP) bool { return v.Announced && v.Role.Owner == "a" })
	m.start("b", append(options, "exclusive: true", "role: {rank: 2, failback: manual}")...)
	m.gate("b", "is ready and not the owner", func(v *status.VIP) bool {
		return v.Reason == status.NotOwner && !v.Bound && strings.Contains(v.Detail, "owned by a") && len(v.Role.Ready) == 2
	})
	m.through("e1")
}

// ownedMoveGap is the longest time for which a client has no answer in a handover.
const ownedMoveGap = 50 * time.Millisecond

// handedOver waits until a handover to a host is over, and fails the test when the
// client was without an answer for too long since its begin.
func (m *mobility) handedOver(to string, probe *lab.Probe, since time.Time) {
	m.t.Helper()
	m.through(wayTo(to))
	m.gate(to, "owns it alone", func(v *status.VIP) bool {
		return v.Announced && v.Role.Owner == to && v.Role.Next == "" && v.Role.Former == "" && !v.Role.Behind
	})
	took := time.Since(since)
	result := probe.Stop()
	m.t.Logf("to %s within %s: %d probes lost, longest outage %s, longest gap %s, longest stall %s",
		to, took.Round(time.Millisecond), result.Lost(), result.Outage(since), result.Gap(since), result.Stall(since))
	lab.Within(m.t, "no answer", since, result.Outage(since), ownedMoveGap)
}

// move hands the VIP over and waits until that is over.
func (m *mobility) move(from, to string) {
	m.t.Helper()
	probe := m.probe()
	since := time.Now()
	if out, err := m.hosts[from].Command("move", "vipa", "--to", to); err != nil {
		m.t.Fatal(err, out)
	}
	m.handedOver(to, probe, since)
}

// TestOwnedMove: a VIP with one owner is handed over with hardly a gap, one way and
// the other: the routers are of two kinds, and the client is beside one of them.
func TestOwnedMove(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.owned()
	if out, err := m.hosts["b"].Command("move", "vipa", "--to", "nobody"); err == nil || !strings.Contains(err.Error(), "those that are: a, b") {
		t.Errorf("move to nobody: %v %s", err, out)
	}
	for _, way := range [][2]string{{"a", "b"}, {"b", "a"}} {
		m.move(way[0], way[1])
		m.gate(way[0], "has given it up and unbound it", func(v *status.VIP) bool { return v.Reason == status.NotOwner && !v.Bound })
	}
	for name, s := range m.hosts {
		if out, err := s.Command("events"); err != nil || strings.Contains(out, "claimed by another host") {
			t.Errorf("%s took a handover for a duplicate: %v\n%s", name, err, out)
		}
	}
}

// parted is a condition for gate: the host serves that many connections of a VIP that
// another one owns.
func parted(connections int) func(*status.VIP) bool {
	return func(v *status.VIP) bool {
		return v.Reason == status.NotOwner && v.Bound && v.Parted != nil && v.Parted.Connections != nil && *v.Parted.Connections == connections
	}
}

// TestOwnedMoveServesConnections: what is connected to the former owner, and whose
// packets still come there, goes on: whatever becomes of the VIP meanwhile, until it
// ends by itself or its time is over.
func TestOwnedMoveServesConnections(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.owned("drain: {connections_timeout: 1m}")
	// The connections' way does not follow the routes.
	r1 := m.l.Node("r1")
	r1.Run("ip", "route", "add", vip4.String(), "via", "10.68.1.1", "table", "77")
	r1.Run("ip", "rule", "add", "pref", "77", "ipproto", "tcp", "dport", "7777", "lookup", "77")
	connect := func() *lab.Session {
		s := lab.StartSession(m.l.Node("client"), netip.AddrPort{}, m.l.Node("a"), netip.AddrPortFrom(vip4.Addr(), 7777))
		s.WaitAlive(5 * time.Second)
		return s
	}
	unbound := func(v *status.VIP) bool { return v.Reason == status.NotOwner && !v.Bound && v.Parted == nil }

	session := connect()
	m.move("a", "b")
	m.gate("a", "serves it", parted(1))
	if out, err := m.hosts["a"].Command("status"); err != nil || !strings.Contains(out, "handed over") {
		t.Errorf("status: %v\n%s", err, out)
	}
	session.WaitAlive(5 * time.Second)
	m.move("b", "a")
	m.gate("a", "is as ever", func(v *status.VIP) bool { return v.Parted == nil && v.Bound })
	m.move("a", "b")
	m.gate("a", "serves it again", parted(1))
	session.WaitAlive(5 * time.Second)
	session.Stop()
	m.gate("a", "has unbound it", unbound)

	m.move("b", "a")
	n := m.l.Node("a")
	n.WriteFile(lab.ConfigPath, strings.Replace(n.Run("cat", lab.ConfigPath), "connections_timeout: 1m", "connections_timeout: 6s", 1))
	if out, err := m.hosts["a"].Command("reload"); err != nil {
		t.Fatal(err, out)
	}
	session = connect()
	// Before the withdraw, and the reset is seen after it: so it is no less than the
	// daemon has waited.
	left := time.Now()
	m.move("a", "b")
	lab.Eventually(t, 20*time.Second, "the client is reset", func() error {
		return lab.That(errors.Is(session.Err(), syscall.ECONNRESET), "%v", session.Err())
	})
	if d := time.Since(left); d < 6*time.Second {
		t.Errorf("reset after %s, want 6s after the withdraw", d)
	}
	m.gate("a", "has unbound it", unbound)
}

// TestOwnedDrain: an owner that is drained hands over first, with hardly a gap, also
// when it is to withdraw at once.
func TestOwnedDrain(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.owned("drain: {time: 0s}")
	for _, way := range [][2]string{{"a", "b"}, {"b", "a"}} {
		from, to := way[0], way[1]
		probe := m.probe()
		since := time.Now()
		if out, err := m.hosts[from].Command("drain", "vipa"); err != nil {
			t.Fatal(err, out)
		}
		m.handedOver(to, probe, since)
		m.gate(from, "is drained", func(v *status.VIP) bool {
			return v.Reason == status.Drained && !v.Bound && v.Drain.Phase == status.DrainDone && len(v.Role.Ready) == 1
		})
		if out, err := m.hosts[from].Command("undrain", "vipa"); err != nil {
			t.Fatal(err, out)
		}
		m.gate(to, "owns it still, and the other is ready", func(v *status.VIP) bool { return v.Announced && len(v.Role.Ready) == 2 })
	}
	// With nobody to take it over a drain is one as any other.
	m.hosts["b"].Signal(syscall.SIGTERM)
	m.hosts["b"].Wait(15 * time.Second)
	m.gate("a", "is alone", func(v *status.VIP) bool { return len(v.Role.Ready) == 1 })
	if out, err := m.hosts["a"].Command("drain", "vipa"); err != nil {
		t.Fatal(err, out)
	}
	m.gate("a", "is drained", func(v *status.VIP) bool {
		return v.Reason == status.Drained && !v.Bound && v.Drain.Phase == status.DrainDone && v.Role.Owner == ""
	})
}

// TestOwnedStop: an owner that stops and says so ahead hands over; one that does not
// gives the VIP up once it has withdrawn.
func TestOwnedStop(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.owned()
	n := m.l.Node("a")
	n.WriteFile(lab.ConfigPath, strings.Replace(n.Run("cat", lab.ConfigPath), "shutdown: {", "shutdown: {graceful_shutdown: 5s, ", 1))
	if out, err := m.hosts["a"].Command("reload"); err != nil {
		t.Fatal(err, out)
	}
	probe := m.probe()
	since := time.Now()
	m.hosts["a"].Signal(syscall.SIGTERM)
	m.handedOver("b", probe, since)
	if code := m.hosts["a"].Wait(15 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}

	m.start("a", "exclusive: true", "role: {rank: 1, failback: manual}")
	m.gate("a", "is ready", func(v *status.VIP) bool { return len(v.Role.Ready) == 2 })
	probe = m.probe()
	since = time.Now()
	m.hosts["b"].Signal(syscall.SIGTERM)
	m.through("e1")
	probe.WaitAnswered(20 * time.Second)
	gap := probe.Stop().Gap(since)
	t.Logf("gap of %s with a plain stop", gap)
	lab.Within(t, "no answer", since, gap, time.Second)
}

// TestOwnerKilled: when the owner dies, another one takes over within the lease
// and a second.
func TestOwnerKilled(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.owned()
	probe := m.probe()
	since := time.Now()
	m.hosts["a"].Kill()
	m.gate("b", "owns it", func(v *status.VIP) bool { return v.Announced && v.Role.Owner == "b" })
	m.through("e2")
	probe.WaitAnswered(20 * time.Second)
	gap := probe.Stop().Gap(since)
	t.Logf("gap of %s", gap)
	lab.Within(t, "no answer", since, gap, lease+time.Second)
}
