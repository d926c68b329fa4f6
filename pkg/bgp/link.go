package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// lastWords is how long a process that closed its connection may take to end.
const lastWords = time.Second

// link is the conversation with one process.
type link struct {
	r    *runner
	p    *process
	cfg  SpeakerConfig // what the process was started with
	wg   sync.WaitGroup
	in   chan message  // from the process
	fail chan error    // cap 2: the connection broke
	out  chan struct{} // something is to be sent
	stop atomic.Pointer[stopOrder]
	ping atomic.Uint64 // the last ping that is due

	// Owned by supervise.
	pong, misses uint64
	how          ending
	reason       string
	deadline     <-chan time.Time // when the process is killed
}

func newLink(r *runner, p *process, cfg SpeakerConfig) *link {
	return &link{r: r, p: p, cfg: cfg, in: make(chan message, 16), fail: make(chan error, 2), out: make(chan struct{}, 1)}
}

// supervise follows one process until it has ended.
func (l *link) supervise(ctx context.Context) (ending, string) {
	l.wg.Go(func() { l.fail <- l.send(ctx) })
	l.wg.Go(func() { l.fail <- l.receive() })
	tick := time.NewTicker(l.r.m.timing.ping)
	defer tick.Stop()
	l.follow()
	for {
		select {
		case <-l.p.exited:
			return l.how, l.reason
		case <-ctx.Done():
			l.how = stopped
			l.p.kill()
			<-l.p.exited
			return l.how, l.reason
		case <-l.r.kill:
			l.how = stopped
			l.p.kill()
			<-l.p.exited
			return l.how, l.reason
		case <-l.deadline:
			if l.how == stopped {
				l.r.killed.Store(true)
			}
			l.p.kill()
		case err := <-l.fail:
			l.broken(err)
		case m := <-l.in:
			l.take(m)
		case <-tick.C:
			l.check()
		case <-l.r.wake:
			l.follow()
		}
	}
}

// broken deals with the end of the connection: an orderly one leaves the
// process time for its last words, a breach of the protocol does not.
func (l *link) broken(err error) {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		if l.deadline == nil {
			l.deadline = time.After(lastWords)
		}
		return
	}
	if l.how == crashed {
		l.reason = err.Error()
	}
	l.p.kill()
}

// finish tells the process to end and sets the bound for that.
func (l *link) finish(how ending, o stopOrder) {
	l.how, l.deadline = how, time.After(l.r.m.timing.drain)
	l.stop.Store(&o)
	poke(l.out)
}

// follow carries a change of the wishes out.
func (l *link) follow() {
	cfg, _, end := l.r.wanted()
	switch {
	case end != nil && l.how != stopped:
		l.finish(stopped, *end)
	case l.how == crashed && (cfg.ASN != l.cfg.ASN || cfg.RouterID != l.cfg.RouterID):
		l.finish(replaced, stopOrder{StopDrain, "the AS number or router ID of this host changes"})
	}
	poke(l.out)
}

// check pings, and kills a process that left too many pings unanswered. It
// counts pings and not time, so that a pause of the daemon itself is no fault
// of the process.
func (l *link) check() {
	if last := l.ping.Load(); l.pong != last {
		l.misses++
		if l.how == crashed && l.misses >= uint64(l.r.m.timing.misses) { //nolint:gosec // a small constant
			l.reason = fmt.Sprintf("no answer for %s, killed", time.Duration(l.r.m.timing.misses)*l.r.m.timing.ping)
			l.p.kill()
		}
		return
	}
	l.misses = 0
	l.ping.Add(1)
	poke(l.out)
}

// take carries a message of the process out. What it says is shown, and decides
// nothing but its own replacement. What peers sent is believed as far as it was
// asked for.
func (l *link) take(m message) {
	switch {
	case m.Hello != nil:
		if m.Hello.Version != protocolVersion {
			l.reason = fmt.Sprintf("speaks protocol version %d, not %d", m.Hello.Version, protocolVersion)
			l.p.kill()
		}
	case m.Pong != nil:
		l.pong = m.Pong.ID
	case m.Announced != nil:
		valid := slices.DeleteFunc(m.Announced.Prefixes, func(p netip.Prefix) bool { return checkPath(Path{Prefix: p}) != nil })
		l.r.phase(l.r.state.Load().Phase, func(s *SpeakerState) { s.Announced = valid })
	case m.Report != nil:
		cfg, _, _ := l.r.wanted()
		peers := slices.DeleteFunc(m.Report.State.Peers, func(p PeerState) bool {
			return !slices.ContainsFunc(cfg.Peers, func(q Peer) bool { return q.Address == p.Address })
		})
		l.r.tally(peers)
		seen, received := believable(m.Report.State.Seen, &cfg), admissible(m.Report.State.Received, &cfg)
		l.r.phase(Running, func(s *SpeakerState) {
			s.Error, s.Peers, s.Seen, s.Received = m.Report.State.Error, peers, seen, received
		})
		if m.Report.NeedsRestart && l.how == crashed {
			l.r.log.Info("speaker process is replaced", "reason", "listen addresses changed")
			l.finish(replaced, stopOrder{StopRestart, ""})
		}
	}
}

func (l *link) receive() error {
	for {
		m, err := readMessage(l.p.conn)
		if err != nil {
			return err
		}
		select {
		case l.in <- m:
		case <-l.p.exited:
			return nil
		}
	}
}

// send writes what is due, in the order of urgency: the order to stop, a ping,
// and then the difference between what the process was told and what is wanted
// now. That is looked at anew before every message, so nothing waits behind a
// long list.
func (l *link) send(ctx context.Context) error {
	hello := &helloMessage{
		Version: protocolVersion, Restarting: l.r.restarting, PingTimeout: l.r.m.timing.pingTimeout,
		Debug: l.r.log.Enabled(ctx, slog.LevelDebug),
	}
	if err := writeMessage(l.p.conn, message{Hello: hello}); err != nil {
		return err
	}
	told := told{paths: map[pathKey]Path{}}
	var pinged uint64
	for {
		if o := l.stop.Load(); o != nil {
			return writeMessage(l.p.conn, message{Stop: &stopMessage{Mode: o.mode, Text: o.text}})
		}
		if id := l.ping.Load(); id != pinged {
			pinged = id
			if err := writeMessage(l.p.conn, message{Ping: &pingMessage{ID: id}}); err != nil {
				return err
			}
		}
		cfg, rev, _ := l.r.wanted()
		if m, any := told.next(cfg, rev); any {
			if err := writeMessage(l.p.conn, m); err != nil {
				return err
			}
			continue
		}
		select {
		case <-l.out:
		case <-l.p.exited:
			return nil
		}
	}
}

// told is what a process has been told to hold.
type told struct {
	seq      uint64
	sessions SpeakerConfig // without paths; no name before the first
	paths    map[pathKey]Path
	fence    time.Duration

	rev uint64 // of the wishes that the following were made for
	del []pathKey
	set []Path
}

// next returns the next message on the way to cfg, whose revision is rev: peers
// that must go, paths that must go, higher limits for what the coming paths bring
// back, paths that must come, at last everything else.
func (t *told) next(cfg SpeakerConfig, rev uint64) (message, bool) {
	if rev != t.rev {
		t.rev = rev
		t.diff(cfg)
	}
	cfg.Paths = nil
	if keep := t.kept(cfg); len(keep) < len(t.sessions.Peers) {
		less := t.sessions
		less.Peers, less.DownReason, less.DownReasons = keep, cfg.DownReason, cfg.DownReasons
		return t.tell(less), true
	}
	if len(t.del) > 0 {
		t.seq++
		m := &pathsMessage{Seq: t.seq, Delete: t.del}
		for _, p := range t.del {
			delete(t.paths, p)
		}
		t.del = nil
		return message{Paths: m}, true
	}
	// After what must go: the later end is for the rest only.
	if cfg.Fence != t.fence {
		t.fence = cfg.Fence
		return message{Fence: &fenceMessage{Until: cfg.Fence}}, true
	}
	if t.sessions.Name != "" && cfg.Reflected > t.sessions.Reflected {
		more := t.sessions
		more.Reflected = cfg.Reflected
		return t.tell(more), true
	}
	if n := min(pathChunk, len(t.set)); n > 0 {
		t.seq++
		m := &pathsMessage{Seq: t.seq, Set: t.set[:n]}
		for _, p := range t.set[:n] {
			t.paths[p.key()] = p
		}
		t.set = t.set[n:]
		return message{Paths: m}, true
	}
	if !sameSessions(t.sessions, cfg) {
		return t.tell(cfg), true
	}
	return message{}, false
}

func (t *told) tell(cfg SpeakerConfig) message {
	t.seq++
	t.sessions = cfg
	return message{Sessions: newSessionsMessage(t.seq, cfg)}
}

// diff computes which paths must go and which must come.
func (t *told) diff(cfg SpeakerConfig) {
	t.del, t.set = nil, nil
	wanted := make(map[pathKey]bool, len(cfg.Paths))
	for _, p := range cfg.Paths {
		wanted[p.key()] = true
		if old, ok := t.paths[p.key()]; !ok || !samePath(old, p) || old.Fenced != p.Fenced {
			t.set = append(t.set, p)
		}
	}
	for p := range t.paths {
		if !wanted[p] {
			t.del = append(t.del, p)
		}
	}
}

// kept returns the told peers that are still wanted, with the old parameters.
func (t *told) kept(cfg SpeakerConfig) []Peer {
	var keep []Peer
	for _, p := range t.sessions.Peers {
		if slices.ContainsFunc(cfg.Peers, func(q Peer) bool { return q.Address == p.Address }) {
			keep = append(keep, p)
		}
	}
	return keep
}

// sameSessions compares all but the paths, and the reasons that only peers which
// go are told.
func sameSessions(a, b SpeakerConfig) bool {
	return a.Name == b.Name && a.ASN == b.ASN && a.RouterID == b.RouterID && a.ListenPort == b.ListenPort &&
		a.GracefulRestart == b.GracefulRestart && a.Reflected == b.Reflected && slices.Equal(a.Watch, b.Watch) && slices.Equal(a.Import, b.Import) &&
		slices.Equal(a.ListenAddresses, b.ListenAddresses) && slices.EqualFunc(a.Peers, b.Peers, samePeer)
}
