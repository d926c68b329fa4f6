package owner

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vipspeaker/test/etcdtest"
	"vipspeaker/test/stopwatch"
)

var vip = netip.MustParsePrefix("10.68.6.1/32")

// host is a manager with what stands for its speakers: it announces what it
// holds, whenever it is awake.
type host struct {
	t       *testing.T
	name    string
	m       *Manager
	link    *proxy
	stop    func()
	carried atomic.Bool

	mu     sync.Mutex
	want   Want
	ceased []Ceased // each that was shown
}

const (
	// shortLease is that of hosts of which the lease is to end. An owner that stands still
	// for half of it may rightly be none any more.
	shortLease = 2 * time.Second
	// testLease is that of all others, which outlives what a machine stands still for.
	testLease = 6 * time.Second
	// soon is for how long is waited for what comes sooner. Only a failure uses it up.
	soon = 30 * time.Second
)

func startHost(t *testing.T, endpoint, name string, rank int, failback bool) *host {
	t.Helper()
	return startInstance(t, endpoint, name, name, rank, failback)
}

// startPair starts a, which owns the VIP, and then b, which could.
func startPair(t *testing.T, endpoint string, leaseOfA time.Duration) (a, b *host) {
	t.Helper()
	a = startLeased(t, endpoint, "a", "a", 1, false, leaseOfA)
	eventually(t, soon, "a owns it", owns(a))
	b = startHost(t, endpoint, "b", 2, false)
	eventually(t, soon, "b is ready", func() bool { return len(a.m.State().VIPs[vip].Ready) == 2 })
	return a, b
}

// startInstance is startHost for one of several with the same name.
func startInstance(t *testing.T, endpoint, name, instance string, rank int, failback bool) *host {
	t.Helper()
	return startLeased(t, endpoint, name, instance, rank, failback, testLease)
}

func startLeased(t *testing.T, endpoint, name, instance string, rank int, failback bool, lease time.Duration) *host {
	t.Helper()
	h := &host{t: t, name: name, link: startProxy(t, strings.TrimPrefix(endpoint, "http://"))}
	h.want = Want{VIP: vip, Rank: rank, Failback: failback, Ready: true, ID: netip.AddrFrom4([4]byte{10, 0, 0, byte(rank)})}
	h.m = New(Options{
		Log: slog.New(slog.DiscardHandler), Host: name, Instance: instance, Machine: "machine-" + instance, Poke: h.poked,
		Config: Config{Endpoints: []string{"http://" + h.link.address}, Prefix: "/test/", Lease: lease, Handover: 300 * time.Millisecond},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.m.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	wg.Go(func() { h.speak(ctx) })
	h.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(h.stop)
	return h
}

// poked notes why the host ceases to be the owner, each time.
func (h *host) poked() {
	why := h.m.State().VIPs[vip].Ceased
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.ceased); why != "" && (n == 0 || h.ceased[n-1] != why) {
		h.ceased = append(h.ceased, why)
	}
}

// speak is the speakers with their fence.
func (h *host) speak(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h.mu.Lock()
		w := h.want
		h.mu.Unlock()
		s := h.m.State()
		holds := s.Holds(vip, Now()) && w.Ready
		h.carried.Store(holds)
		w.Carried, w.Announced = holds, holds
		h.m.Set([]Want{w})
	}
}

func (h *host) ready(is bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want.Ready = is
}

func (h *host) leaving(is bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want.Leaving = is
}

// eventually polls until ok or the deadline.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > within {
			t.Fatalf("not within %s: %s", within, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// watchOne fails the test when two hosts announce at once, other than in a
// handover, until the function that it returns is called.
func watchOne(t *testing.T, hosts ...*host) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			var who []string
			looked := time.Now()
			for _, h := range hosts {
				s := h.m.State()
				if v := s.VIPs[vip]; h.carried.Load() && s.Holds(vip, Now()) && v.Next == "" && v.Former == "" {
					who = append(who, h.name)
				}
			}
			// A look that took long, on a busy machine, is none at one time.
			if len(who) > 1 && time.Since(looked) < 50*time.Millisecond {
				t.Errorf("announced by %v at once", who)
				return
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
}

func owns(h *host) func() bool {
	return func() bool { return h.carried.Load() && h.m.State().VIPs[vip].Role == Owner }
}

// The preferred host becomes the owner; when it cannot be, the next one does; and
// what is asked for by hand goes where it is asked for.
func TestOwners(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	b := startHost(t, endpoint, "b", 2, false)
	eventually(t, soon, "b owns it", owns(b))
	a, c := startHost(t, endpoint, "a", 1, false), startHost(t, endpoint, "c", 3, false)
	defer watchOne(t, a, b, c)()
	ready := func() bool { return len(b.m.State().VIPs[vip].Ready) == 3 }
	eventually(t, soon, "all are ready", ready)
	if !owns(b)() || b.m.State().VIPs[vip].Epoch == 0 {
		t.Fatalf("b lost it although nobody asked: %+v", b.m.State())
	}
	if _, err := b.m.Move(t.Context(), vip, "d"); err == nil || !strings.Contains(err.Error(), "those that are: a, b, c") {
		t.Errorf("move to nobody: %v", err)
	}
	if _, err := b.m.Move(t.Context(), vip, "b"); err == nil {
		t.Error("moved to where it is")
	}
	for taken := false; !taken; {
		order, err := c.m.Move(t.Context(), vip, "c")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("moved in %s", eventually(t, soon, "c owns it", owns(c)))
		eventually(t, soon, "b has given it up", func() bool { return b.m.State().VIPs[vip].Role == None })
		eventually(t, soon, "a knows it", func() bool {
			s := a.m.State().VIPs[vip]
			return s.Owner == "c" && s.Revision > order && s.Former == "" && s.ID == netip.MustParseAddr("10.0.0.3")
		})
		// Each lets those go first that are preferred, for a time that a host may sleep through.
		began, watch := time.Now(), stopwatch.Start(t)
		c.ready(false)
		t.Logf("given up and taken in %s", eventually(t, soon, "a or b owns it", func() bool { return owns(a)() || owns(b)() }))
		if taken = owns(a)(); !taken {
			if d := time.Since(began) - watch.Elapsed(); d < grace/4 {
				t.Fatalf("b owns it, though nobody stood still for longer than %s", d)
			}
			c.ready(true)
			eventually(t, soon, "all are ready again", ready)
		}
	}
	a.stop()
	t.Logf("stopped and taken in %s", eventually(t, soon, "b owns it", owns(b)))
}

// A preferred host gets it back by itself if it says so.
func TestOwnersFailback(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	b := startHost(t, endpoint, "b", 2, true)
	eventually(t, soon, "b owns it", owns(b))
	a := startHost(t, endpoint, "a", 1, true)
	eventually(t, soon, "a owns it", owns(a))
	eventually(t, soon, "b does not", func() bool { return !b.carried.Load() && b.m.State().VIPs[vip].Role == None })
}

// An owner that cannot renew ends before its lease does, and another one takes
// over soon after that.
func TestOwnerCutOff(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	a, b := startPair(t, endpoint, shortLease)
	defer watchOne(t, a, b)()
	a.link.hang(true)
	watch, cut := stopwatch.Start(t), Now()
	gone := eventually(t, soon, "a has ended", func() bool { return !a.carried.Load() })
	if until := a.m.State().Until; until > cut+shortLease-margin(shortLease) {
		t.Errorf("a ended %s after it was cut off, its lease is one of %s", until-cut, shortLease)
	}
	taken := eventually(t, soon, "b owns it", owns(b))
	if d := watch.Elapsed(); d > shortLease+time.Second {
		t.Errorf("taken over after %s, more than the lease and 1 s", d)
	}
	t.Logf("ended after %s, taken over %s later", gone, taken)
	eventually(t, soon, "somebody is told that etcd does not answer", func() bool { return a.m.State().Error != "" })
	a.link.hang(false)
	eventually(t, soon, "a knows who owns it", func() bool { s := a.m.State(); return s.Error == "" && s.VIPs[vip].Owner == "b" })
}

// Without etcd the owner ends; with it, it comes back.
func TestEtcdGone(t *testing.T) {
	t.Parallel()
	endpoint, stop := etcdtest.Start(t)
	a := startLeased(t, endpoint, "a", "a", 1, false, shortLease)
	eventually(t, soon, "a owns it", owns(a))
	stop()
	gone := Now()
	eventually(t, soon, "a has ended", func() bool { return !a.carried.Load() })
	if until := a.m.State().Until; until > gone+shortLease-margin(shortLease) {
		t.Errorf("a ended %s after etcd, its lease is one of %s", until-gone, shortLease)
	}
}

// An etcd that was away for long is asked again soon after it is back: however often
// nobody answered, the next attempt is not farther away than a request may take.
func TestEtcdAskedAgain(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	attempts := make(chan struct{})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			select {
			case attempts <- struct{}{}:
			case <-t.Context().Done():
				return
			}
		}
	}()
	startLeased(t, "http://"+l.Addr().String(), "a", "a", 1, false, shortLease)
	bound := time.NewTimer(soon)
	defer bound.Stop()
	watch := stopwatch.Start(t)
	for n := range 9 { // without a bound the next one would be more than a second away by then
		since := watch.Elapsed()
		select {
		case <-attempts:
		case <-bound.C:
			t.Fatalf("%d attempts in %s", n, soon)
		}
		if d := watch.Elapsed() - since; n > 0 && d > time.Second {
			t.Errorf("%s until attempt %d", d, n+1)
		}
	}
}

// Whatever links hang and come back, and whoever is ready, there are never two.
// Nothing is handed over here: with that, two announce on purpose.
func TestOwnersChaos(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	var hosts []*host
	for i := range 3 {
		name := fmt.Sprintf("h%d", i)
		hosts = append(hosts, startLeased(t, endpoint, name, name, i+1, false, shortLease))
	}
	stop := watchOne(t, hosts...)
	for i := range 12 {
		h := hosts[i%3]
		if i%2 == 0 {
			h.link.hang(true)
		} else {
			h.ready(false)
		}
		eventually(t, soon, "one of the others owns it", func() bool {
			for _, o := range hosts {
				if o != h && owns(o)() {
					return true
				}
			}
			return false
		})
		h.link.hang(false)
		h.ready(true)
	}
	stop()
}

// proxy is the network between a host and etcd.
type proxy struct {
	address string
	mu      sync.Mutex
	open    chan struct{} // closed while bytes pass
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String(), open: make(chan struct{})}
	close(p.open)
	t.Cleanup(func() { _ = l.Close(); p.hang(false) })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			go p.copy(in, out)
			go p.copy(out, in)
		}
	}()
	return p
}

func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()   //nolint:errcheck // the other side has ended
	defer from.Close() //nolint:errcheck // the same
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		open := p.open
		p.mu.Unlock()
		<-open
		if n > 0 {
			if _, failed := to.Write(buf[:n]); failed != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// hang holds everything back, as a network does that loses all packets.
func (p *proxy) hang(is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		if is {
			p.open = make(chan struct{})
		}
	default:
		if !is {
			close(p.open)
		}
	}
}
