package status

import (
	"fmt"
	"strings"
	"time"
)

// The layers of a failure and of a probe.
const (
	LayerAttachment = "attachment"
	LayerPath       = "path"
	LayerBFD        = "bfd"
)

// Text says in words what does not answer and for how long up to now, without
// the layer: "10.68.1.2 unreachable since 12 s (3 of 3 probes)". The reason of
// an attachment is left out, as it says no more than that.
func (f Failure) Text(now time.Time) string {
	text, reason := f.Target+" failed", strings.TrimPrefix(f.Reason, f.Target+": ")
	switch f.Layer {
	case LayerAttachment:
		text, reason = f.Target+" unreachable", ""
	case LayerPath:
		text = f.Target + " does not answer"
	case LayerBFD:
		text = "BFD with " + f.Target + " down"
	}
	if !f.Since.IsZero() {
		text += " since " + words(now.Sub(f.Since))
	}
	if f.Of > 0 {
		text += fmt.Sprintf(" (%d of %d probes)", f.Failed, f.Of)
	}
	return join(": ", text, reason)
}

// Text says in words how much something flaps: "penalty 2300, 3 flaps", and
// until when it is not used for that. It is empty for what is at rest.
func (p Penalty) Text() string {
	if p.Value <= 0 && !p.Suppressed {
		return ""
	}
	flaps := "flaps"
	if p.Flaps == 1 {
		flaps = "flap"
	}
	text := fmt.Sprintf("penalty %d, %d %s", p.Value, p.Flaps, flaps)
	switch {
	case !p.Suppressed:
		return text
	case p.Until.IsZero():
		return text + ", suppressed"
	default:
		return text + ", suppressed until " + p.Until.Format(time.TimeOnly)
	}
}

// words writes a duration for a sentence: at most two whole units, and tenths
// only below ten seconds.
func words(d time.Duration) string {
	d = max(d, 0)
	const day = 24 * time.Hour
	if tenths := d / (100 * time.Millisecond); d < 10*time.Second && tenths%10 != 0 {
		return fmt.Sprintf("%d.%d s", tenths/10, tenths%10)
	}
	two := func(unit, rest time.Duration, of, restOf string) string {
		text := fmt.Sprintf("%d %s", d/unit, of)
		if n := d % unit / rest; n > 0 {
			text += fmt.Sprintf(" %d %s", n, restOf)
		}
		return text
	}
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return two(time.Minute, time.Second, "min", "s")
	case d < day:
		return two(time.Hour, time.Minute, "h", "min")
	default:
		return two(day, time.Hour, "d", "h")
	}
}
