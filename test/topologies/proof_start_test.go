package topologies

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// TestFirstSession: when the routers are ready, that is when they dial every
// second, the first session is established less than a second after the start of
// the process.
func TestFirstSession(t *testing.T) {
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	host.WriteFile(lab.ConfigPath, hostConfig{vips: sampleVIPs()}.String())
	wire := host.Capture()
	for i := range 5 {
		waitDialing(t, wire)
		// FRR's dials are a second apart. The starts fall everywhere between two.
		dialled := lastDial(wire, r1v4)
		<-time.After(time.Until(dialled.Add(time.Second + time.Duration(i)*200*time.Millisecond)))
		began := time.Now()
		s := lab.StartSpeaker(host, binary(t))
		st := s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
		first := time.Hour
		took := map[netip.Addr]time.Duration{}
		for _, p := range st.Peers {
			took[p.Address] = p.Since.Sub(began)
			first = min(first, took[p.Address])
		}
		t.Logf("established after: FRR %v and %v, BIRD %v and %v", took[r1v4], took[r1v6], took[r5v4], took[r5v6])
		if first >= time.Second {
			t.Errorf("the first session needed %v", first)
		}
		s.Signal(syscall.SIGTERM)
		if code := s.Wait(10 * time.Second); code != 0 {
			t.Fatalf("exit code %d\n%s", code, s.Log())
		}
	}
}

// waitDialing waits until each router has dialled the host twice from now on,
// so that the pauses which it makes after a session are over.
func waitDialing(t *testing.T, wire *lab.Capture) {
	t.Helper()
	since := time.Now()
	lab.Eventually(t, 30*time.Second, "the routers dial", func() error {
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
