package netmon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"vipspeaker/test/netnstest"
)

// BenchmarkLinkNews measures from the start of the system call that changes a
// link to the wake-up with the State that shows it.
func BenchmarkLinkNews(b *testing.B) {
	for _, change := range []string{"carrier", "admin"} {
		for _, n := range []int{0, 100_000} {
			b.Run(fmt.Sprintf("%s/routes=%d", change, n), func(b *testing.B) {
				netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
					b.Helper()
					linkNews(b, ns, change, n)
				})
			})
		}
	}
}

func linkNews(b *testing.B, ns netnstest.NS, change string, routes int) {
	b.Helper()
	ns.Veth("en1", "p1")
	ns.Veth("en2", "p2")
	addRoutes(b, ns, "en2", routes)
	news := make(chan time.Time, 1000)
	var m *Monitor
	want := make(chan bool, 1)
	wanted := false
	m = New(Options{Log: slog.New(slog.DiscardHandler), Poke: func() {
		select {
		case wanted = <-want:
		default:
		}
		if l, ok := m.State().Link("en1"); ok && l.Healthy() == wanted {
			select {
			case news <- time.Now():
			default:
			}
		}
	}})
	m.Watch([]string{"en1"})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("Run = %v", err)
		}
	}()
	<-m.Ready()
	toggled := "p1"
	if change == "admin" {
		toggled = "en1"
	}
	link, err := netlink.LinkByName(toggled)
	if err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	set := func(up bool, f func(netlink.Link) error) time.Duration {
		want <- up
		for len(news) > 0 {
			<-news
		}
		start := time.Now()
		if err := f(link); err != nil {
			b.Fatal(err)
		}
		return waitFor(b, news, start)
	}
	for b.Loop() {
		took = append(took, set(false, netlink.LinkSetDown))
		set(true, netlink.LinkSetUp)
		<-time.After(60 * time.Millisecond) // quiet again: the first event is acted on at once
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(0, "ns/op") // is dominated by the waits
}

// waitFor takes the first news after start.
func waitFor(b *testing.B, news <-chan time.Time, start time.Time) time.Duration {
	b.Helper()
	timeout := time.After(5 * time.Second)
	for {
		select {
		case at := <-news:
			if at.After(start) {
				return at.Sub(start)
			}
		case <-timeout:
			b.Fatal("no news of the link")
		}
	}
}

// BenchmarkDumpRoutes is the cost of one full reading of a large table.
func BenchmarkDumpRoutes(b *testing.B) {
	netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
		b.Helper()
		ns.Veth("en1", "p1")
		addRoutes(b, ns, "en1", 100_000)
		m := New(Options{Log: slog.New(slog.DiscardHandler)})
		defer m.closeSockets()
		for b.Loop() {
			apply, err := m.dump(routes)
			if err != nil {
				b.Fatal(err)
			}
			apply()
		}
		b.ReportMetric(float64(len(m.routes)), "routes")
	})
}

func addRoutes(b *testing.B, ns netnstest.NS, dev string, n int) {
	b.Helper()
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "route add %d.%d.%d.0/24 dev %s\n", 11+i>>16, i>>8&255, i&255, dev)
	}
	file := filepath.Join(b.TempDir(), "routes")
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	ns.IP("-batch %s", file)
}
