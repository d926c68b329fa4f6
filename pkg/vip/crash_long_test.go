//go:build long

package vip

import (
	"fmt"
	"testing"
)

// TestKilledAfterSomeWrites with every write.
func TestLongKilledAfterAnyWrite(t *testing.T) {
	// The whole life takes a while; the parts run side by side.
	const parts = 4
	for part := range 2 * parts {
		t.Run(fmt.Sprintf("part %d", part), func(t *testing.T) {
			t.Parallel()
			sweep(t, part < parts, part%parts, func() int { return parts })
		})
	}
}
