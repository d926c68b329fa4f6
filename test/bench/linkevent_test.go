// Package bench measures the daemon's parts together, on a real kernel.
package bench

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"vipspeaker/test/netnstest"
)

// How long the host must be quiet before an event counts as dealt with, and how
// long one may take at the most.
const (
	quiet  = 60 * time.Millisecond
	bounds = 20 * time.Second
)

// BenchmarkLinkEvent measures from the begin of the system call that takes en1
// away to the end of the last call that changes the kernel or the wishes for
// BGP because of it, and to the end of en1's sessions as the loop is told of it:
// with pretended sessions, which take no time, and with real speaker processes
// and routers.
func BenchmarkLinkEvent(b *testing.B) {
	for _, event := range []string{"down", "carrier"} {
		for _, vips := range []int{1, 1000} {
			for sessions, rounds := range map[string]int{"pretended": 200, "real": 40} {
				b.Run(fmt.Sprintf("%s/vips=%d/sessions=%s", event, vips, sessions), func(b *testing.B) {
					netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
						b.Helper()
						linkEvents(b, newHost(b, ns, vips, sessions == "real"), event, rounds)
					})
				})
			}
		}
	}
}

// linkEvents takes en1 away that many times, in one turn of the benchmark's loop.
func linkEvents(b *testing.B, h *host, event string, rounds int) {
	b.Helper()
	handle, link := target(b, event)
	var took, ended []time.Duration
	for b.Loop() {
		for range rounds {
			h.await(b, true)
			start := time.Now()
			if err := handle.LinkSetDown(link); err != nil {
				b.Fatal(err)
			}
			h.await(b, false)
			last, end := h.times()
			took, ended = append(took, last.Sub(start)), append(ended, end.Sub(start))
			if err := handle.LinkSetUp(link); err != nil {
				b.Fatal(err)
			}
		}
	}
	report := func(list []time.Duration, name string) {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2].Microseconds())/1000, "p50-ms"+name)
		b.ReportMetric(float64(list[len(list)*99/100].Microseconds())/1000, "p99-ms"+name)
	}
	report(took, "")
	report(ended, "-session-ended")
	b.ReportMetric(0, "ns/op") // is dominated by the waits
}

// target is the link whose other state is the event: en1 itself, or the far end
// of its cable.
func target(b *testing.B, event string) (*netlink.Handle, netlink.Link) {
	b.Helper()
	handle, err := netlink.NewHandle()
	name := "en1"
	if event == "carrier" {
		name = "wan"
		var router netns.NsHandle
		if router, err = netns.GetFromName("r1"); err == nil {
			handle, err = netlink.NewHandleAt(router)
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	link, err := handle.LinkByName(name)
	if err != nil {
		b.Fatal(err)
	}
	return handle, link
}
