package bfd

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

func loopbackConfig() SessionConfig {
	c := *testConfig()
	c.Peer, c.Local, c.Interface = netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1"), "lo"
	return c
}

// sendAndReceive is one packet through the real sockets.
func sendAndReceive(tb testing.TB) (turn func(), end func()) {
	tb.Helper()
	net, err := newSockets()
	if err != nil {
		tb.Fatal(err)
	}
	cfg := loopbackConfig()
	p, err := net.dial(&cfg)
	if err != nil {
		tb.Fatal(err)
	}
	var out [maxPacketLen]byte
	n := newSession(&cfg, 9, fixedRand(), time.Now()).output(out[:], time.Now())
	got := 0
	deliver := func(d *datagram) {
		if d.ttl != 255 || d.src != cfg.Local || d.dst != cfg.Peer || d.ifindex != 1 || time.Since(d.at) > time.Minute {
			tb.Errorf("%+v", d)
		}
		got++
	}
	return func() {
			if err := p.send(out[:n]); err != nil {
				tb.Error(err)
			}
			net.receive(deliver)
		}, func() {
			if got == 0 {
				tb.Error("nothing received")
			}
			p.close()
			net.close()
		}
}

func TestSocketsDoNotAllocate(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, _ netnstest.NS) {
		turn, end := sendAndReceive(t)
		defer end()
		if n := testing.AllocsPerRun(200, turn); n != 0 {
			t.Errorf("%v allocations for a packet sent and received", n)
		}
	})
}

// One packet through the kernel: sent and received.
func BenchmarkSockets(b *testing.B) {
	netnstest.Bench(b, func(b *testing.B, _ netnstest.NS) {
		turn, end := sendAndReceive(b)
		defer end()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for b.Loop() {
			turn()
		}
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "allocs")
	})
}

// Processor time of a session at 50 ms, both ends of it, among 50: of the BFD
// processes, and of this one for what they report.
func BenchmarkSessionCPU(b *testing.B) {
	netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
		const sessions = 50
		router := ns.New("r1")
		ns.VethTo("en1", router, "p1")
		near, far := New(Options{Command: testCommand}), New(Options{Command: testCommand})
		var a, z []SessionConfig
		for i := range byte(sessions) {
			c := *testConfig()
			c.Local, c.Peer, c.Interface = netip.AddrFrom4([4]byte{10, 68, 1, i + 1}), netip.AddrFrom4([4]byte{10, 68, 1, i + 101}), "en1"
			ns.IP("addr add %s/24 dev en1", c.Local)
			router.IP("addr add %s/24 dev p1", c.Peer)
			a = append(a, c)
			c.Local, c.Peer, c.Interface = c.Peer, c.Local, "p1"
			z = append(z, c)
		}
		near.Set(a)
		far.Set(z)
		go ns.Do(func() error { return near.Run(b.Context()) })
		go router.Do(func() error { return far.Run(b.Context()) })
		netnstest.Until(b, patience, func() error { return allUp(near, far) })
		processes, own, began := cpuTime(b, pids(b)...), cpuTime(b, os.Getpid()), time.Now()
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		for b.Loop() {
			<-timer.C
			timer.Reset(time.Second)
		}
		share := 100 / time.Since(began).Seconds() / sessions
		b.ReportMetric(share*(cpuTime(b, pids(b)...)-processes).Seconds(), "cpu-%/session")
		b.ReportMetric(share*(cpuTime(b, os.Getpid())-own).Seconds(), "parent-cpu-%/session")
	})
}

// cpuTime is the processor time that processes have used, in steps of 10 ms.
func cpuTime(b *testing.B, processes ...int) time.Duration {
	b.Helper()
	var ticks uint64
	for _, pid := range processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		for _, field := range strings.Fields(rest)[11:13] { // utime and stime (proc_pid_stat(5))
			n, err := strconv.ParseUint(field, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func allUp(managers ...*Manager) error {
	for _, m := range managers {
		for _, s := range m.State().Sessions {
			if s.Status != Up || s.TxInterval > 50*time.Millisecond {
				return fmt.Errorf("%+v", s)
			}
		}
	}
	return nil
}
