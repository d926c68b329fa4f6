package bfd

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// Processor time of a session at 50 ms, both ends of it, among 50.
func BenchmarkSessionCPU(b *testing.B) {
	netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
		const sessions = 50
		router := ns.New("r1")
		ns.VethTo("en1", router, "p1")
		near, far := New(Options{}), New(Options{})
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
		netnstest.Until(b, 10*time.Second, func() error { return allUp(near, far) })
		var before, after unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		for b.Loop() {
			<-timer.C
			timer.Reset(time.Second)
		}
		took := time.Since(began)
		if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
			b.Fatal(err)
		}
		used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
		b.ReportMetric(100*used.Seconds()/took.Seconds()/sessions, "cpu-%/session")
	})
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
