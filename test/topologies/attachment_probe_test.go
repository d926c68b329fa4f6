package topologies

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// attachmentLimit is how soon the host must have left an interface on which no
// gateway answers, with the probe's defaults.
const attachmentLimit = 2 * time.Second

// A path loses every frame while carrier stays at both ends, without BFD: the
// gateway probe moves the host's traffic, and says what it was.
func TestSilentPathWithProbe(t *testing.T) {
	t.Parallel()
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		t.Parallel()
		l := lab.Start(t, "vipa")
		s := startPaths(t, l, pathConfig{})
		waitClientHasBoth(t, l)
		host := l.Node("host")
		sessions := startSessions(t, l, localVia(t, l.Node("client"), fails.via4))
		wire := host.Capture()

		failed := time.Now()
		l.DropFrames("host", fails.ifc)
		s.WaitStatus(10*time.Second, fails.ifc+" is out of use", outOfUse(fails.ifc, status.InterfaceAttachment))
		waitEgress(t, host, 2*time.Second, stays.ifc)
		moved := time.Since(failed)
		t.Logf("%s fails: the host's traffic has moved after %s at the latest", fails.ifc, millis(moved))
		lab.Within(t, "the move of the host's traffic", failed, moved, attachmentLimit)
		saysAttachment(t, host, s, fails, failed)

		passed := time.Now()
		l.PassFrames("host", fails.ifc)
		allBack(t, l, s)
		t.Logf("%s is used again %s after frames pass", fails.ifc, millis(time.Since(passed)))
		t.Logf("longest silence of a TCP session: %s", millis(waitAllAlive(sessions, failed)))
		noResets(t, wire, sessions)
	})
}

// saysAttachment checks that status, events and metrics name the attachment of
// the leg as what failed.
func saysAttachment(t *testing.T, host *lab.Node, s *lab.Speaker, fails leg, since time.Time) {
	t.Helper()
	text, err := s.Command("status")
	if err != nil {
		t.Fatalf("status: %v\n%s", err, text)
	}
	for _, peer := range fails.peers() {
		dead := regexp.MustCompile(`interface ` + fails.ifc + `: attachment: ` + regexp.QuoteMeta(peer.String()) + ` unreachable since [0-9.]+ s \(3 of 3 probes\)`)
		if !dead.MatchString(text) {
			t.Errorf("status does not say %v:\n%s", dead, text)
		}
		hasEvent(t, s, since, "probe", "probe verdict", peer.String(), "attachment: "+peer.String()+" does not answer")
		hasEvent(t, s, since, "peer", "peer down", peer.String(), "interface "+fails.ifc+": attachment: ")
	}
	hasEvent(t, s, since, "interface", "interface unusable", fails.ifc, "unreachable since ")
	if line := lineWith(s.Log(), `msg="interface unusable"`); !strings.Contains(line, "reason=attachment") || !strings.Contains(line, "(3 of 3 probes)") {
		t.Errorf("the log says %q", line)
	}
	series := scrape(t, host)
	want := map[string]float64{
		fmt.Sprintf(`vipspeaker_interface_usable{interface="%s"}`, fails.ifc):                       0,
		fmt.Sprintf(`vipspeaker_interface_unusable{interface="%s",reason="attachment"}`, fails.ifc): 1,
	}
	for _, peer := range fails.peers() {
		want[fmt.Sprintf(`vipspeaker_probe_healthy{interface="%s",layer="attachment",target="%s"}`, fails.ifc, peer)] = 0
	}
	for name, value := range want {
		if got, ok := series[name]; !ok || got != value {
			t.Errorf("%s is %v, there %t, want %v", name, got, ok, value)
		}
	}
}

// lineWith is the last line of a text with a word.
func lineWith(text, word string) (found string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			found = line
		}
	}
	return found
}

// With one router on both interfaces, the last words of the sessions on the dead
// path reach it by the other interface: it moves then, not after its hold time.
func TestSilentPathCeaseByOther(t *testing.T) {
	t.Parallel()
	for _, topology := range []string{"onerouter-frr", "onerouter-bird"} {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			ceaseByOther(t, topology, legs()[0], legs()[1])
		})
	}
}

func ceaseByOther(t *testing.T, topology string, fails, stays leg) {
	t.Helper()
	l := lab.Start(t, topology)
	host, router := l.Node("host"), l.Node("router")
	// What BIRD accepts it does not tie to an interface: see docs/routers.md.
	c := pathConfig{onlyDial: true}.String()
	// When a KEEPALIVE is lost on the dead path and TCP has sent it again, nothing else
	// leaves before it is acknowledged, the last words neither: the congestion window is
	// one segment then. So none is due until the path is found dead.
	host.WriteFile(lab.ConfigPath, strings.Replace(c, "hold_time: 9s, keepalive: 3s", "hold_time: 90s, keepalive: 30s", 1))
	if router.Router() == lab.BIRD {
		birdRewrite(t, router, "hold time 9;", "hold time 90;", "keepalive time 3;", "keepalive time 30;")
	} else {
		frrConfigure(router, "router bgp", "timers bgp 30 90")
	}
	s := startSpeaker(t, l)
	for _, p := range s.WaitStatus(20*time.Second, "sessions are up", lab.Established).Peers {
		if p.Negotiated == nil || p.Negotiated.HoldTime != 90*time.Second {
			t.Fatalf("%v: negotiated %+v", p.Address, p.Negotiated)
		}
	}
	waitRouterHasBoth(t, router)
	sessions := startSessions(t, l, netip.AddrPort{})
	wire := host.Capture()
	watches := []*lab.RouteWatch{router.WatchRoute(vip4), router.WatchRoute(vip6)}

	failed := time.Now()
	l.DropFrames("host", fails.ifc)
	for _, own := range []netip.Addr{fails.local4, fails.local6} {
		cease := wire.WaitMessage(10*time.Second, "Cease from "+own.String(), func(m lab.Message) bool {
			return m.Out && m.Dev == stays.ifc && m.Src.Addr() == own && m.Type == lab.Notification
		})
		t.Logf("after %s: %v", millis(cease.Time.Sub(failed)), cease)
		if cease.Code != 6 || !strings.HasPrefix(cease.Text, "interface "+fails.ifc+": attachment: ") {
			t.Errorf("the last message of the session is %v", cease)
		}
	}
	for _, w := range watches {
		moved := w.Wait(5*time.Second, failed, "by "+stays.ifc, onlyBy("e5")).Time.Sub(failed)
		t.Logf("the router has moved after %s", millis(moved))
		lab.Within(t, "the router's move", failed, moved, attachmentLimit+500*time.Millisecond)
		w.Stop()
	}
	silence := waitAllAlive(sessions, failed)
	t.Logf("longest silence of a TCP session: %s", millis(silence))
	// Its retransmissions come at twice the time each.
	lab.Within(t, "the silence of a TCP session", failed, silence, 2*attachmentLimit+longestOutage)
	l.PassFrames("host", fails.ifc)
	s.WaitStatus(20*time.Second, "all is back", lab.Established)
	waitRouterHasBoth(t, router)
	waitAllAlive(sessions, failed)
	noResets(t, wire, sessions)
}

// A router that answers on the link and forwards nothing of the host's is found by
// the path probe alone. It hears so at once, on the link that works.
func TestPathProbe(t *testing.T) {
	t.Parallel()
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		t.Parallel()
		target, source := client4, fails.local4
		if fails.router == "bird" {
			target, source = client6, fails.local6
		}
		l := lab.Start(t, "vipa")
		host, router := l.Node("host"), l.Node(fails.node)
		s := startPaths(t, l, pathConfig{interfaces: map[string]string{
			fails.ifc: fmt.Sprintf("path_probe: {target: %q, interval: 200ms, timeout: 200ms}", target),
		}})
		waitClientHasBoth(t, l)
		sessions := startSessions(t, l, netip.AddrPort{})
		wire := host.Capture()
		s.WaitStatus(5*time.Second, "the path probe passes", func(st *status.Status) error {
			for _, p := range interfaceAt(st, fails.ifc).Probes {
				if p.Layer == "path" && p.Target == target.String() && p.Verdict == "healthy" {
					return nil
				}
			}
			return fmt.Errorf("probes %+v", interfaceAt(st, fails.ifc).Probes)
		})

		watches := []*lab.RouteWatch{router.WatchRoute(vip4), router.WatchRoute(vip6)}
		failed := time.Now()
		router.Run("nft", fmt.Sprintf("add table inet lab_path\nadd chain inet lab_path f { type filter hook forward priority 0; iifname %s drop; }", fails.dev))
		st := s.WaitStatus(10*time.Second, fails.ifc+" is out of use", outOfUse(fails.ifc, status.InterfacePath))
		waitEgress(t, host, 2*time.Second, stays.ifc)
		took := interfaceAt(st, fails.ifc).Since.Sub(failed)
		t.Logf("%s is out of use after %s", fails.ifc, millis(took))
		lab.Within(t, "the end of its use, with 3 probes at 200 ms,", failed, took, attachmentLimit)
		hasEvent(t, s, failed, "interface", "interface unusable", fails.ifc, target.String()+" does not answer since ")
		probed := func(p lab.Packet) bool { return p.Out && p.Dst == target && (p.ICMP == 8 || p.ICMP == 128) }
		for _, p := range wire.Packets(probed) {
			if p.Dev != fails.ifc || p.Src != source {
				t.Fatalf("a probe leaves so: %v", p)
			}
		}
		for i, peer := range fails.peers() {
			wire.WaitMessage(5*time.Second, "Cease by "+fails.ifc, func(m lab.Message) bool {
				return m.Out && m.Dev == fails.ifc && m.Dst.Addr() == peer && m.Type == lab.Notification && strings.HasPrefix(m.Text, "interface "+fails.ifc+": path: ")
			})
			gone := watches[i].Wait(5*time.Second, failed, "none", noLegs).Time.Sub(failed)
			t.Logf("the router has no route after %s", millis(gone))
			lab.Within(t, "the end of the router's route", failed, gone, attachmentLimit)
		}
		silence := waitAllAlive(sessions, failed)
		t.Logf("longest silence of a TCP session: %s", millis(silence))

		router.Run("nft", "delete table inet lab_path")
		allBack(t, l, s)
		waitAllAlive(sessions, failed)
		noResets(t, wire, sessions)
	})
}
