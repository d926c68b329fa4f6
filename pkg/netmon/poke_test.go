package netmon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// Our own routes and rules wake nobody when they come and are in the state all
// the same; they do when somebody takes them away.
func TestOwnWritesDoNotPoke(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1") // its addresses take their time
		ns.Veth("en1", "p1")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		awaitUp(t, ns, "en1", "p1")
		w := start(t)
		netnstest.Until(t, soon, morePokes(w, 0, healthy("en1", true)))
		n := len(w.pokes()) // from now on nothing changes but what the test changes

		ns.IP("route add 10.9.0.0/16 via 10.68.1.2 table 6801 proto 68")
		ns.IP("route replace 10.9.0.0/16 via 10.68.1.3 table 6801 proto 68")
		ns.IP("rule add from 10.68.6.1 lookup 6801 pref 32100 protocol 68")
		s := w.until(t, "our route and rule", func(s *State) bool {
			for _, r := range s.Rules {
				if r.Priority == 32100 {
					return hasRoute("10.9.0.0/16")(s)
				}
			}
			return false
		})
		want := Rule{Priority: 32100, Table: 6801, Protocol: 68, Source: netip.MustParsePrefix("10.68.6.1/32")}
		if !slices.Contains(s.Rules, want) {
			t.Errorf("rules = %+v, want %+v among them", s.Rules, want)
		}
		ns.IP("route add 10.11.0.0/16 via 10.68.1.2") // of others, and behind ours
		netnstest.Until(t, soon, morePokes(w, n, hasRoute("10.11.0.0/16")))
		if got := slices.IndexFunc(w.pokes()[n:], hasRoute("10.11.0.0/16")); got != 0 {
			t.Errorf("%d pokes for our own writes, want none", got)
		}

		n = len(w.pokes())
		ns.IP("route del 10.9.0.0/16 table 6801")
		netnstest.Until(t, soon, morePokes(w, n, not(hasRoute("10.9.0.0/16"))))
		n = len(w.pokes())
		ns.IP("rule del pref 32100")
		netnstest.Until(t, soon, morePokes(w, n, func(s *State) bool { return !slices.Contains(s.Rules, want) }))
		n = len(w.pokes())
		ns.IP("route add 10.10.0.0/16 via 10.68.1.2")
		netnstest.Until(t, soon, morePokes(w, n, hasRoute("10.10.0.0/16")))
	})
}

// What of ours comes and goes between two dumps wakes as well: nothing else would
// tell for a long time that what was written just now is gone.
func TestRemovalBetweenDumpsPokes(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Veth("en1", "p1")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		w := start(t)
		w.until(t, "en1 healthy", healthy("en1", true))
		for name, what := range map[string]string{
			"route": "route %s 10.9.0.0/16 via 10.68.1.2 table 6801 proto 68", "rule": "rule %s from 10.68.6.1 lookup 6801 pref 32100 protocol 68",
			"address": "addr %s 10.68.6.1/32 dev en1", "IPv6 route": "route %s 2001:db8::/32 dev en1 table 6801 proto 68",
		} {
			for range 5 {
				settle(t, w)
				n := len(w.pokes())
				batch(t, ns, []string{fmt.Sprintf(what, "add"), fmt.Sprintf(what, "del")})
				netnstest.Until(t, soon, func() error {
					if len(w.pokes()) > n {
						return nil
					}
					return fmt.Errorf("%s came and went without a poke", name)
				})
			}
		}
	})
}

func morePokes(w *watcher, n int, check func(*State) bool) func() error {
	return func() error {
		if slices.ContainsFunc(w.pokes()[n:], check) {
			return nil
		}
		return os.ErrNotExist
	}
}

// settle waits until no state was published for 200 ms.
func settle(t *testing.T, w *watcher) {
	t.Helper()
	last, since := w.State().Generation, time.Now()
	netnstest.Until(t, 10*time.Second, func() error {
		if g := w.State().Generation; g != last {
			last, since = g, time.Now()
		}
		if time.Since(since) < 200*time.Millisecond {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
}

// Only neighbours of watched links are kept, and their entries wake when they
// get resolved or lost, not for the kernel's own bookkeeping.
func TestNeighbours(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1") // keep IPv6 and its chatter out
		ns.Veth("en1", "p1")
		ns.Veth("en2", "p2")
		awaitUp(t, ns, "en1", "p1", "en2", "p2")
		w := start(t)
		ns.IP("neigh add 10.68.1.2 lladdr 02:00:00:00:00:02 dev en1 nud reachable")
		ns.IP("neigh add 10.68.2.2 lladdr 02:00:00:00:00:02 dev en2 nud reachable")
		settle(t, w)
		if s := w.State(); len(s.Neighbours) != 0 {
			t.Fatalf("neighbours = %+v of links that nobody watches", s.Neighbours)
		}
		w.Watch([]string{"en1"})
		s := w.until(t, "one neighbour", func(s *State) bool { return len(s.Neighbours) == 1 })
		en1, _ := s.Link("en1")
		if got, want := s.Neighbours[0], (Neighbour{en1.Index, netip.MustParseAddr("10.68.1.2"), unix.NUD_REACHABLE}); got != want {
			t.Errorf("neighbour = %+v, want %+v", got, want)
		}
		netnstest.Until(t, soon, morePokes(w, 0, func(s *State) bool { return len(s.Neighbours) == 1 }))
		n := len(w.pokes())
		ns.IP("neigh change 10.68.1.2 lladdr 02:00:00:00:00:02 dev en1 nud stale")
		w.until(t, "a stale neighbour", func(s *State) bool { return s.Neighbours[0].State == unix.NUD_STALE })
		ns.IP("neigh del 10.68.1.2 dev en1")
		netnstest.Until(t, soon, morePokes(w, n, func(s *State) bool {
			return len(s.Neighbours) == 0 || !s.Neighbours[0].resolved()
		}))
		if got := w.pokes()[n]; len(got.Neighbours) > 0 && got.Neighbours[0].State == unix.NUD_STALE {
			t.Errorf("poke for stale, want none: %+v", got.Neighbours)
		}
	})
}

// The kernel tells of carrier changes of a real card once a second; a veth is
// exempt, a tap is not. The poll does not need the event, of which there is none here.
func TestCarrierRateLimit(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		tap := openTap(t, "en1")
		ns.IP("link set en1 up")
		w := &watcher{Monitor: New(Options{Log: slog.New(slog.DiscardHandler)})}
		w.subscribe = func() (*os.File, error) { // to nothing
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
			return os.NewFile(uintptr(fd), "no events"), err
		}
		w.Watch([]string{"en1"})
		w.run(t)
		w.until(t, "en1 healthy", healthy("en1", true))
		soonest := soon
		for i := range 6 {
			want := i%2 == 1
			before := time.Now()
			tap.carrier(t, want)
			w.until(t, "carrier change", healthy("en1", want))
			soonest = min(soonest, time.Since(before))
		}
		if soonest > 400*time.Millisecond { // a machine that stands still now and then spoils some of them
			t.Errorf("no carrier change was seen within %s, want the poll to see it", soonest)
		}
	})
}

type tap struct{ file *os.File }

func openTap(t *testing.T, name string) tap {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("open tap: %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	req, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, req); err != nil {
		t.Fatalf("make tap %s: %v", name, err)
	}
	return tap{f}
}

func (p tap) carrier(t *testing.T, on bool) {
	t.Helper()
	var v uint32
	if on {
		v = 1
	}
	const tunSetCarrier = 0x400454e2 // TUNSETCARRIER of linux/if_tun.h
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, p.file.Fd(), tunSetCarrier, uintptr(unsafe.Pointer(&v))); errno != 0 {
		t.Fatalf("set carrier: %v", errno)
	}
}

// However many events there are, dumps take a fifth of the time.
func TestPace(t *testing.T) {
	for _, tc := range []struct {
		name     string
		took     time.Duration
		min, max int // dumps in the second
	}{
		{"few links", 50 * time.Microsecond, 205, 215},
		{"many routes", 20 * time.Millisecond, 8, 12},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p pace
			now, n := time.Now(), 0
			for end := now.Add(time.Second); now.Before(end); now = now.Add(100 * time.Microsecond) { // 10,000 events
				if p.due(now) {
					now = now.Add(tc.took)
					p.spend(now, tc.took)
					n++
				}
			}
			if n < tc.min || n > tc.max {
				t.Errorf("%d dumps in a second, want %d to %d", n, tc.min, tc.max)
			}
			if now = now.Add(time.Second); !p.due(now) {
				t.Error("the first event after a quiet time has to wait")
			}
		})
	}
}
