package vip

import (
	"net/netip"
	"testing"
	"time"

	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

// scatteredVIPs are n VIPs no two of which are in a row.
func scatteredVIPs(n int) []netip.Prefix {
	list := make([]netip.Prefix, n)
	for i := range list {
		list[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 + i/128/256), byte(i / 128), byte(i % 128 * 2)}), 32)
	}
	return list
}

// BenchmarkConnect is a socket that names no source and connects, which looks
// two routes up: how much that costs must not depend on how many VIPs there are.
func BenchmarkConnect(b *testing.B) {
	for _, c := range []struct {
		name string
		vips []netip.Prefix
	}{
		{"one", manyVIPs(1)}, {"row", manyVIPs(10_000)}, {"scattered", scatteredVIPs(10_000)},
	} {
		b.Run(c.name, func(b *testing.B) {
			netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
				b.Helper()
				l := newLab(b, ns)
				m := l.manager(b)
				d := desired(c.vips...)
				if a := converge(b, m, d); len(a.Bound) != len(c.vips) {
					b.Fatalf("%d of %d bound", len(a.Bound), len(c.vips))
				}
				converge(b, m, d)
				to := &unix.SockaddrInet4{Addr: [4]byte{10, 68, 9, 9}, Port: 53}
				took := make([]time.Duration, 0, 1024)
				for b.Loop() {
					start := time.Now()
					fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
					if err == nil {
						err = unix.Connect(fd, to)
					}
					if err != nil {
						b.Fatal(err)
					}
					_ = unix.Close(fd)
					took = append(took, time.Since(start))
				}
				percentiles(b, took)
			})
		})
	}
}
