package ndp

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

// network is what the engine needs of the kernel.
type network interface {
	// look returns what the interfaces of these names are, in their order.
	look(names []string) ([]link, error)
	// changed gets a value after something may have changed that look returns.
	changed() <-chan struct{}
	// open makes the socket of a link; what it receives goes to out with the
	// number of the socket.
	open(number uint64, l *link, local netip.Addr, out chan<- packet) (socket, error)
	close()
}

// socket sends and receives on one link.
type socket interface {
	// send never blocks.
	send(to netip.Addr, b []byte) error
	// close returns when nothing more goes to out, and never waits for out.
	close()
}

// link is what an interface is.
type link struct {
	index   int  // 0: there is none
	running bool // up, with carrier
	mac     net.HardwareAddr
	// locals are its own link-local addresses that can be used, without zone,
	// in the kernel's order.
	locals []netip.Addr
	// why says why there are none.
	why        string
	neighbours []neighbour
}

// neighbour is a usable link-local entry of the neighbour table.
type neighbour struct {
	address netip.Addr // without zone
	flagged bool       // the kernel takes it for a router
	live    bool       // confirmed, or being probed; else stale
	quiet   time.Duration
}

const (
	// lookEvery catches what no event tells, such as entries that grow old.
	lookEvery = 10 * time.Second
	// lookPause is the least time between two looks.
	lookPause = 50 * time.Millisecond
	// lookAgain is when to look again after the kernel gave no answer.
	lookAgain = 250 * time.Millisecond
	// batch is how many packets are taken before State is renewed.
	batch = 64
)

// engine is one Run of a Manager. It has one goroutine.
type engine struct {
	m          *Manager
	net        network
	log        *slog.Logger
	packets    chan packet
	interfaces []*iface
	sockets    uint64 // opened so far
	names      []string
	lookAt     time.Time
	lookedAt   time.Time
	lookError  string
}

func newEngine(m *Manager, n network) *engine {
	return &engine{m: m, net: n, log: m.log, packets: make(chan packet, batch)}
}

// run runs until ctx ends and leaves no socket open.
func (e *engine) run(ctx context.Context) {
	defer func() {
		for _, i := range e.interfaces {
			i.close()
		}
	}()
	e.lookAt = time.Now()
	e.turn(time.Now())
	timer := time.NewTimer(time.Until(e.next()))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.m.wake:
			e.lookAt = time.Now()
		case <-e.net.changed():
			e.lookAt = earlier(e.lookAt, e.lookedAt.Add(lookPause))
		case p := <-e.packets:
			e.take(&p)
		case <-timer.C:
		}
		e.turn(time.Now())
		timer.Reset(time.Until(e.next()))
	}
}

// take handles a packet and those that wait behind it.
func (e *engine) take(p *packet) {
	now := time.Now()
	for range batch {
		for _, i := range e.interfaces {
			if i.socket != nil && i.number == p.socket {
				i.receive(p, now)
			}
		}
		select {
		case *p = <-e.packets:
		default:
			return
		}
	}
}

// turn does what is due and shows what came of it.
func (e *engine) turn(now time.Time) {
	if !now.Before(e.lookAt) {
		e.look(now)
	}
	for _, i := range e.interfaces {
		i.turn(now)
	}
	e.publish()
}

// next is when something is due.
func (e *engine) next() time.Time {
	at := e.lookAt
	for _, i := range e.interfaces {
		at = earlier(at, i.next())
	}
	return at
}

// look makes the interfaces the wanted ones, as they are now.
func (e *engine) look(now time.Time) {
	if names := *e.m.wanted.Load(); !slices.Equal(names, e.names) {
		e.want(names)
	}
	e.lookedAt, e.lookAt = now, now.Add(lookEvery)
	links, err := e.net.look(e.names)
	if err != nil {
		e.lookAt = now.Add(lookAgain)
		e.lookError = err.Error()
		e.log.Debug("kernel gives no answer", "error", err)
		return
	}
	e.lookError = ""
	for n, i := range e.interfaces {
		i.update(&links[n], now)
	}
}

// want keeps the interfaces of those names and begins others.
func (e *engine) want(names []string) {
	old := e.interfaces
	e.names, e.interfaces = names, nil
	for _, name := range names {
		n := slices.IndexFunc(old, func(i *iface) bool { return i.name == name })
		if n >= 0 {
			e.interfaces = append(e.interfaces, old[n])
			continue
		}
		e.interfaces = append(e.interfaces, &iface{e: e, name: name, routers: map[netip.Addr]*router{}})
	}
	for _, i := range old {
		if !slices.Contains(names, i.name) {
			i.close()
		}
	}
}

// publish shows the present state and pokes if more changed than times.
func (e *engine) publish() {
	s := &State{Interfaces: make([]Interface, 0, len(e.interfaces))}
	for _, i := range e.interfaces {
		s.Interfaces = append(s.Interfaces, i.state())
	}
	old := e.m.state.Swap(s)
	if !slices.EqualFunc(old.Interfaces, s.Interfaces, sameInterface) {
		e.m.poke()
	}
}

func sameInterface(a, b Interface) bool {
	return a.Name == b.Name && a.Index == b.Index && a.Error == b.Error && slices.EqualFunc(a.Routers, b.Routers, sameRouter)
}

func sameRouter(a, b Router) bool {
	return a.Address == b.Address && a.ByAdvertisement == b.ByAdvertisement && a.Flagged == b.Flagged
}

// earlier is the earlier of two times; a zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// between is a random time from a to b.
func between(a, b time.Duration) time.Duration {
	return a + rand.N(b-a) //nolint:gosec // spreads packets over time, keeps no secret
}
