package health

import (
	"testing"
	"time"
)

// TestLeastLife: a verdict of a check that runs often outlives a machine that stands still
// for a moment, and that of a slow one counts for as long as three runs.
func TestLeastLife(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ interval, timeout, want time.Duration }{
		{50 * time.Millisecond, 40 * time.Millisecond, 2 * time.Second},
		{500 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second},
		{500 * time.Millisecond, 501 * time.Millisecond, 2001 * time.Millisecond},
		{time.Second, 500 * time.Millisecond, 3500 * time.Millisecond},
	} {
		s := &Spec{Interval: c.interval, Timeout: c.timeout}
		r := Result{Checked: now, Expires: s.expires(now)}
		if got := r.Expires.Sub(now); got != c.want {
			t.Errorf("every %s, timeout %s: a verdict counts for %s, want %s", c.interval, c.timeout, got, c.want)
		}
		if r.expired(now.Add(c.want)) || !r.expired(now.Add(c.want+1)) {
			t.Errorf("every %s: it does not expire then", c.interval)
		}
	}
}
