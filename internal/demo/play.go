package demo

import (
	"context"
	_ "embed" // the picture
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
)

//go:embed picture.txt
var picture string

// maxGap is the longest wait for an answer that the demo lets pass.
const maxGap = 2 * time.Second

// play is the demo in its parts, each of which checks what it claims.
type play struct {
	screen     *screen
	executable string

	lab     *lab
	router  *router
	daemon  *daemon
	traffic *traffic
	before  []string // the host's state before the start

	routerLog tail
}

// run shows all parts and stops at the first claim that does not hold.
func (p *play) run(ctx context.Context) error {
	s := p.screen
	s.print(s.bold("vipspeaker demo") + ": an address that outlives its network cards.\n" +
		"Everything below happens in network namespaces made for it, and nothing of it remains.\n")
	for _, part := range []struct {
		title string
		show  func(context.Context) error
	}{
		{"Three machines", p.build},
		{"vipspeaker starts", p.start},
		{"Programs that name no source leave with the VIP", p.sources},
		{"Traffic in both directions, all the time", p.calm},
		{"en1 fails: ip link set en1 down", func(ctx context.Context) error { return p.fail(ctx, 0) }},
		{"en1 comes back", func(ctx context.Context) error { return p.recover(ctx, 0) }},
		{"en5 fails and comes back", p.other},
		{"A clean stop", p.stop},
	} {
		s.chapter(ctx, part.title)
		if err := part.show(ctx); err != nil {
			return err
		}
	}
	s.gap()
	s.print(fmt.Sprintf("All of this held, in %.0f s. Nothing of the demo remains.\n", time.Since(s.start).Seconds()))
	return nil
}

// build lays out the machines and shows how the host's traffic leaves without
// the daemon.
func (p *play) build(ctx context.Context) error {
	p.screen.block(picture)
	var err error
	if p.lab, err = newLab(); err != nil {
		return err
	}
	if p.router, err = newRouter(ctx, p.lab.router, slog.New(slog.NewTextHandler(&p.routerLog, nil))); err != nil {
		return err
	}
	service := fmt.Sprintf(":%d", servicePort)
	for _, n := range []*namespace{p.lab.host, p.lab.router, p.lab.client} {
		if err = n.serve(ctx, service); err != nil {
			return err
		}
	}
	err = await(ctx, 5*time.Second, "link in state up", func() (bool, error) {
		p.before, err = p.lab.host.snapshot()
		return !slices.ContainsFunc(p.before, func(line string) bool { return strings.HasSuffix(line, "state down") }), err
	})
	if err != nil {
		return err
	}
	return p.source(ctx, clientAddress, unlistedHost, 1, "before: the host reaches the client by en0, as %s")
}

// start runs the daemon until the router uses both paths.
func (p *play) start(ctx context.Context) error {
	p.screen.print("The whole configuration:\n")
	p.screen.block(configuration)
	began := time.Now()
	var err error
	if p.daemon, err = startDaemon(ctx, p.executable, p.lab.host); err != nil {
		return err
	}
	p.screen.event("started: vipspeaker run --config %s", configPath)
	if err = p.paths(ctx, 0, 1); err != nil {
		return err
	}
	p.screen.measured("after %s the router has %s/32 twice, once by each interface:", rounded(time.Since(began)), vipAddress)
	text, err := p.router.routeText()
	if err != nil {
		return err
	}
	p.screen.block(text)
	return p.showStatus(ctx)
}

// sources checks from which address connections leave.
func (p *play) sources(ctx context.Context) error {
	err := await(ctx, 5*time.Second, "connection of the host that leaves with the VIP", func() (bool, error) {
		conn, source, err := p.lab.host.dial(ctx, fmt.Sprintf("%s:%d", clientAddress, servicePort))
		if err != nil {
			return false, err
		}
		return source.String() == vipAddress, conn.Close()
	})
	if err != nil {
		return err
	}
	err = p.source(ctx, clientAddress, vipAddress, 20, "20 connections from the host to the client, no bind(): all from %s")
	if err != nil {
		return err
	}
	return p.source(ctx, unlistedRouter, unlistedHost, 1, "by en0, which is not listed, the host still is %s")
}

// source checks that n connections of the host to the address arrive from the
// wanted one.
func (p *play) source(ctx context.Context, to, want string, n int, text string) error {
	for range n {
		conn, source, err := p.lab.host.dial(ctx, fmt.Sprintf("%s:%d", to, servicePort))
		if err == nil {
			err = conn.Close()
		}
		if err != nil {
			return err
		}
		if source != netip.MustParseAddr(want) {
			return fmt.Errorf("a connection from the host to %s came from %s, not from %s", to, source, want)
		}
	}
	p.screen.event(text, want)
	return nil
}

// calm opens probes and sessions and measures while nothing fails.
func (p *play) calm(ctx context.Context) error {
	if err := p.openTraffic(ctx); err != nil {
		return err
	}
	p.screen.event("%d flows of UDP probes from the client to the VIP, each 1 ms, half by each interface",
		len(p.traffic.flows))
	for _, s := range p.traffic.sessions {
		p.screen.event("TCP session %s, from %s: a message each 5 ms", s.name, s.source)
	}
	p.traffic.start(ctx)
	return p.measure(ctx, time.Second, "nothing fails")
}

func (p *play) openTraffic(ctx context.Context) error {
	t := &traffic{arrivals: &arrivals{}}
	for i, a := range attachments() {
		index, err := p.lab.host.index(a.name)
		if err != nil {
			return err
		}
		t.arrivals.index[i] = uint32(index) //nolint:gosec // an interface index is positive
	}
	target := fmt.Sprintf("%s:%d", vipAddress, servicePort)
	err := p.lab.host.reflect(ctx, target, t.arrivals)
	if err != nil {
		return err
	}
	if t.flows, err = openFlows(ctx, p.lab.client, target, t.arrivals); err != nil {
		return err
	}
	to := &session{name: "from the client to the VIP"}
	if to.conn, to.source, err = p.lab.client.dial(ctx, target); err != nil {
		return err
	}
	from := &session{name: "from the host to the client"}
	from.conn, from.source, err = p.lab.host.dial(ctx, fmt.Sprintf("%s:%d", clientAddress, servicePort))
	t.sessions = []*session{to, from}
	p.traffic = t
	return err
}

// measure lets traffic flow for a while and reports the period since the last
// begin; a gap of more than maxGap, beyond the pauses of this machine itself,
// or a dead session is an error.
func (p *play) measure(ctx context.Context, pass time.Duration, what string) error {
	if err := p.wait(ctx, pass); err != nil {
		return err
	}
	m := p.traffic.period()
	if m.longest-m.paused > maxGap {
		return fmt.Errorf("%s: a flow of probes stood still for %s, more than %s (%d of %d probes lost)",
			what, rounded(m.longest), maxGap, m.lost, m.sent)
	}
	for _, s := range p.traffic.sessions {
		if err := s.alive(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	p.screen.measured("%s: longest gap %s, %d of %d probes lost, both TCP sessions alive", what, rounded(m.longest), m.lost, m.sent)
	if m.paused > 20*time.Millisecond {
		p.screen.event("(this machine was busy and sent no probe for %s)", rounded(m.paused))
	}
	return nil
}

// fail takes attachment i down and checks that all traffic moves to the other.
func (p *play) fail(ctx context.Context, i int) error {
	name, rest := attachments()[i].name, attachments()[1-i].name
	p.traffic.begin()
	began := time.Now()
	if err := p.lab.host.down(name); err != nil {
		return err
	}
	if err := p.paths(ctx, 1-i); err != nil {
		return err
	}
	p.screen.event("%s after the failure the router has moved to %s alone", rounded(time.Since(began)), rest)
	if err := p.measure(ctx, 2*time.Second, name+" down"); err != nil {
		return err
	}
	p.traffic.begin()
	if err := p.wait(ctx, 500*time.Millisecond); err != nil {
		return err
	}
	if err := p.traffic.arrive(ctx, 1-i); err != nil {
		return fmt.Errorf("%s down: %w", name, err)
	}
	if m := p.traffic.period(); m.arrivals[i] != 0 {
		return fmt.Errorf("%s down: probes came in %d times by %s and %d times by %s", name, m.arrivals[i], name, m.arrivals[1-i], rest)
	}
	p.screen.event("all probes come in by %s now", rest)
	if err := p.source(ctx, clientAddress, vipAddress, 5, "new connections of the host leave by "+rest+", still as %s"); err != nil {
		return err
	}
	return p.showStatus(ctx)
}

// recover takes attachment i up again and checks that traffic uses both.
func (p *play) recover(ctx context.Context, i int) error {
	name := attachments()[i].name
	p.traffic.begin()
	began := time.Now()
	if err := p.lab.host.up(name); err != nil {
		return err
	}
	p.screen.event("ip link set %s up; it must look healthy for 1 s (hold_up) before it is used", name)
	if err := p.paths(ctx, 0, 1); err != nil {
		return err
	}
	p.screen.event("%s later the router uses both again", rounded(time.Since(began)))
	if err := p.measure(ctx, time.Second, name+" back"); err != nil {
		return err
	}
	if err := p.traffic.arrive(ctx, 0, 1); err != nil {
		return fmt.Errorf("%s back: %w", name, err)
	}
	return nil
}

// other does the same with en5, through which all traffic went meanwhile.
func (p *play) other(ctx context.Context) error {
	if err := p.fail(ctx, 1); err != nil {
		return err
	}
	if err := p.recover(ctx, 1); err != nil {
		return err
	}
	for _, s := range p.traffic.sessions {
		p.screen.event("TCP session %s: %d messages, one connection all along", s.name, s.exchanges.Load())
	}
	return nil
}

// stop ends the daemon and compares the host with what it was.
func (p *play) stop(ctx context.Context) error {
	took, err := p.daemon.stop(ctx)
	if err != nil {
		return err
	}
	p.screen.event("SIGTERM: withdrawn, unbound and exit code 0 in %s", rounded(took))
	if err = p.paths(ctx); err != nil {
		return err
	}
	p.screen.event("the router has no route to %s any more", vipAddress)
	var after []string
	err = await(ctx, 3*time.Second, "return of the host to its former state", func() (bool, error) {
		after, err = p.lab.host.snapshot()
		return slices.Equal(p.before, after), err
	})
	if err != nil {
		return errors.Join(err, errors.New(difference(p.before, after)))
	}
	p.screen.measured("the host's links, addresses, routes, rules and settings (%d) are as before the start", len(after))
	return nil
}

// paths waits until the router's route to the VIP goes by exactly these
// attachments, and no longer than the daemon runs, unless it was stopped.
func (p *play) paths(ctx context.Context, want ...int) error {
	var hops []netip.Addr
	for _, i := range want {
		hops = append(hops, attachments()[i].host)
	}
	return await(ctx, 20*time.Second, fmt.Sprintf("route of the router to %s by %v", vipAddress, hops), func() (bool, error) {
		if err := p.daemon.running(); err != nil {
			return false, err
		}
		got, err := p.router.hops()
		return slices.Equal(got, hops), err
	})
}

// showStatus prints what "vipspeaker status" prints on the host.
func (p *play) showStatus(ctx context.Context) error {
	text, err := p.daemon.status(ctx)
	if err != nil {
		return err
	}
	p.screen.block("$ vipspeaker status\n" + text)
	return nil
}

// wait lets time pass, or returns why ctx ended.
func (p *play) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// rounded is a duration as people read it.
func rounded(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}
