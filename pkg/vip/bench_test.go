package vip

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// percentiles reports the spread of the durations.
func percentiles(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	us := func(q float64) float64 {
		return float64(took[int(q*float64(len(took)-1))].Nanoseconds()) / 1000
	}
	b.ReportMetric(us(0.5), "p50-us")
	b.ReportMetric(us(0.99), "p99-us")
}

func benchmarkPass(b *testing.B, vips, routes int, before, step func(m *Manager, d Desired, i int) error) {
	b.Helper()
	netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
		b.Helper()
		l := newLab(b, ns)
		var batch bytes.Buffer
		for i := range routes {
			fmt.Fprintf(&batch, "route add 10.%d.%d.0/24 via 10.68.1.2\n", 128+i/256, i%256)
		}
		file := filepath.Join(b.TempDir(), "routes")
		if err := os.WriteFile(file, batch.Bytes(), 0o600); err != nil {
			b.Fatal(err)
		}
		l.Exec("ip", "-batch", file)
		m := l.manager(b)
		d := desired(append(manyVIPs(vips), vip6)...)
		converge(b, m, d)
		converge(b, m, d)
		took := make([]time.Duration, 0, 1024)
		i := 0
		for b.Loop() {
			if before != nil {
				if err := before(m, d, i); err != nil {
					b.Fatal(err)
				}
			}
			start := time.Now()
			if err := step(m, d, i); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start))
			i++
		}
		percentiles(b, took)
	})
}

// BenchmarkNoChange is one pass of the loop (steer, bind, unbind) that finds all
// as it should be.
func BenchmarkNoChange(b *testing.B) {
	for _, c := range []struct{ vips, routes int }{{1, 0}, {1000, 0}, {1, 1000}, {1, 10_000}} {
		b.Run(fmt.Sprintf("vips=%d/routes=%d", c.vips, c.routes), func(b *testing.B) {
			benchmarkPass(b, c.vips, c.routes, nil, func(m *Manager, d Desired, _ int) error {
				_, err := attempt(b.Context(), m, d)
				return err
			})
		})
	}
}

// BenchmarkFailover is the steering from one interface to the other and, every
// second time, back.
func BenchmarkFailover(b *testing.B) {
	for _, vips := range []int{1, 1000} {
		b.Run(fmt.Sprintf("vips=%d", vips), func(b *testing.B) {
			benchmarkPass(b, vips, 0, nil, func(m *Manager, d Desired, i int) error {
				_, err := m.Steer(b.Context(), d.usable(i%2 == 1, true))
				return err
			})
		})
	}
}

// BenchmarkBind is the time from nothing to all VIPs bound and routed.
func BenchmarkBind(b *testing.B) {
	restore := func(m *Manager, _ Desired, _ int) error { return m.Restore(b.Context()) }
	for _, vips := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("vips=%d", vips), func(b *testing.B) {
			benchmarkPass(b, vips, 0, restore, func(m *Manager, d Desired, _ int) error {
				_, err := m.Bind(b.Context(), d)
				return err
			})
		})
	}
}
