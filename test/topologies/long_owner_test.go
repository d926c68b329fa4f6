//go:build long

package topologies

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

const (
	// faultLabs are pairs of hosts that are hurt side by side: they wait most of the
	// time.
	faultLabs = 4
	// slack is what a busy machine adds, and two looks into the tables.
	slack = 500 * time.Millisecond
	// afterLease is how long nobody may own the VIP of an owner that cannot give it up:
	// its lease, and the second that etcd and the next owner may take.
	afterLease = lease + time.Second + slack
	// afterSession is that of an owner that lost its router: BFD sees it, the router may
	// be a second later, then it is given up, and the next one takes it.
	afterSession = 500*time.Millisecond + 2*time.Second + slack
	// afterEnd is that of one whose router has ended the session.
	afterEnd = time.Second + slack
	// atOnce is how long a look into both tables may take that says what is at one time.
	atOnce = time.Second
	// unseen is how long what a fault leads to can stay unseen.
	unseen    = lease/3 + 500*time.Millisecond
	clockTime = "15:04:05.000"
	// farthest is how far a wall clock is set.
	farthest = 48 * time.Hour
)

// patient is BFD that a machine does not end which is busy with many hosts.
var patient = bfdTimers{100 * time.Millisecond, 5}

// number is the value of a variable of the environment, or what holds without it.
func number(t *testing.T, name string, without uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return without
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// settable is a daemon whose wall clock can be set: VIPSPEAKER_SETTABLE, or one that
// is built.
func settable(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("VIPSPEAKER_SETTABLE"); path != "" {
		return path
	}
	path, err := lab.BuildSettable(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// faulty is a pair of hosts to which things happen.
type faulty struct {
	*mobility
	r      *rand.Rand
	binary string
	env    map[string]string
	clocks map[string]*lab.Clock
	etcd   *lab.Process
	data   string // of etcd
	// both tells whether both hosts may announce a VIP now, nil for never.
	both func(vip string) bool

	mu       sync.Mutex
	possible bool                     // somebody could own the VIPs
	since    map[string]time.Time     // since when nobody owns one
	gap      map[string]time.Duration // for how long nobody has at most since the fault
	until    map[string]time.Time     // when that was over
	kind     string                   // of the fault
	longest  map[string]time.Duration // by the fault
	count    map[string]int
	looks    int
}

// startFaulty starts both hosts, each in a time namespace of its own: no two of them
// count the time from the same moment on, nor does etcd.
func startFaulty(t *testing.T, binary string, r *rand.Rand) *faulty {
	t.Helper()
	f := &faulty{
		mobility: startMobility(t), r: r, binary: binary, env: map[string]string{}, clocks: map[string]*lab.Clock{},
		since: map[string]time.Time{}, gap: map[string]time.Duration{}, until: map[string]time.Time{}, longest: map[string]time.Duration{}, count: map[string]int{},
	}
	f.session = ", bfd: " + patient.host()
	speakBFD(t, f.l.Node("r1"), patient, withBGP, netip.MustParseAddr("10.68.1.1"))
	speakBFD(t, f.l.Node("r2"), patient, withBGP, netip.MustParseAddr("10.68.5.1"))
	f.data = t.TempDir()
	f.etcd = f.startEtcdWith(f.data)
	for name, rank := range map[string]int{"a": 1, "b": 2} {
		n := f.l.Node(name)
		f.clocks[name], f.env[name] = n.NewClock()
		text := movableWith(name, f.session, "exclusive: true", fmt.Sprintf("role: {rank: %d, failback: manual}", rank))
		second := fmt.Sprintf("  - {name: vipb, address: 10.68.6.2, exclusive: true, role: {rank: %d, failback: manual}}\nshutdown:", 3-rank)
		n.WriteFile(lab.ConfigPath, strings.Replace(text, "shutdown:", second, 1))
		f.run(name)
	}
	f.whole(60 * time.Second)
	return f
}

// run starts the daemon of a host.
func (f *faulty) run(name string) {
	f.t.Helper()
	f.hosts[name] = lab.StartSpeakerAt(f.l.Node(name), f.binary, map[string]time.Duration{"a": 26 * time.Hour, "b": 1000 * time.Hour}[name], f.env[name])
}

// claims are the VIPs that the router of a host has from it.
func (f *faulty) claims(host string) (vips []string, err error) {
	node, command := "r1", "show bgp ipv4 unicast neighbors 10.68.1.1 routes json"
	if host == "b" {
		node, command = "r2", "show route protocol b"
	}
	out, err := f.l.Node(node).Ask(command)
	for _, vip := range []string{"10.68.6.1/32", "10.68.6.2/32"} {
		if strings.Contains(out, vip) {
			vips = append(vips, vip)
		}
	}
	return vips, err
}

// look reads the tables one after the other. What the first router has before and
// after the second one was asked, and that has it too, both had at one time: within
// atOnce it cannot have gone from the one host to the other and back.
func (f *faulty) look() error {
	began := time.Now()
	before, err := f.claims("a")
	if err != nil {
		return err
	}
	other, err := f.claims("b")
	if err != nil {
		return err
	}
	var both []string
	for _, vip := range before {
		if slices.Contains(other, vip) {
			both = append(both, vip)
		}
	}
	if f.both != nil {
		both = slices.DeleteFunc(both, f.both)
		if other, err = f.claims("b"); err != nil {
			return err
		}
		both = slices.DeleteFunc(both, func(vip string) bool { return !slices.Contains(other, vip) })
	}
	if len(both) > 0 {
		after, err := f.claims("a")
		if err != nil {
			return err
		}
		both = slices.DeleteFunc(both, func(vip string) bool { return !slices.Contains(after, vip) })
		if len(both) > 0 && time.Since(began) < atOnce {
			f.t.Errorf("%s %s: in the tables of both routers at once: %v", time.Now().Format(clockTime), f.now(), both)
		}
	}
	f.vacant(append(before, other...))
	return nil
}

func (f *faulty) now() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kind
}

// vacant measures for how long nobody owns a VIP although somebody could.
func (f *faulty) vacant(owned []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	for _, vip := range []string{"10.68.6.1/32", "10.68.6.2/32"} {
		switch at := f.since[vip]; {
		case !f.possible || slices.Contains(owned, vip):
			delete(f.since, vip)
		case at.IsZero():
			f.since[vip] = time.Now()
		default:
			if now := time.Now(); now.Sub(at) > f.gap[vip] {
				f.gap[vip], f.until[vip] = now.Sub(at), now
			}
		}
	}
}

// watch looks all the time until it is stopped.
func (f *faulty) watch() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if err := f.look(); err != nil {
				f.t.Errorf("%s: %v", f.now(), err)
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// whole waits until each VIP has one owner and both hosts could be it: then whatever
// happens next, one remains that can.
func (f *faulty) whole(within time.Duration) {
	f.t.Helper()
	lab.Eventually(f.t, within, "one owner, and both are ready", func() error {
		a, err := f.claims("a")
		b, errB := f.claims("b")
		if err = errors.Join(err, errB); err != nil {
			return err
		}
		if len(a)+len(b) != 2 {
			return lab.That(false, "in the tables: %v of a, %v of b", a, b)
		}
		for _, s := range f.hosts {
			st, err := s.Status()
			if err != nil {
				return err
			}
			for i := range st.VIPs {
				if r := st.VIPs[i].Role; r == nil || len(r.Ready) != 2 || r.Trouble != "" || r.Former != "" {
					return lab.That(false, "role %+v", r)
				}
			}
			if !slices.ContainsFunc(st.Peers, func(p status.Peer) bool { return p.BFD != nil && p.BFD.State == "Up" }) {
				return lab.That(false, "no BFD")
			}
		}
		return nil
	})
}

// TestLongOwnerFaults: whatever happens to hosts, etcd, the ways between them and
// their clocks, never two owners are in the routers' tables at once, and one is when
// one can be. VIPSPEAKER_FAULTS says how many faults there are, VIPSPEAKER_SEED which.
func TestLongOwnerFaults(t *testing.T) {
	t.Parallel()
	faults, seed := int(number(t, "VIPSPEAKER_FAULTS", 16)), number(t, "VIPSPEAKER_SEED", uint64(time.Now().Unix()))
	t.Logf("seed %d", seed)
	program := settable(t)
	for i := range faultLabs {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			f := startFaulty(t, program, rand.New(rand.NewPCG(seed, uint64(i))))
			f.settableClock()
			stop := f.watch()
			want, n := (faults+i)/faultLabs, 0
			// One that says nothing is made up for by another one.
			for counted := 0; counted < want && n < 2*want; n++ {
				if f.hurt(n) {
					counted++
				}
			}
			stop()
			f.mu.Lock()
			defer f.mu.Unlock()
			t.Logf("%d faults, %d looks into both tables", n, f.looks)
			for _, k := range faultKinds {
				t.Logf("%s: %d times, longest without an owner %s of %s", k.name, f.count[k.name], f.longest[k.name], k.within)
			}
		})
	}
}

// hurt does something to a host, undoes it, and waits until all is well. It tells
// whether it can be judged for how long nobody owned a VIP.
func (f *faulty) hurt(n int) (counts bool) {
	f.t.Helper()
	name, kind := []string{"a", "b"}[f.r.IntN(2)], f.r.IntN(len(faultKinds))
	had, _ := f.claims(name)
	begin := time.Now()
	what, heal := f.fault(name, kind)
	lasts := time.Duration(f.r.IntN(int(lease * 3 / 2)))
	<-time.After(lasts)
	heal()
	f.whole(wholeBound)
	// What a fault leads to can be seen later only: a router finds that a host was
	// silent once it goes on, and until it is renewed a lease lasts a second longer
	// after etcd came back.
	<-time.After(unseen)
	f.whole(wholeBound)
	f.mu.Lock()
	defer f.mu.Unlock()
	longest := max(f.gap["10.68.6.1/32"], f.gap["10.68.6.2/32"])
	f.count[what]++
	f.longest[what] = max(f.longest[what], longest)
	f.t.Logf("%s fault %d: host %s with %v: %s for %s; longest without an owner %s", begin.Format(clockTime), n, name, had, what, lasts, longest)
	counts = true
	if within := faultKinds[kind].within; longest > within {
		counts = f.judge(begin, fmt.Sprintf("nobody owned a VIP for %s of %s", longest, within))
	}
	clear(f.gap)
	clear(f.until)
	return counts
}

// judge fails the test because of the gaps since a fault, unless the machine stood
// still since: then both hosts can have lost their routers, and none was left that
// could take over. f.mu is held.
func (f *faulty) judge(begin time.Time, what string) (counts bool) {
	f.t.Helper()
	until := begin
	for _, at := range f.until {
		if at.After(until) {
			until = at
		}
	}
	if why := lab.Busy(begin.Add(-time.Second), until, slack/4); why != "" {
		f.t.Logf("%s: it is not judged, for %s", what, why)
		return false
	}
	f.t.Error(what)
	return true
}

// wholeBound is how long it may take until all is well again.
const wholeBound = 90 * time.Second

// settableClock makes sure that what sets the wall clock does so.
func (f *faulty) settableClock() {
	f.t.Helper()
	if err := f.clocks["a"].Set(farthest); err != nil {
		f.t.Fatal(err)
	}
	f.hosts["a"].WaitStatus(40*time.Second, "its clock was set", func(st *status.Status) error {
		off := time.Until(st.Time).Round(time.Minute)
		return lab.That(off == farthest, "it is off by %s", off)
	})
}

// faultKind is what can happen to a host.
type faultKind struct {
	name string
	// hopeless tells that nobody can own a VIP meanwhile.
	hopeless bool
	// within is how long nobody may own a VIP that somebody could.
	within time.Duration
	// do does it and returns what undoes it.
	do func(f *faulty, host string) (heal func())
}

var faultKinds = []faultKind{
	{"death", false, afterLease, func(f *faulty, host string) func() {
		f.hosts[host].Kill()
		return func() { f.run(host) }
	}},
	{"pause of the daemon", false, afterLease, func(f *faulty, host string) func() {
		s := f.hosts[host]
		s.Signal(syscall.SIGSTOP)
		return func() { s.Signal(syscall.SIGCONT) }
	}},
	{"pause of all processes", false, afterLease, func(f *faulty, host string) func() {
		all := append(children(f.hosts[host].PID), f.hosts[host].PID)
		signal := func(sig syscall.Signal) {
			for _, pid := range all {
				_ = syscall.Kill(pid, sig) // one that has ended just now needs none
			}
		}
		signal(syscall.SIGSTOP)
		return func() {
			f.r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			signal(syscall.SIGCONT)
		}
	}},
	{"partition from etcd", false, afterLease, func(f *faulty, host string) func() {
		f.l.DropFrames(host, "mg")
		return func() { f.l.PassFrames(host, "mg") }
	}},
	{"partition from the router", false, afterSession, func(f *faulty, host string) func() {
		f.l.DropFrames(host, "en1")
		return func() { f.l.PassFrames(host, "en1") }
	}},
	{"end of the session by the router", false, afterEnd, func(f *faulty, host string) func() {
		end, again := f.endSession(host)
		end()
		return again
	}},
	{"step of the clock", false, slack, func(f *faulty, host string) func() {
		f.step(host)
		return func() { f.step(host) }
	}},
	{"step of the clock while it is cut off from etcd", false, afterLease, func(f *faulty, host string) func() {
		f.l.DropFrames(host, "mg")
		f.step(host)
		return func() { f.l.PassFrames(host, "mg") }
	}},
	{"pause of etcd", true, 0, func(f *faulty, _ string) func() {
		f.etcd.Signal(syscall.SIGSTOP)
		return func() { f.etcd.Signal(syscall.SIGCONT) }
	}},
	{"death of etcd", true, 0, func(f *faulty, _ string) func() {
		f.etcd.Kill()
		return func() { f.etcd = f.startEtcdWith(f.data) }
	}},
}

// fault does one of them. While nobody can own a VIP, and until both hosts are ready
// after that, it is not counted that nobody does.
func (f *faulty) fault(host string, kind int) (what string, heal func()) {
	k := faultKinds[kind]
	f.mu.Lock()
	f.kind, f.possible = k.name, !k.hopeless
	f.mu.Unlock()
	return k.name, k.do(f, host)
}

// step sets the wall clock of a host by up to two days, forward or back.
func (f *faulty) step(host string) {
	f.t.Helper()
	if err := f.clocks[host].Set(time.Duration(f.r.Int64N(int64(2*farthest))) - farthest); err != nil {
		f.t.Error(err)
	}
}

// children are the processes that a process has started, and that it still has.
func children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for text := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(text); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}
