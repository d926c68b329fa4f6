package topologies

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
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

const (
	etcdAddress = "10.69.0.1"
	lease       = 3 * time.Second
)

// movable is the configuration of a host of the topology mobility.
func movable(name string, vip ...string) string {
	peer := map[string]string{"a": "10.68.1.2, asn: 65001", "b": "10.68.5.2, asn: 65002"}[name]
	text := `bgp: {asn: 65010, graceful_restart: {enabled: false}}
interfaces:
  - {name: en1, hold_up: 0s, gateway_probe: {enabled: false}, peers: [{address: ` + peer + `}]}
vips:
  - {name: vipa, address: 10.68.6.1, ` + strings.Join(vip, ", ") + `}
shutdown: {wait: 200ms}
`
	if strings.Contains(text, "exclusive") {
		text += fmt.Sprintf("ownership: {host: %s, lease: %s, etcd: {endpoints: \"http://%s:2379\"}}\n", name, lease, etcdAddress)
	}
	return text
}

// mobility is the topology with what runs in it.
type mobility struct {
	t     *testing.T
	l     *lab.Lab
	hosts map[string]*lab.Speaker
}

func startMobility(t *testing.T) *mobility {
	t.Helper()
	l := lab.Start(t, "mobility")
	m := &mobility{t: t, l: l, hosts: map[string]*lab.Speaker{}}
	// What came before or after the network is answered by both.
	for _, name := range []string{"a", "b"} {
		m.echo(name)
	}
	return m
}

func (m *mobility) startEtcd() {
	m.t.Helper()
	n := m.l.Node("etcd")
	n.StartProcess("etcd", "env", etcdVariable+"="+m.t.TempDir(), os.Args[0])
	lab.Eventually(m.t, 30*time.Second, "etcd answers", func() error {
		c, err := n.Dial(m.t.Context(), "tcp", netip.AddrPort{}, netip.MustParseAddrPort(etcdAddress+":2379"))
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// start writes a host's configuration and starts its daemon.
func (m *mobility) start(name string, vip ...string) *lab.Speaker {
	m.t.Helper()
	n := m.l.Node(name)
	n.WriteFile(lab.ConfigPath, movable(name, vip...))
	m.hosts[name] = lab.StartSpeaker(n, binary(m.t))
	return m.hosts[name]
}

var mobileEcho = netip.MustParseAddrPort("10.68.6.1:7")

// echo answers at the VIP on a host, whether or not the host has it.
func (m *mobility) echo(name string) {
	m.t.Helper()
	c, err := m.l.Node(name).ListenUDP(mobileEcho)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	}()
}

// gate waits until a host says something about the VIP.
func (m *mobility) gate(name, what string, ok func(*status.VIP) bool) {
	m.t.Helper()
	m.hosts[name].WaitStatus(20*time.Second, name+": "+what, func(st *status.Status) error {
		v := &st.VIPs[0]
		return lab.That(ok(v), "announced %t, reason %s, detail %s, role %+v", v.Announced, v.Reason, v.Detail, v.Role)
	})
}

func announcedVIP(v *status.VIP) bool { return v.Announced }

// through waits until r1 sends the VIP's traffic out of an interface.
func (m *mobility) through(dev string) {
	m.t.Helper()
	lab.Eventually(m.t, 20*time.Second, "r1 sends by "+dev, func() error {
		hops, err := m.l.Node("r1").Route(vip4)
		if err != nil {
			return err
		}
		devs := lab.LiveDevs(hops)
		return lab.That(len(devs) == 1 && devs[0] == dev, "by %v", devs)
	})
}

// TestRankedMove: routers prefer the better rank, and a planned change of ranks
// loses not a packet.
func TestRankedMove(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.start("a", "role: {rank: 1}")
	m.start("b", "role: {rank: 2}")
	m.gate("a", "announced", announcedVIP)
	m.gate("b", "sees a", func(v *status.VIP) bool {
		return v.Announced && v.Role != nil && len(v.Role.Others) == 1 && v.Role.Others[0].Rank == 1
	})
	m.through("e1")
	probe := m.probe()
	m.l.Node("a").WriteFile(lab.ConfigPath, movable("a", "role: {rank: 3}"))
	if out, err := m.hosts["a"].Command("reload"); err != nil {
		t.Fatal(err, out)
	}
	m.through("e2")
	m.gate("a", "sees b", func(v *status.VIP) bool { return len(v.Role.Others) == 1 && v.Role.Others[0].Rank == 2 })
	result := probe.Stop()
	t.Logf("%v", result)
	if result.Lost() != 0 {
		t.Errorf("%d probes lost", result.Lost())
	}

	// The same rank twice is told.
	m.l.Node("a").WriteFile(lab.ConfigPath, movable("a", "role: {rank: 2}"))
	if out, err := m.hosts["a"].Command("reload"); err != nil {
		t.Fatal(err, out)
	}
	lab.Eventually(t, 10*time.Second, "a host tells of the duplicate", func() error {
		for name, s := range m.hosts {
			if out, err := s.Command("events"); err == nil && strings.Contains(out, "vip claimed by another host") {
				t.Logf("%s has told", name)
				return nil
			}
		}
		return errors.New("nobody does")
	})
}

// probe is a client of the VIP, once it is answered.
func (m *mobility) probe() *lab.Probe {
	m.t.Helper()
	p := lab.StartProbe(m.l.Node("client"), m.l.Node("client"), mobileEcho, lab.ProbeOptions{})
	p.WaitAnswered(10 * time.Second)
	return p
}

// owned starts both hosts with one owner, a.
func (m *mobility) owned() {
	m.t.Helper()
	m.startEtcd()
	m.start("a", "exclusive: true", "role: {rank: 1, failback: manual}")
	m.gate("a", "owns it", func(v *status.VIP) bool { return v.Announced && v.Role.Owner == "a" })
	m.start("b", "exclusive: true", "role: {rank: 2, failback: manual}")
	m.gate("b", "is ready and not the owner", func(v *status.VIP) bool {
		return v.Reason == status.NotOwner && !v.Bound && strings.Contains(v.Detail, "owned by a") && len(v.Role.Ready) == 2
	})
	m.through("e1")
}

// ownedMoveGap is the longest gap of a handover: both hosts announce the VIP for a
// while, but routers move over one after the other.
const ownedMoveGap = 150 * time.Millisecond

// TestOwnedMove: a VIP with one owner is handed over with hardly a gap.
func TestOwnedMove(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.owned()
	if out, err := m.hosts["b"].Command("move", "vipa", "--to", "nobody"); err == nil || !strings.Contains(err.Error(), "those that are: a, b") {
		t.Errorf("move to nobody: %v %s", err, out)
	}
	probe := m.probe()
	since := time.Now()
	if out, err := m.hosts["a"].Command("move", "vipa", "--to", "b"); err != nil {
		t.Fatal(err, out)
	}
	m.through("e2")
	m.gate("a", "has given it up and unbound it", func(v *status.VIP) bool { return v.Reason == status.NotOwner && !v.Bound })
	result := probe.Stop()
	t.Logf("moved within %s: %v", time.Since(since), result)
	if gap := result.Gap(since); gap > ownedMoveGap {
		t.Errorf("gap of %s", gap)
	}
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
	probe.WaitAnswered(5 * time.Second)
	gap := probe.Stop().Gap(since)
	t.Logf("gap of %s", gap)
	if gap > lease+time.Second {
		t.Errorf("gap of %s, more than the lease of %s and 1 s", gap, lease)
	}
}
