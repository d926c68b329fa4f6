package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/speaker"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
	"vipspeaker/test/netnstest"
)

// host is the sample in a namespace: en1 and en5, each to a router, and all
// parts of the daemon. It notes when they last changed anything.
type host struct {
	*vip.Manager     // its calls are noted
	speaker.Sessions // so are theirs

	mu      sync.Mutex
	last    time.Time
	told    [2]string // the wishes last handed to Withdraw and Announce
	picture *status.Status
	passed  time.Time // end of the newest pass
	ended   time.Time // when en1 had no session any more
	up      bool      // en1 has one
}

// newHost lays the namespace out and starts all parts; sessions are real ones
// with speaker processes and routers, or pretended.
func newHost(b *testing.B, ns netnstest.NS, vips int, real bool) *host {
	b.Helper()
	for _, side := range []string{"1", "5"} {
		router := ns.New("r" + side)
		ns.VethTo("en"+side, router, "wan")
		for n, s := range map[string]netnstest.NS{"1": ns, "2": router} {
			dev := map[string]string{"1": "en" + side, "2": "wan"}[n]
			s.IP("addr add 10.68.%s.%s/24 dev %s", side, n, dev)
			s.IP("addr add fd68:%s::%s/64 dev %s nodad", side, n, dev)
			s.Sysctl("net/ipv6/conf/"+dev+"/keep_addr_on_down", "1")
		}
		if real {
			startRouter(b, side)
		}
	}
	ns.IP("route add default nexthop via 10.68.1.2 nexthop via 10.68.5.2")
	cfg, err := config.Parse([]byte(configuration(vips)), "yaml", "bench")
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	h, signal := &host{}, speaker.NewSignal()
	network := netmon.New(netmon.Options{Log: log, Poke: signal.Poke})
	checks := health.New(health.Options{Log: log, Poke: signal.Poke})
	poke := func() { h.look(); signal.Poke() }
	parts := []func(context.Context) error{network.Run, checks.Run}
	if real {
		m := bgp.NewManager(bgp.Options{Log: log, Poke: poke, Command: speakerCommand})
		h.Sessions, parts = m, append(parts, m.Run)
	} else {
		h.Sessions = &pretended{poke: poke}
	}
	if h.Manager, err = vip.New(vip.Options{Log: log, StateDir: b.TempDir()}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(h.Close)
	loop, err := speaker.New(speaker.Options{
		Log: log, Config: cfg, Signal: signal, Network: network, Checks: checks, Kernel: h, Sessions: h,
		NewChecker: func(config.Check) (health.Checker, error) { return nil, errors.New("no checks here") },
		Publish:    h.publish,
	})
	if err != nil {
		b.Fatal(err)
	}
	run(b, loop, parts)
	return h
}

// run runs all parts until the end of b, which stops the loop in good order.
func run(b *testing.B, loop *speaker.Loop, parts []func(context.Context) error) {
	b.Helper()
	ctx, end := context.WithCancel(context.WithoutCancel(b.Context()))
	var group sync.WaitGroup
	for _, part := range parts {
		group.Go(func() {
			if err := part(ctx); err != nil {
				b.Error(err)
			}
		})
	}
	left := make(chan error, 1)
	go func() { left <- loop.Run(ctx) }()
	b.Cleanup(func() {
		loop.Stop()
		if err := <-left; err != nil {
			b.Error(err)
		}
		end()
		group.Wait()
	})
}

// configuration is the sample with that many VIPs.
func configuration(vips int) string {
	var s strings.Builder
	s.WriteString("bgp: {asn: 65010, router_id: 10.68.1.1, graceful_restart: {enabled: false}}\nshutdown: {wait: 10ms}\ndamping: {enabled: false}\ninterfaces:\n")
	for _, side := range []string{"1", "5"} {
		fmt.Fprintf(&s, "  - {name: en%[1]s, hold_up: 0s, gateway: [10.68.%[1]s.2, \"fd68:%[1]s::2\"], peers: [{address: 10.68.%[1]s.2, asn: 65000}, {address: \"fd68:%[1]s::2\", asn: 65000}]}\n", side)
	}
	s.WriteString("vips:\n  - {name: vipa, address: 10.68.6.1, preferred_source: true}\n")
	for i := 1; i < vips; i++ {
		fmt.Fprintf(&s, "  - {name: v%d, address: 10.70.%d.%d}\n", i, i/200, i%200+1)
	}
	return s.String()
}

// note remembers the time of the newest change.
func (h *host) note() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = time.Now()
}

func (h *host) wrote(a vip.Actual, err error) (vip.Actual, error) {
	if a.Writes > 0 {
		h.note()
	}
	return a, err
}

// Steer notes when it has written something; so do Bind and Unbind.
func (h *host) Steer(ctx context.Context, d vip.Desired) (vip.Actual, error) {
	return h.wrote(h.Manager.Steer(ctx, d))
}

// Bind is Steer's like.
func (h *host) Bind(ctx context.Context, d vip.Desired) (vip.Actual, error) {
	return h.wrote(h.Manager.Bind(ctx, d))
}

// Unbind is Steer's like.
func (h *host) Unbind(ctx context.Context, d vip.Desired) (vip.Actual, error) {
	return h.wrote(h.Manager.Unbind(ctx, d))
}

// Withdraw notes when it has got other wishes; so does Announce.
func (h *host) Withdraw(d bgp.Desired) {
	h.Sessions.Withdraw(d)
	h.tell(0, d)
}

// Announce is Withdraw's like.
func (h *host) Announce(d bgp.Desired) {
	h.Sessions.Announce(d)
	h.tell(1, d)
}

func (h *host) tell(call int, d bgp.Desired) {
	var wishes strings.Builder
	for i := range d.Speakers {
		fmt.Fprint(&wishes, d.Speakers[i].Name, len(d.Speakers[i].Peers), len(d.Speakers[i].Paths), " ")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := wishes.String(); s != h.told[call] {
		h.told[call], h.last = s, time.Now()
	}
}

func (h *host) publish(s *status.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.picture, h.passed = s, time.Now()
}

// look notes when the last session of en1 has ended.
func (h *host) look() {
	s, _ := h.Sessions.State().Speaker("en1")
	up := slices.ContainsFunc(s.Peers, func(p bgp.PeerState) bool { return p.State == bgp.Established })
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up && !up {
		h.ended = time.Now()
	}
	h.up = up
}

// times are those of the newest change and of the end of en1's last session.
func (h *host) times() (last, ended time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last, h.ended
}

// await waits until en1 is used for everything or for nothing, and no pass comes
// any more.
func (h *host) await(b *testing.B, used bool) {
	b.Helper()
	netnstest.Until(b, bounds, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.picture == nil || h.up != used {
			return fmt.Errorf("sessions of en1 up: %t", h.up)
		}
		for i := range h.picture.VIPs {
			if err := uses(&h.picture.VIPs[i], used); err != nil {
				return err
			}
		}
		if since := time.Since(h.passed); since < quiet {
			return fmt.Errorf("the last pass was %v ago", since)
		}
		return nil
	})
}

// uses tells how en1 is not used for a VIP as it should be.
func uses(v *status.VIP, used bool) error {
	for _, i := range v.Interfaces {
		if want := used || i.Interface == "en5"; i.Announced != want {
			return fmt.Errorf("vip %s on %s: announced %t: %s", v.Name, i.Interface, i.Announced, i.Detail)
		}
	}
	return nil
}

// pretended are sessions that are up as soon as they are wanted.
type pretended struct {
	poke func()

	mu    sync.Mutex
	want  bgp.Desired
	state bgp.State
}

// Withdraw drops the speakers' peers and paths that are not in d.
func (p *pretended) Withdraw(d bgp.Desired) {
	p.mu.Lock()
	keep := map[string]bgp.SpeakerConfig{}
	for _, s := range d.Speakers {
		keep[s.Name] = s
	}
	less := bgp.Desired{}
	for _, s := range p.want.Speakers {
		s.Peers = slices.DeleteFunc(slices.Clone(s.Peers), func(x bgp.Peer) bool {
			return !slices.ContainsFunc(keep[s.Name].Peers, func(y bgp.Peer) bool { return x.Address == y.Address })
		})
		if len(keep[s.Name].Paths) == 0 {
			s.Paths = nil
		}
		less.Speakers = append(less.Speakers, s)
	}
	p.mu.Unlock()
	p.Announce(less)
}

// Announce makes the state what d wants.
func (p *pretended) Announce(d bgp.Desired) {
	p.mu.Lock()
	old := p.state
	p.want, p.state = d, bgp.State{}
	changed := len(old.Speakers) != len(d.Speakers)
	for i, s := range d.Speakers {
		next := bgp.SpeakerState{Name: s.Name, Phase: bgp.Running, PID: 1}
		for _, x := range s.Peers {
			next.Peers = append(next.Peers, bgp.PeerState{
				Address: x.Address, LocalAddress: x.LocalAddress, ASN: x.ASN, State: bgp.Established, Transitions: 1, IPv4: true, IPv6: true,
			})
		}
		for _, x := range s.Paths {
			next.Announced = append(next.Announced, x.Prefix)
		}
		changed = changed || len(next.Peers) != len(old.Speakers[i].Peers) || len(next.Announced) != len(old.Speakers[i].Announced)
		p.state.Speakers = append(p.state.Speakers, next)
	}
	p.mu.Unlock()
	if changed {
		p.poke()
	}
}

// State is a copy, never changed later.
func (p *pretended) State() *bgp.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.state
	return &s
}

// Stop ends all.
func (p *pretended) Stop(context.Context, bgp.StopMode, string) error {
	p.Announce(bgp.Desired{})
	return nil
}
