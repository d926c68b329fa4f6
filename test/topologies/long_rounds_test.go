//go:build long

package topologies

import (
	"fmt"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// unhurried is BFD that outlives a second in which the machine stands still, for tests
// that judge something else than how soon it sees a failure: without it both ends
// rightly give up a session that nobody served.
var unhurried = bfdTimers{300 * time.Millisecond, 5}

// maxVoid is how many rounds may go wrong without saying anything.
const maxVoid = 6

// round is one try at something that is judged by the clock.
type round struct {
	// n is how many rounds there were before.
	n     int
	wrong []wrong
}

// wrong is something that is not as it should be, and when that came to be.
type wrong struct {
	from, to time.Time
	what     string
}

// errorf notes what is wrong, and that whatever has led to it was between these times.
func (r *round) errorf(from, to time.Time, format string, args ...any) {
	r.wrong = append(r.wrong, wrong{from, to, fmt.Sprintf(format, args...)})
}

// rounds does something until a round has nothing wrong, and fails the test once that
// many rounds had. One in which all that is wrong came while the machine stood still
// for longer than what does not matter, or was crowded, says nothing and is done again;
// when too many are like that, nothing is known and nothing is judged.
func rounds(t *testing.T, tries int, matters time.Duration, do func(r *round)) {
	t.Helper()
	bad, void := 0, 0
	for void < maxVoid {
		r := &round{n: bad + void}
		do(r)
		if len(r.wrong) == 0 {
			return
		}
		counts := false
		for _, w := range r.wrong {
			// What was held up before is still behind.
			why := lab.Busy(w.from.Add(-matters), w.to, matters)
			if why == "" {
				counts = true
				t.Log(w.what)
			} else {
				t.Logf("%s: it is not judged, for %s", w.what, why)
			}
		}
		if !counts {
			void++
			continue
		}
		if bad++; bad == tries {
			t.Errorf("%d rounds went wrong, the last one so: %s", bad, r.wrong[len(r.wrong)-1].what)
			return
		}
	}
	t.Logf("the machine is too busy to judge it: %d rounds say nothing", void)
}
