package status

import (
	"fmt"
	"slices"
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
	text, reason := f.short(now), f.why()
	if f.Layer == LayerAttachment {
		reason = ""
	}
	if f.Of > 0 {
		text += fmt.Sprintf(" (%d of %d probes)", min(f.Failed, f.Of), f.Of)
	}
	return join(": ", text, reason)
}

// short is Text without why and without the count.
func (f Failure) short(now time.Time) string {
	text := f.Target + " failed"
	switch f.Layer {
	case LayerAttachment:
		text = f.Target + " unreachable"
	case LayerPath:
		text = f.Target + " does not answer"
	case LayerBFD:
		text = "BFD with " + f.Target + " down"
	}
	if !f.Since.IsZero() {
		text += " since " + words(now.Sub(f.Since))
	}
	return text
}

// inShort gives the words for several failures where each has a line of its own
// elsewhere. Those of one layer are one, as old as the oldest of them.
func inShort(now time.Time) describe {
	return func(_ *Interface, list []Failure) string {
		var order []string
		layers := map[string]Failure{}
		for _, f := range list {
			first, known := layers[f.Layer]
			if !known {
				order, first = append(order, f.Layer), f
			} else {
				first.Target += ", " + f.Target
				if f.Since.Before(first.Since) {
					first.Since = f.Since
				}
			}
			layers[f.Layer] = first
		}
		for i := range order {
			order[i] = layers[order[i]].short(now)
		}
		return strings.Join(order, "; ")
	}
}

// inFull gives all the words that there are for several failures.
func (s *Status) inFull(now time.Time) describe {
	return func(n *Interface, list []Failure) string {
		texts := make([]string, len(list))
		for i := range list {
			texts[i] = s.text(n, list[i], now)
		}
		return strings.Join(texts, "; ")
	}
}

// describe puts failures of an interface in words.
type describe func(*Interface, []Failure) string

// why is the reason without a beginning that names the target once more, such as
// "icmp 10.99.0.2 by en1: ".
func (f Failure) why() string {
	before, after, found := strings.Cut(f.Reason, f.Target)
	if !found || strings.Contains(before, ": ") {
		return f.Reason
	}
	if _, rest, ok := strings.Cut(after, ": "); ok {
		return rest
	}
	return f.Reason
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
// Failures take the place of the detail that stands for them: they count up to
// now.
func (n *Interface) cause(text describe) string {
	list := slices.DeleteFunc(slices.Clone(n.Failures), func(f Failure) bool { return f.reason() != n.Reason })
	if len(list) == 0 {
		return n.Detail
	}
	return text(n, list)
}

// gone tells that there is nothing that a probe could go out by: its failures
// follow from that, and name the wrong layer.
func (n *Interface) gone() bool {
	switch n.Reason {
	case InterfaceAbsent, InterfaceDown, InterfaceCarrier, InterfaceAddress:
		return true
	default:
		return false
	}
}

// failing tells that a failure stands for the reason why it is not usable.
func (n *Interface) failing() bool {
	return !n.Usable && slices.ContainsFunc(n.Failures, func(f Failure) bool { return f.reason() == n.Reason })
}

// iface returns the interface of that name, or nil.
func (s *Status) iface(name string) *Interface {
	for i := range s.Interfaces {
		if s.Interfaces[i].Name == name {
			return &s.Interfaces[i]
		}
	}
	return nil
}

// detailOn is why a VIP is not announced on an interface. What fails there says
// it, in the words of text, rather than what was said when it began.
func (s *Status) detailOn(on *VIPInterface, text describe) string {
	n := s.iface(on.Interface)
	if on.Reason != NoUsableInterface || n == nil || !n.failing() {
		return on.Detail
	}
	return join(": ", string(n.Reason), n.cause(text))
}

// detail is why a VIP is announced nowhere, as detailOn says it of each interface.
func (s *Status) detail(v *VIP, text describe) string {
	if v.Reason != NoUsableInterface || len(v.Interfaces) == 0 {
		return v.Detail
	}
	var texts []string
	for i := range v.Interfaces {
		if on := &v.Interfaces[i]; on.Reason == NoUsableInterface {
			texts = append(texts, join(": ", on.Interface, s.detailOn(on, text)))
		}
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

// refused says that packets of the other end are not taken, and why, while that
// may be what keeps the session from being up; empty otherwise.
func (b *BFD) refused() string {
	if b == nil || b.LastDrop == "" || b.State == bfdUp || b.State == bfdAdminDown {
		return ""
	}
	packets := "packets"
	switch b.Dropped {
	case 0:
	case 1:
		packets = "1 packet"
	default:
		packets = fmt.Sprintf("%d packets", b.Dropped)
	}
	return packets + " dropped: " + b.LastDrop
}

// rotating says that the router is waited for, empty if it is not.
func (b *BFD) rotating() string {
	if !b.Rotating {
		return ""
	}
	return "the router still uses the former authentication"
}

// text says in words what a failure of an interface is, as Failure.Text does,
// and of BFD also why packets that do come are not taken.
func (s *Status) text(n *Interface, f Failure, now time.Time) string {
	text := f.Text(now)
	if f.Layer != LayerBFD {
		return text
	}
	for i := range s.Peers {
		if p := &s.Peers[i]; p.Interface == n.Name && p.Name() == f.Target {
			return join("; ", text, p.BFD.refused())
		}
	}
	return text
}

// trouble says in words why the session cannot run or not come up, empty if
// nothing is known to be in its way.
func (b *BFD) trouble() string {
	if b == nil {
		return ""
	}
	if text := join("; ", b.Error, b.refused(), b.rotating()); text != "" {
		return "BFD: " + text
	}
	return ""
}

// text tells about the session in words.
func (b *BFD) text(now time.Time) string {
	text := b.State + lasting(now, b.Since)
	if b.State == bfdUp {
		if b.DetectionTime > 0 {
			text += ", down after " + b.DetectionTime.String() + " of silence"
		}
		return join("; ", text, b.rotating(), b.Error)
	}
	remote := ""
	if b.RemoteState != "" {
		remote = join(": ", "the other end is "+b.RemoteState, b.RemoteDiagnostic)
	}
	return join(": ", text, join("; ", join(", ", b.Diagnostic, remote), b.refused(), b.Error))
}
