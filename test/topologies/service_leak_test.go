package topologies

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// leakCycles is how often checks of all kinds are added and removed.
const leakCycles = 20

// usage is what a daemon holds of the machine.
type usage struct {
	files, goroutines int
	// processes are the programs in the host's network besides the daemon's own.
	processes []string
}

func (u usage) String() string {
	return fmt.Sprintf("%d files, %d goroutines, processes %q", u.files, u.goroutines, u.processes)
}

func usageOf(t *testing.T, host *lab.Node, s *lab.Speaker) usage {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.PID))
	if err != nil {
		t.Fatal(err)
	}
	return usage{files: len(files), goroutines: int(scrape(t, host)["go_goroutines"]), processes: programsIn(t, s)}
}

// programsIn are the command lines of the processes in the daemon's network.
func programsIn(t *testing.T, s *lab.Speaker) (list []string) {
	t.Helper()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", s.PID))
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		// Those that end meanwhile are in no network.
		if at, err := os.Readlink(dir + "/ns/net"); err != nil || at != own {
			continue
		}
		line, err := os.ReadFile(dir + "/cmdline")
		if err == nil {
			list = append(list, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
		}
	}
	slices.Sort(list)
	return list
}

// leakChecks are checks of all kinds that pass, and such that hang.
func leakChecks() []string {
	// What passes has time for that on a busy machine; it runs often until it has.
	const (
		passing = ", interval: 1s, fast_interval: 100ms, timeout: 900ms}"
		hanging = ", interval: 100ms, timeout: 80ms}"
	)
	var list []string
	for name, what := range map[string]string{
		"tcp":       `tcp: {address: "10.68.6.81:8081"}`,
		"hold":      `tcp: {address: "10.68.6.81:8081", hold: true}`,
		"http":      `http: {url: "http://10.68.6.81:8082/"}`,
		"http-hold": `http: {url: "http://10.68.6.81:8082/", hold: true}`,
		"grpc":      `grpc: {address: "10.68.6.81:8083"}`,
		"grpc-hold": `grpc: {address: "10.68.6.81:8083", hold: true}`,
		"dns":       `dns: {server: "10.68.6.81:8084", query: example.org}`,
		"icmp":      "icmp: {address: 10.68.77.1}",
		"listen":    "listen: {port: 8081}",
		"udp":       "listen: {port: 8084, protocol: udp}",
		"exec":      "exec: {command: [/bin/true]}",
		// These hang: nobody answers, in kinds of ways, and a program with children
		// of which one has left its parent.
		"http-hangs":      `http: {url: "http://10.68.6.81:8081/"}`,
		"http-hold-hangs": `http: {url: "http://10.68.6.81:8081/", hold: true}`,
		"dns-tcp-hangs":   `dns: {server: "10.68.6.81:8081", query: example.org, transport: tcp}`,
		"grpc-hangs":      `grpc: {address: "10.68.6.81:8081"}`,
		"grpc-hold-hangs": `grpc: {address: "10.68.6.81:8081", hold: true}`,
		"tcp-hangs":       `tcp: {address: "10.68.7.99:80"}`,
		"dns-hangs":       `dns: {server: 10.68.7.99, query: example.org}`,
		"icmp-hangs":      "icmp: {address: 10.68.77.2}",
		"exec-hangs":      `exec: {command: [/bin/sh, -c, "sleep 1000 & (sleep 1001 &); sleep 1002"]}`,
	} {
		schedule := passing
		if strings.HasSuffix(name, "-hangs") {
			schedule = hanging
		}
		list = append(list, "{name: "+name+", "+what+schedule)
	}
	return list
}

// TestServiceLeavesNothing: checks of all kinds that come and go with reloads,
// while they run or hang, leave no process, no file and no goroutine behind.
func TestServiceLeavesNothing(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	startService(t, host, "service", "tcp", "10.68.6.81:8081", "http", "10.68.6.81:8082", "grpc", "10.68.6.81:8083", "dns", "10.68.6.81:8084", "udp", "10.68.6.81:8085")
	calm := hostConfig{vips: []string{vipLine("checked", prefix4(81), checks("{listen: {port: 8081}}"))}}
	busy := hostConfig{vips: []string{vipLine("checked", prefix4(81), checks(leakChecks()...), "checks_mode: any"), vipLine("more", prefix4(82), checks(leakChecks()[:5]...))}}
	s := startWith(t, l, calm)
	cycle := func() {
		reload(t, host, s, busy)
		s.WaitStatus(10*time.Second, "all kinds have run", func(st *status.Status) error {
			v, err := vipNamed(st, "checked")
			if err != nil {
				return err
			}
			for i := range v.Checks {
				c := &v.Checks[i]
				want := "healthy"
				if strings.HasSuffix(c.Name, "-hangs") {
					want = "unhealthy"
				}
				if c.Verdict != want {
					return fmt.Errorf("%s is %s: %s", c.Name, c.Verdict, c.Reason)
				}
			}
			return lab.That(len(v.Checks) == len(leakChecks()), "%d checks", len(v.Checks))
		})
		reload(t, host, s, calm)
		s.WaitStatus(5*time.Second, "all is announced", lab.Established)
	}
	// What hangs is there to be seen, and to be left behind.
	reload(t, host, s, busy)
	for _, program := range []string{"sleep 1000", "sleep 1001", "sleep 1002"} {
		lab.Eventually(t, 10*time.Second, program+" runs", func() error {
			list := programsIn(t, s)
			return lab.That(slices.Contains(list, program), "%q", list)
		})
	}
	// The first use of a thing may make what stays, such as a socket of its kind.
	cycle()
	before := mostUsage(t, host, s)
	t.Logf("before: %v", before)
	for range leakCycles {
		cycle()
	}
	lab.Eventually(t, 20*time.Second, "the daemon holds no more than before", func() error {
		now := usageOf(t, host, s)
		return lab.That(now.files <= before.files && now.goroutines <= before.goroutines && slices.Equal(now.processes, before.processes),
			"it holds %v, before %v", now, before)
	})
	t.Logf("after %d cycles: %v", leakCycles, usageOf(t, host, s))
}

// mostUsage is the most that the daemon holds in two seconds in which nothing
// changes: probes and questions to it come and go.
func mostUsage(t *testing.T, host *lab.Node, s *lab.Speaker) (most usage) {
	t.Helper()
	since := time.Now()
	lab.Eventually(t, 20*time.Second, "what is left of the first use has ended", func() error {
		now := usageOf(t, host, s)
		if !slices.Equal(now.processes, most.processes) {
			since, most = time.Now(), now
		}
		most.files, most.goroutines = max(most.files, now.files), max(most.goroutines, now.goroutines)
		return lab.That(time.Since(since) > 2*time.Second, "%v", now)
	})
	return most
}
