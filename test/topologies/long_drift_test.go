//go:build long

package topologies

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/topologies/lab"
)

// TestLongDriftAtRandom does things to a running daemon in a random order, also
// before it has repaired the one before, and tells how long the repairs took.
func TestLongDriftAtRandom(t *testing.T) {
	const rounds = 200
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	s := startWith(t, l, hostConfig{vips: sampleVIPs()})
	s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	want := held(host, "vi0")
	// A table into which somebody writes while it is empty is not ours any more.
	all := slices.DeleteFunc(drifts(), func(d drift) bool { return d.foreign })
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var times []time.Duration
	for range rounds {
		var what []string
		began := time.Now()
		for range 1 + random.IntN(3) {
			d := all[random.IntN(len(all))]
			what = append(what, d.name)
			// The device may be gone from the one before.
			if _, err := host.Try("sh", "-c", "ip "+strings.Join(d.commands, "; ip ")); err != nil {
				what = append(what, "(failed)")
			}
			began = time.Now()
		}
		// The last look that did not see it says that it was not there until then: a look
		// takes a while itself.
		not := began
		lab.Eventually(t, 20*time.Second, strings.Join(what, ", ")+": repaired", func() error {
			look := time.Now()
			diff := cmp.Diff(want, held(host, "vi0"))
			if diff != "" {
				not = look
			}
			return lab.That(diff == "", "(-want +is):\n%s", diff)
		})
		times = append(times, time.Since(began))
		lab.Within(t, "the repair after "+strings.Join(what, ", "), began, not.Sub(began), repairTime)
	}
	s.WaitStatus(20*time.Second, "everything is announced", lab.Established)
	slices.Sort(times)
	t.Logf("%d repairs, seen after p50 %v, p99 %v, at most %v", rounds, times[rounds/2], times[rounds*99/100], times[rounds-1])
}
