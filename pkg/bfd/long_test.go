//go:build long

package bfd

import (
	"context"
	"log/slog"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// Both ends in BFD processes, while busy loops and the parent, which makes garbage,
// want all processors: no session goes down. 50 of 50 ms × 3 in parallel make 2 hours
// of 144 s. A virtual machine that stands still ends sessions, whatever the priority
// of who sends: where one did for two of the three intervals, that is no false down.
// Nothing else is forgiven.
func TestLongNoFalseDown(t *testing.T) {
	const d = 144 * time.Second
	far := slices.Concat(farEnds(0, 50, 50*time.Millisecond), farEnds(1, 4, 10*time.Millisecond))
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router := ns.New("r1")
		ns.VethTo("en1", router, "p1")
		near := slices.Clone(far)
		for i := range near {
			c := &near[i]
			c.Peer, c.Local, c.Interface = c.Local, c.Peer, "en1"
			ns.IP("addr add %s/24 dev en1", c.Local)
			router.IP("addr add %s/24 dev p1", c.Peer)
		}
		lines := &lockedBuffer{}
		log := slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
		a, z := &end{m: New(Options{Log: log, Command: testCommand})}, &end{m: New(Options{Log: log, Command: testCommand})}
		a.m.Set(near)
		z.m.Set(far)
		a.run(t, ns)
		z.run(t, router)
		netnstest.Until(t, patience, func() error { return allUp(a.m, z.m) })
		watch := watchStandstills(t)
		ctx, stop := context.WithTimeout(t.Context(), d)
		defer stop()
		for range runtime.NumCPU() {
			burner := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
			if err := burner.Start(); err != nil {
				t.Fatal(err)
			}
			defer burner.Wait() //nolint:errcheck // it is killed
		}
		for range 2 * runtime.NumCPU() {
			go churn(ctx)
		}
		looking, look := context.WithCancel(t.Context())
		defer look()
		gone := watchDowns(looking, a.m, z.m)
		<-ctx.Done()
		// First what is to be excused, then what may excuse it.
		states := slices.Concat(a.m.State().Sessions, z.m.State().Sessions)
		look()
		list, still := <-gone, watch.list(t)
		tellStill(t, still)
		excused := excuse(t, slices.Concat(near, far), list, still)
		downs := map[time.Duration]uint64{}
		for i, s := range states {
			downs[slices.Concat(near, far)[i].MinTx] += s.Downs
			if s.Downs > excused[identity(&s)] || s.Error != "" {
				t.Errorf("%+v", s)
			}
		}
		t.Logf("%d sessions for %s; false downs by interval: %v", len(far), d, downs)
		netnstest.Until(t, patience, func() error { return allUp(a.m, z.m) })
		a.stop()
		z.stop()
		for line := range strings.Lines(lines.String()) {
			if strings.Contains(line, "late_by") {
				t.Log(line)
			}
		}
	})
}

// farEnds are sessions of the router in a network of their own.
func farEnds(network byte, count int, interval time.Duration) []SessionConfig {
	out := make([]SessionConfig, count)
	for i := range out {
		out[i] = SessionConfig{
			Peer: netip.AddrFrom4([4]byte{10, 68, network, byte(i + 1)}), Local: netip.AddrFrom4([4]byte{10, 68, network, byte(i + 101)}),
			Interface: "p1", MinTx: interval, MinRx: interval, Multiplier: 3,
		}
	}
	return out
}

// churn makes garbage as fast as it can.
func churn(ctx context.Context) {
	var keep [][]byte
	for ctx.Err() == nil {
		if keep = append(keep, make([]byte, 10_000)); len(keep) > 2000 {
			keep = nil
		}
	}
}
