package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// TestFirstSession: when the routers are ready, that is when they dial every
// second, the first session is established less than a second after the start of
// the process.
func TestFirstSession(t *testing.T) {
	f := newFirstSession(t)
	for i := range 5 {
		began, took := f.start(t, time.Duration(i)*200*time.Millisecond)
		t.Logf("established after: FRR %v and %v, BIRD %v and %v", took[r1v4], took[r1v6], took[r5v4], took[r5v6])
		lab.Within(t, "the first session", began, min(took[r1v4], took[r1v6], took[r5v4], took[r5v6]), time.Second)
	}
}

// BenchmarkFirstSession measures from the start of the process to the first
// established session: of all, and with each router.
func BenchmarkFirstSession(b *testing.B) {
	f := newFirstSession(b)
	figures := map[string][]time.Duration{}
	for b.Loop() {
		for i := range 20 {
			_, took := f.start(b, time.Duration(i)*50*time.Millisecond)
			frr, bird := min(took[r1v4], took[r1v6]), min(took[r5v4], took[r5v6])
			figures["any"] = append(figures["any"], min(frr, bird))
			figures["frr"] = append(figures["frr"], frr)
			figures["bird"] = append(figures["bird"], bird)
		}
	}
	for name, list := range figures {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2].Milliseconds()), "p50-ms-"+name)
		b.ReportMetric(float64(list[len(list)*99/100].Milliseconds()), "p99-ms-"+name)
	}
	b.ReportMetric(0, "ns/op") // is dominated by the waits
}

// firstSession is the topology vipa without the daemon, time and again.
type firstSession struct {
	host   *lab.Node
	wire   *lab.Capture
	binary string
}

func newFirstSession(tb testing.TB) *firstSession {
	tb.Helper()
	host := lab.Start(tb, "vipa").Node("host")
	host.WriteFile(lab.ConfigPath, hostConfig{vips: sampleVIPs()}.String())
	return &firstSession{host, host.Capture(), binary(tb)}
}

// start starts the daemon when all routers dial, so long after FRR's dial, and
// stops it again. It returns when it was started and how long after that each
// session was established. FRR's dials are a second apart, BIRD's a little less.
func (f *firstSession) start(tb testing.TB, phase time.Duration) (began time.Time, took map[netip.Addr]time.Duration) {
	tb.Helper()
	waitDialing(tb, f.wire)
	dialled := lastDial(f.wire, r1v4)
	<-time.After(time.Until(dialled.Add(time.Second + phase)))
	began = time.Now()
	s := lab.StartSpeaker(f.host, f.binary)
	st := s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
	took = map[netip.Addr]time.Duration{}
	for _, p := range st.Peers {
		took[p.Address] = p.Since.Sub(began).Round(100 * time.Microsecond)
	}
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(10 * time.Second); code != 0 {
		tb.Fatalf("exit code %d\n%s", code, s.Log())
	}
	return began, took
}

// waitDialing waits until each router has dialled the host twice from now on,
// so that the pauses which it makes after a session are over.
func waitDialing(tb testing.TB, wire *lab.Capture) {
	tb.Helper()
	since := time.Now()
	lab.Eventually(tb, 30*time.Second, "the routers dial", func() error {
		for _, peer := range allPeers() {
			if n := len(dials(wire, peer, since)); n < 2 {
				return fmt.Errorf("%v has %d times", peer, n)
			}
		}
		return nil
	})
}

// dials are a router's attempts to connect.
func dials(wire *lab.Capture, from netip.Addr, since time.Time) []lab.Packet {
	return wire.Packets(func(p lab.Packet) bool {
		return !p.Out && p.Src == from && p.DstPort == 179 && p.Flags&(lab.SYN|lab.ACK) == lab.SYN && p.Time.After(since)
	})
}

func lastDial(wire *lab.Capture, from netip.Addr) time.Time {
	list := dials(wire, from, time.Time{})
	return list[len(list)-1].Time
}
