package bgp

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A peer that is added anew goes on with its transitions; those of a router that
// changes its address again and again do not fill the memory.
func TestTally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runner{counts: map[netip.Addr]*count{}}
		stays := netip.MustParseAddr("10.68.1.2")
		address := func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(i >> 8), 15: byte(i)})
		}
		tell := func(a netip.Addr) uint64 {
			time.Sleep(time.Second)
			peers := []PeerState{{Address: stays, State: Established, Transitions: 1}, {Address: a, State: Established, Transitions: 1}}
			r.tally(peers)
			if peers[0].Transitions != 1 {
				t.Errorf("%d transitions of a session that goes on", peers[0].Transitions)
			}
			return peers[1].Transitions
		}
		const all = 10 * maxGone
		for i := range all {
			tell(address(i))
		}
		if n := len(r.counts); n > maxGone+2 {
			t.Errorf("%d peers are remembered after %d addresses", n, all)
		}
		if n := tell(address(all - 2)); n != 3 {
			t.Errorf("%d transitions of one that has just been here, want up, down, up", n)
		}
		if n := tell(address(1)); n != 1 {
			t.Errorf("%d transitions of one that was forgotten", n)
		}
		// The next process has told of nobody yet.
		r.tally(nil)
		peers := []PeerState{{Address: stays, State: Established, Transitions: 1}}
		if r.tally(peers); peers[0].Transitions != 3 {
			t.Errorf("%d transitions over two processes, want 3", peers[0].Transitions)
		}
	})
}
