package speaker

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"
)

func damping() config.Damping {
	return config.Damping{Enabled: true, HalfLife: time.Minute, Suppress: 2000, Reuse: 750, MaxSuppress: 4 * time.Minute}
}

func TestPenalty(t *testing.T) {
	t.Parallel()
	c := damping()
	var q Penalty
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1 {
			t.Errorf("%s = %f, want %f", what, got, want)
		}
	}
	near("nothing", q.at(&c, t0), 0)
	q = q.flap(&c, t0)
	near("one flap", q.at(&c, t0), 1000)
	near("after a half-life", q.at(&c, t0.Add(time.Minute)), 500)
	near("the clock went back", q.at(&c, t0.Add(-time.Minute)), 1000)
	q = q.flap(&c, t0.Add(time.Minute))
	near("two flaps", q.Value, 1500)
	if q.Suppressed {
		t.Error("suppressed below the threshold")
	}
	q = q.flap(&c, t0.Add(time.Minute))
	near("three flaps", q.Value, 2500)
	if !q.Suppressed || q.Flaps != 3 {
		t.Errorf("after three flaps: %+v", q)
	}
	// 2500 halves to 750 in log2(2500/750) half-lives.
	end := t0.Add(time.Minute + time.Duration(math.Log2(2500.0/750)*float64(time.Minute)) + time.Millisecond)
	if got := q.until(&c); got.Sub(end).Abs() > time.Millisecond {
		t.Errorf("used again at %s, want %s", got, end)
	}
	if got := q.at(&c, q.until(&c)); got >= 750 {
		t.Errorf("penalty at the end of the suppression: %f", got)
	}
	if !q.look(&c, q.until(&c).Add(-1)).Suppressed || q.look(&c, q.until(&c)).Suppressed {
		t.Error("the suppression does not end when it says")
	}
	for range 100 {
		q = q.flap(&c, t0.Add(time.Minute))
	}
	near("the ceiling", q.Value, 750*16)
	if got := q.until(&c).Sub(t0.Add(time.Minute)); got > 4*time.Minute+time.Millisecond || got < 4*time.Minute-time.Second {
		t.Errorf("suppressed for %s, want the longest time", got)
	}
	off := c
	off.Enabled = false
	if got := q.look(&off, t0); got.Suppressed || got.Flaps != 103 {
		t.Errorf("switched off: %+v", got)
	}
	if got := (Penalty{}).flap(&off, t0); got.Value != 0 || got.Flaps != 1 {
		t.Errorf("a flap while it is off: %+v", got)
	}
}

// Any valid parameters give a suppression that ends, and in time.
func FuzzPenalty(f *testing.F) {
	f.Add(int64(60), 2000, 750, int64(240), 5)
	f.Add(int64(1), 1<<30, 1, int64(86400), 100)
	f.Add(int64(3600), 2, 1, int64(3600), 3)
	f.Fuzz(func(t *testing.T, half int64, suppress, reuse int, longest int64, flaps int) {
		if half < 1 || half > 3600 || reuse < 1 || suppress <= reuse || longest < half || longest > 86400 || flaps < 0 || flaps > 1000 {
			return
		}
		c := config.Damping{Enabled: true, HalfLife: time.Duration(half) * time.Second, Suppress: suppress, Reuse: reuse, MaxSuppress: time.Duration(longest) * time.Second}
		var q Penalty
		for range flaps {
			q = q.flap(&c, t0)
		}
		if q.Suppressed != (q.Value > float64(suppress)) {
			t.Errorf("%+v", q)
		}
		if until := q.until(&c); q.Suppressed && (until.Before(t0) || until.Sub(t0) > c.MaxSuppress+time.Millisecond) {
			t.Errorf("until %s after %s", until.Sub(t0), c.MaxSuppress)
		}
		if reach := float64(reuse) * math.Exp2(float64(longest)/float64(half)); float64(flaps)*1000 > float64(suppress) && !q.Suppressed {
			t.Errorf("never suppressed: %f, ceiling %f", q.Value, reach)
		}
	})
}

// A VIP whose service comes and goes is withheld until it has been quiet, and a
// degraded one stays so.
func TestDampedVIP(t *testing.T) {
	t.Parallel()
	for _, degrade := range []bool{false, true} {
		f := &film{in: sample(), now: t0}
		c := &f.in.Config.VIPs[0]
		c.Damping = damping()
		if degrade {
			c.Degrade = &config.Degrade{Prepend: 3}
		}
		f.look(0, nil)
		bad := func(in *Inputs) {
			in.Health[vipID()] = health.Result{Verdict: health.Unhealthy, Reason: "refused", Passed: t0}
		}
		fine := func(in *Inputs) { in.Health[vipID()] = health.Result{Verdict: health.Healthy} }
		var d Desired
		for i := range 3 {
			if d = f.look(time.Second, bad); d.VIPs[0].Degraded != degrade || !degrade && d.VIPs[0].Reason != status.CheckFailed {
				t.Errorf("flap %d: %+v", i, d.VIPs[0])
			}
			d = f.look(time.Second, fine)
		}
		v := d.VIPs[0]
		if v.Penalty.Flaps != 3 || !v.Penalty.Suppressed || !d.Recheck.Equal(f.now.Add(time.Minute)) {
			t.Errorf("after three flaps: %+v, recheck %s", v.Penalty, d.Recheck)
		}
		paths := d.speaker("en1").Paths
		switch {
		case degrade && (!v.Announced || !v.Degraded || len(paths) != 1 || paths[0].Prepend != 3 || !strings.Contains(v.Detail, "flapped too often")):
			t.Errorf("not degraded: %+v with %v", v, paths)
		case !degrade && (v.Reason != status.Damped || len(paths) != 0 || v.Wanted):
			t.Errorf("not withheld: %+v with %v", v, paths)
		}
		if v = f.look(v.Penalty.Until.Sub(f.now)-time.Millisecond, nil).VIPs[0]; !v.Penalty.Suppressed {
			t.Errorf("shortly before the end: %+v", v)
		}
		if v = f.look(time.Millisecond, nil).VIPs[0]; v.Penalty.Suppressed || !v.Announced || v.Degraded || v.Detail != "" {
			t.Errorf("at the end: %+v", v)
		}
	}
}

// What is no flap: the start, a check that is not known, the stop.
func TestNoFlapOfAVIP(t *testing.T) {
	t.Parallel()
	verdict := func(v health.Verdict) func(*Inputs) {
		return func(in *Inputs) { in.Health[vipID()] = health.Result{Verdict: v} }
	}
	gone := func(in *Inputs) { delete(in.Health, vipID()) }
	for name, tt := range map[string]struct {
		looks []func(*Inputs)
		want  uint64
	}{
		"the start":             {[]func(*Inputs){verdict(health.Unhealthy)}, 0},
		"the start, unknown":    {[]func(*Inputs){gone, verdict(health.Unhealthy)}, 0},
		"a new check":           {[]func(*Inputs){nil, gone, verdict(health.Unhealthy)}, 0},
		"still failing":         {[]func(*Inputs){nil, verdict(health.Unhealthy), nil, nil}, 1},
		"failing again":         {[]func(*Inputs){nil, verdict(health.Unhealthy), verdict(health.Healthy), verdict(health.Unhealthy)}, 2},
		"while the daemon ends": {[]func(*Inputs){nil, func(in *Inputs) { in.Overrides.Shutdown = true; verdict(health.Unhealthy)(in) }}, 0},
		"not bound":             {[]func(*Inputs){nil, func(in *Inputs) { in.Bound = nil }}, 0},
		"no session":            {[]func(*Inputs){nil, func(in *Inputs) { in.BGP = nil }}, 0},
	} {
		f := &film{in: sample(), now: t0}
		var d Desired
		for _, change := range tt.looks {
			d = f.look(time.Second, change)
		}
		if got := d.VIPs[0].Penalty.Flaps; got != tt.want {
			t.Errorf("%s: %d flaps, want %d", name, got, tt.want)
		}
	}
}

// An interface that comes and goes is not used until it has been quiet, but only
// while another one has a session.
func TestDampedInterface(t *testing.T) {
	t.Parallel()
	f := &film{in: sample(), now: t0}
	for i := range f.in.Config.Interfaces {
		f.in.Config.Interfaces[i].Damping, f.in.Config.Interfaces[i].HoldUp = damping(), 0
	}
	running := func(at int, is bool) func(*Inputs) {
		return func(in *Inputs) { in.Net.Links[at].Running = is }
	}
	f.look(0, nil)
	var d Desired
	for range 3 {
		f.look(time.Second, running(0, false))
		d = f.look(time.Second, running(0, true))
	}
	n := d.Interfaces[0]
	if n.Reason != status.Damped || n.Usable || !n.Penalty.Suppressed || n.Penalty.Flaps != 3 || len(d.speaker("en1").Peers) != 0 {
		t.Errorf("after three flaps: %+v", n)
	}
	text := n.Detail
	if got := f.look(time.Second, nil).Interfaces[0].Detail; got != text || !strings.Contains(text, "not used until 12:0") {
		t.Errorf("detail %q, then %q", text, got)
	}
	// The other one goes: this one is needed.
	d = f.look(time.Second, running(1, false))
	if n = d.Interfaces[0]; !n.Usable || n.Penalty.Suppressed || !d.Kernel.Interfaces[0].Leg() {
		t.Errorf("the other one is down: %+v", n)
	}
	if d = f.look(time.Second, running(1, true)); d.Interfaces[0].Reason != status.Damped {
		t.Errorf("the other one is back: %+v", d.Interfaces[0])
	}
	// It has no session, so it is no other one.
	if d = f.look(time.Second, func(in *Inputs) { in.BGP.Speakers[1].Peers[0].State = bgp.Active }); !d.Interfaces[0].Usable {
		t.Errorf("the other one has no session: %+v", d.Interfaces[0])
	}
	d = f.look(time.Second, func(in *Inputs) { in.BGP.Speakers[1].Peers[0].State = bgp.Established })
	until := d.Interfaces[0].Penalty.Until
	if until.IsZero() || f.look(until.Sub(f.now)-time.Millisecond, nil).Interfaces[0].Usable {
		t.Errorf("used before %s", until)
	}
	if d = f.look(time.Millisecond, nil); !d.Interfaces[0].Usable || d.Interfaces[0].Penalty.Suppressed {
		t.Errorf("at the end: %+v", d.Interfaces[0])
	}
}

// What counts as a flap of an interface, and what does not.
func TestFlapsOfAnInterface(t *testing.T) {
	t.Parallel()
	down := func(in *Inputs) { in.Net.Links[0].Running = false }
	up := func(in *Inputs) { in.Net.Links[0].Running = true }
	excuse := func(in *Inputs) {
		h := in.History.Interfaces["en1"]
		h.Excused = true
		in.History.Interfaces = map[string]InterfaceHistory{"en1": h}
	}
	for name, tt := range map[string]struct {
		looks []func(*Inputs)
		want  uint64
	}{
		"down at the start":         {[]func(*Inputs){down, nil}, 0},
		"down":                      {[]func(*Inputs){nil, down, nil, nil}, 1},
		"down in its hold-up":       {[]func(*Inputs){nil, down, up, down}, 2},
		"silent gateway":            {[]func(*Inputs){nil, func(in *Inputs) { in.Health["attachment/en1/10.68.1.2"] = silent("") }}, 1},
		"down by a reload":          {[]func(*Inputs){nil, func(in *Inputs) { excuse(in); down(in) }}, 0},
		"down after a reload":       {[]func(*Inputs){nil, excuse, down}, 1},
		"while the daemon ends":     {[]func(*Inputs){nil, func(in *Inputs) { in.Overrides.Shutdown = true; down(in) }}, 0},
		"BFD":                       {[]func(*Inputs){nil, fails, nil}, 1},
		"BFD, then its gateway":     {[]func(*Inputs){nil, fails, func(in *Inputs) { in.Health["attachment/en1/10.68.1.2"] = silent("") }}, 1},
		"BFD between two looks":     {[]func(*Inputs){nil, func(in *Inputs) { in.BFD.Sessions[0].Downs = 5 }}, 1},
		"BFD, switched off":         {[]func(*Inputs){nil, func(in *Inputs) { in.BFD.Sessions[0].Status, in.BFD.Sessions[0].RemoteStatus = bfd.Down, bfd.AdminDown }}, 0},
		"BFD twice":                 {[]func(*Inputs){nil, fails, bfdUp, fails}, 2},
		"link, and its BFD with it": {[]func(*Inputs){nil, down, func(in *Inputs) { in.BFD.Sessions[0] = bfd.SessionState{}; up(in) }, nil}, 1},
	} {
		f := &film{in: edit(bfdPeers), now: t0}
		probing(&f.in)
		f.in.Config.Interfaces[0].Damping = damping()
		var d Desired
		for _, change := range tt.looks {
			d = f.look(100*time.Millisecond, change)
		}
		if got := d.Interfaces[0].Penalty.Flaps; got != tt.want {
			t.Errorf("%s: %d flaps, want %d", name, got, tt.want)
		}
	}
}

// A reload resets no penalty of what it keeps, and is no flap: neither when it takes
// BFD away, changes it or gives it back, nor when it changes the interface. What
// happens after it counts as ever.
func TestPenaltyAfterReload(t *testing.T) {
	t.Parallel()
	base := func() Inputs {
		in := edit(bfdPeers)
		probing(&in)
		for i := range in.Config.Interfaces {
			in.Config.Interfaces[i].Damping = damping()
		}
		return in
	}
	made := func(c *config.Config) *setup {
		s, err := newSetup(c, func(config.Check) (health.Checker, error) { return nil, nil })
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// reload has a change of the configuration, which the sources follow later.
	reload := func(change func(*config.Config)) func(*Inputs) {
		return func(in *Inputs) {
			next := base().Config
			change(next)
			in.History = in.History.after(made(in.Config), made(next))
			in.Config = next
		}
	}
	same := reload(func(*config.Config) {})
	noBFD := reload(func(c *config.Config) { c.Interfaces[0].Peers[0].BFD = nil })
	// ends is what BFD says of a session that is not wanted any more, begins of one
	// that is new, and renewed of one with another authentication.
	ends := func(in *Inputs) { in.BFD.Sessions[0] = bfd.SessionState{} }
	begins := func(in *Inputs) {
		in.BFD.Sessions[0] = base().BFD.Sessions[0]
		in.BFD.Sessions[0].Status, in.BFD.Sessions[0].WasUp = bfd.Down, false
	}
	renewed := func(in *Inputs) { in.BFD.Sessions[0].Status = bfd.Down }
	gone := func(in *Inputs) { in.Net.Links[0].Running = false }
	for name, tt := range map[string]struct {
		looks []func(*Inputs)
		flaps uint64 // beside the three before
	}{
		"nothing changes":                 {[]func(*Inputs){same, nil}, 0},
		"BFD taken away":                  {[]func(*Inputs){noBFD, ends, nil}, 0},
		"BFD taken away while it is down": {[]func(*Inputs){fails, noBFD, ends, nil}, 1},
		"BFD taken away as it goes down":  {[]func(*Inputs){func(in *Inputs) { fails(in); noBFD(in) }, ends, nil}, 0},
		"BFD taken away, then the link":   {[]func(*Inputs){noBFD, ends, gone}, 1},
		"BFD taken away and given back":   {[]func(*Inputs){noBFD, ends, same, begins, bfdUp, nil}, 0},
		"given back, and then it fails":   {[]func(*Inputs){noBFD, ends, same, begins, bfdUp, fails}, 1},
		"BFD with other timers": {[]func(*Inputs){reload(func(c *config.Config) {
			c.Interfaces[0].Peers[0].BFD = &config.BFD{MinTx: time.Second, MinRx: time.Second, Multiplier: 9}
		}), nil}, 0},
		"BFD with another key": {[]func(*Inputs){reload(func(c *config.Config) {
			c.Interfaces[0].Peers[0].BFD.Auth = &config.BFDAuth{Type: "keyed_sha1", KeyID: 1, Key: "k"}
		}), renewed, bfdUp, nil}, 0},
		"another router": {[]func(*Inputs){reload(func(c *config.Config) {
			c.Interfaces[0].Peers[0].Address = addr("10.68.1.3")
		}), ends, nil}, 0},
		"a router that is not on the link": {[]func(*Inputs){reload(func(c *config.Config) {
			c.Interfaces[0].Peers[0].Address = addr("10.99.1.3")
		}), ends, nil}, 0},
		"another gateway, not probed yet": {[]func(*Inputs){reload(func(c *config.Config) {
			c.Interfaces[0].Gateways = []netip.Addr{addr("10.68.1.4")}
		}), nil}, 0},
		"other times, and the link is gone": {[]func(*Inputs){func(in *Inputs) {
			reload(func(c *config.Config) { c.Interfaces[0].HoldUp = time.Minute })(in)
			gone(in)
		}, nil}, 1},
	} {
		f := &film{in: base(), now: t0}
		for range 3 {
			f.look(100*time.Millisecond, bfdUp)
			f.look(100*time.Millisecond, fails)
		}
		before := f.look(100*time.Millisecond, bfdUp).History.Interfaces["en1"].Penalty
		if before.Flaps != 3 || !before.Suppressed {
			t.Fatalf("before: %+v", before)
		}
		var d Desired
		for _, change := range tt.looks {
			d = f.look(100*time.Millisecond, change)
		}
		after := d.History.Interfaces["en1"].Penalty
		c := damping()
		if after.Flaps-before.Flaps != tt.flaps || !after.Suppressed || after.at(&c, f.now) < before.at(&c, f.now) {
			t.Errorf("%s: %+v, before %+v; want %d flaps more", name, after, before, tt.flaps)
		}
	}
	// What a configuration does not have is forgotten, as its sessions are.
	f := &film{in: base(), now: t0}
	f.look(0, nil)
	f.look(time.Second, fails)
	f.look(time.Second, reload(func(c *config.Config) { c.Interfaces = c.Interfaces[1:]; c.VIPs[0].Interfaces = []string{"en5"} }))
	f.look(time.Second, ends)
	if d := f.look(time.Second, same); d.Interfaces[0].Penalty.Flaps != 0 {
		t.Errorf("an interface that was removed and added again: %+v", d.Interfaces[0].Penalty)
	}
}

func bfdUp(in *Inputs) { in.BFD.Sessions[0].Status = bfd.Up }
