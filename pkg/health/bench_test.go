package health

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkThousandChecks runs 1,000 checks of one second against a server of
// its own for five seconds: how late they start, and the share of one CPU that
// they, the server included, take.
func BenchmarkThousandChecks(b *testing.B) {
	l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, acceptErr := l.Accept()
			if acceptErr != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	target, err := NewTCP(TCPConfig{Address: netip.MustParseAddrPort(l.Addr().String())})
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	var late []time.Duration
	skipped := 0
	var specs []Spec
	for i := range 1000 {
		id := fmt.Sprintf("vip%d/tcp", i)
		var planned time.Time
		specs = append(specs, spec(id, checkerFunc(func(ctx context.Context) error {
			now := time.Now()
			if planned.IsZero() {
				planned = now.Add(splay(id, time.Second))
			} else {
				missed := max(0, now.Sub(planned)).Truncate(time.Second)
				planned = planned.Add(missed)
				mu.Lock()
				late = append(late, now.Sub(planned))
				skipped += int(missed / time.Second)
				mu.Unlock()
				planned = planned.Add(time.Second)
			}
			return target.Check(ctx)
		})))
	}
	for b.Loop() {
		m := New(Options{Log: slog.New(slog.DiscardHandler)})
		m.Set(specs)
		ctx, cancel := context.WithTimeout(b.Context(), 7*time.Second)
		before := cpu(b)
		if err := m.Run(ctx); err != nil {
			b.Fatal(err)
		}
		cancel()
		b.ReportMetric(100*(cpu(b)-before).Seconds()/7, "cpu-%")
		for id, r := range m.Results() {
			if r.Verdict != Healthy {
				b.Fatalf("%s = %+v", id, r)
			}
		}
	}
	slices.Sort(late)
	b.ReportMetric(float64(late[len(late)/2].Microseconds()), "late-p50-µs")
	b.ReportMetric(float64(late[len(late)*99/100].Microseconds()), "late-p99-µs")
	b.ReportMetric(float64(skipped), "skipped")
	b.ReportMetric(0, "ns/op")
}

// cpu is the time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
