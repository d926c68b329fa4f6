package speaker

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"
)

// The kinds of subjects of events.
const (
	kindVIP       = "vip"
	kindCheck     = "check"
	kindInterface = "interface"
	kindProbe     = "probe"
	kindPeer      = "peer"
	kindBFD       = "bfd"
	kindSpeaker   = "speaker"
	kindSource    = "source"
	kindEgress    = "egress"
	kindKernel    = "kernel"
	kindDaemon    = "daemon"
)

// changes collects what became another from one picture to the next.
type changes struct {
	prev, next *status.Status
	// worse is the level of what got worse.
	worse slog.Level
	told  troubles
	list  []Transition
}

// transitions gives one for everything that became another than in the picture
// before: a warning when it got worse, and a plain one when it is well again. The
// first picture has no before, so it warns of nothing that a start brings with it.
func transitions(prev, next *status.Status, told troubles) []Transition {
	c := &changes{prev: prev, next: next, worse: slog.LevelWarn, told: told}
	if prev == nil || next.Stopping {
		c.worse = slog.LevelInfo
	}
	if prev == nil {
		c.prev = &status.Status{}
	}
	c.vips()
	c.interfaces()
	c.peers()
	c.egress()
	c.refused()
	c.problems()
	c.passes()
	return c.list
}

// add notes a transition.
func (c *changes) add(level slog.Level, e status.Event, attrs ...any) {
	c.list = append(c.list, Transition{Level: level, Event: e, Attrs: attrs})
}

// logged notes a transition that has been logged.
func (c *changes) logged(level slog.Level, e status.Event) {
	c.list = append(c.list, Transition{Level: level, Event: e, Logged: true})
}

// announced is the state of a VIP that is.
const announced = "announced"

// stateOf is a VIP's state for an event.
func stateOf(v *status.VIP) string {
	if v.Announced {
		return announced
	}
	return string(v.Reason)
}

func (c *changes) vips() {
	before := make(map[string]*status.VIP, len(c.prev.VIPs))
	for i := range c.prev.VIPs {
		before[c.prev.VIPs[i].Name] = &c.prev.VIPs[i]
	}
	for i := range c.next.VIPs {
		v := &c.next.VIPs[i]
		old, known := before[v.Name]
		if !known {
			old = &status.VIP{}
		}
		e := status.Event{Kind: kindVIP, Subject: v.Name, From: stateOf(old), To: stateOf(v), Cause: v.Detail}
		switch {
		case v.Announced && !old.Announced:
			e.Message = "vip announced"
			c.add(slog.LevelInfo, e, "vip", v.Name, "prefix", v.Prefix, "interfaces", carrying(v))
		case !v.Announced && (!known || old.Reason != v.Reason):
			level := slog.LevelInfo
			if (old.Announced || known && v.Reason == status.Damped) && v.Reason != status.Drained { // that is as ordered
				level = c.worse
			}
			e.Message = "vip withheld"
			c.add(level, e, "vip", v.Name, "prefix", v.Prefix, "reason", v.Reason, "detail", v.Detail)
		case !v.Announced && old.Detail != v.Detail:
			e.Message = "vip still withheld"
			c.add(slog.LevelDebug, e, "vip", v.Name, "reason", v.Reason, "detail", v.Detail)
		}
		c.degraded(v, old)
		c.role(v, old)
		c.drains(v, old)
		c.checks(v, old)
		c.sources(v, old)
		delete(before, v.Name)
	}
	c.removed(before)
	c.bound()
}

// removed tells of VIPs that were announced and are not configured any more.
func (c *changes) removed(before map[string]*status.VIP) {
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if v := before[name]; v.Announced {
			c.add(slog.LevelInfo, status.Event{
				Kind: kindVIP, Subject: name, Message: "vip removed", From: announced, Cause: "no longer configured",
			}, "vip", name, "prefix", v.Prefix)
		}
	}
}

// boundNamed is how many of the VIPs that were bound at once are named.
const boundNamed = 8

// bound tells which VIPs the kernel has come to hold, all in one. The writer has
// logged it.
func (c *changes) bound() {
	had := make(map[netip.Prefix]bool, len(c.prev.VIPs))
	for i := range c.prev.VIPs {
		had[c.prev.VIPs[i].Prefix] = c.prev.VIPs[i].Bound
	}
	var names []string
	for i := range c.next.VIPs {
		if v := &c.next.VIPs[i]; v.Bound && !had[v.Prefix] {
			names = append(names, v.Prefix.String())
		}
	}
	if len(names) == 0 {
		return
	}
	text := strings.Join(names[:min(boundNamed, len(names))], " ")
	if more := len(names) - boundNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	c.logged(slog.LevelInfo, status.Event{Kind: kindKernel, Subject: kindKernel, Message: "vips bound", Cause: text})
}

func (c *changes) degraded(v, old *status.VIP) {
	const degraded = "degraded"
	switch {
	case v.Degraded && !old.Degraded:
		c.add(c.worse, status.Event{Kind: kindVIP, Subject: v.Name, Message: "vip degraded", To: degraded, Cause: v.Detail},
			"vip", v.Name, "prefix", v.Prefix, "detail", v.Detail)
	case !v.Degraded && old.Degraded:
		c.add(slog.LevelInfo, status.Event{Kind: kindVIP, Subject: v.Name, Message: "vip no longer degraded", From: degraded},
			"vip", v.Name, "prefix", v.Prefix)
	}
}

// carrying names the interfaces on which a VIP is announced.
func carrying(v *status.VIP) string {
	var names []string
	for i := range v.Interfaces {
		if v.Interfaces[i].Announced {
			names = append(names, v.Interfaces[i].Interface)
		}
	}
	return strings.Join(names, ",")
}

func (c *changes) checks(v, old *status.VIP) {
	for i := range v.Checks {
		n := &v.Checks[i]
		was := status.Check{Verdict: string(health.Unknown)}
		if k := slices.IndexFunc(old.Checks, func(o status.Check) bool { return o.Name == n.Name }); k >= 0 {
			was = old.Checks[k]
		}
		level := c.worse
		if n.Verdict == string(health.Healthy) {
			level = slog.LevelInfo
		}
		e := status.Event{
			Kind: kindCheck, Subject: n.Name, VIP: v.Name, Message: "check verdict",
			From: was.Verdict, To: n.Verdict, Cause: n.Reason,
		}
		switch {
		case n.Verdict != was.Verdict:
			c.add(level, e, "vip", v.Name, "check", n.Name, "verdict", n.Verdict, "error", n.Reason)
		case n.Reason != was.Reason:
			e.Message = "check result"
			c.add(slog.LevelDebug, e, "vip", v.Name, "check", n.Name, "verdict", n.Verdict, "error", n.Reason)
		}
	}
}

// sources tells where a VIP came to be source or ceased to. The writer has
// logged it.
func (c *changes) sources(v, old *status.VIP) {
	tell := func(message string, at, not []string) {
		for _, name := range at {
			if !slices.Contains(not, name) {
				c.logged(slog.LevelInfo, status.Event{Kind: kindSource, Subject: v.Prefix.Addr().String(), VIP: v.Name, Interface: name, Message: message})
			}
		}
	}
	tell("preferred source on", v.Source, old.Source)
	tell("preferred source off", old.Source, v.Source)
}

func (c *changes) problems() {
	for _, text := range c.next.Kernel.Problems {
		if !slices.Contains(c.prev.Kernel.Problems, text) {
			c.add(slog.LevelWarn, status.Event{Kind: kindKernel, Subject: kindKernel, Message: "kernel problem", Cause: text}, "problem", text)
		}
	}
	for _, text := range c.prev.Kernel.Problems {
		if !slices.Contains(c.next.Kernel.Problems, text) {
			c.add(slog.LevelInfo, status.Event{Kind: kindKernel, Subject: kindKernel, Message: "kernel problem solved", Cause: text}, "problem", text)
		}
	}
}

func (c *changes) passes() {
	was, is := c.prev.Passes.LastError, c.next.Passes.LastError
	e := status.Event{Kind: kindDaemon, Subject: loopSubject, Cause: is}
	switch {
	case is == "" && was != "":
		e.Message = "pass complete again"
		c.add(slog.LevelInfo, e)
	case is != "" && was == "":
		e.Message = "pass incomplete"
		c.add(slog.LevelWarn, e, "error", is)
	case is != was:
		e.Message = "pass still incomplete"
		c.add(slog.LevelDebug, e, "error", is)
	}
}

// loopSubject is the subject of events about the loop itself.
const loopSubject = "control loop"
