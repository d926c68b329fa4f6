package bgp

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// runner keeps the process of one speaker running.
type runner struct {
	m    *Manager
	name string
	log  *slog.Logger

	wake   chan struct{} // the target or the order changed
	kill   chan struct{} // closed to end at once
	once   sync.Once
	done   chan struct{} // closed when the runner has ended
	killed atomic.Bool   // ended against its will
	state  atomic.Pointer[SpeakerState]

	restarting bool // of the next process
	counts     map[netip.Addr]*count

	mu     sync.Mutex
	target SpeakerConfig
	rev    uint64 // of target
	end    *stopOrder
}

// ending is how the supervision of a process came to its end.
type ending int

const (
	crashed  ending = iota // the process died or hung
	replaced               // a fresh process is wanted
	stopped                // on our order
)

func newRunner(m *Manager, cfg SpeakerConfig) *runner {
	r := &runner{
		m: m, name: cfg.Name, log: m.log.With("interface", cfg.Name), target: cfg, rev: 1,
		counts: map[netip.Addr]*count{},
		wake:   make(chan struct{}, 1), kill: make(chan struct{}), done: make(chan struct{}),
	}
	r.state.Store(&SpeakerState{Name: cfg.Name, Phase: Starting, Since: time.Now()})
	return r
}

// maxGone bounds how many peers that are gone are remembered: a router may change its
// link-local address again and again.
const maxGone = 64

// count carries a peer's transitions on when it is added anew, in the same
// process or in the next.
type count struct {
	base, last uint64
	up         bool
	gone       time.Time // since when nobody tells of it; zero if somebody does
}

// fold closes the books of a peer that is gone, which ended its session.
func (c *count) fold() {
	c.base += c.last
	if c.up {
		c.base++
	}
	c.last, c.up = 0, false
}

// tally replaces the transitions that a process reported by those since the
// daemon started.
func (r *runner) tally(peers []PeerState) {
	told := make(map[netip.Addr]bool, len(peers))
	for i := range peers {
		p := &peers[i]
		told[p.Address] = true
		c := r.counts[p.Address]
		if c == nil {
			c = &count{}
			r.counts[p.Address] = c
		}
		if p.Transitions < c.last {
			c.fold()
		}
		c.last, c.up, c.gone = p.Transitions, p.State == Established, time.Time{}
		p.Transitions += c.base
	}
	var gone []netip.Addr
	for a, c := range r.counts {
		if told[a] {
			continue
		}
		c.fold()
		if c.gone.IsZero() {
			c.gone = time.Now()
		}
		gone = append(gone, a)
	}
	if len(gone) <= maxGone {
		return
	}
	slices.SortFunc(gone, func(a, b netip.Addr) int { return r.counts[b].gone.Compare(r.counts[a].gone) })
	for _, a := range gone[maxGone:] {
		delete(r.counts, a)
	}
}

// setTarget replaces what the speaker should hold. An equal target costs
// nothing.
func (r *runner) setTarget(cfg SpeakerConfig) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = cfg
	r.rev++
	poke(r.wake)
}

func (r *runner) order(o stopOrder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end == nil || o.mode == StopRestart {
		r.end = &o
	}
	poke(r.wake)
}

// abort ends the runner and its process at once.
func (r *runner) abort() {
	r.once.Do(func() { r.killed.Store(true); close(r.kill) })
}

func (r *runner) wanted() (cfg SpeakerConfig, rev uint64, end *stopOrder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.target, r.rev, r.end
}

// run starts process after process until it is told to end.
func (r *runner) run(ctx context.Context) {
	defer close(r.done)
	crashes := 0
	for {
		if _, _, end := r.wanted(); end != nil || ctx.Err() != nil {
			break
		}
		began := time.Now()
		r.tally(nil)
		how, reason := r.live(ctx)
		switch how {
		case stopped:
			r.phase(Stopped, func(s *SpeakerState) {
				s.Peers, s.Announced, s.Seen, s.Received, s.PID, s.Error = nil, nil, nil, nil, 0, ""
			})
			return
		case replaced:
			continue
		case crashed:
			r.restarting = true
		}
		if time.Since(began) >= r.m.timing.goodLife {
			crashes = 0
		}
		pause := backoff(crashes, r.m.timing.firstRetry, r.m.timing.longRetry)
		crashes++
		r.log.Error("speaker process ended", "reason", reason, "restart_in", pause)
		r.phase(Backoff, func(s *SpeakerState) {
			s.Restarts++
			s.LastExit, s.Peers, s.Announced, s.Seen, s.Received, s.PID = reason, nil, nil, nil, nil, 0
		})
		if !r.pause(ctx, pause) {
			break
		}
	}
	r.phase(Stopped, func(s *SpeakerState) {
		s.Peers, s.Announced, s.Seen, s.Received, s.PID, s.Error = nil, nil, nil, nil, 0, ""
	})
}

// pause waits, and tells whether to go on.
func (r *runner) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		if _, _, end := r.wanted(); end != nil {
			return false
		}
		select {
		case <-timer.C:
			return true
		case <-r.wake:
		case <-r.kill:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// phase shows a change of the runner's state.
func (r *runner) phase(p Phase, change func(*SpeakerState)) {
	next := *r.state.Load()
	if next.Phase != p {
		next.Phase, next.Since = p, time.Now()
	}
	if change != nil {
		change(&next)
	}
	r.state.Store(&next)
	r.m.show()
}

// live runs one process to its end.
func (r *runner) live(ctx context.Context) (ending, string) {
	cfg, _, _ := r.wanted()
	p, err := startProcess(ctx, r.m.opt.Command(r.name), r.log)
	if err != nil {
		return crashed, err.Error()
	}
	r.phase(Starting, func(s *SpeakerState) { s.PID = p.cmd.Process.Pid })
	l := newLink(r, p, cfg)
	how, reason := l.supervise(ctx)
	_ = p.conn.Close()
	l.wg.Wait()
	if o := l.stop.Load(); how == replaced {
		// Routers may still hold the routes of a process before this one, unless it
		// withdrew or lived for longer than they keep them.
		r.restarting = r.restarting && o.mode == StopRestart && time.Since(p.started) < cfg.GracefulRestart.RestartTime
	}
	if reason == "" {
		reason = p.reason
	}
	return how, reason
}
