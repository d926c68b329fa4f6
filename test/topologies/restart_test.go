package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// restarting is how a daemon ends that is to be started again.
type restarting struct {
	name string
	end  func(s *lab.Speaker)
}

func restartings() []restarting {
	return []restarting{
		{"SIGTERM", func(s *lab.Speaker) {
			s.Signal(syscall.SIGTERM)
			s.Wait(20 * time.Second)
		}},
		{"SIGKILL", func(s *lab.Speaker) { s.Kill() }},
	}
}

// restartOffer is the graceful restart capability of an OPEN.
type restartOffer struct {
	restart, notification bool // R (RFC 4724 section 3), N (RFC 8538 section 2)
	seconds               int
	forwarding            []bool // F of each family
}

func offeredRestart(m lab.Message) (o restartOffer, ok bool) {
	const head, fixed = 19, 10 // RFC 4271 sections 4.1, 4.2
	params := m.Raw[head+fixed:]
	for len(params) > 2 {
		value := params[2 : 2+int(params[1])]
		if params[0] == 2 {
			for len(value) > 1 {
				code, data := value[0], value[2:2+int(value[1])]
				if code == 64 {
					o = restartOffer{restart: data[0]&0x80 != 0, notification: data[0]&0x40 != 0, seconds: int(data[0]&0xf)<<8 | int(data[1])}
					for tuple := data[2:]; len(tuple) >= 4; tuple = tuple[4:] {
						o.forwarding = append(o.forwarding, tuple[3]&0x80 != 0)
					}
					ok = true
				}
				value = value[2+len(data):]
			}
		}
		params = params[2+int(params[1]):]
	}
	return o, ok
}

// endOfFamily tells whether a message is the End-of-RIB of the family that a
// router's session carries: that of IPv4 is an UPDATE without anything. GoBGP sends
// one for each family that is configured.
func endOfFamily(m lab.Message, peer netip.Addr) bool {
	const empty = 23
	return m.EndOfRIB && (len(m.Raw) == empty) == peer.Is4()
}

// sentTo are the host's messages to a peer since a time.
func sentTo(wire *lab.Capture, peer netip.Addr, since time.Time) (list []lab.Message) {
	for _, m := range wire.Messages() {
		if m.Out && m.Dst.Addr() == peer && m.Time.After(since) {
			list = append(list, m)
		}
	}
	return list
}

// began checks how the session with a peer began on the wire: the bits of the OPEN,
// all paths before the End-of-RIB, and the first one soon after the session was up,
// which it is for both when the router's KEEPALIVE has arrived.
func began(t *testing.T, wire *lab.Capture, peer netip.Addr, since time.Time, again bool) {
	t.Helper()
	vip := vip4
	if peer.Is6() {
		vip = vip6
	}
	// The router has the route by then, but not yet all that is said.
	wire.WaitMessage(10*time.Second, "End-of-RIB to "+peer.String(), func(m lab.Message) bool {
		return m.Out && m.Dst.Addr() == peer && endOfFamily(m, peer) && m.Time.After(since)
	})
	sent := sentTo(wire, peer, since)
	at := func(ok func(lab.Message) bool) int { return slices.IndexFunc(sent, ok) }
	if first := at(func(m lab.Message) bool { return m.Announces(vip) }); first >= 0 {
		// Connections that both ends made at the same time have an OPEN, too.
		session := sent[first]
		sent = slices.DeleteFunc(sent, func(m lab.Message) bool { return m.Src != session.Src || m.Dst != session.Dst })
	}
	if len(sent) == 0 || sent[0].Type != lab.Open {
		t.Errorf("%v: no OPEN in %v", peer, sent)
		return
	}
	want := restartOffer{restart: again, seconds: 30, forwarding: []bool{again, again}}
	if got, ok := offeredRestart(sent[0]); !ok || got.restart != want.restart || got.notification || got.seconds != want.seconds || !slices.Equal(got.forwarding, want.forwarding) {
		t.Errorf("%v: OPEN offers %+v, want %+v", peer, got, want)
	}
	update := at(func(m lab.Message) bool { return m.Announces(vip) })
	eor := at(func(m lab.Message) bool { return endOfFamily(m, peer) })
	if update < 0 || eor < update {
		t.Errorf("%v: UPDATE is number %d, End-of-RIB %d of %v", peer, update, eor, sent)
		return
	}
	for _, m := range wire.Messages() {
		if !m.Out && m.Src.Addr() == peer && m.Type == lab.Keepalive && m.Time.After(sent[0].Time) {
			after := sent[update].Time.Sub(m.Time)
			t.Logf("%v: first UPDATE %v after the router's KEEPALIVE", peer, after.Round(100*time.Microsecond))
			if !again {
				lab.Within(t, peer.String()+": the first UPDATE of a cold start", m.Time, after, time.Second)
			}
			return
		}
	}
}

// A daemon that is restarted, in order or by a kill, costs its only router no
// route and a client no packet; a cold start waits for nobody.
func TestRestartKeepsRoutes(t *testing.T) {
	t.Parallel()
	for _, topology := range []string{"onerouter-frr", "onerouter-bird"} {
		for _, way := range restartings() {
			t.Run(fmt.Sprintf("%s/%s", topology, way.name), func(t *testing.T) {
				t.Parallel()
				restartKeepsRoutes(t, topology, way)
			})
		}
	}
}

func restartKeepsRoutes(t *testing.T, topology string, way restarting) {
	t.Helper()
	l := lab.Start(t, topology)
	host, router := l.Node("host"), l.Node("router")
	wire := host.Capture()
	first := time.Now()
	s := startPaths(t, l, pathConfig{more: "shutdown: {mode: restart}\n"})
	waitRouterHasBoth(t, router)
	for _, peer := range allPeers() {
		began(t, wire, peer, first, false)
	}
	watches := []*lab.RouteWatch{router.WatchRoute(vip4), router.WatchRoute(vip6)}
	probes := probeVIPs(l, []uint16{43001, 43002, 43003, 43004}, []uint16{44001, 44002, 44003, 44004})

	ended := time.Now()
	way.end(s)
	s = startSpeaker(t, l)
	s.WaitStatus(20*time.Second, "routers keep routes", func(st *status.Status) error {
		for _, p := range st.Peers {
			if n := p.Negotiated; n == nil || !n.GracefulRestart {
				return fmt.Errorf("%v: %+v", p.Address, n)
			}
		}
		return nil
	})
	for _, peer := range allPeers() {
		began(t, wire, peer, ended, true)
	}
	noLoss(t, probes)
	unchanged(t, watches)
	for _, m := range wire.Messages() {
		if m.Type == lab.Notification && m.Time.After(ended) {
			t.Errorf("sent %v", m)
		}
	}
}
