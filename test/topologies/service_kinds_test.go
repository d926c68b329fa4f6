package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
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
	// mute tells that what is gone answers as little as what hangs.
	mute bool
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
			name: "icmp", vip: prefix4(25), mute: true, check: "icmp: {address: 10.68.77.1}",
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
	r := &kindRun{t: t, l: l, host: l.Node("host"), kinds: serviceKinds(), running: map[string]*lab.Process{}}
	r.wire = r.host.Capture()
	// Failed runs are in the log for debugging.
	c := hostConfig{more: "damping: {enabled: false}\nlog: {level: debug}"}
	for _, k := range r.kinds {
		r.start(k)
		c.vips = append(c.vips, vipLine(k.name, k.vip, checks(fmt.Sprintf("{%s, interval: %v, timeout: %v, rise: %d, fall: %d}",
			k.check, kindInterval, kindTimeout, kindRise, kindFall))))
	}
	r.s = startWith(t, l, c)
	shell := func(at, command string) { l.Node(at).Run("sh", "-c", command) }
	gone := func(k serviceKind) {
		if p := r.running[k.name]; p != nil {
			p.Kill()
			return
		}
		shell(k.at, k.fails)
	}
	back := func(k serviceKind) {
		if r.running[k.name] != nil {
			r.start(k)
			return
		}
		shell(k.at, k.heals)
	}
	r.once("gone", false, gone, back)
	r.once("hangs", true, func(k serviceKind) { shell(k.at, k.hangs) }, func(k serviceKind) { shell(k.at, k.goesOn) })
}

// kindRun is a run of TestServiceKinds. All kinds fail and come back together.
type kindRun struct {
	t       *testing.T
	l       *lab.Lab
	host    *lab.Node
	wire    *lab.Capture
	s       *lab.Speaker
	kinds   []serviceKind
	running map[string]*lab.Process
}

func (r *kindRun) start(k serviceKind) {
	r.t.Helper()
	if k.serves != "" {
		r.running[k.name] = startService(r.t, r.host, k.name, k.serves)
	}
}

// once has all services fail and come back. What is told by the clock only is
// tried again: a machine that is busy for a moment makes anything late, and one that
// is so all the time, or stands still, says nothing.
func (r *kindRun) once(what string, hangs bool, fail, heal func(serviceKind)) {
	r.t.Helper()
	const most = 3
	for counted, tries := 0, 0; tries < 2*most; tries++ {
		var off []string
		began := time.Now()
		logged := len(r.s.Log())
		off = r.step(what+", withdraw", fail, func(k serviceKind) error {
			_, err := vipNamed(r.s.WaitStatus(5*time.Second, k.name, withheld(k.name, status.CheckFailed)), k.name)
			return err
		}, withdraws, kindFall, true, hangs)
		for _, k := range r.kinds {
			r.decided(k, r.s.Log()[logged:])
		}
		off = append(off, r.step(what+" no more, announcement", heal, func(serviceKind) error { return nil }, announces, kindRise, false, false)...)
		r.s.WaitStatus(5*time.Second, "all is announced", lab.Established)
		if len(off) == 0 {
			return
		}
		r.t.Logf("off the schedule: %q", off)
		if why := lab.Busy(began, time.Now(), kindSlack/4); why != "" {
			r.t.Logf("this time does not count, for %s", why)
			continue
		}
		if counted++; counted == most {
			r.t.Errorf("%d times off the schedule, the last time: %q", most, off)
			return
		}
	}
}

// step changes something with each service, and returns what of the messages to
// the routers was not in time.
func (r *kindRun) step(what string, do func(serviceKind), then func(serviceKind) error, says func(netip.Prefix) func(lab.Message) bool, runs int, fails, hangs bool) (off []string) {
	r.t.Helper()
	since, done := map[string]time.Time{}, map[string]time.Time{}
	for _, k := range r.kinds {
		since[k.name] = time.Now()
		do(k)
		done[k.name] = time.Now()
	}
	for _, k := range r.kinds {
		var took []time.Duration
		for _, peer := range peersOf(k.vip) {
			m := waitSent(r.t, r.wire, 10*time.Second, k.name+" "+what, peer, since[k.name], says(k.vip))
			took = append(took, m.Time.Sub(since[k.name]).Round(time.Millisecond))
			// The change was made between the two times.
			if late, bound := m.Time.Sub(done[k.name]), latest(runs, fails && (hangs || k.mute)); late > bound {
				off = append(off, fmt.Sprintf("%s %s after %v, later than %v", k.name, what, late, bound))
			}
			if early := m.Time.Sub(since[k.name]); early < earliest(runs, hangs) {
				off = append(off, fmt.Sprintf("%s %s after %v, before %v", k.name, what, early, earliest(runs, hangs)))
			}
		}
		r.t.Logf("%s %s after %v", k.name, what, took)
		if err := then(k); err != nil {
			r.t.Error(err)
		}
	}
	return off
}

// earliest and latest are when so many runs of a check are over. The first may be
// at once, and the last takes the timeout if it hangs.
func earliest(runs int, hangs bool) time.Duration {
	d := time.Duration(runs-1)*kindInterval - kindInterval/2
	if hangs {
		d += kindTimeout
	}
	return d
}

func latest(runs int, hangs bool) time.Duration {
	d := time.Duration(runs)*kindInterval + kindSlack
	if hangs {
		d += kindTimeout
	}
	return d
}

// decided checks by the log that the verdict fell with the right failed run, and
// once.
func (r *kindRun) decided(k serviceKind, log string) {
	r.t.Helper()
	var failed int
	var fell []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, `msg="check result" check=`+k.name+"/") && !strings.Contains(line, `reason=""`) {
			failed++
			if _, streak, ok := strings.Cut(strings.TrimSpace(line), " streak="); ok && strings.HasSuffix(streak, " changed=true") {
				fell = append(fell, streak)
			}
		}
	}
	if want := fmt.Sprintf("%d changed=true", kindFall); failed < kindFall || !slices.Equal(fell, []string{want}) {
		r.t.Errorf("%s: %d failed runs, the verdict fell with streak=%q, want %s", k.name, failed, fell, want)
	}
}
