//go:build long

package topologies

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// fast is as fast as BFD may be.
var fast = bfdTimers{10 * time.Millisecond, 3}

// TestLongSilentPathWithFastBFD is TestSilentPathWithBFD with BFD at 10 ms × 3.
func TestLongSilentPathWithFastBFD(t *testing.T) {
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		silentPath(t, fails, stays, fast, 100*time.Millisecond)
	})
}

// TestLongBFDGivenUp: a router that no longer speaks BFD, without a word about it,
// looks like a path that died. Its BGP sessions end, and are back without BFD when
// it does not come back to it in 10 s.
func TestLongBFDGivenUp(t *testing.T) {
	eachLeg(t, func(t *testing.T, quiet, other leg) {
		l, s := bfdSample(t, unhurried, withBGP)
		before, router := waitBFD(t, s, unhurried), l.Node(quiet.node)
		since := time.Now()
		if quiet.router == "bird" {
			router.BIRDC("disable bfd1")
		} else {
			router.Daemon("bfdd").Kill()
		}
		s.WaitStatus(20*time.Second, "its sessions have ended", func(st *status.Status) error {
			for _, peer := range quiet.peers() {
				if p := peerAt(st, peer); p.State != "Down" || p.BFD.Downs != peerAt(before, peer).BFD.Downs+1 {
					return fmt.Errorf("peer %v is %s: %+v", peer, p.State, p.BFD)
				}
			}
			return nil
		})
		waitEgress(t, l.Node("host"), 20*time.Second, other.ifc)
		st := s.WaitStatus(60*time.Second, "its sessions are back", func(st *status.Status) error {
			return errors.Join(lab.Established(st), lab.That(peerAt(st, quiet.peer4).BFD.State == "Down", "BFD is up"))
		})
		for _, peer := range quiet.peers() {
			took := peerAt(st, peer).Since.Sub(since)
			t.Logf("%v is back after %s", peer, millis(took))
			if took < 9*time.Second {
				t.Errorf("%v is back after %v, want about 10 s", peer, took)
			}
		}
		waitClientHasBoth(t, l)
		if quiet.router == "bird" {
			router.BIRDC("enable bfd1")
		} else {
			speakBFD(t, router, unhurried, withBGP)
		}
		waitBFD(t, s, unhurried)
		after := s.WaitStatus(20*time.Second, "all is up", lab.Established)
		untouched(t, st, after, other.ifc)
		if quiet.router == "bird" { // bgpd ends its sessions when its next bfdd begins with Down
			untouched(t, st, after, quiet.ifc)
		}
	})
}
