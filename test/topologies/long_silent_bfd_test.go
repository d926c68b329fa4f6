//go:build long

package topologies

import (
	"testing"
	"time"
)

// TestLongSilentPathWithFastBFD is TestSilentPathWithBFD with BFD at 10 ms × 3.
func TestLongSilentPathWithFastBFD(t *testing.T) {
	eachLeg(t, func(t *testing.T, fails, stays leg) {
		silentPath(t, fails, stays, bfdTimers{10 * time.Millisecond, 3}, 100*time.Millisecond)
	})
}
