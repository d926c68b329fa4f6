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
		text += fmt.Sprintf(" (%d of %d probes)", min(f.Failed, f.Of), f.Of)
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

// reason is the word for an interface that is not usable for this failure: BFD
// is one way to see that a path is dead.
func (f Failure) reason() Reason {
	if f.Layer == LayerBFD {
		return InterfacePath
	}
	return Reason(f.Layer)
}

// cause says in words why the interface is not usable, beside the reason.
// Failures say more than the detail that stands for them, and count up to now.
func (n *Interface) cause(now time.Time) string {
	var texts []string
	for _, f := range n.Failures {
		if f.reason() == n.Reason {
			texts = append(texts, f.Text(now))
		}
	}
	if len(texts) == 0 {
		return n.Detail
	}
	return strings.Join(texts, "; ")
}

// bfdUp is the one state of a BFD session in which it vouches for the path
// (RFC 5880 section 6.2).
const bfdUp = "Up"

// bfdAdminDown says that a session is not wanted, which is no failure of the
// path (RFC 5882 section 3.2).
const bfdAdminDown = "AdminDown"

// failed tells that the session has lost its other end, which neither end
// wanted: one that never was up says nothing about the path.
func (b *BFD) failed() bool {
	return b.State != bfdUp && b.State != bfdAdminDown && b.RemoteState != bfdAdminDown && b.Downs > 0
}

// trouble says in words why the session cannot run, empty if it can.
func (b *BFD) trouble() string {
	if b == nil || b.Error == "" {
		return ""
	}
	return "BFD: " + b.Error
}

// text tells about the session in words.
func (b *BFD) text(now time.Time) string {
	text := join(": ", fmt.Sprintf("%s for %s", b.State, age(now, b.Since)), b.Diagnostic)
	if b.RemoteState != "" && b.State != bfdUp {
		text = join(", ", text, join(": ", "the other end is "+b.RemoteState, b.RemoteDiagnostic))
	}
	if b.State == bfdUp && b.DetectionTime > 0 {
		text = join(", ", text, "down after "+b.DetectionTime.String()+" of silence")
	}
	return join("; ", text, b.Error)
}
