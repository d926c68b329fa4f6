package topologies

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// flapLink sets a link of the host down and up again, n times in 300 ms each or as
// long as the daemon takes to see it, and hands every picture of that time to look.
func flapLink(t *testing.T, s *lab.Speaker, host *lab.Node, name string, n int, look func(*status.Status)) {
	t.Helper()
	const half = 150 * time.Millisecond
	for range n {
		for _, down := range []bool{true, false} {
			if down {
				host.LinkDown(name)
			} else {
				host.LinkUp(name)
			}
			end := time.Now().Add(half)
			s.WaitStatus(5*time.Second, "half a flap is over, and was seen", func(st *status.Status) error {
				look(st)
				seen := flapInterface(st, name).Reason == status.InterfaceDown
				return lab.That(time.Now().After(end) && seen == down, "%s is down: %t, in the status: %t", name, down, seen)
			})
		}
	}
}

// opens are the sessions that the host tried to open with the peers since then.
func opens(wire *lab.Capture, since time.Time, peers ...netip.Addr) (list []lab.Message) {
	for _, peer := range peers {
		list = append(list, to(wire, peer, since, func(m lab.Message) bool { return m.Type == lab.Open })...)
	}
	return list
}

// dampedLinks is the configuration of TestFlappingLink.
func dampedLinks() string {
	c := hostConfig{vips: sampleVIPs()}
	return strings.ReplaceAll(c.String(), "hold_up: 500ms", "hold_up: 100ms\n    "+flapDamping)
}

// TestFlappingLink: a link that flaps is left alone after as many flaps as
// configured, and its router with it; the other link carries on. The last one
// that works is used however it flaps.
func TestFlappingLink(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	wire := host.Capture()
	host.WriteFile(lab.ConfigPath, dampedLinks())
	s := startSpeaker(t, l)
	waitClientHasBoth(t, l)
	before := s.WaitStatus(5*time.Second, "all is announced", lab.Established)
	since := waitQuiet(t, wire, allPeers()...)
	watches := watchRoutes(t, l, legs()[1], vip4, vip6)

	flaps := suppress(t, func() { flapLink(t, s, host, "en1", 1, func(*status.Status) {}) }, func() bool {
		st, err := s.Status()
		return err == nil && flapInterface(st, "en1").Penalty.Suppressed
	})
	s.WaitStatus(5*time.Second, "en1 is damped", interfaceDamped("en1"))
	// What was on its way is out by then; it must be far less than the suppression.
	lab.Pass(50 * time.Millisecond)
	suppressed, over := time.Now(), false
	flaps += 5
	flapLink(t, s, host, "en1", 5, func(st *status.Status) {
		if !over && flapInterface(st, "en1").Usable {
			if over = tooBusy(t, suppressed); !over {
				t.Fatalf("en1 is used while it flaps: %+v", flapInterface(st, "en1"))
			}
		}
	})
	if over {
		return
	}
	suppressedNow := metric(t, host, `vipspeaker_interface_suppressed{interface="en1"}`)
	st, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	if err = interfaceDamped("en1")(st); err != nil {
		if !tooBusy(t, suppressed) {
			t.Error(err)
		}
		return
	}
	tellsOfDamping(t, s, since, "interface", "interface still unusable", "en1")
	en1 := flapInterface(st, "en1")
	if want := en1.Penalty.Until.Local().Format(time.TimeOnly); !strings.Contains(en1.Detail, want) || en1.Penalty.Flaps != uint64(flaps) {
		t.Errorf("en1: detail %q, penalty %+v", en1.Detail, en1.Penalty)
	}
	if suppressedNow != "1" {
		t.Errorf("vipspeaker_interface_suppressed is %q", suppressedNow)
	}
	for _, name := range []string{"vipa", "vipa6"} {
		if v, err := vipNamed(st, name); err != nil || !v.Announced || v.Penalty.Flaps != 0 {
			t.Errorf("%s: %+v", name, v)
		}
	}
	waitQuiet(t, wire, r5v4, r5v6)
	if list := opens(wire, suppressed, r1v4, r1v6); len(list) > 0 {
		t.Errorf("en1 was suppressed at %v: %v", suppressed, list)
	}
	t.Logf("r1: %d sessions opened while en1 flapped %d times", len(opens(wire, since, r1v4, r1v6)), flaps)
	if n := len(opens(wire, since, r1v4, r1v6)); n > 2*(flaps-5) {
		t.Errorf("r1: %d sessions opened", n)
	}
	// The other router is not concerned.
	for _, peer := range []netip.Addr{r5v4, r5v6} {
		if list := to(wire, peer, since, changes); len(list) > 0 {
			t.Errorf("%v was sent %v", peer, list)
		}
		if was, is := peerAt(before, peer), peerAt(st, peer); !was.Since.Equal(is.Since) || was.Transitions != is.Transitions {
			t.Errorf("%v: session was %+v, is %+v", peer, was, is)
		}
	}
	unchanged(t, watches)

	until := flapInterface(st, "en1").Penalty.Until
	st = s.WaitStatus(15*time.Second, "all is back", lab.Established)
	back := flapInterface(st, "en1").Since
	if back.Before(until.Add(-10 * time.Millisecond)) {
		t.Errorf("en1 is used from %v, it was suppressed until %v", back, until)
	}
	lab.Within(t, "the use of en1 after the suppression", until, back.Sub(until), time.Second)
	waitClientHasBoth(t, l)
}

// tellsOfDamping checks that a suppression is a warning that says until when, and
// is told anew only where the state was another in between.
func tellsOfDamping(t *testing.T, s *lab.Speaker, since time.Time, kind, message, subject string) {
	t.Helper()
	n, line := 0, ""
	list := eventsOf(t, s, since)
	for i := range list {
		e := &list[i]
		if e.Kind == kind && e.Subject == subject && e.To == string(status.Damped) {
			n++
			if e.Message != message || e.Level != status.LevelWarn || !strings.Contains(e.Cause, "flapped too often, not used until ") {
				t.Errorf("%s is damped, and the event is %+v", subject, *e)
			}
		}
	}
	for l := range strings.Lines(s.Log()) {
		if strings.Contains(l, message) && strings.Contains(l, "reason=damped") && strings.Contains(l, subject) && strings.Contains(l, "level=WARN") {
			line = l
		}
	}
	if n == 0 || line == "" {
		t.Errorf("%s is damped: %d events, line of the log %q", subject, n, line)
	}
}

// interfaceDamped is a condition for WaitStatus.
func interfaceDamped(name string) func(*status.Status) error {
	return func(st *status.Status) error {
		n := flapInterface(st, name)
		return lab.That(!n.Usable && n.Reason == status.Damped && n.Penalty.Suppressed, "%s: %+v", name, n)
	}
}

// TestFlappingLastLink: with one link down, the other one is used however often
// it flaps.
func TestFlappingLastLink(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	host.WriteFile(lab.ConfigPath, dampedLinks())
	s := startSpeaker(t, l)
	host.LinkDown("en5")
	s.WaitStatus(5*time.Second, "en5 is down", func(st *status.Status) error {
		return lab.That(flapInterface(st, "en5").Reason == status.InterfaceDown, "%+v", flapInterface(st, "en5"))
	})
	peak, began := 0, time.Now()
	flapLink(t, s, host, "en1", 2*flapsToSuppress, func(st *status.Status) {
		n := flapInterface(st, "en1")
		peak = max(peak, n.Penalty.Value)
		if n.Reason == status.Damped || n.Penalty.Suppressed {
			t.Fatalf("the last link is suppressed: %+v", n)
		}
	})
	calm := time.Now()
	st := s.WaitStatus(15*time.Second, "en1 is used", func(st *status.Status) error {
		for _, p := range []netip.Addr{r1v4, r1v6} {
			if is := peerAt(st, p); is.State != "Established" || is.Announced == 0 {
				return fmt.Errorf("%v is %s: %s", p, is.State, is.LastError)
			}
		}
		return nil
	})
	en1 := flapInterface(st, "en1")
	t.Logf("en1 flapped %d times and carries the VIPs after %v, penalty %d", en1.Penalty.Flaps, time.Since(calm).Round(time.Millisecond), en1.Penalty.Value)
	// One that would be suppressed if there were another.
	if why := lab.Busy(began, calm, 100*time.Millisecond); peak <= 2500 && why == "" {
		t.Errorf("en1: penalty of %d at most: it shows nothing", peak)
	} else if peak <= 2500 {
		t.Logf("en1: penalty of %d at most, for %s: it shows nothing", peak, why)
	}
}
