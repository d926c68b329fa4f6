package owner

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"vipspeaker/test/etcdtest"
)

// testHandover is how long a former owner goes on in tests of decisions.
const testHandover = time.Second

// look is one look at a VIP by host a, whose lease is 1.
type look struct {
	what  string
	at    time.Duration
	want  Want
	holds []hold
	asks  []ask

	do    step
	to    string
	again time.Duration
	hides bool // the caller is told that there is no hold any more
}

// decides runs looks after each other.
func decides(t *testing.T, looks []look) {
	t.Helper()
	var m memory
	for _, l := range looks {
		do, to, again := m.decide(self{"a", 1, testHandover}, l.want, &entry{holds: l.holds, asks: l.asks}, l.at)
		if do != l.do || to != l.to || again != l.again || (m.hidden > 0) != l.hides {
			t.Errorf("%s: %s to %q, again at %s, hides %t; want %s to %q, again at %s, hides %t",
				l.what, do, to, again, m.hidden > 0, l.do, l.to, l.again, l.hides)
		}
	}
}

// The holds and asks of a handover from a to b.
var (
	ownedByA   = hold{Role: Owner, host: "a", lease: 1}
	askedByA   = hold{Role: Owner, To: "b", host: "a", lease: 1}
	formerIsA  = hold{Role: Former, host: "a", lease: 1}
	nextIsB    = hold{Role: Next, host: "b", lease: 2}
	ownedByB   = hold{Role: Owner, host: "b", lease: 2}
	readyA     = ask{Rank: 1, host: "a", lease: 1}
	readyB     = ask{Rank: 2, host: "b", lease: 2}
	readyC     = ask{Rank: 3, host: "c", lease: 3}
	announcing = Want{VIP: vip, Rank: 1, Ready: true, Announced: true, Carried: true}
	standing   = Want{VIP: vip, Rank: 1, Ready: true}
)

// A former owner announces the VIP until routers have moved over, withdraws, and has
// its hold until no router can have it any more.
func TestDecideFormer(t *testing.T) {
	t.Parallel()
	const s = time.Second
	both, after := []hold{formerIsA, ownedByB}, standing
	decides(t, []look{
		{what: "is it from now on", at: 10 * s, want: announcing, holds: both, again: 11 * s},
		{what: "routers move", at: 11*s - 1, want: announcing, holds: both, again: 11 * s},
		{what: "they have moved", at: 11 * s, want: announcing, holds: both, hides: true},
		{what: "is about to withdraw", at: 12 * s, want: announcing, holds: both, hides: true},
		{what: "has withdrawn", at: 13 * s, want: after, holds: both, again: 13*s + clear, hides: true},
		{what: "no router can have it", at: 13*s + clear, want: after, holds: both, do: release, hides: true},
	})
	broken := announcing
	broken.Ready = false
	decides(t, []look{
		{what: "cannot announce it any more", at: 10 * s, want: broken, holds: both, hides: true},
	})
}

// When the new owner is gone before the former one has withdrawn, that goes on as the
// owner, if nobody wants it to go.
func TestDecideFormerTakesItBack(t *testing.T) {
	t.Parallel()
	const s = time.Second
	leaving := announcing
	leaving.Leaving = true
	begin := look{what: "both", at: 10 * s, want: announcing, holds: []hold{formerIsA, ownedByB}, again: 11 * s}
	decides(t, []look{begin, {what: "alone", at: 10*s + 1, want: announcing, holds: []hold{formerIsA}, do: inherit}})
	decides(t, []look{begin, {what: "alone and leaving", at: 10*s + 1, want: leaving, holds: []hold{formerIsA}, again: 11 * s}})
	decides(t, []look{
		begin,
		{what: "withdraws", at: 11 * s, want: announcing, holds: []hold{formerIsA, ownedByB}, hides: true},
		{what: "alone then", at: 11*s + 1, want: announcing, holds: []hold{formerIsA}, hides: true},
	})
}

// An owner that is to go hands the VIP over to the best of those that ask, at once,
// whatever their rank is; and goes on while nobody does.
func TestDecideLeaving(t *testing.T) {
	t.Parallel()
	const s = time.Second
	leaving, alone := announcing, []hold{ownedByA}
	leaving.Leaving = true
	decides(t, []look{
		{what: "stays", at: s, want: announcing, holds: alone, asks: []ask{readyA, readyB}},
		{what: "is to go, nobody asks", at: 2 * s, want: leaving, holds: alone, asks: []ask{readyA}},
		{what: "others do", at: 3 * s, want: leaving, holds: alone, asks: []ask{readyA, readyB, readyC}, do: offer, to: "b"},
		{what: "was asked", at: 4 * s, want: leaving, holds: []hold{askedByA}, asks: []ask{readyB, readyC}},
		{what: "is gone", at: 5 * s, want: leaving, holds: []hold{askedByA}, asks: []ask{readyC}, do: recall},
		{what: "the other one", at: 6 * s, want: leaving, holds: alone, asks: []ask{readyC}, do: offer, to: "c"},
		{what: "has joined", at: 7 * s, want: leaving, holds: []hold{askedByA, nextIsB}, asks: []ask{readyB}},
	})
	waiting := standing
	waiting.Leaving = true
	decides(t, []look{
		{what: "nobody owns it", at: s, want: waiting, asks: []ask{readyA}},
		{what: "still", at: time.Minute, want: waiting},
		{what: "is asked to take it", at: time.Minute, want: waiting, holds: []hold{{Role: Owner, To: "a", host: "b", lease: 2}}},
	})
}

// The next owner becomes it when it has announced the VIP for a while.
func TestDecideNext(t *testing.T) {
	t.Parallel()
	const s = time.Second
	holds := []hold{{Role: Owner, To: "a", host: "b", lease: 2}, {Role: Next, host: "a", lease: 1}}
	decides(t, []look{
		{what: "is asked", at: s, want: standing, holds: holds[:1], do: join},
		{what: "announces nothing yet", at: 2 * s, want: standing, holds: holds},
		{what: "announces it", at: 3 * s, want: announcing, holds: holds, again: 3*s + moving},
		{what: "routers have it", at: 3*s + moving, want: announcing, holds: holds, do: takeOver},
		{what: "the owner is gone", at: 4 * s, want: announcing, holds: holds[1:], do: inherit},
	})
}

// What the caller is told in each state of a handover.
func TestShowHandover(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what  string
		holds []hold
		want  VIPState
	}{
		{"asked", []hold{askedByA}, VIPState{Role: Owner, Owner: "a", Next: "b"}},
		{"joined", []hold{askedByA, nextIsB}, VIPState{Role: Owner, Owner: "a", Next: "b", Joined: true}},
		{"taken over", []hold{formerIsA, ownedByB}, VIPState{Role: Former, Owner: "b", Former: "a"}},
		{"over", []hold{ownedByB}, VIPState{Owner: "b"}},
	} {
		if got := (&entry{holds: tt.holds}).show("a", 1); !sameVIP(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.what, got, tt.want)
		}
		s := &State{Until: time.Second, VIPs: map[netip.Prefix]VIPState{vip: tt.want}}
		if got, want := s.Holds(vip, 0), tt.want.Role != None; got != want || s.Holds(vip, time.Second) {
			t.Errorf("%s: holds it: %t", tt.what, got)
		}
	}
}

// A host that is to go hands its VIP over, asks for none, and asks again when it stays.
func TestOwnersLeaving(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	a := startHost(t, endpoint, "a", 1, true)
	eventually(t, soon, "a owns it", owns(a))
	b := startHost(t, endpoint, "b", 2, true)
	eventually(t, soon, "b is ready", func() bool { return len(a.m.State().VIPs[vip].Ready) == 2 })
	defer watchOne(t, a, b)()
	a.leaving(true)
	t.Logf("handed over in %s", eventually(t, soon, "b owns it", owns(b)))
	eventually(t, soon, "a has given it up", func() bool {
		s := b.m.State().VIPs[vip]
		return s.Former == "" && slices.Equal(s.Ready, []string{"b"}) && !a.carried.Load()
	})
	a.leaving(false)
	eventually(t, soon, "a owns it again", owns(a))
}

// An order is in force as long as the revision is its own, and it is told when the owner
// has taken it back.
func TestMoveTakenBack(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	a, b := startPair(t, endpoint, testLease)
	b.link.hang(true) // its ask lasts as long as its lease
	order, err := a.m.Move(t.Context(), vip, "b")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "it is in force", func() bool { s := a.m.State().VIPs[vip]; return s.Next == "b" && s.Revision == order })
	eventually(t, soon, "it is taken back", func() bool { return a.m.State().VIPs[vip].Next == "" })
	if s := a.m.State().VIPs[vip]; s.Owner != "a" || s.Revision <= order || s.Epoch >= order {
		t.Errorf("order %d, %+v", order, s)
	}
}
