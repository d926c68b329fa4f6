package topologies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// unknownMessage is a BGP header of a type that does not exist, and nothing
// else. Sent before OPEN it ends a process that embeds GoBGP v3.37.
func unknownMessage() []byte { return append(bytes.Repeat([]byte{0xff}, 16), 0, 19, 9) }

// TestHostileMessage: a router that sends 19 bytes which crash the speaker of
// its interface costs no other session, no route of another router and no packet
// that goes by it. The speaker is back at once, and even the router's own other
// session loses no route.
func TestHostileMessage(t *testing.T) {
	t.Parallel()
	eachLeg(t, func(t *testing.T, hostile, other leg) {
		t.Parallel()
		l, s := startSample(t)
		host, router := l.Node("host"), l.Node(hostile.node)
		// Chosen while the client has both ways, so that they stay on this one.
		ports4, ports6 := probePorts(t, l, vip4, other), probePorts(t, l, vip6, legs()...)
		setSession(t, router, hostile, false)
		before := s.WaitStatus(10*time.Second, "the session has ended", func(st *status.Status) error {
			return lab.That(peerAt(st, hostile.peer4).State != "Established", "it is up")
		})
		waitLive(t, l.Node("client"), vip4, other.via4.String()+"@e9")
		watches := append(watchRoutes(t, l, other, vip4, vip6), watchRoutes(t, l, hostile, vip6)...)
		probes := probeVIPs(l, ports4, ports6)

		attack(t, s, router, hostile)
		st := s.WaitStatus(20*time.Second, "the speaker is back", func(st *status.Status) error {
			p := peerAt(st, hostile.peer6)
			return lab.That(p.State == "Established" && p.Announced > 0, "%v is %s: %s", p.Address, p.State, p.LastError)
		})
		speaker := speakerAt(st, hostile.ifc)
		t.Logf("%s died of: %s", hostile.ifc, speaker.LastExit)
		if speaker.Restarts != 1 || !strings.Contains(speaker.LastExit, "panic") || speaker.PID == speakerAt(before, hostile.ifc).PID {
			t.Errorf("speaker of %s: %+v", hostile.ifc, speaker)
		}
		setSession(t, router, hostile, true)
		st = s.WaitStatus(20*time.Second, "all is announced again", lab.Established)
		noLoss(t, probes)
		unchanged(t, watches)
		untouched(t, before, st, other.ifc)
		for _, dst := range []netip.Addr{client4, client6} {
			sourceIs(t, host, dst, "afterwards")
		}
	})
}

// attack sends the message from the router's address until the speaker of its
// interface has died of it.
func attack(t *testing.T, s *lab.Speaker, router *lab.Node, from leg) {
	t.Helper()
	local, remote := netip.AddrPortFrom(from.peer4, 0), netip.AddrPortFrom(from.local4, 179)
	st, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	pid := speakerAt(st, from.ifc).PID
	lab.Eventually(t, 10*time.Second, "the message kills the speaker of "+from.ifc, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn, err := router.Dial(ctx, "tcp", local, remote)
		if err == nil {
			_, err = conn.Write(unknownMessage())
			// It answers OPEN at the most, then closes or dies.
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.Copy(io.Discard, conn)
			err = errors.Join(err, conn.Close())
		}
		// It is not to be sent once more to the next process: one that has ended
		// waits for the status to say so. In steps, not by the clock: a machine that
		// stands still holds them up as it does the process.
		for step := 0; step < 50 || step < 1000 && hasEnded(pid); step++ {
			st, serr := s.Status()
			if serr != nil || speakerAt(st, from.ifc).Restarts > 0 {
				return serr
			}
			<-time.After(10 * time.Millisecond)
		}
		return errors.Join(errors.New("it lives"), err)
	})
}

// hasEnded tells whether a process has ended, also if nobody has waited for it yet:
// then it has no command line any more.
func hasEnded(pid int) bool {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return len(line) == 0
}

// setSession ends a router's IPv4 session with the host by the router's own
// configuration, or lets it come back.
func setSession(t *testing.T, router *lab.Node, l leg, up bool) {
	t.Helper()
	if router.Router() == lab.BIRD {
		router.BIRDC(map[bool]string{true: "enable host4", false: "disable host4"}[up])
		return
	}
	line := fmt.Sprintf("neighbor %v shutdown", l.local4)
	if up {
		line = "no " + line
	}
	router.Run("vtysh", "-c", "configure terminal", "-c", "router bgp 65000", "-c", line)
}

// TestSpeakerKilled: a speaker process that dies is started again, and by
// graceful restart no router's kernel ever loses a route and no client a packet.
func TestSpeakerKilled(t *testing.T) {
	t.Parallel()
	eachLeg(t, func(t *testing.T, victim, other leg) {
		t.Parallel()
		l, s := startSample(t)
		host := l.Node("host")
		before := s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
		watches := append(watchRoutes(t, l, other, vip4, vip6), watchRoutes(t, l, victim, vip4, vip6)...)
		probes := probeVIPs(l, probePorts(t, l, vip4, legs()...), probePorts(t, l, vip6, legs()...))

		pid := speakerAt(before, victim.ifc).PID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		s.WaitStatus(5*time.Second, "another process", func(st *status.Status) error {
			p := speakerAt(st, victim.ifc)
			return lab.That(p.Restarts == 1 && p.PID != pid && p.PID != 0, "%+v", p)
		})
		st := s.WaitStatus(20*time.Second, "all is announced again", lab.Established)
		t.Logf("all sessions of %s are back after %v", victim.ifc, time.Since(killed))
		if p := speakerAt(st, victim.ifc); !strings.Contains(p.LastExit, "killed") || p.Phase != "running" {
			t.Errorf("speaker of %s: %+v", victim.ifc, p)
		}
		s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
		waitEgress(t, host, 5*time.Second, "en1", "en5")
		noLoss(t, probes)
		unchanged(t, watches)
		untouched(t, before, st, other.ifc)
	})
}

// speakerAt is the speaker process of an interface.
func speakerAt(st *status.Status, ifc string) status.Speaker {
	for i := range st.Interfaces {
		if st.Interfaces[i].Name == ifc {
			return st.Interfaces[i].Speaker
		}
	}
	return status.Speaker{}
}

// peerAt is the peer with that address.
func peerAt(st *status.Status, address netip.Addr) status.Peer {
	for _, p := range st.Peers {
		if p.Address == address {
			return p
		}
	}
	return status.Peer{Address: address, State: "absent"}
}

// watchRoutes watches the router's routes for the prefixes, each of which leads
// to the host now.
func watchRoutes(t *testing.T, l *lab.Lab, at leg, prefixes ...netip.Prefix) (list []*lab.RouteWatch) {
	t.Helper()
	for _, p := range prefixes {
		// A router tells its neighbours of a route before its own kernel has it.
		lab.Eventually(t, 20*time.Second, fmt.Sprintf("%s has %v by %s", at.node, p, at.dev), func() error {
			hops, err := l.Node(at.node).Route(p)
			return errors.Join(err, lab.That(slices.Equal(lab.LiveDevs(hops), []string{at.dev}), "it has %v", hops))
		})
		list = append(list, l.Node(at.node).WatchRoute(p))
	}
	return list
}

// unchanged checks that the routes have been as they are now all the time.
func unchanged(t *testing.T, watches []*lab.RouteWatch) {
	t.Helper()
	for _, change := range changedRoutes(watches) {
		t.Error(change)
	}
}

// changedRoutes tells which routes have not been as they are now all the time.
func changedRoutes(watches []*lab.RouteWatch) (list []string) {
	for _, w := range watches {
		w.Stop()
		if len(w.Events()) != 1 {
			list = append(list, fmt.Sprintf("a route has changed: %v", w))
		}
	}
	return list
}

// untouched checks that the sessions of an interface are those of before, by the
// same process.
func untouched(t *testing.T, before, after *status.Status, ifc string) {
	t.Helper()
	own := func(st *status.Status) (list []string) {
		for _, p := range st.Peers {
			if p.Interface == ifc {
				list = append(list, fmt.Sprintf("%v %s since %v by process %d", p.Address, p.State, p.Since, speakerAt(st, ifc).PID))
			}
		}
		return list
	}
	if diff := cmp.Diff(own(before), own(after)); diff != "" {
		t.Errorf("sessions of %s were touched (-before +after):\n%s", ifc, diff)
	}
}

// probeVIPs probes both VIPs from the client at 1 ms, from these ports.
func probeVIPs(l *lab.Lab, ports4, ports6 []uint16) []*lab.Probe {
	client, host := l.Node("client"), l.Node("host")
	var probes []*lab.Probe
	for vip, ports := range map[netip.Addr][]uint16{vip4.Addr(): ports4, vip6.Addr(): ports6} {
		probes = append(probes, lab.StartProbe(client, host, netip.AddrPortFrom(vip, 7), lab.ProbeOptions{Ports: ports}))
	}
	for _, p := range probes {
		p.WaitAnswered(5 * time.Second)
		p.CountFromNow() // neighbours are looked up
	}
	return probes
}

// probePorts returns source ports with which the client's probes of a VIP go by
// each of the paths. They are different ones even if the client is just moving
// its flows.
func probePorts(t *testing.T, l *lab.Lab, vip netip.Prefix, paths ...leg) (ports []uint16) {
	t.Helper()
	from, port := client4, uint16(43001)
	if vip.Addr().Is6() {
		from, port = client6, 44001 // those of IPv4 are taken for both
	}
	for _, path := range paths {
		// A path may be away for a moment, when the machine stood still.
		lab.Eventually(t, 20*time.Second, fmt.Sprintf("a port leads to %v by %s", vip, path.node), func() error {
			for at := port; at < port+100; at++ {
				r, err := l.Node("client").RouteGet(fmt.Sprintf("%v from %v ipproto udp sport %d dport 7", vip.Addr(), from, at))
				if err != nil {
					return err
				}
				if slices.Contains([]netip.Addr{path.via4, path.via6()}, r.Gateway) {
					ports = append(ports, at)
					port = at + 1
					return nil
				}
			}
			return errors.New("none of 100")
		})
	}
	return ports
}

// via6 is the router's IPv6 address towards the client.
func (l leg) via6() netip.Addr {
	return map[string]netip.Addr{"r1": netip.MustParseAddr("fd68:9::1"), "r5": netip.MustParseAddr("fd68:9::5")}[l.node]
}

// noLoss ends the probes and checks that every one was answered.
func noLoss(t *testing.T, probes []*lab.Probe) {
	t.Helper()
	for _, p := range probes {
		r := p.Stop()
		t.Log(r)
		if r.Lost() > 0 {
			t.Errorf("%d probes were lost: %v", r.Lost(), r)
		}
	}
}
