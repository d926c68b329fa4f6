//go:build long

package topologies

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// thousandChecks is how many checks run once a second for how many VIPs, and for how
// long. What they cost and how late they are is BenchmarkChecks' matter.
const (
	thousandChecks  = 1000
	thousandVIPs    = 50
	thousandSeconds = 20
	thousandDrift   = 8 * time.Millisecond
)

// thousandKinds are checks of every kind that needs no program, of an address each,
// so that none is shared.
var thousandKinds = []string{
	`tcp: {address: "%s:8090"}`,
	`http: {url: "http://%s:8091/"}`,
	`dns: {server: "%s:8092", query: example.org, expect: 192.0.2.1}`,
	`grpc: {address: "%s:8093"}`,
	`grpc: {address: "%s:8093", hold: true}`,
	`icmp: {address: %s}`,
	`tcp: {address: "%s:8090", hold: true}`,
	`listen: {port: 8090, address: %s}`,
}

// TestLongThousandChecks runs a thousand checks a second in the daemon: all pass, none
// is left out, and each stays on its schedule.
func TestLongThousandChecks(t *testing.T) {
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	service := startService(t, host, "service", "tcp", "0.0.0.0:8090", "http", "0.0.0.0:8091", "dns", "0.0.0.0:8092", "grpc", "0.0.0.0:8093")
	c := hostConfig{}
	for i := range thousandVIPs {
		var list []string
		for j := range thousandChecks / thousandVIPs {
			kind := thousandKinds[j%len(thousandKinds)]
			list = append(list, fmt.Sprintf("{name: c%d, %s, interval: 1s}", j, fmt.Sprintf(kind, fmt.Sprintf("127.1.%d.%d", i, j+1))))
		}
		c.vips = append(c.vips, vipLine(fmt.Sprintf("v%d", i), prefix4(100+i), checks(list...)))
	}
	s := startWith(t, l, c)
	s.WaitStatus(20*time.Second, "all is announced", lab.Established)
	// What was unknown ran more often, and waits to be accepted.
	cpuOver(t, s, 2*time.Second)
	from := time.Now()
	used := cpuOver(t, s, thousandSeconds*time.Second)
	to := time.Now()
	t.Logf("%d checks a second: %.1f %% of a core in the daemon", thousandChecks, used*100)
	s.WaitStatus(20*time.Second, "all is announced still", lab.Established)
	// One picture may be of a moment in which the machine stood still.
	s.WaitStatus(20*time.Second, "all checks have run", func(st *status.Status) error { return ranInTime(t, st) })
	allRan(t, service, from, to)
}

// ranInTime checks that all checks have run lately.
func ranInTime(t *testing.T, st *status.Status) error {
	t.Helper()
	var oldest time.Duration
	n := 0
	for i := range st.VIPs {
		for j := range st.VIPs[i].Checks {
			c := &st.VIPs[i].Checks[j]
			n++
			if c.Verdict != "healthy" {
				return fmt.Errorf("%s of %s is %s: %s", c.Name, st.VIPs[i].Name, c.Verdict, c.Reason)
			}
			oldest = max(oldest, st.Time.Sub(c.Checked))
		}
	}
	t.Logf("the check that ran the longest ago: %v before the picture", oldest.Round(time.Millisecond))
	return lab.That(n == thousandChecks && oldest <= 1500*time.Millisecond, "%d checks, one ran %v ago", n, oldest)
}

// allRan checks by the service's own count that each address to which each run makes a
// connection was asked once in each second, and tells how regularly.
func allRan(t *testing.T, service *lab.Process, from, to time.Time) {
	t.Helper()
	asked, again := map[string][]int64{}, 0
	for line := range strings.Lines(service.Log()) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "accepted" {
			continue
		}
		at, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case at < from.UnixMicro() || at > to.UnixMicro():
		case holdsConnection(t, fields[1]):
			again++
		default:
			asked[fields[1]] = append(asked[fields[1]], at)
		}
	}
	// Those that hold a connection made it before, and make another one only after a
	// run that has failed.
	if why := lab.Busy(from, to, 50*time.Millisecond); again > 0 && why == "" {
		t.Errorf("%d connections that were held were made again", again)
	} else if again > 0 {
		t.Logf("%d connections that were held were made again, for %s", again, why)
	}
	if want := thousandVIPs * perVIP("tcp", "http", "grpc"); len(asked) != want {
		t.Errorf("%d addresses were asked, want %d", len(asked), want)
	}
	var late, drifts []time.Duration
	var off []string
	runs := int(to.Sub(from) / time.Second)
	for address, times := range asked {
		if len(times) < runs-1 || len(times) > runs+2 {
			off = append(off, fmt.Sprintf("%s was asked %d times", address, len(times)))
		}
		for i := 1; i < len(times); i++ {
			late = append(late, (time.Duration(times[i]-times[i-1])*time.Microsecond - time.Second).Abs())
		}
		drifts = append(drifts, driftOf(times))
	}
	if len(late) == 0 {
		t.Fatal("nothing was asked")
	}
	slices.Sort(drifts)
	drift := drifts[len(drifts)/2]
	if drift.Abs() > thousandDrift {
		t.Errorf("in %v checks are %v late on their schedule, want %v at most", to.Sub(from), drift, thousandDrift)
	}
	if why := lab.Busy(from, to, time.Second/2); len(off) > 0 && why != "" {
		t.Logf("%d addresses were asked too often or not often enough, but %s", len(off), why)
	} else if len(off) > 0 {
		t.Errorf("in %v %d addresses were asked too often or not often enough: %s, …", to.Sub(from), len(off), off[0])
	}
	slices.Sort(late)
	t.Logf("two runs of a check are one second apart, but for %v at p50, %v at p99 and %v at most; they drift by %v",
		late[len(late)/2], late[len(late)*99/100], late[len(late)-1], drift)
}

// driftOf is how much later on its schedule a check runs at the end than at the begin.
// A busy machine makes any single run late and none too early: of some at either end
// the one that is the least late tells of the schedule.
func driftOf(microseconds []int64) time.Duration {
	const some = 5
	earliest := func(list []int64) time.Duration {
		least := time.Second
		for _, at := range list {
			// The check may have left out runs.
			late := time.Duration(at-microseconds[0])*time.Microsecond + time.Second/2
			least = min(least, late%time.Second-time.Second/2)
		}
		return least
	}
	n := len(microseconds)
	return earliest(microseconds[max(0, n-some):]) - earliest(microseconds[:min(n, some)])
}

// holdsConnection tells whether the check of an address holds its connection: the
// last number says which check of a VIP it is.
func holdsConnection(t *testing.T, address string) bool {
	t.Helper()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	j := int(a.Addr().As4()[3]) - 1
	return strings.Contains(thousandKinds[j%len(thousandKinds)], "hold")
}

// perVIP is how many checks of the kinds a VIP has that make a connection in each run.
func perVIP(kinds ...string) (n int) {
	for j := range thousandChecks / thousandVIPs {
		line := thousandKinds[j%len(thousandKinds)]
		kind, _, _ := strings.Cut(line, ":")
		if slices.Contains(kinds, kind) && !strings.Contains(line, "hold") {
			n++
		}
	}
	return n
}

// cpuOver is how many cores the daemon's own process used in that time; its
// speaker processes are others.
func cpuOver(t *testing.T, s *lab.Speaker, d time.Duration) float64 {
	t.Helper()
	start, before := time.Now(), cpuOf(t, s.PID)
	lab.Eventually(t, 2*d, "the time is over", func() error { return lab.That(time.Since(start) >= d, "not yet") })
	return (cpuOf(t, s.PID) - before).Seconds() / time.Since(start).Seconds()
}

// cpuOf is the user and system time of a process, proc_pid_stat(5).
func cpuOf(t *testing.T, pid int) (sum time.Duration) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// Behind the name, which may hold spaces: the state is field 3.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	for _, field := range fields[14-3 : 16-3] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		const tick = 10 * time.Millisecond // USER_HZ is 100 on all that Go runs on
		sum += time.Duration(ticks) * tick
	}
	return sum
}
