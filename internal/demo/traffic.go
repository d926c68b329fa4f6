package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// traffic is what runs while interfaces fail: UDP probes from the client to
// the VIP, and one long TCP session each way.
type traffic struct {
	flows    []*flow
	sessions []*session
	arrivals *arrivals
	// paused is the longest time by which a round of probes was late, because
	// this machine was busy otherwise; nanoseconds.
	paused atomic.Int64
}

// flow is one UDP flow of probes, which the routers keep on one path.
type flow struct {
	conn           net.Conn
	path           int          // by which attachment it came in at first
	last, longest  atomic.Int64 // time of the last answer, longest wait between two; nanoseconds
	sent, answered atomic.Uint64
}

// flowsPerPath is how many flows are wanted on each attachment.
const flowsPerPath = 2

// openFlows opens flows until each attachment has its number of them.
func openFlows(ctx context.Context, client *namespace, target string, seen *arrivals) ([]*flow, error) {
	var flows []*flow
	var have [2]int
	for range 100 {
		f, err := openFlow(ctx, client, target, seen)
		if err != nil {
			return nil, err
		}
		if have[f.path] == flowsPerPath {
			if err := f.conn.Close(); err != nil {
				return nil, fmt.Errorf("close a probe's socket: %w", err)
			}
			continue
		}
		have[f.path]++
		if flows = append(flows, f); len(flows) == 2*flowsPerPath {
			return flows, nil
		}
	}
	return nil, fmt.Errorf("the router does not share the flows between both links: %d came in by %s, %d by %s",
		have[0], attachments()[0].name, have[1], attachments()[1].name)
}

// openFlow opens one flow and asks by which attachment it comes in.
func openFlow(ctx context.Context, client *namespace, target string, seen *arrivals) (*flow, error) {
	f := &flow{}
	err := client.do(func() (err error) {
		f.conn, err = (&net.Dialer{}).DialContext(ctx, "udp4", target)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a probe's socket: %w", err)
	}
	reply := make([]byte, probeReply)
	for range 10 { // the first packet may be lost while neighbours are resolved
		_, err = f.conn.Write(make([]byte, 8))
		if err == nil {
			err = f.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		}
		if err == nil {
			_, err = io.ReadFull(f.conn, reply)
		}
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("probe %s: %w", target, err), f.conn.Close())
	}
	index := binary.BigEndian.Uint32(reply[8:])
	for i := range seen.index {
		if seen.index[i] == index {
			f.path = i
			return f, f.conn.SetReadDeadline(time.Time{})
		}
	}
	return nil, fmt.Errorf("a probe came in by interface %d, which is not listed", index)
}

// start sends a probe on every flow each millisecond, and keeps the sessions
// busy, until ctx ends.
func (t *traffic) start(ctx context.Context) {
	t.begin()
	for _, f := range t.flows {
		context.AfterFunc(ctx, func() { _ = f.conn.Close() })
		go f.receive()
	}
	for _, s := range t.sessions {
		context.AfterFunc(ctx, func() { _ = s.conn.Close() })
		go s.run(ctx)
	}
	go t.probe(ctx)
}

func (t *traffic) probe(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		t.paused.Store(max(t.paused.Load(), int64(now.Sub(last))))
		last = now
		for _, f := range t.flows {
			f.send()
		}
	}
}

func (f *flow) send() {
	n := f.sent.Add(1)
	_, _ = f.conn.Write(binary.BigEndian.AppendUint64(nil, n)) // a lost probe shows as a gap
}

func (f *flow) receive() {
	buf := make([]byte, 64)
	for {
		n, err := f.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != probeReply {
			continue // an ICMP error is a lost probe
		}
		now := time.Now().UnixNano()
		gap := now - f.last.Swap(now)
		if gap > f.longest.Load() {
			f.longest.Store(gap)
		}
		f.answered.Add(1)
	}
}

// begin starts a period of measuring.
func (t *traffic) begin() {
	now := time.Now().UnixNano()
	t.paused.Store(0)
	for _, f := range t.flows {
		f.last.Store(now)
		f.longest.Store(0)
		f.sent.Store(0)
		f.answered.Store(0)
	}
	for i := range t.arrivals.count {
		t.arrivals.count[i].Store(0)
	}
}

// period is what was measured since begin.
type period struct {
	longest  time.Duration // the longest wait of any flow for the next answer
	paused   time.Duration // how much of that may be this machine's own pause
	sent     uint64
	lost     uint64
	arrivals [2]uint64 // probes by attachment
}

func (t *traffic) period() period {
	p := period{paused: time.Duration(t.paused.Load())}
	now := time.Now().UnixNano()
	for _, f := range t.flows {
		p.longest = max(p.longest, time.Duration(f.longest.Load()), time.Duration(now-f.last.Load()))
		sent, answered := f.sent.Load(), f.answered.Load()
		p.sent += sent
		p.lost += sent - min(sent, answered)
	}
	for i := range p.arrivals {
		p.arrivals[i] = t.arrivals.count[i].Load()
	}
	return p
}

// arrive waits until a probe has come in by each of these attachments since begin.
func (t *traffic) arrive(ctx context.Context, want ...int) error {
	for _, i := range want {
		err := await(ctx, 5*time.Second, "probe by "+attachments()[i].name, func() (bool, error) {
			return t.arrivals.count[i].Load() > 0, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// session is one long TCP connection that exchanges a message each 5 ms.
type session struct {
	name      string
	conn      net.Conn
	source    netip.Addr // as the other end sees it
	exchanges atomic.Uint64
	broken    atomic.Pointer[error]
}

func (s *session) run(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.exchange(); err != nil {
			s.broken.Store(&err)
			return
		}
		s.exchanges.Add(1)
	}
}

// exchange sends a message and waits for its echo.
func (s *session) exchange() error {
	message := binary.BigEndian.AppendUint64(nil, s.exchanges.Load())
	echo := make([]byte, len(message))
	if err := s.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := s.conn.Write(message); err != nil {
		return err
	}
	if _, err := io.ReadFull(s.conn, echo); err != nil {
		return err
	}
	if !bytes.Equal(message, echo) {
		return fmt.Errorf("sent %x, got back %x", message, echo)
	}
	return nil
}

// alive waits until the session has exchanged something more, at most 2 s.
func (s *session) alive(ctx context.Context) error {
	before := s.exchanges.Load()
	return await(ctx, 2*time.Second, "an answer on the TCP session "+s.name, func() (bool, error) {
		if err := s.broken.Load(); err != nil {
			return false, fmt.Errorf("the TCP session %s broke: %w", s.name, *err)
		}
		return s.exchanges.Load() > before, nil
	})
}

// await polls until done tells true, at most for the limit. It looks once more then: the
// machine may have stood still for the rest of that time.
func await(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no %s within %v", what, limit))
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if ok, err := done(); ok || err != nil {
				return err
			}
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
