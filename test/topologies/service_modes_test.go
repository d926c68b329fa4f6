package topologies

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// listenCheck is a check that hears of the end of a service at once. It gives the
// kernel time on a machine that stands still for a while.
func listenCheck(name string, port int, more ...string) string {
	return "{" + strings.Join(append([]string{"name: " + name, fmt.Sprintf("listen: {port: %d}", port), "interval: 1500ms", "timeout: 1500ms"}, more...), ", ") + "}"
}

// modes is a topology in which services die and come back.
type modes struct {
	t    *testing.T
	l    *lab.Lab
	host *lab.Node
	wire *lab.Capture
	s    *lab.Speaker
}

// checkIs waits until a check of the VIP has the verdict.
func (m *modes) checkIs(vip, check, verdict string) *status.Status {
	m.t.Helper()
	return m.s.WaitStatus(10*time.Second, fmt.Sprintf("check %s of %s is %s", check, vip, verdict), func(st *status.Status) error {
		v, err := vipNamed(st, vip)
		if err != nil {
			return err
		}
		for i := range v.Checks {
			if v.Checks[i].Name == check {
				return lab.That(v.Checks[i].Verdict == verdict, "it is %s: %s", v.Checks[i].Verdict, v.Checks[i].Reason)
			}
		}
		return fmt.Errorf("no such check: %v", v.Checks)
	})
}

// sends does something that ends with a verdict, and compares what each router of
// the VIP's family is sent of it until all is quiet.
func (m *modes) sends(what string, vip netip.Prefix, do func(), want ...string) {
	m.t.Helper()
	since := time.Now()
	do()
	waitQuiet(m.t, m.wire, peersOf(vip)...)
	for _, peer := range peersOf(vip) {
		if diff := cmp.Diff(want, updatesOf(m.wire, peer, vip, since)); diff != "" {
			m.t.Errorf("%s: %v was sent (-want +got):\n%s", what, peer, diff)
		}
	}
}

// TestServiceAny: with checks_mode any, the VIP is announced while one of its
// services is there, and the end of another one is no news to routers.
func TestServiceAny(t *testing.T) {
	t.Parallel()
	m := &modes{t: t, l: lab.Start(t, "vipa")}
	m.host = m.l.Node("host")
	m.wire = m.host.Capture()
	vip := prefix4(31)
	start := func(port int) *lab.Process {
		return startService(t, m.host, "p"+strconv.Itoa(port), fmt.Sprintf("tcp %v:%d", vip.Addr(), port))
	}
	one, two := start(8031), start(8032)
	m.s = startWith(t, m.l, hostConfig{vips: []string{
		vipLine("any", vip, checks(listenCheck("one", 8031), listenCheck("two", 8032)), "checks_mode: any"),
	}})
	waitQuiet(t, m.wire, peersOf(vip)...)
	m.sends("one of two is gone", vip, func() {
		one.Kill()
		m.checkIs("any", "one", "unhealthy")
	})
	m.sends("both are gone", vip, func() {
		two.Kill()
		m.checkIs("any", "two", "unhealthy")
	}, "-10.68.6.31/32")
	m.s.WaitStatus(time.Second, "withheld", withheld("any", status.CheckFailed))
	m.sends("the other one is back", vip, func() {
		one = start(8031)
		m.checkIs("any", "one", "healthy")
	}, "+10.68.6.31/32")
	m.sends("both are back", vip, func() {
		start(8032)
		m.checkIs("any", "two", "healthy")
	})
	m.s.WaitStatus(5*time.Second, "announced", lab.Established)
}

// TestServiceDegrades: with on_failure degrade, the end of a service is one
// UPDATE with other attributes, and its return another one; routers have the
// route all the time.
func TestServiceDegrades(t *testing.T) {
	t.Parallel()
	m := &modes{t: t, l: lab.Start(t, "vipa")}
	m.host = m.l.Node("host")
	m.wire = m.host.Capture()
	vip, other := prefix4(41), prefix4(42)
	start := func() *lab.Process { return startService(t, m.host, "service", "tcp 10.68.6.41:8041") }
	config := func(degrade string) hostConfig {
		return hostConfig{vips: []string{
			vipLine("worse", vip, checks(listenCheck("service", 8041)), `announce: {med: 10, communities: ["65010:1"]}`, "on_failure: {degrade: "+degrade+"}"),
			vipLine("other", other),
		}}
	}
	service := start()
	m.s = startWith(t, m.l, config(`{med: 1000, prepend: 2, communities: ["65010:666"]}`))
	routersHave(t, m.l, vip, true)
	routersHave(t, m.l, other, true)
	waitQuiet(t, m.wire, peersOf(vip)...)
	watches := append(watchRoutes(t, m.l, legs()[0], vip, other), watchRoutes(t, m.l, legs()[1], vip, other)...)
	since := time.Now()
	const normal = "+10.68.6.41/32 med 10 65010:1"

	degraded := func(is bool, want string) {
		m.s.WaitStatus(5*time.Second, fmt.Sprintf("degraded: %t", is), func(st *status.Status) error {
			v, err := vipNamed(st, "worse")
			if err != nil {
				return err
			}
			return lab.That(v.Degraded == is && v.Announced && strings.Contains(v.Detail, want), "%+v", v)
		})
		want = map[bool]string{true: "1", false: "0"}[is]
		if got := metric(t, m.host, `vipspeaker_vip_degraded{vip="worse"}`); got != want {
			t.Errorf("vipspeaker_vip_degraded is %q", got)
		}
	}
	m.sends("the service is gone", vip, func() {
		service.Kill()
		degraded(true, "nobody listens")
	}, "+10.68.6.41/32 med 1000 prepend 2 65010:1 65010:666")
	m.sends("other attributes", vip, func() {
		reload(t, m.host, m.s, config(`{med: 2000, communities: ["65010:667"]}`))
		degraded(true, "nobody listens")
	}, "+10.68.6.41/32 med 2000 65010:1 65010:667")
	m.sends("same file", vip, func() { reload(t, m.host, m.s, config(`{med: 2000, communities: ["65010:667"]}`)) })
	m.sends("the service is back", vip, func() {
		start()
		m.checkIs("worse", "service", "healthy")
		degraded(false, "")
	}, normal)
	m.sends("attributes that are not in use", vip, func() { reload(t, m.host, m.s, config("{prepend: 1}")) })
	unchanged(t, watches)
	for _, peer := range peersOf(other) {
		if list := updatesOf(m.wire, peer, other, since); len(list) > 0 {
			t.Errorf("%v was sent of another VIP: %v", peer, list)
		}
	}
}

// TestServiceShared: a check that two VIPs name runs once for both, and one
// failure withdraws both from each router; other VIPs are not touched.
func TestServiceShared(t *testing.T) {
	t.Parallel()
	m := &modes{t: t, l: lab.Start(t, "vipa")}
	m.host = m.l.Node("host")
	m.wire = m.host.Capture()
	start := func() *lab.Process { return startService(t, m.host, "service", "tcp 10.68.6.51:8051") }
	service := start()
	const check = `checks: [{name: web, tcp: {address: "10.68.6.51:8051"}, interval: 500ms, fast_interval: 100ms, timeout: 500ms, fall: 4, rise: 1}]`
	shared := []netip.Prefix{prefix4(51), prefix4(52)}
	alone := prefix4(53)
	m.s = startWith(t, m.l, hostConfig{vips: []string{vipLine("one", shared[0], check), vipLine("two", shared[1], check), vipLine("alone", alone)}})
	waitQuiet(t, m.wire, peersOf(alone)...)
	runsOnce(t, service)

	for _, step := range []struct {
		do   func()
		want string
		wait func()
	}{
		{service.Kill, "-", func() {
			m.s.WaitStatus(5*time.Second, "one", withheld("one", status.CheckFailed))
			m.s.WaitStatus(5*time.Second, "two", withheld("two", status.CheckFailed))
		}},
		{func() { start() }, "+", func() { m.s.WaitStatus(5*time.Second, "announced", lab.Established) }},
	} {
		since := time.Now()
		step.do()
		step.wait()
		waitQuiet(t, m.wire, peersOf(alone)...)
		for _, peer := range peersOf(alone) {
			for _, vip := range shared {
				if diff := cmp.Diff([]string{step.want + vip.String()}, updatesOf(m.wire, peer, vip, since)); diff != "" {
					t.Errorf("%v was sent (-want +got):\n%s", peer, diff)
				}
			}
			t.Logf("%v: two VIPs in %d UPDATEs", peer, len(to(m.wire, peer, since, changes)))
			if list := updatesOf(m.wire, peer, alone, since); len(list) > 0 {
				t.Errorf("%v was sent of the VIP without a check: %v", peer, list)
			}
		}
	}
}

// runsOnce checks by the service's own count that it is asked once per interval.
func runsOnce(t *testing.T, service *lab.Process) {
	t.Helper()
	const interval, runs = 500 * time.Millisecond, 8
	accepted := func() int { return strings.Count(service.Log(), "accepted ") }
	// The runs were between the two times, but for one that was late for its own, and
	// one whose line was.
	began, before := time.Now(), accepted()
	var asked int
	lab.Eventually(t, 10*time.Second, "the service is asked", func() error {
		asked = accepted() - before
		return lab.That(asked > runs, "%d times", asked)
	})
	took := time.Since(began)
	t.Logf("two VIPs: %d connections in %v", asked, took)
	if most := int(took/interval) + 3; asked > most {
		t.Errorf("the service was asked %d times in %v, want %d at most with an interval of %v", asked, took, most, interval)
	}
}
