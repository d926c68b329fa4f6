package status

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// DrainPhase is how far a drained VIP is on its way out of use.
type DrainPhase string

// The phases of a drain, in their order.
const (
	DrainLeaving DrainPhase = "leaving" // announced as about to go
	DrainWaiting DrainPhase = "waiting" // withdrawn; its connections may live on
	DrainClosing DrainPhase = "closing" // the connections that are left are reset
	DrainDone    DrainPhase = "drained" // none is left
)

// Drain is an operator's order to take a VIP out of use.
type Drain struct {
	Phase  DrainPhase `json:"phase"`
	Reason string     `json:"reason,omitempty"`
	Since  time.Time  `json:"since,omitzero"`
	// Withdraw is when the VIP is, or was, withdrawn; Deadline when connections
	// that are left are reset; Until when the order ends by itself. Zero for never.
	Withdraw time.Time `json:"withdraw,omitzero"`
	Deadline time.Time `json:"deadline,omitzero"`
	Until    time.Time `json:"until,omitzero"`
	// Connections is how many TCP connections from elsewhere the VIP has, nil
	// before they were counted.
	Connections *int `json:"connections,omitempty"`
}

// left is how many connections there are, in words.
func (d *Drain) left() string {
	if d.Connections == nil {
		return "-"
	}
	return fmt.Sprint(*d.Connections)
}

// text says what comes next and when.
func (d *Drain) text(now time.Time) string {
	next := ""
	in := func(what string, at time.Time) {
		if !at.IsZero() {
			next = what + " in " + span(at.Sub(now))
		}
	}
	switch d.Phase {
	case DrainLeaving:
		in("withdrawn", d.Withdraw)
	case DrainWaiting:
		in("reset", d.Deadline)
	case DrainClosing, DrainDone:
	}
	return next
}

// writeDrains writes one line for each VIP that is out of use, or on its way, or of
// which another host has taken over all but connections.
func writeDrains(b *strings.Builder, s *Status, style Style, now time.Time) {
	t := table{lines: shortened}
	t.header("DRAIN", "PHASE", "FOR", "UNTIL", "CONNECTIONS", "NEXT", "REASON")
	for i := range s.VIPs {
		v := &s.VIPs[i]
		d := cmp.Or(v.Drain, v.Parted)
		if d == nil {
			continue
		}
		until, reason := "undrained", d.Reason
		switch {
		case v.Drain == nil:
			until, reason = "-", "handed over"
		case !d.Until.IsZero():
			until = "in " + span(d.Until.Sub(now))
		}
		next := d.text(now)
		if next == "" {
			next = "-"
		}
		t.add(text(v.Name), cell{string(d.Phase), weak, true}, text(age(now, d.Since)), text(until), text(d.left()), text(next), text(reason))
	}
	if len(t.rows) > 1 {
		b.WriteByte('\n')
		t.write(b, style)
	}
}

// drained tells about the order that takes the VIP out of use, if there is one.
func (e *Explanation) drained(v *VIP, now time.Time) {
	d := v.Drain
	if d == nil {
		return
	}
	detail := string(d.Phase)
	if !d.Since.IsZero() {
		detail += " for " + age(now, d.Since)
	}
	if d.Connections != nil {
		detail += fmt.Sprintf(", %d connections left", *d.Connections)
	}
	if next := d.text(now); next != "" {
		detail += ", " + next
	}
	if !d.Until.IsZero() {
		detail += ", ends by itself in " + span(d.Until.Sub(now))
	}
	e.add("drained", "", d.Phase == DrainLeaving, Drained, join(": ", detail, d.Reason))
}
