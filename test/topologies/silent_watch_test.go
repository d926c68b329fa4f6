package topologies

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// eventsOf returns the daemon's events since then.
func eventsOf(t *testing.T, s *lab.Speaker, since time.Time) []status.Event {
	t.Helper()
	out, err := s.Command("events", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var list []status.Event
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var e status.Event
		if err := d.Decode(&e); err != nil {
			t.Fatalf("events: %v in %s", err, out)
		}
		if e.Time.After(since) {
			list = append(list, e)
		}
	}
	return list
}

// hasEvent checks that there is an event of that kind, message and subject whose
// cause has the text.
func hasEvent(t *testing.T, s *lab.Speaker, since time.Time, kind, message, subject, cause string) {
	t.Helper()
	for _, lack := range lacksEvent(t, s, since, kind, message, subject, cause) {
		t.Error(lack)
	}
}

// lacksEvent tells that there is no such event.
func lacksEvent(t *testing.T, s *lab.Speaker, since time.Time, kind, message, subject, cause string) (lack []string) {
	t.Helper()
	list := eventsOf(t, s, since)
	var b strings.Builder
	for i := range list {
		e := &list[i]
		if e.Kind == kind && e.Message == message && e.Subject == subject && strings.Contains(e.Cause, cause) {
			return nil
		}
		fmt.Fprintf(&b, "\n%+v", *e)
	}
	return []string{fmt.Sprintf("no event %s %q of %s with the cause %q among:%s", kind, message, subject, cause, b.String())}
}

// interfaceAt is the interface of that name.
func interfaceAt(st *status.Status, name string) status.Interface {
	for i := range st.Interfaces {
		if st.Interfaces[i].Name == name {
			return st.Interfaces[i]
		}
	}
	return status.Interface{}
}

// outOfUse is a condition for WaitStatus: the interface is not usable, for that
// reason, and none of its sessions is up.
func outOfUse(name string, reason status.Reason) func(*status.Status) error {
	return func(st *status.Status) error {
		n := interfaceAt(st, name)
		if n.Usable || n.Reason != reason {
			return fmt.Errorf("interface %s: usable %t, reason %q %s", name, n.Usable, n.Reason, n.Detail)
		}
		for _, p := range st.Peers {
			if p.Interface == name && p.State == "Established" {
				return fmt.Errorf("peer %v is established", p.Address)
			}
		}
		return nil
	}
}

// lastFromVIP is when the last packet from a VIP left the host by the interface.
func lastFromVIP(wire *lab.Capture, ifc string) time.Time {
	list := wire.Packets(func(p lab.Packet) bool {
		return p.Out && p.Dev == ifc && (p.Src == vip4.Addr() || p.Src == vip6.Addr())
	})
	if len(list) == 0 {
		return time.Time{}
	}
	return slices.MaxFunc(list, func(a, b lab.Packet) int { return a.Time.Compare(b.Time) }).Time
}

// noLegs accepts a route that leads nowhere.
func noLegs(hops []lab.Hop) bool { return len(lab.Live(hops)) == 0 }

// onlyBy accepts a route by these interfaces alone.
func onlyBy(devs ...string) func([]lab.Hop) bool {
	return func(hops []lab.Hop) bool { return slices.Equal(lab.LiveDevs(hops), devs) }
}

// clientProbes probes both VIPs at 1 ms by the path that fails and by the one
// that stays. Answers take either, as the host spreads them.
func clientProbes(t *testing.T, l *lab.Lab, fails, stays leg) []*lab.Probe {
	t.Helper()
	paths := []leg{fails, fails, stays}
	return probeVIPs(l, probePorts(t, l, vip4, paths...), probePorts(t, l, vip6, paths...))
}

// untilCalm tries until nothing is wrong, or something that this machine does not
// explain: when it stands still for longer than BFD waits, both ends of a session
// take the path for dead, and rightly so. Figures of such a try say nothing.
func untilCalm(t *testing.T, matters time.Duration, try func() (wrong []string)) {
	t.Helper()
	const most = 5
	for range most {
		from := time.Now()
		wrong := try()
		if len(wrong) == 0 {
			return
		}
		why := lab.Busy(from, time.Now(), matters)
		if why == "" {
			t.Errorf("%s", strings.Join(wrong, "\n"))
			return
		}
		t.Logf("this try does not count, for %s: %s", why, strings.Join(wrong, "; "))
	}
	t.Logf("none of %d tries counts", most)
}

// gapOf ends the probes when they are answered again, and returns the longest
// time without an answer, and the longest that this machine held the client up.
func gapOf(probes []*lab.Probe, since time.Time) (gap, stall time.Duration) {
	for _, p := range probes {
		p.WaitAnswered(30 * time.Second)
	}
	for _, p := range probes {
		r := p.Stop()
		gap, stall = max(gap, r.Gap(since)), max(stall, r.Stall(since))
	}
	return gap, stall
}

// allBack waits until both ways are used again, by routers, client and host.
func allBack(t *testing.T, l *lab.Lab, s *lab.Speaker) {
	t.Helper()
	s.WaitStatus(20*time.Second, "all is back", lab.Established)
	waitClientHasBoth(t, l)
	waitEgress(t, l.Node("host"), 20*time.Second, "en1", "en5")
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// peers are the peers of a path.
func (l leg) peers() []netip.Addr { return []netip.Addr{l.peer4, l.peer6} }

// waitRouterHasBoth waits until the one router of a topology reaches the VIPs by
// both links.
func waitRouterHasBoth(t *testing.T, router *lab.Node) {
	t.Helper()
	for _, vip := range []netip.Prefix{vip4, vip6} {
		lab.Eventually(t, 15*time.Second, fmt.Sprintf("the router has two ways to %v", vip), func() error {
			hops, err := router.Route(vip)
			if err != nil {
				return err
			}
			return lab.That(onlyBy("e1", "e5")(hops), "it has %v", hops)
		})
	}
}
