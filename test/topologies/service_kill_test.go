package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// How often a service is killed, and how quick the withdraws must be: half of those
// around which this machine kept no thread waiting for a fifth of that time. Where
// too few are without such a stall, half of all must be far quicker than by polling,
// which takes half of the interval.
const (
	killedInterval = time.Second
	killedLimit    = 10 * time.Millisecond
	killedStalled  = 100 * time.Millisecond
	killedCalm     = 500 * time.Millisecond
	killedCount    = 5 // that are wanted without a stall
	killedFewest   = 3
	killedAtMost   = 11
)

// killed is a service whose death is heard of.
type killed struct {
	name, serves, check string
	vip                 netip.Prefix

	// pause is the least time between two deaths. Held connections that end more
	// often than once a second are not made anew at once, and a death may be the end
	// of two: the kernel closes the port last, and may take one more before.
	pause time.Duration

	took  []time.Duration // from the kill to the last session's withdraw
	quiet []time.Duration // those of them without a stall
	last  time.Time       // it was killed
}

func killedServices() []*killed {
	// A machine that stands still is no server that does not answer.
	interval := fmt.Sprintf(", interval: %v, timeout: %v}", killedInterval, killedInterval)
	return []*killed{
		{name: "listen", serves: "tcp 10.68.6.11:8011", check: "{listen: {port: 8011}" + interval, vip: prefix4(11)},
		{name: "hold", serves: "tcp 10.68.6.12:8012", check: `{tcp: {address: "10.68.6.12:8012", hold: true}` + interval, vip: prefix4(12), pause: 2200 * time.Millisecond},
		{name: "http", serves: "http 10.68.6.15:8015", check: `{http: {url: "http://10.68.6.15:8015/", hold: true}` + interval, vip: prefix4(15), pause: 2200 * time.Millisecond},
		{name: "grpc", serves: "grpc 10.68.6.14:8014", check: `{grpc: {address: "10.68.6.14:8014", hold: true}` + interval, vip: prefix4(14), pause: 2200 * time.Millisecond},
		{name: "udp", serves: "udp 10.68.6.13:8013", check: "{listen: {port: 8013, protocol: udp}" + interval, vip: prefix4(13)},
	}
}

// TestServiceKilled: a service that is killed is withdrawn from both routers
// within milliseconds, with one UPDATE each, and stays bound; when it is back it
// is announced again.
func TestServiceKilled(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	kernel, wire := watchAddresses(t, host), host.Capture()
	// Without damping: they are killed often.
	c := hostConfig{more: "damping: {enabled: false}"}
	services := killedServices()
	running := map[string]*lab.Process{}
	for _, k := range services {
		c.vips = append(c.vips, vipLine(k.name, k.vip, checks(k.check)))
		running[k.name] = startService(t, host, k.name, k.serves)
	}
	s := startWith(t, l, c)
	began := waitQuiet(t, wire, allPeers()...)
	// Those that died often enough without a stall are left alone.
	stalls := watchStalls(t)
	for round := range killedAtMost {
		for _, k := range services {
			if len(k.quiet) >= killedCount && !k.slow() {
				continue
			}
			k.kill(t, wire, running[k.name], stalls)
			if round == 0 {
				st := s.WaitStatus(5*time.Second, k.name+" is withheld", withheld(k.name, status.CheckFailed))
				if v, _ := vipNamed(st, k.name); !v.Bound {
					t.Errorf("%s is not bound any more", k.name)
				}
				routersHave(t, l, k.vip, false)
			}
			since := time.Now()
			running[k.name] = startService(t, host, k.name, k.serves)
			for _, peer := range peersOf(k.vip) {
				waitSent(t, wire, 5*time.Second, "UPDATE", peer, since, announces(k.vip))
			}
			s.WaitStatus(5*time.Second, "all is announced", lab.Established)
		}
	}
	waitQuiet(t, wire, allPeers()...)
	for _, k := range services {
		t.Logf("%s: killed %d times, withdrawn on both sessions after %v; without a stall %v", k.name, len(k.took), k.took, k.quiet)
		if k.slow() {
			t.Errorf("%s: without a stall %v, want a median of %v; in all %v", k.name, k.quiet, killedLimit, k.took)
		}
		if gone := kernel.of(k.vip, began); len(gone) > 0 {
			t.Errorf("%s: the VIP was unbound: %v", k.name, gone)
		}
		k.perRound(t, wire, began)
		routersHave(t, l, k.vip, true)
	}
}

// kill kills the service and notes how long it took until all sessions had sent
// the withdraw.
func (k *killed) kill(t *testing.T, wire *lab.Capture, p *lab.Process, stalls *stallWatch) {
	t.Helper()
	lab.Eventually(t, 5*time.Second, "not killed too often", func() error {
		return lab.That(time.Since(k.last) > k.pause, "%v ago", time.Since(k.last))
	})
	since := time.Now()
	k.last = since
	p.Kill()
	var took time.Duration
	for _, peer := range peersOf(k.vip) {
		m := waitSent(t, wire, 5*time.Second, "UPDATE", peer, since, withdraws(k.vip))
		took = max(took, m.Time.Sub(since))
	}
	k.took = append(k.took, took)
	// Several processes take part, and each waits for itself: what counts is that
	// the machine was calm, before too.
	stall := stalls.longest(since.Add(-killedCalm), since.Add(took))
	t.Logf("%s: withdrawn after %v, the machine kept a thread waiting for %v around it", k.name, took, stall)
	if stall <= killedLimit/5 && lab.Busy(since.Add(-killedCalm), since.Add(took), killedLimit) == "" {
		k.quiet = append(k.quiet, took)
	}
}

// slow tells that the withdraws so far were not quick.
func (k *killed) slow() bool {
	if len(k.quiet) >= killedFewest {
		return median(k.quiet) > killedLimit
	}
	return median(k.took) > killedStalled
}

func median(list []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(list))[len(list)/2]
}

// perRound checks that each death and each return was one UPDATE to each router.
func (k *killed) perRound(t *testing.T, wire *lab.Capture, since time.Time) {
	t.Helper()
	var want []string
	for range k.took {
		want = append(want, "-"+k.vip.String(), "+"+k.vip.String())
	}
	for _, peer := range peersOf(k.vip) {
		if diff := cmp.Diff(want, updatesOf(wire, peer, k.vip, since)); diff != "" {
			t.Errorf("%s: %v was sent (-want +got):\n%s", k.name, peer, diff)
		}
	}
}

// updatesOf tells what the peer was sent of a prefix since then: "+" and "-" with
// the prefix, and behind it what attributes an announcement has besides the usual.
func updatesOf(wire *lab.Capture, peer netip.Addr, p netip.Prefix, since time.Time) (list []string) {
	for _, m := range to(wire, peer, since, changes) {
		if m.Withdraws(p) {
			list = append(list, "-"+p.String())
		}
		if m.Announces(p) {
			list = append(list, "+"+p.String()+attributesOf(m))
		}
	}
	return list
}

// attributesOf tells MED, prepends and communities.
func attributesOf(m lab.Message) (text string) {
	if m.MED != nil {
		text += " med " + strconv.FormatUint(uint64(*m.MED), 10)
	}
	if n := len(m.ASPath) - 1; n > 0 {
		text += fmt.Sprintf(" prepend %d", n)
	}
	for _, c := range m.Communities {
		text += fmt.Sprintf(" %d:%d", c>>16, c&0xffff)
	}
	return text
}
