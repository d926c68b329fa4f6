package netmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// soon bounds the wait for news, and is used up by a failure only; what is fast is
// measured by the benchmarks. It is less than the interval of regular re-reads, which
// would bring all news in the end.
const soon = 20 * time.Second

// watcher is a running Monitor and every State that it poked with.
type watcher struct {
	*Monitor
	mu     sync.Mutex
	states []*State
}

// start runs a Monitor to the end of the test and waits for its first picture.
func start(t *testing.T, watch ...string) *watcher {
	t.Helper()
	w := &watcher{}
	w.Monitor = New(Options{
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Poke: func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.states = append(w.states, w.State())
		},
	})
	w.Watch(watch)
	w.run(t)
	return w
}

func (w *watcher) run(t *testing.T) {
	t.Helper()
	if w.State() != nil {
		t.Error("a state before the first dump")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil at the end", err)
		}
	})
	select {
	case <-w.Ready():
	case <-time.After(soon):
		t.Fatal("not ready")
	}
}

func (w *watcher) pokes() []*State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*State(nil), w.states...)
}

// until waits for a state of which check is true.
func (w *watcher) until(t *testing.T, what string, check func(s *State) bool) *State {
	t.Helper()
	var s *State
	netnstest.Until(t, soon, func() error {
		if s = w.State(); check(s) {
			return nil
		}
		return fmt.Errorf("%s; last state: %+v", what, s.Links)
	})
	return s
}

func healthy(name string, want bool) func(*State) bool {
	return func(s *State) bool {
		l, ok := s.Link(name)
		return ok && l.Healthy() == want
	}
}

func hasAddress(link, prefix string) func(*State) bool {
	return func(s *State) bool {
		l, _ := s.Link(link)
		for _, a := range l.Addresses {
			if a.Prefix == netip.MustParsePrefix(prefix) {
				return true
			}
		}
		return false
	}
}

func hasRoute(prefix string) func(*State) bool {
	return func(s *State) bool {
		for _, r := range s.Routes {
			if r.Prefix == netip.MustParsePrefix(prefix) {
				return true
			}
		}
		return false
	}
}

func not(f func(*State) bool) func(*State) bool { return func(s *State) bool { return !f(s) } }

func TestCarrierLoss(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		w := start(t, "en1")
		s := w.until(t, "en1 healthy", healthy("en1", true))
		if l, _ := s.Link("en1"); l.Kind != "veth" || l.OperState != "up" || l.MTU != 1500 {
			t.Errorf("en1 = %+v, want a veth, up, MTU 1500", l)
		}
		ns.IP("link set p1 down")
		s = w.until(t, "en1 without carrier", healthy("en1", false))
		l, _ := s.Link("en1")
		if !l.Up || l.Running || !l.HealthySince.IsZero() || l.OperState != "lowerlayerdown" {
			t.Errorf("en1 without carrier = %+v, want Up, not Running, no HealthySince", l)
		}
		before := time.Now()
		ns.IP("link set p1 up")
		s = w.until(t, "en1 healthy again", healthy("en1", true))
		if l, _ := s.Link("en1"); l.HealthySince.Before(before) {
			t.Errorf("HealthySince = %v, want after %v", l.HealthySince, before)
		}
	})
}

// awaitUp waits until the kernel has told all that is to tell of links that come up.
func awaitUp(t *testing.T, ns netnstest.NS, links ...string) {
	t.Helper()
	for _, l := range links {
		netnstest.Until(t, soon, func() error {
			if !strings.Contains(ns.IP("link show dev %s", l), "state UP") {
				return errors.New(l + " not up")
			}
			return nil
		})
	}
}

// The first picture has no HealthySince, and a flap that is over before anybody
// looks has one all the same.
func TestHealthySince(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		awaitUp(t, ns, "en1")
		w := start(t, "en1")
		if l, _ := w.State().Link("en1"); !l.Healthy() || !l.HealthySince.IsZero() {
			t.Errorf("first picture of en1 = %+v, want healthy, HealthySince zero", l)
		}
		for range 20 {
			old, _ := w.State().Link("en1")
			batch(t, ns, []string{"link set dev en1 down", "link set dev en1 up"})
			w.until(t, "en1 healthy later than before", func(s *State) bool {
				l, _ := s.Link("en1")
				return l.Healthy() && l.HealthySince.After(old.HealthySince)
			})
		}
	})
}

// Admin down removes IPv4 routes without an event.
func TestAdminDownSilentRoutes(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		ns.IP("route add 10.9.0.0/16 via 10.68.1.2 metric 7")
		w := start(t, "en1")
		w.until(t, "a route via en1", hasRoute("10.9.0.0/16"))
		ns.IP("link set en1 down")
		s := w.until(t, "en1 down and no route via it", func(s *State) bool { // the tables are read one after the other
			l, _ := s.Link("en1")
			return !l.Up && !l.Running && l.OperState == "down" && !hasRoute("10.9.0.0/16")(s)
		})
		if !hasAddress("en1", "10.68.1.1/24")(s) {
			t.Error("the IPv4 address should outlive the admin down")
		}
	})
}

// So does the loss of the last IPv4 address.
func TestAddressRemoval(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		ns.IP("addr add 10.68.1.1/24 dev en1 label en1:x")
		ns.IP("route add default via 10.68.1.2")
		w := start(t)
		s := w.until(t, "the address", hasAddress("en1", "10.68.1.1/24"))
		if l, _ := s.Link("en1"); !l.Addresses[0].Usable || l.Addresses[0].Label != "en1:x" || l.Addresses[0].LinkLocal {
			t.Errorf("address = %+v, want usable, labelled, global", l.Addresses[0])
		}
		ns.IP("addr del 10.68.1.1/24 dev en1")
		w.until(t, "no address", not(hasAddress("en1", "10.68.1.1/24")))
		w.until(t, "no default route", not(hasRoute("0.0.0.0/0")))
	})
}

func TestTentativeIPv6(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.IP("link add en1 type veth peer name p1")
		ns.IP("link set en1 up")
		w := start(t)
		usable := func(want bool) func(s *State) bool {
			return func(s *State) bool {
				l, _ := s.Link("en1")
				for _, a := range l.Addresses {
					if a.Prefix.Addr() == netip.MustParseAddr("fd68:1::1") {
						return a.Usable == want
					}
				}
				return false
			}
		}
		ns.IP("addr add fd68:1::1/64 dev en1") // which nobody can be asked for without carrier
		w.until(t, "a tentative address", usable(false))
		ns.IP("link set p1 up")
		w.until(t, "a usable address", usable(true))
		ns.IP("addr add fd68:1::2/64 dev en1 nodad")
		w.until(t, "a second address", hasAddress("en1", "fd68:1::2/64"))
	})
}

// Which address of a network was there first is told, and who comes to be that.
func TestSecondaryAddress(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		ns.IP("addr add 10.68.1.5/24 dev en1")
		ns.IP("addr add 10.68.1.3/24 dev en1")
		ns.IP("addr add 10.68.2.1/24 dev en1")
		ns.IP("addr add fd68:1::5/64 dev en1 nodad")
		ns.IP("addr add fd68:1::3/64 dev en1 nodad preferred_lft 0")
		w := start(t)
		s := w.until(t, "the addresses", hasAddress("en1", "fd68:1::3/64"))
		secondary := func(s *State) (list []string) {
			l, _ := s.Link("en1")
			for _, a := range l.Addresses {
				if a.Secondary {
					list = append(list, a.Prefix.String())
				}
			}
			slices.Sort(list)
			return list
		}
		if got, want := secondary(s), []string{"10.68.1.3/24", "fd68:1::3/64"}; !slices.Equal(got, want) {
			t.Errorf("secondary addresses %q, want %q", got, want)
		}
		ns.Sysctl("net/ipv4/conf/en1/promote_secondaries", "1")
		ns.IP("addr del 10.68.1.5/24 dev en1")
		w.until(t, "10.68.1.3 promoted", func(s *State) bool { return slices.Equal(secondary(s), []string{"fd68:1::3/64"}) })
	})
}

// What is on the link of an address with a far end is that end.
func TestPointToPointAddress(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		ns.IP("addr add 10.68.1.1 peer 10.68.2.1/24 dev en1")
		ns.IP("addr add fd68:1::1 peer fd68:2::1/128 dev en1 nodad")
		ns.IP("addr add 10.68.3.1/24 dev en1")
		w := start(t)
		s := w.until(t, "the addresses", hasAddress("en1", "10.68.3.1/24"))
		l, _ := s.Link("en1")
		got := map[string]string{}
		for _, a := range l.Addresses {
			if !a.LinkLocal {
				got[a.Prefix.String()] = a.Far.String()
			}
		}
		want := map[string]string{"10.68.1.1/24": "10.68.2.0/24", "fd68:1::1/128": "fd68:2::1/128", "10.68.3.1/24": "invalid Prefix"}
		if !maps.Equal(got, want) {
			t.Errorf("far ends %q, want %q", got, want)
		}
	})
}

func TestRename(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		w := start(t, "en1", "wan")
		old := w.until(t, "en1 healthy", healthy("en1", true))
		was, _ := old.Link("en1")
		ns.IP("link set en1 name wan")
		s := w.until(t, "wan healthy", healthy("wan", true))
		if is, _ := s.Link("wan"); is.Index != was.Index || !is.HealthySince.Equal(was.HealthySince) {
			t.Errorf("renamed link = %+v, want index and HealthySince of %+v", is, was)
		}
		if _, ok := s.Link("en1"); ok {
			t.Error("en1 is still there after the rename")
		}
		ns.IP("link set p1 down")
		w.until(t, "wan without carrier", healthy("wan", false))
	})
}

func TestRecreate(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		w := start(t, "en1")
		was, _ := w.until(t, "en1 healthy", healthy("en1", true)).Link("en1")
		ns.IP("link del en1")
		w.until(t, "en1 gone", func(s *State) bool { _, ok := s.Link("en1"); return !ok })
		before := time.Now()
		ns.Veth("en1", "p1")
		is, _ := w.until(t, "en1 healthy", healthy("en1", true)).Link("en1")
		if is.Index == was.Index || is.HealthySince.Before(before) {
			t.Errorf("new en1 = %+v, want another index than %d and a HealthySince after %v", is, was.Index, before)
		}
	})
}

func TestMoveToOtherNamespace(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		other := ns.New("other")
		w := start(t, "en1")
		w.until(t, "en1 healthy", healthy("en1", true))
		ns.IP("link set en1 netns other")
		w.until(t, "en1 gone", func(s *State) bool { _, ok := s.Link("en1"); return !ok && !hasRoute("10.68.1.0/24")(s) })
		other.IP("link set en1 netns %d", os.Getpid())
		ns.IP("link set en1 up")
		w.until(t, "en1 back", healthy("en1", true))
	})
}

// A port that leaves its bridge is told as deleted, by the bridge.
func TestLeaveBridge(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		ns.IP("link add br0 type bridge")
		ns.IP("link set en1 master br0")
		w := start(t, "en1")
		first := w.until(t, "en1 healthy in br0", func(s *State) bool {
			l, _ := s.Link("en1")
			return l.Healthy() && l.MasterIndex != 0
		})
		was, _ := first.Link("en1")
		ns.IP("link set en1 nomaster")
		w.until(t, "en1 without master", func(s *State) bool {
			l, _ := s.Link("en1")
			return l.Healthy() && l.MasterIndex == 0
		})
		for _, s := range w.pokes() {
			if s.Generation < first.Generation {
				continue
			}
			if l, ok := s.Link("en1"); !ok || !l.Healthy() || !l.HealthySince.Equal(was.HealthySince) {
				t.Errorf("state %d has en1 = %+v, want it healthy all along", s.Generation, l)
			}
		}
	})
}

// batch runs many ip commands by one process.
func batch(t *testing.T, ns netnstest.NS, lines []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ns.IP("-batch %s", file)
}

func TestOverflow(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		w := &watcher{Monitor: New(Options{Log: slog.New(slog.DiscardHandler)})}
		w.subscribe = func() (*os.File, error) { return subscribe(1) } // the kernel makes it a few messages
		w.Watch([]string{"en1"})
		w.run(t)
		w.until(t, "en1 healthy", healthy("en1", true))
		lines := make([]string, 3000)
		for i := range lines {
			lines[i] = fmt.Sprintf("route add 10.%d.%d.0/24 dev en1", i/256, i%256)
		}
		w.in.mu.Lock() // the reader of events is held up
		batch(t, ns, append(lines, "link set dev p1 down"))
		w.in.mu.Unlock()
		w.until(t, "en1 without carrier and all routes", func(s *State) bool {
			return healthy("en1", false)(s) && hasRoute("10.0.0.0/24")(s) && hasRoute("10.11.183.0/24")(s)
		})
		netnstest.Until(t, soon, func() error { // what was read before it may have told all that
			if n := w.Resyncs()["overflow"]; n == 0 {
				return errors.New("no overflow was counted")
			}
			return nil
		})
		ns.IP("link set p1 up")
		w.until(t, "en1 healthy again", healthy("en1", true))
	})
}

// A subscription that cannot be opened, or breaks, is opened again.
func TestReadError(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		opened := 0
		w := &watcher{Monitor: New(Options{Log: slog.New(slog.DiscardHandler)})}
		w.subscribe = func() (*os.File, error) {
			opened++
			switch opened {
			case 1:
				return nil, unix.EMFILE
			case 2:
				r, _, err := os.Pipe() // is no socket, so reading events from it fails
				return r, err
			}
			return subscribe(eventBuffer)
		}
		w.run(t)
		ns.IP("link set p1 down")
		w.until(t, "en1 without carrier", healthy("en1", false))
		if n := w.Resyncs()["read_error"]; n != 1 {
			t.Errorf("read errors = %d, want 1", n)
		}
	})
}
