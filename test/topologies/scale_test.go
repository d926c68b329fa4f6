package topologies

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// The scale benchmark: that many host routes to a router over two sessions.
const (
	scaleVIPs  = 10_000
	scaleBound = 2 * time.Minute
)

// BenchmarkScale announces 10,000 VIPs over two interfaces to one router, and has
// BIRD announce the same routes from the same host. In one run, so that the
// ratios count and not the machine: time until the router has all, when they are
// added to running sessions and from the start of the process; UPDATE messages,
// processor time and memory of all processes. What vipspeaker does includes
// binding each address, BIRD's routes exist in BIRD alone.
func BenchmarkScale(b *testing.B) {
	for _, router := range []string{"bird", "frr"} {
		b.Run("router="+router, func(b *testing.B) {
			for b.Loop() {
				ours := scaleOf(b, router, startVipspeaker)
				theirs := scaleOf(b, router, startBIRDAnnouncer)
				for _, part := range []string{"added", "start"} {
					o, t := ours[part], theirs[part]
					b.Logf("%s: vipspeaker %v, BIRD %v", part, o, t)
					b.ReportMetric(o.took.Seconds(), part+"-s")
					b.ReportMetric(o.took.Seconds()/t.took.Seconds(), part+"-time-ratio")
					b.ReportMetric(float64(o.updates)/float64(t.updates), part+"-updates-ratio")
					b.ReportMetric(o.cpu.Seconds()/t.cpu.Seconds(), part+"-cpu-ratio")
					b.ReportMetric(float64(o.rss)/float64(t.rss), part+"-rss-ratio")
				}
			}
			b.ReportMetric(0, "ns/op") // is the sum of all, and of the waits
		})
	}
}

// scale is what it cost until the router had all routes.
type scale struct {
	took, cpu time.Duration
	updates   int
	rss       int64 // bytes, of all processes
}

// String tells it for the log.
func (s scale) String() string {
	return fmt.Sprintf("%s, %d UPDATEs, %s of CPU, %d MB", s.took.Round(time.Millisecond), s.updates, s.cpu.Round(time.Millisecond), s.rss>>20)
}

// routeSource is who announces: change gives it another number of routes.
type routeSource struct {
	process *lab.Process
	change  func(vips int)
}

// scaleOf measures one announcer, each part in a lab of its own.
func scaleOf(b *testing.B, router string, start func(b *testing.B, host *lab.Node, vips int) routeSource) map[string]scale {
	b.Helper()
	out := map[string]scale{}
	for part, first := range map[string]int{"added": 1, "start": scaleVIPs} {
		l := lab.Start(b, "onerouter-"+router)
		host, far := l.Node("host"), l.Node("router")
		wire := host.Capture()
		began, cpu := time.Now(), time.Duration(0)
		a := start(b, host, first)
		if first == 1 {
			awaitRoutes(b, far, 2)
			cpu = processorTime(b, a.process.PID)
			began = time.Now()
			a.change(scaleVIPs)
		}
		awaitRoutes(b, far, 2*scaleVIPs)
		s := scale{took: time.Since(began), cpu: processorTime(b, a.process.PID) - cpu, rss: memory(b, a.process.PID)}
		for _, m := range wire.Messages() {
			if m.Out && m.Type == lab.Update && len(m.Announced) > 0 && m.Time.After(began) {
				s.updates++
			}
		}
		out[part] = s
		// The lab stays until the benchmark ends, but does nothing any more.
		wire.Stop()
		a.process.Kill()
		far.StopDaemons()
	}
	return out
}

// scalePrefix is one of the announced addresses.
func scalePrefix(i int) string { return fmt.Sprintf("10.70.%d.%d", i/200, i%200+1) }

func startVipspeaker(b *testing.B, host *lab.Node, vips int) routeSource {
	b.Helper()
	write := func(vips int) {
		var s strings.Builder
		s.WriteString("bgp: {asn: 65010, router_id: 10.68.1.1}\ninterfaces:\n" +
			"  - {name: en1, peers: [{address: 10.68.1.2, asn: 65000}]}\n" +
			"  - {name: en5, peers: [{address: 10.68.5.2, asn: 65000}]}\nvips:\n")
		for i := range vips {
			fmt.Fprintf(&s, "  - {address: %s}\n", scalePrefix(i))
		}
		host.WriteFile(lab.ConfigPath, s.String())
	}
	write(vips)
	s := lab.StartSpeaker(host, binary(b))
	return routeSource{s.Process, func(vips int) {
		write(vips)
		if out, err := s.Command("reload"); err != nil {
			b.Fatalf("reload: %v\n%s", err, out)
		}
	}}
}

func startBIRDAnnouncer(b *testing.B, host *lab.Node, vips int) routeSource {
	b.Helper()
	write := func(vips int) {
		var s strings.Builder
		s.WriteString("router id 10.68.1.1;\nprotocol device {}\nprotocol static vips {\n ipv4;\n")
		for i := range vips {
			fmt.Fprintf(&s, " route %s/32 blackhole;\n", scalePrefix(i))
		}
		s.WriteString("}\n")
		for _, side := range []string{"1", "5"} {
			fmt.Fprintf(&s, "protocol bgp en%[1]s {\n local 10.68.%[1]s.1 as 65010;\n neighbor 10.68.%[1]s.2 as 65000;\n direct;\n connect delay time 1;\n"+
				" ipv4 { import none; export where source = RTS_STATIC; next hop self; };\n}\n", side)
		}
		host.WriteFile("/etc/bird/bird.conf", s.String())
	}
	write(vips)
	host.Run("mkdir", "-p", "/run/bird")
	p := host.StartProcess("bird", "bird", "-f", "-c", "/etc/bird/bird.conf", "-s", "/run/bird/bird.ctl")
	return routeSource{p, func(vips int) {
		write(vips)
		host.BIRDC("configure")
	}}
}

// awaitRoutes waits until the router has taken that many IPv4 routes.
func awaitRoutes(b *testing.B, router *lab.Node, want int) {
	b.Helper()
	lab.Eventually(b, scaleBound, fmt.Sprintf("%d routes at the router", want), func() error {
		got, err := receivedRoutes(router)
		if err != nil {
			return err
		}
		return lab.That(got == want, "%d routes", got)
	})
}

// receivedRoutes counts the IPv4 routes of all sessions of a router.
func receivedRoutes(router *lab.Node) (int, error) {
	if router.Router() == "bird" {
		return birdRoutes(router)
	}
	out, err := router.Try("vtysh", "-c", "show bgp ipv4 unicast summary json")
	if err != nil {
		return 0, err
	}
	var summary struct {
		Peers map[string]struct{ PfxRcd int }
	}
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		return 0, err
	}
	total := 0
	for _, p := range summary.Peers {
		total += p.PfxRcd
	}
	return total, nil
}

func birdRoutes(router *lab.Node) (int, error) {
	out, err := router.Try("birdc", "-s", "/run/bird/bird.ctl", "show route count")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 2 && strings.Contains(line, "in table master4") {
			return strconv.Atoi(f[0])
		}
	}
	return 0, fmt.Errorf("no count in %q", out)
}

// descendants are a process and all that it started, as far as they run.
func descendants(b *testing.B, pid int) []int {
	b.Helper()
	list := []int{pid}
	for i := 0; i < len(list); i++ {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", list[i]))
		if err != nil {
			continue // it has just ended
		}
		for _, task := range tasks {
			children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", list[i], task.Name()))
			if err != nil {
				continue // the thread has
			}
			for f := range strings.FieldsSeq(string(children)) {
				child, err := strconv.Atoi(f)
				if err != nil {
					b.Fatal(err)
				}
				list = append(list, child)
			}
		}
	}
	return list
}

// clockTick is the unit of processor times in /proc (proc(5): USER_HZ).
const clockTick = 10 * time.Millisecond

// processorTime is that of a process and all that it started.
func processorTime(b *testing.B, pid int) (sum time.Duration) {
	b.Helper()
	for _, p := range descendants(b, pid) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		// The name is in brackets and may have blanks; utime and stime are the 14th
		// and the 15th field.
		f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		for _, s := range f[11:13] {
			ticks, err := strconv.Atoi(s)
			if err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(ticks) * clockTick
		}
	}
	return sum
}

// memory is what a process and all that it started have in memory.
func memory(b *testing.B, pid int) (sum int64) {
	b.Helper()
	for _, p := range descendants(b, pid) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p))
		if err != nil {
			continue
		}
		pages, err := strconv.ParseInt(strings.Fields(string(data))[1], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += pages * int64(os.Getpagesize())
	}
	return sum
}
