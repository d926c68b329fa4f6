package speaker

import (
	"math"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
)

// flapCost is what one flap adds to a penalty.
const flapCost = 1000

// Penalty is the figure of merit of RFC 2439 section 4.2 of one subject. It is a
// value: every change gives another one.
type Penalty struct {
	// Value is the penalty at At, the time of the last flap; it decays from
	// there on.
	Value float64
	At    time.Time
	// Flaps is how many there were.
	Flaps uint64
	// Suppressed tells that Value exceeded the threshold and has not yet fallen
	// below the one for use.
	Suppressed bool
}

// at is the penalty at a time: it loses half in each half-life.
func (q Penalty) at(c *config.Damping, now time.Time) float64 {
	if q.Value == 0 || c.HalfLife <= 0 {
		return 0
	}
	return q.Value * math.Exp2(-max(now.Sub(q.At), 0).Seconds()/c.HalfLife.Seconds())
}

// flap adds one flap. The value stays below the ceiling from which it decays to
// the threshold for use within the longest time of suppression (RFC 2439 section
// 4.2), but above the threshold of suppression, which could else not be reached.
func (q Penalty) flap(c *config.Damping, now time.Time) Penalty {
	q.Flaps++
	if !c.Enabled {
		return q
	}
	ceiling := float64(c.Suppress) + 1
	if c.HalfLife > 0 {
		ceiling = max(ceiling, float64(c.Reuse)*math.Exp2(c.MaxSuppress.Seconds()/c.HalfLife.Seconds()))
	}
	q.Value = min(q.at(c, now)+flapCost, ceiling)
	q.At = now
	q.Suppressed = q.Suppressed || q.Value > float64(c.Suppress)
	return q
}

// until is when a suppression ends: when the penalty falls below the threshold
// for use, and in any case after the longest time without another flap.
func (q Penalty) until(c *config.Damping) time.Time {
	wait := c.MaxSuppress
	// Compared as seconds: a value that cannot be a duration must not wrap.
	if decay := math.Log2(q.Value/float64(max(c.Reuse, 1))) * c.HalfLife.Seconds(); decay < wait.Seconds() {
		wait = time.Duration(max(decay, 0)*float64(time.Second)) + time.Millisecond // surely below
	}
	return q.At.Add(wait)
}

// look ends a suppression whose time is over.
func (q Penalty) look(c *config.Damping, now time.Time) Penalty {
	q.Suppressed = q.Suppressed && c.Enabled && q.until(c).After(now)
	return q
}

// show is the penalty for the picture; suppressed tells whether it has an effect.
func (q Penalty) show(c *config.Damping, now time.Time, suppressed bool) status.Penalty {
	out := status.Penalty{Value: int(math.Round(q.at(c, now))), Flaps: q.Flaps, Suppressed: suppressed}
	if suppressed {
		out.Until = q.until(c)
	}
	return out
}

// dampedText tells until when a subject is suppressed. It does not grow.
func dampedText(until time.Time) string {
	return "flapped too often, not used until " + until.Format(time.TimeOnly)
}
