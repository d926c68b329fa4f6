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
	}
	if !en.heardAt.IsZero() {
		v.RemoteStatus, v.RemoteDiagnostic = en.remoteState.status(), en.remoteDiag.words()
	}
	old := s.view.Swap(v)
	return old.Status != v.Status || old.RemoteStatus != v.RemoteStatus || old.Error != v.Error
}

// shown is what a packet may change of the view.
type shown struct {
	state, remoteState    state
	diag, remoteDiag      diagnostic
	txInterval, detection time.Duration
	heard                 bool
}

func (s *session) shown() shown {
	return shown{
		state: s.state, remoteState: s.remoteState, diag: s.diag, remoteDiag: s.remoteDiag,
		txInterval: s.txInterval(), detection: s.detection, heard: !s.heardAt.IsZero(),
	}
}
