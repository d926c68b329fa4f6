package speaker

import (
	"testing"
	"testing/synctest"
	"time"

	"vipspeaker/pkg/vip"
)

// A world that settles late is looked at again soon, not with the next resync;
// one that never settles does not keep the loop busy.
func TestSettleGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // a pause is told by what is left of it
		l := &Loop{opt: Options{Signal: NewSignal()}}
		var pauses []time.Duration
		for range restless + 4 {
			l.recheck = time.Time{}
			l.settle(vip.Desired{Device: vip.Device{Name: "as it was"}})
			select {
			case <-l.opt.Signal:
				pauses = append(pauses, 0)
			default:
				pauses = append(pauses, l.untilRecheck())
			}
		}
		for i, p := range pauses {
			longest := time.Duration(0)
			if i >= restless {
				longest = backoffMin << (i - restless)
			}
			if p > longest || p < longest/2 {
				t.Errorf("pause %d is %s, want about %s", i, p, longest)
			}
		}
		l.settle(l.decision.Kernel)
		if l.unrest != 0 {
			t.Error("what has settled still counts as unrest")
		}
	})
}
