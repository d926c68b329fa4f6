package ndp

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	self = netip.MustParseAddr("fe80::1")
	r2   = netip.MustParseAddr("fe80::2")
	r3   = netip.MustParseAddr("fe80::3")
)

const ms = time.Millisecond

// Advertisements come fast at first, then every 7.5 to 10 s; three questions.
func TestSendTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		f.wait(4 * time.Second)
		within(t, "advertisement", f.times(kindAdvertisement),
			[2]time.Duration{0, 100 * ms}, [2]time.Duration{900 * ms, 1100 * ms}, [2]time.Duration{1800 * ms, 2100 * ms}, [2]time.Duration{2700 * ms, 3100 * ms})
		f.wait(time.Hour)
		all := f.times(kindAdvertisement)[3:]
		for i := 1; i < len(all); i++ {
			if gap := all[i] - all[i-1]; gap < minInterval || gap > maxInterval {
				t.Errorf("%s between two advertisements", gap)
			}
		}
		within(t, "solicitation", f.times(kindSolicitation),
			[2]time.Duration{0, 100 * ms}, [2]time.Duration{4 * time.Second, 4100 * ms}, [2]time.Duration{8 * time.Second, 8100 * ms})
		f.check(7, "")
		f.stop()
	})
}

// A thousand questions in 10 s get an answer at most every 3 s, the first within
// half a second.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		f.wait(time.Minute)
		f.forget()
		asked := time.Since(f.begin)
		for range 1000 {
			f.hear(netip.IPv6Unspecified(), message{kind: kindSolicitation})
			f.wait(10 * ms)
		}
		all := f.times(kindAdvertisement)
		if len(all) < 3 || len(all) > 4 {
			t.Errorf("answers: %v", all)
		}
		if all[0]-asked > answerPause {
			t.Errorf("first answer after %s", all[0]-asked)
		}
		for i := 1; i < len(all); i++ {
			if all[i]-all[i-1] < answerPause {
				t.Errorf("%s between two answers", all[i]-all[i-1])
			}
		}
		f.stop()
	})
}

// A router that appears, or starts anew, gets an advertisement soon; one that
// advertises at leisure does not change ours.
func TestStartingRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		f.wait(time.Minute)
		soon := func(want bool) {
			t.Helper()
			for len(f.times(kindAdvertisement)) == 0 { // just after one of ours
				f.wait(10 * ms)
			}
			f.wait(4 * time.Second)
			f.forget()
			f.hear(r2, advert(30*time.Second))
			f.wait(answerDelay)
			if got := len(f.times(kindAdvertisement)) == 1; got != want {
				t.Errorf("answered at once: %t, want %t", got, want)
			}
		}
		f.forget()
		soon(true)
		f.forget()
		soon(false) // seconds later
		f.hear(r2, advert(30*time.Second))
		f.wait(answerDelay)
		if n := len(f.times(kindAdvertisement)); n != 1 {
			t.Errorf("%d answers to a router that begins anew", n)
		}
		f.stop()
	})
}

// A router goes when it has not been heard for its hold time, is asked before,
// and returns. Pokes tell of its coming and going only.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		f.wait(time.Second)
		pokes := f.poked()
		for range 10 {
			f.hear(r2, advert(30*time.Second))
			f.wait(10 * time.Second)
		}
		f.check(7, "", "fe80::2%en1 advertises")
		if got := f.poked() - pokes; got != 1 {
			t.Errorf("%d pokes for one router", got)
		}
		i, _ := f.m.State().Interface("en1")
		now := time.Now()
		want := Router{Address: r2.WithZone("en1"), ByAdvertisement: true, Flagged: true, Heard: now.Add(-10 * time.Second), Expires: now.Add(25 * time.Second)}
		if diff := cmp.Diff([]Router{want}, i.Routers, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		f.forget()
		f.wait(25*time.Second - ms)
		f.check(7, "", "fe80::2%en1 advertises")
		if n := len(f.times(kindSolicitation)); n < 4 || n > 5 {
			t.Errorf("asked %d times", n)
		}
		f.wait(ms)
		f.check(7, "")
		f.hear(r2, advert(0))
		f.check(7, "", "fe80::2%en1 advertises")
		if got := f.poked() - pokes; got != 3 {
			t.Errorf("%d pokes", got)
		}
		f.stop()
	})
}

// A router that advertises every 200 s and answers questions stays.
func TestSlowRouterIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		f.hear(r2, advert(1800*time.Second))
		pokes := f.poked()
		for range 600 {
			asked := len(f.times(kindSolicitation))
			f.wait(time.Second)
			if len(f.times(kindSolicitation)) > asked {
				f.wait(400 * ms)
				f.hear(r2, advert(1800*time.Second))
			}
		}
		if got := f.poked() - pokes; got != 0 {
			t.Errorf("%d pokes", got)
		}
		if n := len(f.times(kindSolicitation)); n < 10 || n > 20 {
			t.Errorf("asked %d times in 10 minutes", n)
		}
		f.stop()
	})
}

// Two routers keep their order, whoever was heard last; a new one comes first.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		for n := range 20 {
			f.hear(r3, advert(0))
			f.wait(time.Second)
			f.hear(r2, advert(0))
			f.wait(time.Duration(n) * time.Second)
			f.check(7, "", "fe80::2%en1 advertises", "fe80::3%en1 advertises")
		}
		l := aLink(7)
		l.neighbours = []neighbour{
			{address: netip.MustParseAddr("fe80::4"), live: true},
			{address: netip.MustParseAddr("fe80::6"), flagged: true, quiet: 89 * time.Second},
			{address: netip.MustParseAddr("fe80::5"), flagged: true, live: true},
			{address: netip.MustParseAddr("fe80::7"), flagged: true, quiet: 90 * time.Second},
			{address: self, live: true},
			{address: r3, live: true, flagged: true},
		}
		f.set(l)
		f.check(7, "", "fe80::2%en1 advertises", "fe80::3%en1 advertises", "fe80::5%en1 flagged", "fe80::6%en1 flagged", "fe80::4%en1")
		f.wait(time.Second)
		l.neighbours[1].quiet = 90 * time.Second
		f.set(l)
		f.check(7, "", "fe80::2%en1 advertises", "fe80::3%en1 advertises", "fe80::5%en1 flagged", "fe80::4%en1")
		f.wait(2 * time.Minute) // no advertisement more
		f.check(7, "", "fe80::5%en1 flagged", "fe80::3%en1 flagged", "fe80::4%en1")
		f.hear(netip.MustParseAddr("fe80::4"), advert(0))
		f.check(7, "", "fe80::4%en1 advertises", "fe80::5%en1 flagged", "fe80::3%en1 flagged")
		f.stop()
	})
}

// What must not be heeded is not.
func TestIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		f.hear(self, advert(0))
		f.hear(netip.MustParseAddr("2001:db8::2"), advert(0))
		f.mu.Lock()
		p := f.ports[7]
		f.mu.Unlock()
		p.out <- packet{socket: p.number, from: r2, hopLimit: 64, message: advert(0)}
		p.out <- packet{socket: p.number + 1, from: r2, hopLimit: 255, message: advert(0)}
		synctest.Wait()
		f.check(7, "")
		f.stop()
	})
}

// A flood costs a bounded memory and few pokes, does not drive out who is there,
// and is told while it lasts.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		f.hear(r2, advert(30*time.Second))
		f.wait(ms) // it was there before
		pokes := f.poked()
		for n := range 5000 {
			f.hear(netip.MustParseAddr(fmt.Sprintf("fe80::1:%x", n)), advert(9000*time.Second))
		}
		i, _ := f.m.State().Interface("en1")
		if len(i.Routers) != maxRouters || i.Routers[maxRouters-1].Address != r2.WithZone("en1") {
			t.Errorf("%d routers, the oldest one is %v", len(i.Routers), i.Routers[len(i.Routers)-1].Address)
		}
		if !strings.Contains(i.Error, "more than 16 routers") {
			t.Errorf("error is %q", i.Error)
		}
		if got := f.poked() - pokes; got != maxRouters {
			t.Errorf("%d pokes", got)
		}
		table := aLink(7)
		for n := range 5000 {
			table.neighbours = append(table.neighbours, neighbour{address: netip.MustParseAddr(fmt.Sprintf("fe80::2:%x", n)), live: true})
		}
		f.set(table)
		if i, _ := f.m.State().Interface("en1"); len(i.Routers) != 2*maxRouters {
			t.Errorf("%d routers", len(i.Routers))
		}
		f.set(aLink(7))
		f.hear(r2, advert(30*time.Second))
		f.wait(34 * time.Second)
		f.wait(time.Second)
		if i, _ := f.m.State().Interface("en1"); i.Error != "" {
			t.Errorf("error is %q", i.Error)
		}
		f.wait(time.Minute)
		f.check(7, "")
		f.stop()
	})
}

// The link goes, comes back, is made anew, loses its address: routers are
// forgotten, the port is opened anew and advertises fast.
func TestLinkChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		again := func(what string) {
			t.Helper()
			f.forget()
			f.wait(4 * time.Second)
			if n := len(f.times(kindAdvertisement)); n < 3 { // and perhaps one just before
				t.Errorf("%s: %d advertisements", what, n)
			}
			f.hear(r2, advert(0))
		}
		again("start")
		f.check(7, "", "fe80::2%en1 advertises")

		down := aLink(7)
		down.running = false
		f.set(down)
		f.check(7, "the link is down")
		f.forget()
		f.wait(time.Minute)
		if len(f.sent) != 0 {
			t.Errorf("sent while down: %v", f.sent)
		}
		f.set(aLink(7))
		f.check(7, "")
		again("up")

		f.set(link{})
		f.check(0, "there is no such interface")
		f.set(aLink(8))
		f.check(8, "")
		again("anew")
		f.set(aLink(9)) // between two looks
		f.check(9, "")
		again("anew at once")

		none := link{index: 9, running: true, mac: mac, why: "IPv6 is disabled on the interface"}
		f.set(none)
		f.check(9, "IPv6 is disabled on the interface", "fe80::2%en1 advertises")
		other := aLink(9)
		other.locals = []netip.Addr{r3}
		f.set(other)
		again("other address")
		f.check(9, "", "fe80::2%en1 advertises")
		before := f.opened
		other.locals = []netip.Addr{self, r3} // a second one changes nothing
		f.set(other)
		if f.opened != before {
			t.Error("opened again for a second address")
		}
		f.stop()
	})
}

// Without permission the retries are few, and it comes back by itself.
func TestOpenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.openErr = errors.New("not permitted")
		f.start("en1")
		f.wait(10 * time.Minute)
		f.check(7, "not permitted")
		if f.opened < 40 || f.opened > 60 {
			t.Errorf("tried %d times", f.opened)
		}
		if f.poked() != 1 {
			t.Errorf("%d pokes", f.poked())
		}
		f.mu.Lock()
		f.openErr = nil
		f.mu.Unlock()
		f.wait(maxReopen)
		f.check(7, "")
		f.stop()
	})
}

// A port that fails is opened again; packets that cannot be sent are tried anew
// while it goes on hearing; a kernel that does not answer is asked again.
func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1")
		f.hear(r2, advert(0))
		f.mu.Lock()
		p := f.ports[7]
		f.sendErr = errors.New("no way")
		f.mu.Unlock()
		f.wait(2 * time.Second)
		f.check(7, "no way", "fe80::2%en1 advertises")
		f.mu.Lock()
		f.sendErr = nil
		f.mu.Unlock()
		f.wait(2 * time.Second)
		f.check(7, "", "fe80::2%en1 advertises")

		p.out <- packet{socket: p.number, err: errors.New("broken")}
		synctest.Wait()
		f.check(7, "broken", "fe80::2%en1 advertises")
		f.wait(minReopen)
		f.check(7, "", "fe80::2%en1 advertises")

		f.mu.Lock()
		f.lookErr = errors.New("no answer")
		f.mu.Unlock()
		f.wait(lookEvery)
		f.check(7, "no answer", "fe80::2%en1 advertises")
		f.mu.Lock()
		f.lookErr = nil
		f.mu.Unlock()
		f.wait(lookAgain)
		f.check(7, "", "fe80::2%en1 advertises")
		f.stop()
	})
}

// Set keeps what stays wanted, and closes the rest.
func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.start("en1", "en5", "en1")
		f.hear(r2, advert(0))
		f.check(7, "", "fe80::2%en1 advertises")
		f.m.Set([]string{"en5", "en1"})
		synctest.Wait()
		names := []string{f.m.State().Interfaces[0].Name, f.m.State().Interfaces[1].Name}
		if diff := cmp.Diff([]string{"en5", "en1"}, names); diff != "" {
			t.Error(diff)
		}
		f.check(7, "", "fe80::2%en1 advertises")
		f.m.Set(nil)
		synctest.Wait()
		if s := f.m.State(); len(s.Interfaces) != 0 || len(f.ports) != 0 {
			t.Errorf("state %+v, ports %v", s, f.ports)
		}
		f.m.Set([]string{"en1"})
		synctest.Wait()
		f.check(7, "")
		if err := f.m.run(t.Context(), newFake(t)); err == nil {
			t.Error("it runs twice")
		}
		f.stop()
	})
}
