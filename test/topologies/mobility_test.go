package topologies

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

const (
	etcdAddress = "10.69.0.1"
	lease       = 3 * time.Second
)

// movable is the configuration of a host of the topology mobility.
func movable(name string, vip ...string) string { return movableWith(name, "", vip...) }

// movableWith is one whose session has further keys.
func movableWith(name, session string, vip ...string) string {
	peer := map[string]string{"a": "10.68.1.2, asn: 65001", "b": "10.68.5.2, asn: 65002"}[name]
	text := `bgp: {asn: 65010, graceful_restart: {enabled: false}}
interfaces:
  - {name: en1, hold_up: 0s, gateway_probe: {enabled: false}, peers: [{address: ` + peer + session + `}]}
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
	// session are further keys of the hosts' sessions.
	session string
}

func startMobility(t *testing.T) *mobility {
	t.Helper()
	l := lab.Start(t, "mobility")
	m := &mobility{t: t, l: l, hosts: map[string]*lab.Speaker{}}
	// What came before or after the network is answered by both.
	for _, name := range []string{"a", "b"} {
		m.echo(name)
	}
	// A router that does not know the way back to the client yet loses every answer.
	for node, network := range map[string]string{"r1": "10.68.5.0/24", "r2": "10.68.9.0/24"} {
		lab.Eventually(t, 20*time.Second, node+" knows "+network, func() error {
			hops, err := l.Node(node).Route(netip.MustParsePrefix(network))
			return errors.Join(err, lab.That(len(hops) > 0, "it does not"))
		})
	}
	return m
}

// start writes a host's configuration and starts its daemon.
func (m *mobility) start(name string, vip ...string) *lab.Speaker {
	m.t.Helper()
	n := m.l.Node(name)
	n.WriteFile(lab.ConfigPath, movableWith(name, m.session, vip...))
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
	lab.KeepAll(m.t, c)
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

// TestRankedDrain: a drain of the best rank loses not a packet either, with routers
// that do not know GRACEFUL_SHUTDOWN.
func TestRankedDrain(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	const options = "drain: {time: 2s}"
	m.start("a", "role: {rank: 1}", options)
	m.start("b", "role: {rank: 2}", options)
	m.gate("a", "announced", announcedVIP)
	m.gate("b", "announced", announcedVIP)
	m.through("e1")
	probe := m.probe()
	wire, watch := m.l.Node("a").Capture(), m.l.Node("r1").WatchRoute(vip4)
	ordered := time.Now()
	if out, err := m.hosts["a"].Command("drain", "vipa"); err != nil {
		t.Fatal(err, out)
	}
	moved := watch.Wait(20*time.Second, ordered, "by the other router", onlyBy("e2")).Time
	gone := wire.WaitMessage(20*time.Second, "the withdraw", func(msg lab.Message) bool {
		return msg.Out && msg.Withdraws(vip4) && msg.Time.After(ordered)
	}).Time
	if after := gone.Sub(ordered); after < 2*time.Second {
		t.Errorf("withdrawn %v after the order", after)
	}
	lab.Within(t, "the move by the other router, which should be before the withdraw,", ordered, moved.Sub(ordered), gone.Sub(ordered))
	m.gate("a", "is drained", func(v *status.VIP) bool { return !v.Announced && v.Drain.Phase == status.DrainDone })
	result := probe.Stop()
	t.Logf("%v", result)
	if result.Lost() != 0 {
		t.Errorf("%d probes lost", result.Lost())
	}
	if out, err := m.hosts["a"].Command("undrain", "vipa"); err != nil {
		t.Fatal(err, out)
	}
	m.through("e1")
}

// probe is a client of the VIP, once it is answered.
func (m *mobility) probe() *lab.Probe {
	m.t.Helper()
	p := lab.StartProbe(m.l.Node("client"), m.l.Node("client"), mobileEcho, lab.ProbeOptions{})
	p.WaitAnswered(10 * time.Second)
	return p
}
