package topologies

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// The schedule of all checks of TestServiceKinds, and how much later than by it
// anything may be on a busy machine.
const (
	kindInterval = 500 * time.Millisecond
	kindTimeout  = 250 * time.Millisecond
	kindRise     = 2
	kindFall     = 3
	kindSlack    = 400 * time.Millisecond
)

// serviceKind is a kind of check with what it asks.
type serviceKind struct {
	name, check string
	vip         netip.Prefix
	// serves is what a process of its own serves; empty for none.
	serves string
	// fails and heals are commands, on the node at, instead of the end of that
	// process.
	at, fails, heals string
	// hangs and goesOn are commands that keep answers away, and undo that.
	hangs, goesOn string
}

// kindDrop and kindPass lose what comes to a port of the host, and no longer do.
func kindDrop(protocol string, port int) string {
	return fmt.Sprintf("nft 'add table inet hang%[2]d; add chain inet hang%[2]d in { type filter hook input priority 0; }; add rule inet hang%[2]d in %[1]s dport %[2]d drop'", protocol, port)
}

func kindPass(port int) string { return fmt.Sprintf("nft delete table inet hang%d", port) }

func serviceKinds() []serviceKind {
	stream := func(name string, n, port int, check string) serviceKind {
		return serviceKind{
			name: name, vip: prefix4(n), serves: fmt.Sprintf("%s 10.68.6.%d:%d", name, n, port), check: check,
			at: "host", hangs: kindDrop("tcp", port), goesOn: kindPass(port),
		}
	}
	list := []serviceKind{
		stream("tcp", 21, 8021, `tcp: {address: "10.68.6.21:8021"}`),
		stream("http", 22, 8022, `http: {url: "http://10.68.6.22:8022/", expect_body: well}`),
		stream("grpc", 23, 8023, `grpc: {address: "10.68.6.23:8023"}`),
		{
			name: "dns", vip: prefix4(24), serves: "dns 10.68.6.24:8024", check: `dns: {server: "10.68.6.24:8024", query: example.org, expect: 192.0.2.1}`,
			at: "host", hangs: kindDrop("udp", 8024), goesOn: kindPass(8024),
		},
		{
			name: "icmp", vip: prefix4(25), check: "icmp: {address: 10.68.77.1}",
			at: "x7", fails: "ip addr del 10.68.77.1/32 dev lo", heals: "ip addr add 10.68.77.1/32 dev lo",
			hangs:  "nft 'add table inet hang; add chain inet hang in { type filter hook input priority 0; }; add rule inet hang in icmp type echo-request drop'",
			goesOn: "nft delete table inet hang",
		},
		{
			name: "exec", vip: prefix4(26), check: `exec: {command: [/bin/sh, -c, "test -e /run/hangs && exec sleep 60; test ! -e /run/fails"]}`,
			at: "host", fails: "touch /run/fails", heals: "rm /run/fails", hangs: "touch /run/hangs", goesOn: "rm /run/hangs",
		},
	}
	return list
}

// TestServiceKinds: a service that is gone, or hangs, is withdrawn after as many
// failed runs of its check as the user wants, not earlier and not later, and
// announced again after as many good ones.
func TestServiceKinds(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	wire := host.Capture()
	c := hostConfig{}
	kinds := serviceKinds()
	running := make([]*lab.Process, len(kinds))
	start := func(i int) {
		if kinds[i].serves != "" {
			running[i] = startService(t, host, kinds[i].name, kinds[i].serves)
		}
	}
	for i, k := range kinds {
		start(i)
		c.vips = append(c.vips, vipLine(k.name, k.vip, checks(fmt.Sprintf("{%s, interval: %v, timeout: %v, rise: %d, fall: %d}",
			k.check, kindInterval, kindTimeout, kindRise, kindFall))))
	}
	s := startWith(t, l, c)
	shell := func(at, command string) { l.Node(at).Run("sh", "-c", command) }
	ways := []struct {
		name       string
		fail, heal func(i int)
		hangs      bool
	}{
		{"gone", func(i int) {
			if running[i] != nil {
				running[i].Kill()
				return
			}
			shell(kinds[i].at, kinds[i].fails)
		}, func(i int) {
			if running[i] != nil {
				start(i)
				return
			}
			shell(kinds[i].at, kinds[i].heals)
		}, false},
		{"hangs", func(i int) { shell(kinds[i].at, kinds[i].hangs) }, func(i int) { shell(kinds[i].at, kinds[i].goesOn) }, true},
	}
	for _, w := range ways {
		// The parts of both are in one network: all of a step at once.
		since, done := make([]time.Time, len(kinds)), make([]time.Time, len(kinds))
		step := func(do func(int)) {
			for i := range kinds {
				since[i] = time.Now()
				do(i)
				done[i] = time.Now()
			}
		}
		step(w.fail)
		for i, k := range kinds {
			for _, peer := range peersOf(k.vip) {
				m := waitSent(t, wire, 10*time.Second, k.name+" "+w.name, peer, since[i], withdraws(k.vip))
				k.within(t, w.name+", withdraw", m.Time.Sub(since[i]), m.Time.Sub(done[i]), kindFall, w.hangs, kindTimeout)
			}
			s.WaitStatus(5*time.Second, k.name, withheld(k.name, status.CheckFailed))
		}
		step(w.heal)
		for i, k := range kinds {
			for _, peer := range peersOf(k.vip) {
				m := waitSent(t, wire, 10*time.Second, k.name+" is back", peer, since[i], announces(k.vip))
				k.within(t, w.name+" no more, announcement", m.Time.Sub(since[i]), m.Time.Sub(done[i]), kindRise, false, 0)
			}
		}
		s.WaitStatus(5*time.Second, "all is announced", lab.Established)
	}
}

// within checks the time of a message: after runs of the check, the first of
// which may have been at once. took is at most how long it came after the change,
// least is at least how long. The last run may take the timeout, and does if it
// hangs.
func (k serviceKind) within(t *testing.T, what string, took, least time.Duration, runs int, hangs bool, timeout time.Duration) {
	t.Helper()
	t.Logf("%s %s after %v", k.name, what, took.Round(time.Millisecond))
	// A run that is late makes the time to the next one shorter.
	early := time.Duration(runs-1)*kindInterval - kindInterval/2
	if hangs {
		early += timeout
	}
	if took < early {
		t.Errorf("%s %s after %v, before %d runs in a row", k.name, what, took, runs)
	}
	if late := time.Duration(runs)*kindInterval + timeout + kindSlack; least > late {
		t.Errorf("%s %s after %v, later than %v", k.name, what, least, late)
	}
}
