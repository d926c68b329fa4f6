package speaker

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
)

// The rules that never break, as far as the decision and the loop keep them.
// Those about the stop and the watchdog stand with their tests.

// Rule 1: unknown is not healthy, and nothing is announced that the kernel does
// not hold.
func TestRule01NothingBeforeItIsKnownGood(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.results = health.Results{}
		_, stop := w.start(w.options())
		w.sleep(time.Minute)
		if n := len(w.orders["en1"].Paths); n != 0 {
			t.Errorf("%d paths before any verdict", n)
		}
		if len(w.bound) != 3 {
			t.Errorf("bound %v, want all: what is withheld is served", w.bound)
		}
		w.do(func() {
			for _, v := range w.config.VIPs {
				w.verdict(v.Name, health.Healthy, time.Hour)
			}
		})
		w.settled(100 * time.Millisecond)
		w.stop(stop)
	})
	bubble(t, func(w *world) {
		w.refuse = true
		_, stop := w.start(w.options())
		w.sleep(time.Minute)
		if n := len(w.orders["en1"].Paths); n != 0 {
			t.Errorf("%d paths although nothing could be bound", n)
		}
		if len(w.orders["en1"].Peers) != 1 {
			t.Error("a kernel that fails keeps the session from coming up")
		}
		w.refuse = false
		w.settled(backoffMax + time.Second)
		w.stop(stop)
	})
}

// Rule 2: a failed add never holds up a withdraw.
func TestRule02FailedAddDelaysNoWithdraw(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		_, stop := w.start(w.options())
		w.settled(time.Second)
		w.refuse = true
		w.drop(prefix("10.68.6.2/32"))
		w.do(func() { w.verdict("vipa", health.Unhealthy, time.Hour) })
		w.sleep(0)
		if p := paths(w.orders["en5"]); p[prefix("10.68.6.1/32")] || p[prefix("10.68.6.2/32")] {
			t.Errorf("paths on en5 = %v, want none of the failed and the unbound VIP", p)
		}
		w.refuse = false
		w.stop(stop)
	})
}

// Rule 3: each session is pinned to its interface, and announces that
// interface's own address.
func TestRule03SessionsArePinned(t *testing.T) {
	t.Parallel()
	// The peer of en5 is within reach of en1 only.
	in := edit(func(in *Inputs) { in.Net.Links[1].Addresses = nil })
	in.Net.Links[0].Addresses = append(in.Net.Links[0].Addresses, netmon.Address{Prefix: prefix("10.68.5.9/24"), Usable: true})
	d := Plan(in, t0)
	if s := d.speaker("en5"); len(s.Peers) != 0 || len(s.ListenAddresses) != 0 {
		t.Errorf("session of en5 from %v, want none through another interface", s.Peers)
	}
	if s := d.speaker("en1"); len(s.Peers) != 1 || s.Peers[0].LocalAddress != addr("10.68.1.1") || s.Peers[0].Interface != "en1" {
		t.Errorf("session of en1 = %+v", s.Peers)
	}
}

// Rule 3: the last words of a session whose interface failed may leave by
// another path, so they are told who its peer is while the interface is down.
func TestRule03LastWordsHaveAPath(t *testing.T) {
	t.Parallel()
	d := Plan(edit(func(in *Inputs) { in.Net.Links[0].Up, in.Net.Links[0].Running = false, false }), t0)
	if len(d.Kernel.Fallbacks) != 2 || d.Kernel.Fallbacks[0].Local != addr("10.68.1.1") {
		t.Errorf("fallbacks = %v, want both sessions", d.Kernel.Fallbacks)
	}
	if s := d.speaker("en1"); s.DownReason != "interface en1: administratively down" {
		t.Errorf("text of the Cease = %q", s.DownReason)
	}
}

// Rule 3: when an interface fails, the kernel has moved the traffic before the
// session gets its Cease.
func TestRule03TrafficMovesBeforeCease(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		_, stop := w.start(w.options())
		w.settled(time.Second)
		w.slow = 100 * time.Millisecond
		w.do(func() { w.link("en1", false) })
		for {
			w.sleep(time.Millisecond)
			peers, leg := len(w.orders["en1"].Peers), w.legs["en1"]
			if peers == 0 {
				if leg {
					t.Error("the session was ended while traffic still left by the interface")
				}
				break
			}
		}
		w.stop(stop)
	})
}

// Rule 4: only configured VIPs are announced, to configured peers, whatever
// speakers say they hold.
func TestRule04OnlyOurVIPsLeave(t *testing.T) {
	t.Parallel()
	in := edit(func(in *Inputs) {
		in.BGP.Speakers[0].Announced = append(in.BGP.Speakers[0].Announced, prefix("0.0.0.0/0"), prefix("192.0.2.0/24"))
		in.BGP.Speakers[0].Peers = append(in.BGP.Speakers[0].Peers, established("10.68.1.66"))
		in.Bound = append(in.Bound, prefix("0.0.0.0/0"))
	})
	d := Plan(in, t0)
	for _, s := range d.BGP.Speakers {
		if len(s.Paths) != 1 || s.Paths[0].Prefix != prefix("10.68.6.1/32") || len(s.Peers) != 1 {
			t.Errorf("%s: %d peers get %v", s.Name, len(s.Peers), s.Paths)
		}
	}
}

// Rule 5: the gates have an order, and a VIP has the word of the first that is
// closed.
func TestRule05OneReasonWord(t *testing.T) {
	t.Parallel()
	closed := []struct {
		reason status.Reason
		close  func(*Inputs)
	}{
		{"", func(*Inputs) {}},
		{status.NoSession, func(in *Inputs) { in.BGP = nil }},
		{status.NotBound, func(in *Inputs) { in.Bound = nil }},
		{status.NoUsableInterface, func(in *Inputs) { in.Net.Links = nil }},
		{status.Damped, func(in *Inputs) {
			in.Config.VIPs[0].Damping = config.Damping{Enabled: true, HalfLife: time.Minute, Suppress: 2000, Reuse: 500, MaxSuppress: time.Hour}
			in.History.VIPs = map[netip.Prefix]VIPHistory{prefix("10.68.6.1/32"): {Penalty: Penalty{Value: 3000, At: t0, Suppressed: true}}}
		}},
		{status.CheckUnknown, func(in *Inputs) { in.Health = nil }},
		{status.CheckStale, func(in *Inputs) {
			in.Health = health.Results{vipID(): {Verdict: health.Healthy, Expires: t0}}
		}},
		{status.CheckFailed, func(in *Inputs) { in.Health = health.Results{vipID(): {Verdict: health.Unhealthy}} }},
		{status.Shutdown, func(in *Inputs) { in.Overrides.Shutdown = true }},
	}
	in := sample()
	for _, gate := range closed { // each on top of those before
		gate.close(&in)
		d := Plan(in, t0)
		if got := d.VIPs[0].Reason; got != gate.reason {
			t.Errorf("reason = %q, want %q", got, gate.reason)
		}
	}
}

// Rule 8: while a VIP is unbound it is withdrawn, and it is repaired at once.
func TestRule08DriftIsRepaired(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		_, stop := w.start(w.options())
		w.settled(time.Second)
		w.journal = nil
		w.do(func() { w.drop(prefix("10.68.6.1/32")) })
		w.settled(50 * time.Millisecond)
		i, j := slices.Index(w.journal, "withdraw en1"), slices.Index(w.journal, "bind 10.68.6.1/32")
		if i < 0 || j < i || slices.Index(w.journal, "announce en1") < j {
			t.Errorf("drift made %q, want withdraw, bind, announce", w.journal)
		}
		w.do(func() { clear(w.sources) })
		w.settled(50 * time.Millisecond)
		w.stop(stop)
	})
}

// Rule 10: peers never get a VIP as source, and sessions never use one.
func TestRule10SessionsUseOwnAddresses(t *testing.T) {
	t.Parallel()
	in := edit(func(in *Inputs) {
		// Somebody put the VIP on the interface, where it is on-link with the peer.
		in.Config.VIPs[0].Prefix = prefix("10.68.1.1/32")
		in.Net.Links[0].Addresses = append(in.Net.Links[0].Addresses, netmon.Address{Prefix: prefix("10.68.1.7/24"), Usable: true})
	})
	d := Plan(in, t0)
	if got := d.speaker("en1").Peers[0].LocalAddress; got != addr("10.68.1.7") {
		t.Errorf("session from %s, want the own address 10.68.1.7", got)
	}
	for _, peer := range []string{"10.68.1.2/32", "10.68.5.2/32"} {
		if !slices.Contains(d.Kernel.Exclude, prefix(peer)) {
			t.Errorf("peer %s is not exempt", peer)
		}
	}
}

// Rule 13: an unchanged configuration that is loaded again changes nothing.
func TestRule13ReloadOfTheSame(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		l, stop := w.start(w.options())
		w.settled(time.Second)
		w.journal = nil
		writes, keys := w.writes, w.specs
		if err := l.SetConfig(loopConfig()); err != nil {
			t.Fatal(err)
		}
		w.settled(time.Minute)
		if len(w.journal) > 0 || w.writes != writes {
			t.Errorf("reload did %q and %d writes", w.journal, w.writes-writes)
		}
		if !slices.EqualFunc(keys, w.specs, func(a, b health.Spec) bool { return a.ID == b.ID && a.Key == b.Key }) {
			t.Error("the checks have other keys")
		}
		w.stop(stop)
	})
}

// Rule 13: a VIP that is renamed keeps its checks, and with them its announcement.
func TestRule13Rename(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		l, stop := w.start(w.options())
		w.settled(time.Second)
		w.journal = nil
		next := loopConfig()
		next.VIPs[0].Name = "renamed"
		w.config = next
		if err := l.SetConfig(next); err != nil {
			t.Fatal(err)
		}
		w.settled(time.Minute)
		if len(w.journal) > 0 {
			t.Errorf("the new name did %q", w.journal)
		}
		w.stop(stop)
	})
}

// Rule 13: a reload never brings back what is withheld.
func TestRule13ReloadDoesNotResurrect(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.verdict("vipa", health.Unhealthy, time.Hour)
		l, stop := w.start(w.options())
		w.settled(time.Second)
		next := loopConfig()
		next.VIPs[0].Announce.Communities = []uint32{1}
		w.config = next
		if err := l.SetConfig(next); err != nil {
			t.Fatal(err)
		}
		w.settled(time.Minute)
		w.stop(stop)
	})
}

// The last usable interface is never taken away, and the source goes only with
// the announcement.
func TestLastInterfaceIsKept(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		_, stop := w.start(w.options())
		w.settled(time.Second)
		w.do(func() { w.link("en1", false) })
		w.settled(time.Second)
		w.do(func() { w.link("en5", false) })
		w.settled(time.Second)
		if w.legs["en1"] || !w.legs["en5"] {
			t.Errorf("legs = %v, want the last one to stay", w.legs)
		}
		w.do(func() { w.link("en1", true) })
		w.sleep(time.Second)
		if !w.legs["en1"] || w.legs["en5"] || len(w.orders["en1"].Peers) > 0 {
			t.Errorf("legs = %v with %d peers, want the one in its hold-up, still without a session", w.legs, len(w.orders["en1"].Peers))
		}
		w.settled(2 * time.Second)
		w.stop(stop)
	})
}

// An adopted source stays on from the first pass to the first session.
func TestAdoptedSourceStays(t *testing.T) {
	t.Parallel()
	in := sample()
	in.Bound, in.BGP = nil, nil
	in.Adopted, in.AdoptedSources, in.StartedAt = true, []netip.Addr{addr("10.68.6.1")}, t0
	d := Plan(in, t0)
	if d.Kernel.Interfaces[0].Source4 != addr("10.68.6.1") {
		t.Error("the first pass, which knows nothing yet, takes the source off")
	}
	if len(d.speaker("en1").Peers) != 0 {
		t.Error("sessions begin before their routes are there")
	}
	in.Bound = sample().Bound
	in.BGP = &bgp.State{Speakers: []bgp.SpeakerState{{Name: "en1"}, {Name: "en5"}}}
	if d := Plan(in, t0); len(d.speaker("en1").Peers) != 1 || len(d.speaker("en1").Paths) != 1 {
		t.Error("sessions wait although their routes are there")
	}
}
