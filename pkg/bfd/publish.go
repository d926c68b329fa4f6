package bfd

import (
	"sync/atomic"
	"time"
)

// slot is where the engine leaves what a session is for State. Counters are
// beside the view, so that counting publishes nothing.
type slot struct {
	key      sessionKey
	view     atomic.Pointer[SessionState]
	sent     atomic.Uint64
	received atomic.Uint64
	dropped  atomic.Uint64
	lastDrop atomic.Uint32
	// remote tells that the session runs in another process, whose reports fill
	// the view with its counters. before is what former processes counted, for
	// the supervisor only.
	remote bool
	before SessionState
	// since and downSince are the times of the view as the process told them.
	since, downSince instant
}

// newSlot returns that of a session that does not run, or not yet.
func newSlot(key sessionKey, c *SessionConfig, err error) *slot {
	v := &SessionState{
		Peer: c.Peer, Local: c.Local, Interface: c.Interface, Multihop: c.Multihop,
		Status: Down, Since: time.Now(),
	}
	if err != nil {
		v.Error = err.Error()
	}
	s := &slot{key: key}
	s.view.Store(v)
	return s
}

// state is the view with the counters as they are now.
func (s *slot) state() SessionState {
	v := *s.view.Load()
	if s.remote {
		return v
	}
	v.Sent, v.Received, v.Dropped = s.sent.Load(), s.received.Load(), s.dropped.Load()
	v.LastDrop = drop(s.lastDrop.Load()).words()
	return v
}

// publish makes what the session is visible and tells whether that is to be
// poked about.
func (s *slot) publish(en *entry) bool {
	c := &en.cfg
	v := &SessionState{
		Peer: c.Peer, Local: c.Local, Interface: c.Interface, Multihop: c.Multihop,
		Status: en.state.status(), Since: en.since, Diagnostic: en.diag.words(),
		WasUp: en.wasUp, DownSince: en.downSince, Downs: en.downs,
		TxInterval: en.txInterval(), DetectionTime: en.detection, Error: en.err,
		Rotating: en.rotation != nil,
	}
	if !en.heardAt.IsZero() {
		v.RemoteStatus, v.RemoteDiagnostic = en.remoteState.status(), en.remoteDiag.words()
	}
	return differs(s.view.Swap(v), v)
}

// differs tells whether there is something to poke about.
func differs(old, v *SessionState) bool {
	return old.Status != v.Status || old.RemoteStatus != v.RemoteStatus || old.Error != v.Error || old.Rotating != v.Rotating
}

// accept makes visible what a process reports, over what former ones did, and
// tells whether that is to be poked about. Which session it is, is not for the
// process to say.
func (s *slot) accept(w *wireState, c clock) bool {
	v, old, b := w.SessionState, s.view.Load(), &s.before
	v.Peer, v.Local, v.Interface, v.Multihop = old.Peer, old.Local, old.Interface, old.Multihop
	v.WasUp = v.WasUp || b.WasUp
	// The same time is not made anew: it would be a little different.
	if v.Since = old.Since; w.Since != s.since {
		v.Since, s.since = c.time(w.Since), w.Since
	}
	switch w.DownSince {
	case 0:
		v.DownSince = b.DownSince
	case s.downSince:
		v.DownSince = old.DownSince
	default:
		v.DownSince, s.downSince = c.time(w.DownSince), w.DownSince
	}
	v.Downs += b.Downs
	v.Sent, v.Received, v.Dropped = v.Sent+b.Sent, v.Received+b.Received, v.Dropped+b.Dropped
	if v.LastDrop == "" {
		v.LastDrop = b.LastDrop
	}
	v.Status, v.RemoteStatus = known(v.Status, Down), known(v.RemoteStatus, "")
	for _, text := range []*string{&v.Diagnostic, &v.RemoteDiagnostic, &v.LastDrop, &v.Error} {
		*text = clip(*text)
	}
	s.view.Store(&v)
	return differs(old, &v)
}

// known is the status if it is one, otherwise other.
func known(s, other SessionStatus) SessionStatus {
	switch s {
	case AdminDown, Down, Init, Up:
		return s
	default:
		return other
	}
}

// lose shows that the process ended, which is no failure of the path, and tells
// whether that is to be poked about.
func (s *slot) lose(text string) bool {
	old := s.view.Load()
	if old.Error == text {
		return false
	}
	v := *old
	v.Error, v.Diagnostic, v.RemoteStatus, v.RemoteDiagnostic, v.Rotating = text, "", "", "", false
	v.TxInterval, v.DetectionTime = 0, 0
	if v.Status != Down {
		v.Status, v.Since = Down, time.Now()
	}
	if old.Status == Up {
		v.DownSince = v.Since
	}
	s.before = v
	s.view.Store(&v)
	return true
}

// shown is what a packet may change of the view.
type shown struct {
	state, remoteState    state
	diag, remoteDiag      diagnostic
	txInterval, detection time.Duration
	heard, rotating       bool
}

func (s *session) shown() shown {
	return shown{
		state: s.state, remoteState: s.remoteState, diag: s.diag, remoteDiag: s.remoteDiag,
		txInterval: s.txInterval(), detection: s.detection, heard: !s.heardAt.IsZero(), rotating: s.rotation != nil,
	}
}
