package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ProbeOptions say how to probe.
type ProbeOptions struct {
	// Ports are the source ports, one flow each; default one port, which is 40001
	// for the first such probe of a lab, 40002 for the second, and so on.
	// Routers spread flows over their legs by ports.
	Ports []uint16
	// Interval is the time between two probes of a flow; default 1 ms.
	Interval time.Duration
}

// Probe sends numbered UDP packets at a steady pace from one node to an echo
// server on another, and knows which were answered.
type Probe struct {
	node  *Node
	flows []*flow
	echo  *net.UDPConn
	stop  chan struct{}
	wg    sync.WaitGroup
	once  sync.Once
}

type flow struct {
	port uint16
	conn net.Conn

	mu       sync.Mutex
	sent     []time.Time // of the probe with that number
	answered []bool
	counts   int // the number of the first probe that counts
}

// maxProbes bounds what a flow remembers, at 1 ms two minutes.
const maxProbes = 120_000

// ProbeResult is what a probe has seen.
type ProbeResult struct {
	flows []FlowResult
}

// FlowResult is what one flow has seen.
type FlowResult struct {
	Port           uint16
	Sent, Answered int
	gaps           []gap
	stalls         []gap
	outages        []gap
}

// gap is a time between two probes.
type gap struct{ from, to time.Time }

// StartProbe probes server, an address on to, from the node from. The echo
// server binds the address although the node may not have it yet.
func StartProbe(from, to *Node, server netip.AddrPort, o ProbeOptions) *Probe {
	t := from.lab.t
	t.Helper()
	if len(o.Ports) == 0 {
		// A port that was closed may be taken a moment longer, by a process that
		// another test is starting.
		o.Ports = []uint16{uint16(40000 + from.lab.probes.Add(1)%20000)}
	}
	if o.Interval == 0 {
		o.Interval = time.Millisecond
	}
	echo, err := to.ListenUDP(server)
	if err != nil {
		t.Fatalf("probe: echo server: %v", err)
	}
	p := &Probe{node: from, echo: echo, stop: make(chan struct{})}
	KeepAll(t, echo)
	t.Cleanup(func() { p.Stop() })
	p.wg.Go(func() { echoUDP(echo) })
	any4or6 := netip.IPv4Unspecified()
	if server.Addr().Is6() {
		any4or6 = netip.IPv6Unspecified()
	}
	for _, port := range o.Ports {
		conn, err := from.Dial(from.lab.ctx, "udp", netip.AddrPortFrom(any4or6, port), server)
		if err != nil {
			t.Fatalf("probe: %v", err)
		}
		KeepAll(t, conn.(*net.UDPConn)) //nolint:forcetypeassert // the network is udp
		f := &flow{port: port, conn: conn}
		p.flows = append(p.flows, f)
		p.wg.Go(f.receive)
		p.wg.Go(func() { f.send(o.Interval, p.stop) })
	}
	return p
}

// KeepAll gives a socket room for what comes while its reader waits for a processor:
// a probe that finds none is lost, and no path has lost it.
func KeepAll(tb testing.TB, c *net.UDPConn) {
	tb.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		tb.Fatalf("probe: %v", err)
	}
}

func echoUDP(c *net.UDPConn) {
	buf := make([]byte, 64)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			// An answer that cannot leave is an answer that is lost.
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}
}

func (f *flow) send(interval time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var buf [8]byte
	for range maxProbes {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		f.mu.Lock()
		binary.BigEndian.PutUint64(buf[:], uint64(len(f.sent)))
		f.sent = append(f.sent, time.Now())
		f.answered = append(f.answered, false)
		f.mu.Unlock()
		// Without a route, or after an ICMP error, the probe is lost.
		_, _ = f.conn.Write(buf[:])
	}
}

func (f *flow) receive() {
	buf := make([]byte, 64)
	for {
		n, err := f.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue
		}
		f.mu.Lock()
		if i := binary.BigEndian.Uint64(buf); i < uint64(len(f.answered)) {
			f.answered[i] = true
		}
		f.mu.Unlock()
	}
}

// WaitAnswered waits until every flow has an answer to a probe sent from now on.
func (p *Probe) WaitAnswered(d time.Duration) {
	p.node.lab.t.Helper()
	since := time.Now()
	Eventually(p.node.lab.t, d, "probes are answered", func() error {
		for _, f := range p.flows {
			if !f.answeredSince(since) {
				return fmt.Errorf("port %d: no answer", f.port)
			}
		}
		return nil
	})
}

// CountFromNow forgets what was seen so far.
func (p *Probe) CountFromNow() {
	for _, f := range p.flows {
		f.mu.Lock()
		f.counts = len(f.sent)
		f.mu.Unlock()
	}
}

func (f *flow) answeredSince(since time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.sent) - 1; i >= 0 && f.sent[i].After(since); i-- {
		if f.answered[i] {
			return true
		}
	}
	return false
}

// Stop ends probing, waits 200 ms for late answers, and returns what was seen.
// Later calls return the same.
func (p *Probe) Stop() ProbeResult {
	p.once.Do(func() {
		close(p.stop)
		Pass(200 * time.Millisecond)
		_ = p.echo.Close()
		for _, f := range p.flows {
			_ = f.conn.Close()
		}
		p.wg.Wait()
	})
	var r ProbeResult
	for _, f := range p.flows {
		r.flows = append(r.flows, f.result())
	}
	return r
}

func (f *flow) result() FlowResult {
	probes, answered := f.sent[f.counts:], f.answered[f.counts:]
	r := FlowResult{Port: f.port, Sent: len(probes)}
	if len(probes) == 0 {
		return r
	}
	last := probes[0]
	var lost time.Time // since when nothing was answered
	for i, sent := range probes {
		if i > 0 {
			r.stalls = append(r.stalls, gap{probes[i-1], sent})
		}
		if answered[i] {
			r.Answered++
			r.gaps = append(r.gaps, gap{last, sent})
			last = sent
		}
		switch {
		case !answered[i] && lost.IsZero():
			lost = sent
		case !lost.IsZero() && (answered[i] || i == len(probes)-1):
			r.outages = append(r.outages, gap{lost, sent})
			lost = time.Time{}
		}
	}
	r.gaps = append(r.gaps, gap{last, probes[len(probes)-1]})
	return r
}

// Gap is the longest time, of gaps that end after since, between two probes in
// a row that were answered: how long the service could not be reached. A flow
// that was never answered again counts until its end.
func (r ProbeResult) Gap(since time.Time) time.Duration {
	var d time.Duration
	for _, f := range r.flows {
		d = max(d, longest(f.gaps, since))
	}
	return d
}

// Outage is the longest time, of those that end after since, from a probe that was
// lost to the next one that was answered. It is less than Gap by what this machine
// held the flow up.
func (r ProbeResult) Outage(since time.Time) time.Duration {
	var d time.Duration
	for _, f := range r.flows {
		d = max(d, longest(f.outages, since))
	}
	return d
}

// Stall is the longest time after since in which a flow sent nothing because
// this machine was busy: gaps up to about that length mean nothing.
func (r ProbeResult) Stall(since time.Time) time.Duration {
	var d time.Duration
	for _, f := range r.flows {
		d = max(d, longest(f.stalls, since))
	}
	return d
}

// Lost is how many probes were not answered.
func (r ProbeResult) Lost() int {
	lost := 0
	for _, f := range r.flows {
		lost += f.Sent - f.Answered
	}
	return lost
}

// Flows returns the figures of each flow.
func (r ProbeResult) Flows() []FlowResult { return r.flows }

// String tells the figures of every flow.
func (r ProbeResult) String() string {
	var s []string
	for _, f := range r.flows {
		s = append(s, fmt.Sprintf("port %d: %d of %d answered, longest gap %v, longest stall %v",
			f.Port, f.Answered, f.Sent, round(longest(f.gaps, time.Time{})), round(longest(f.stalls, time.Time{}))))
	}
	return strings.Join(s, "; ")
}

func longest(gaps []gap, since time.Time) time.Duration {
	var d time.Duration
	for _, g := range gaps {
		if g.to.After(since) {
			d = max(d, g.to.Sub(g.from))
		}
	}
	return d
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
