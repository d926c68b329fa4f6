package topologies

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// vanishing is a way in which an interface of the host goes away without being
// set down, and comes back.
type vanishing struct {
	name   string
	reason status.Reason
	gone   func(h *homes, at leg)
	back   func(h *homes, at leg)
}

// homes are the places of the host's interfaces.
type homes struct {
	t               *testing.T
	l               *lab.Lab
	host, elsewhere *lab.Node
}

func vanishings() []vanishing {
	return []vanishing{
		// Its far end goes with it, as that of every veth.
		{"deleted", status.InterfaceAbsent, (*homes).delete, (*homes).create},
		{
			"renamed", status.InterfaceAbsent,
			func(h *homes, at leg) { h.host.Run("ip", "link", "set", at.ifc, "name", "other0") },
			func(h *homes, at leg) { h.host.Run("ip", "link", "set", "other0", "name", at.ifc) },
		},
		{
			"without addresses", status.InterfaceAddress,
			func(h *homes, at leg) {
				h.host.Run("ip", "addr", "del", at.local4.String()+"/24", "dev", at.ifc)
				h.host.Run("ip", "addr", "del", at.local6.String()+"/64", "dev", at.ifc)
			},
			(*homes).addresses,
		},
		{"in another namespace", status.InterfaceAbsent, (*homes).away, (*homes).home},
	}
}

func (h *homes) delete(at leg) { h.host.Run("ip", "link", "del", at.ifc) }

// create makes the veth pair anew, with other indexes.
func (h *homes) create(at leg) {
	h.t.Helper()
	router := h.l.Node(at.node)
	h.host.Run("ip", "link", "add", at.ifc, "index", "2000", "type", "veth", "peer", "name", at.dev, "netns", namespace(router))
	h.host.LinkUp(at.ifc)
	router.LinkUp(at.dev)
	router.Run("ip", "addr", "add", at.peer4.String()+"/24", "dev", at.dev)
	router.Run("ip", "addr", "add", at.peer6.String()+"/64", "dev", at.dev, "nodad")
	h.addresses(at)
}

// addresses gives the interface what a network manager would.
func (h *homes) addresses(at leg) {
	h.host.Run("ip", "addr", "add", at.local4.String()+"/24", "dev", at.ifc)
	h.host.Run("ip", "addr", "add", at.local6.String()+"/64", "dev", at.ifc, "nodad")
}

// namespace is the path of a node's network namespace.
func namespace(n *lab.Node) string {
	return strings.TrimSuffix(n.Path("/"), "/root") + "/ns/net"
}

func (h *homes) away(at leg) {
	h.host.Run("ip", "link", "set", at.ifc, "netns", namespace(h.elsewhere))
}

func (h *homes) home(at leg) {
	h.elsewhere.Run("ip", "link", "set", at.ifc, "netns", namespace(h.host))
	h.host.LinkUp(at.ifc)
	h.addresses(at)
}

// An interface is deleted and made anew, renamed, loses its addresses, or is
// moved to another network namespace: its sessions and its use end, status says
// which it was, sessions live on by the other, and it comes back by itself. BFD
// tells the router also when the host has no way left to say so.
func TestInterfaceVanishes(t *testing.T) {
	t.Parallel()
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		t.Parallel()
		l, s := bfdSample(t, usual, withBGP)
		v := &vanished{t: t, l: l, s: s, fails: fails, stays: stays}
		v.sessions = startSessions(t, l, localVia(t, l.Node("client"), fails.via4))
		v.wire = l.Node("host").Capture()
		for _, way := range vanishings() {
			v.once(way)
		}
		noResets(t, v.wire, v.sessions)
	})
}

// vanished is a lab in which an interface vanishes.
type vanished struct {
	t            *testing.T
	l            *lab.Lab
	s            *lab.Speaker
	wire         *lab.Capture
	sessions     []*lab.Session
	fails, stays leg
}

func (v *vanished) once(way vanishing) {
	t, host, router := v.t, v.l.Node("host"), v.l.Node(v.fails.node)
	t.Helper()
	h := &homes{t, v.l, host, v.l.Node("x7")}
	index := interfaceAt(v.s.WaitStatus(20*time.Second, "all is up", lab.Established), v.fails.ifc).Index
	watches := []*lab.RouteWatch{router.WatchRoute(vip4), router.WatchRoute(vip6)}

	gone := time.Now()
	way.gone(h, v.fails)
	st := v.s.WaitStatus(10*time.Second, way.name, outOfUse(v.fails.ifc, way.reason))
	seen := interfaceAt(st, v.fails.ifc).Since.Sub(gone)
	var moved time.Duration
	for _, w := range watches {
		moved = max(moved, w.Wait(10*time.Second, gone, "none", noLegs).Time.Sub(gone))
		w.Stop()
	}
	waitEgress(t, host, 2*time.Second, v.stays.ifc)
	silence := waitAllAlive(v.sessions, gone)
	t.Logf("%s is %s: out of use after %s, the router has no route after %s, longest silence of a TCP session %s",
		v.fails.ifc, way.name, millis(seen), millis(moved), millis(silence))
	what := v.fails.ifc + " is " + way.name + ": "
	lab.Within(t, what+"the end of its use", gone, seen, time.Second)
	lab.Within(t, what+"the end of the router's route", gone, moved, time.Second)
	lab.Within(t, what+"the silence of a TCP session", gone, silence, longestOutage)
	// What BFD has taken out of use a moment before is still unusable.
	if !usual.cut(t, gone.Add(-time.Second)) {
		hasEvent(t, v.s, gone, "interface", "interface unusable", v.fails.ifc, interfaceAt(st, v.fails.ifc).Detail)
	}

	back := time.Now()
	way.back(h, v.fails)
	allBack(t, v.l, v.s)
	took := time.Since(back)
	waitAllAlive(v.sessions, gone)
	waitBFD(t, v.s, usual)
	t.Logf("%s is back %s after it was given back", v.fails.ifc, millis(took))
	now := interfaceAt(v.s.WaitStatus(20*time.Second, "all is up", lab.Established), v.fails.ifc).Index
	if way.name == "deleted" && now == index {
		t.Errorf("the new interface has the index %d of the old one", now)
	}
	if took < holdUp {
		t.Errorf("it is back after %v, before its hold-up", took)
	}
}

// An interface loses one of its addresses: the sessions of that family end, and
// the other family goes on as before.
func TestInterfaceLosesOneFamily(t *testing.T) {
	t.Parallel()
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		t.Parallel()
		l, s := bfdSample(t, usual, withBGP)
		host, router := l.Node("host"), l.Node(fails.node)
		sessions := startSessions(t, l, localVia(t, l.Node("client"), fails.via4))
		began := time.Now().Add(-time.Second)
		six := watchRoutes(t, l, fails, vip6)
		four := router.WatchRoute(vip4)

		gone := time.Now()
		host.Run("ip", "addr", "del", fails.local4.String()+"/24", "dev", fails.ifc)
		st := s.WaitStatus(5*time.Second, "the IPv4 session has ended", func(st *status.Status) error {
			p := peerAt(st, fails.peer4)
			return errors.Join(
				lab.That(p.State == "Down" && strings.Contains(p.LastError, "no usable address on-link with "+fails.peer4.String()), "it is %s: %s", p.State, p.LastError),
				lab.That(interfaceAt(st, fails.ifc).Usable, "the interface is not usable"))
		})
		peer6 := peerAt(st, fails.peer6)
		moved := four.Wait(10*time.Second, gone, "none", noLegs).Time.Sub(gone)
		silence := waitAllAlive(sessions, gone)
		t.Logf("the router has no IPv4 route after %s, longest silence of a TCP session %s", millis(moved), millis(silence))
		lab.Within(t, "the end of the IPv4 route", gone, moved, time.Second)
		lab.Within(t, "the silence of a TCP session", gone, silence, longestOutage)
		lab.Eventually(t, 2*time.Second, "IPv4 leaves by the other interface", func() error {
			devs, err := egressOf(host, vip4.Addr(), client4)
			return errors.Join(err, lab.That(slices.Equal(devs, []string{stays.ifc}), "it leaves by %v", devs))
		})
		if !usual.cut(t, began) {
			if peer6.State != "Established" {
				t.Errorf("the IPv6 session is %s: %s", peer6.State, peer6.LastError)
			}
			unchanged(t, six)
		}
		host.Run("ip", "addr", "add", fails.local4.String()+"/24", "dev", fails.ifc)
		allBack(t, l, s)
		waitAllAlive(sessions, gone)
	})
}

// egressOf returns the interfaces by which flows from one VIP leave the host.
func egressOf(host *lab.Node, from, to netip.Addr) ([]string, error) {
	var flows []string
	for port := 50001; port <= 50020; port++ {
		flows = append(flows, fmt.Sprintf("%v from %v ipproto tcp sport %d dport 80", to, from, port))
	}
	ways, err := host.RouteGets(flows...)
	if err != nil {
		return nil, err
	}
	var devs []string
	for _, way := range ways {
		devs = append(devs, way.Dev)
	}
	slices.Sort(devs)
	return slices.Compact(devs), nil
}
