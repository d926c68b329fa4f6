package ndp

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sent is a packet that left, and when, counted from the test's begin.
type sent struct {
	after time.Duration
	kind  uint8
}

// fake is a network in memory, with the interface en1 unless it is taken away.
type fake struct {
	t      *testing.T
	m      *Manager
	begin  time.Time
	change chan struct{}
	cancel func()
	done   chan error

	mu      sync.Mutex
	links   map[string]link
	ports   map[int]*fakePort // by index
	opened  int
	sent    []sent
	pokes   int
	lookErr error
	openErr error
	sendErr error
}

type fakePort struct {
	f      *fake
	number uint64
	index  int
	out    chan<- packet
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{
		t: t, begin: time.Now(), change: make(chan struct{}, 1), done: make(chan error, 1),
		links: map[string]link{"en1": aLink(7)}, ports: map[int]*fakePort{},
	}
	f.m = New(Options{Poke: func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.pokes++
	}})
	return f
}

func aLink(index int) link {
	return link{index: index, running: true, mac: mac, locals: []netip.Addr{self}}
}

func (f *fake) start(names ...string) {
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(f.t.Context())
	f.m.Set(names)
	go func() { f.done <- f.m.run(ctx, f) }()
	synctest.Wait()
}

// stop ends the run; it leaves no port open.
func (f *fake) stop() {
	f.cancel()
	if err := <-f.done; err != nil {
		f.t.Errorf("run: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ports) != 0 {
		f.t.Errorf("ports are left open: %v", f.ports)
	}
	if s := f.m.State(); len(s.Interfaces) != 0 {
		f.t.Errorf("state after the end: %+v", s)
	}
}

func (f *fake) look(names []string) ([]link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	links := make([]link, len(names))
	for i, n := range names {
		links[i] = f.links[n]
		links[i].neighbours = append([]neighbour(nil), links[i].neighbours...)
	}
	return links, f.lookErr
}

func (f *fake) changed() <-chan struct{} { return f.change }
func (f *fake) close()                   {}

func (f *fake) open(number uint64, l *link, local netip.Addr, out chan<- packet) (socket, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	if f.openErr != nil {
		return nil, f.openErr
	}
	if local != self && local != r3 {
		f.t.Errorf("opened with address %s", local)
	}
	p := &fakePort{f: f, number: number, index: l.index, out: out}
	f.ports[l.index] = p
	return p, nil
}

func (p *fakePort) send(_ netip.Addr, b []byte) error {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	if p.f.sendErr != nil {
		return p.f.sendErr
	}
	p.f.sent = append(p.f.sent, sent{time.Since(p.f.begin), b[0]})
	return nil
}

func (p *fakePort) close() {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	delete(p.f.ports, p.index)
}

// change makes en1 this, and tells so.
func (f *fake) set(l link) {
	f.mu.Lock()
	f.links["en1"] = l
	f.mu.Unlock()
	select {
	case f.change <- struct{}{}:
	default:
	}
	f.wait(lookPause)
}

// hear lets en1 receive a packet.
func (f *fake) hear(from netip.Addr, m message) {
	f.mu.Lock()
	var p *fakePort
	for _, p = range f.ports {
		break
	}
	f.mu.Unlock()
	if p == nil {
		f.t.Fatal("no port is open")
	}
	p.out <- packet{socket: p.number, from: from, hopLimit: hopLimit, message: m}
	synctest.Wait()
}

func (f *fake) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// times are when packets of that kind left.
func (f *fake) times(kind uint8) []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []time.Duration
	for _, s := range f.sent {
		if s.kind == kind {
			out = append(out, s.after)
		}
	}
	return out
}

func (f *fake) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = nil
}

func (f *fake) poked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pokes
}

// check compares en1 but for its times, in words.
func (f *fake) check(index int, fault string, routers ...string) {
	f.t.Helper()
	i, _ := f.m.State().Interface("en1")
	var got []string
	for _, r := range i.Routers {
		got = append(got, words(r))
	}
	want := []any{index, fault, routers}
	if diff := cmp.Diff(want, []any{i.Index, i.Error, got}); diff != "" {
		f.t.Errorf("after %s, en1 (-want +got):\n%s", time.Since(f.begin), diff)
	}
}

func words(r Router) string {
	w := r.Address.String()
	if r.ByAdvertisement {
		w += " advertises"
	} else if r.Flagged {
		w += " flagged"
	}
	return w
}

func advert(lifetime time.Duration) message {
	return message{kind: kindAdvertisement, lifetime: lifetime}
}

func within(t *testing.T, what string, got []time.Duration, want ...[2]time.Duration) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %v, want %d", what, got, len(want))
	}
	for i, w := range want {
		if got[i] < w[0] || got[i] > w[1] {
			t.Errorf("%s %d: after %s, want %s to %s", what, i, got[i], w[0], w[1])
		}
	}
}
