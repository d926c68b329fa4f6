//go:build long

package topologies

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/topologies/lab"
)

// killings is how often TestLongKilledAtAnyMoment kills the daemon.
const killings = 50

// phase is a part of the daemon's life.
type phase string

const (
	coldStart phase = "start" // after a clean stop
	warmStart phase = "start after a kill"
	steady    phase = "steady state"
	stopping  phase = "stop"
)

// moment is when to kill: so long after the phase began.
type moment struct {
	phase phase
	after time.Duration
}

// longest is how long a phase may have lasted when the daemon is killed: until
// it is over, and a little more.
func (p phase) longest() time.Duration {
	switch p {
	case steady:
		return 300 * time.Millisecond
	case stopping:
		return 900 * time.Millisecond
	default:
		return 1200 * time.Millisecond
	}
}

// moments are as many of each phase, in random order. Half of the starts and
// stops end within their first tenth, in which the kernel is written.
func moments(random *rand.Rand) []moment {
	phases := []phase{coldStart, stopping, warmStart, steady, stopping, coldStart}
	list := make([]moment, killings)
	for i := range list {
		p := phases[i%len(phases)]
		list[i] = moment{p, time.Duration(random.Float64() * float64(p.longest()))}
		if i/len(phases)%2 == 0 {
			list[i].after /= 10
		}
	}
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// TestLongKilledAtAnyMoment: however the daemon dies, the next start makes the
// host and the routers what they were, nothing of others is ever changed, and a
// clean stop restores the host of before the first start. VIPSPEAKER_SEED
// repeats the moments of a run.
func TestLongKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("VIPSPEAKER_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("VIPSPEAKER_SEED=%d", seed)
	k := newKilling(t)
	for i, m := range moments(rand.New(rand.NewPCG(seed, 0))) {
		began := time.Now()
		k.kill(m)
		if lost := k.lostOfOthers(); len(lost) > 0 {
			t.Fatalf("%d: killed %v after %s: others have lost %q", i, m.after, m.phase, lost)
		}
		k.start()
		k.converge(fmt.Sprintf("%d: killed %v after %s", i, m.after, m.phase))
		t.Logf("%2d: %-18s %-12v the same again after %v", i, m.phase, m.after.Round(100*time.Microsecond), time.Since(began).Round(time.Millisecond))
	}
	k.stop()
}

// killing is a lab with the daemon in it.
type killing struct {
	t       *testing.T
	l       *lab.Lab
	host    *lab.Node
	s       *lab.Speaker
	vips    []netip.Prefix
	before  string   // the state of the host without the daemon
	foreign []string // the lines of it that others own and that look like ours
	want    string   // the world with the daemon
}

// others are things that look like the daemon's and are not.
func others() []string {
	return []string{
		"ip addr add 10.68.6.9/32 dev lo noprefixroute",
		"ip -6 addr add fd68:6::9/128 dev lo nodad noprefixroute",
		"ip link add vi1 type bridge", "ip link set vi1 up",
		"ip link property add dev vi1 altname vi0x",
		"ip addr add 10.68.6.10/32 dev vi1 noprefixroute",
		"ip rule add pref 32101 from 10.68.6.9 lookup 6801",
		"ip rule add pref 32101 from 10.68.6.1 lookup 6801 protocol static",
		"ip rule add pref 32366 from 10.68.6.9 lookup 6802 protocol static",
		"ip rule add pref 32699 from all nop protocol static",
		"ip -6 rule add pref 32101 from fd68:6::9 lookup 6801",
		"ip route add 10.68.78.0/24 via 10.68.7.2 proto 68",
		"ip route add 10.68.79.0/24 via 10.68.1.2 proto 68 src 10.68.1.1",
		"ip route add 10.99.0.0/16 via 10.68.1.2 table 6900 proto static",
		"ip route add local 10.81.0.0/24 dev lo table local",
		"ip -6 route add 2001:db8:99::/48 via fd68:5::2 proto 68",
		"ip -6 route add fd99::/48 via fd68:1::2 table 6900 proto static",
	}
}

func newKilling(t *testing.T) *killing {
	t.Helper()
	l := lab.Start(t, "vipa")
	k := &killing{t: t, l: l, host: l.Node("host"), vips: []netip.Prefix{vip4, vip6, prefix4(2), prefix4(3), netip.MustParsePrefix("10.80.0.0/24")}}
	settled(t, k.host)
	clean := lines(k.host.State())
	for _, line := range others() {
		k.host.Run(strings.Fields(line)...)
	}
	settled(t, k.host)
	k.before = k.host.State()
	for line := range strings.SplitSeq(k.before, "\n") {
		if !clean[line] {
			k.foreign = append(k.foreign, line)
		}
	}
	if len(k.foreign) < len(others()) {
		t.Fatalf("only %d lines tell of others:\n%s", len(k.foreign), strings.Join(k.foreign, "\n"))
	}
	c := hostConfig{vips: sampleVIPs()}
	for i, p := range k.vips[2:] {
		c.vips = append(c.vips, vipLine(fmt.Sprintf("more%d", i), p))
	}
	k.host.WriteFile(lab.ConfigPath, c.String())
	k.start()
	k.s.WaitStatus(15*time.Second, "both are source everywhere", bothSources)
	for _, vip := range k.vips {
		routersHave(t, l, vip, true)
	}
	waitClientHasBoth(t, l)
	k.want = k.world()
	return k
}

func lines(s string) map[string]bool {
	set := map[string]bool{}
	for line := range strings.SplitSeq(s, "\n") {
		set[line] = true
	}
	return set
}

func (k *killing) start() {
	k.t.Helper()
	k.s = startSpeaker(k.t, k.l)
}

// kill lets a phase begin and kills the daemon in it.
func (k *killing) kill(m moment) {
	k.t.Helper()
	switch m.phase {
	case coldStart:
		k.stop()
		k.s = lab.StartSpeaker(k.host, binary(k.t))
	case warmStart:
		k.s.Kill()
		k.s = lab.StartSpeaker(k.host, binary(k.t))
	case stopping:
		k.s.Signal(syscall.SIGTERM)
	case steady:
	}
	<-time.After(m.after)
	k.s.Kill()
}

// stop ends the daemon in good order and checks that the host is as before the
// first start.
func (k *killing) stop() {
	k.t.Helper()
	k.s.Signal(syscall.SIGTERM)
	if code := k.s.Wait(30 * time.Second); code != 0 {
		k.t.Fatalf("exit code %d\n%s", code, k.s.Log())
	}
	if diff := cmp.Diff(k.before, k.host.State()); diff != "" {
		k.t.Fatalf("after a clean stop (-before +after):\n%s", diff)
	}
	k.noSpeakers()
}

// noSpeakers waits until no speaker process is left of all the daemons that were
// killed.
func (k *killing) noSpeakers() {
	k.t.Helper()
	network := strings.TrimSpace(k.host.Run("readlink", "/proc/self/ns/net"))
	lab.Eventually(k.t, 20*time.Second, "no speaker process is left", func() error {
		files, err := filepath.Glob("/proc/[0-9]*/ns/net")
		for _, file := range files {
			ns, nserr := os.Readlink(file)
			cmdline, cmderr := os.ReadFile(filepath.Dir(filepath.Dir(file)) + "/cmdline")
			// One that has just ended is no error.
			if nserr == nil && cmderr == nil && ns == network && bytes.Contains(cmdline, []byte("speaker-process")) {
				return fmt.Errorf("%s: %q", file, cmdline)
			}
		}
		return err
	})
}

// lostOfOthers are the lines of others' things that are missing now.
func (k *killing) lostOfOthers() (lost []string) {
	now := lines(k.host.State())
	for _, line := range k.foreign {
		if !now[line] {
			lost = append(lost, line)
		}
	}
	return lost
}

// converge waits until the world is what it was at first.
func (k *killing) converge(what string) {
	k.t.Helper()
	lab.Eventually(k.t, 60*time.Second, what, func() error {
		if diff := cmp.Diff(k.want, k.world()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// ownDevice are the parts of a line about the virtual interface that differ
// each time it is made.
func ownDevice() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^\d+(: vi0\b.*?)(link/ether \S+ .*)?$`)
}

// world is the state of the host, and how the routers and the client reach the
// VIPs.
func (k *killing) world() string {
	k.t.Helper()
	var b strings.Builder
	b.WriteString(ownDevice().ReplaceAllString(k.host.State(), "N$1"))
	for _, node := range []string{"r1", "r5", "client"} {
		for _, vip := range k.vips {
			hops, err := k.l.Node(node).Route(vip)
			if err != nil {
				k.t.Fatal(err)
			}
			list := lab.Live(hops)
			if node != "client" {
				// A router may name the host's link-local address or its global one.
				list = lab.LiveDevs(hops)
			}
			slices.Sort(list)
			fmt.Fprintf(&b, "%s: %v %v\n", node, vip, list)
		}
	}
	return b.String()
}
