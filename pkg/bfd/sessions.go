package bfd

import "time"

// apply makes the wanted sessions those that run.
func (e *engine) apply(list []wanted) {
	keep := make(map[sessionKey]bool, len(list))
	for i := range list {
		keep[list[i].slot.key] = true
	}
	for key, en := range e.all {
		if !keep[key] {
			e.end(en, false)
		}
	}
	for i := range list {
		w := &list[i]
		en := e.all[w.slot.key]
		if en == nil {
			e.add(w)
			continue
		}
		en.slot, en.dirty = w.slot, true
		en.reconfigure(&w.cfg, e.now)
		e.settle(en)
	}
}

// add starts a session, which opens its path when it is served.
func (e *engine) add(w *wanted) {
	if old := e.leaving[w.slot.key]; old != nil {
		e.drop(old) // the new one's packets speak for themselves
	}
	discr := e.rnd.Uint32()
	for discr == 0 || e.byDiscr[discr] != nil {
		discr = e.rnd.Uint32()
	}
	en := &entry{
		session: newSession(&w.cfg, discr, e.rnd, e.now),
		slot:    w.slot, at: e.now, nextCheck: e.now, dirty: true,
	}
	e.all[w.slot.key] = en
	e.byDiscr[discr] = en
	e.queue.add(en)
}

// end takes a session out of the wanted ones and has it say goodbye.
func (e *engine) end(en *entry, stop bool) {
	key := en.slot.key
	before := en.state
	if e.all[key] == en {
		delete(e.all, key)
		e.leaving[key] = en
	}
	en.goodbye(e.now, stop)
	e.note(en, before)
	en.nextCheck = e.now.Add(checkInterval)
	if en.path == nil || en.ended(e.now) {
		e.drop(en)
		return
	}
	e.settle(en)
}

// drop removes a session and all that belongs to it.
func (e *engine) drop(en *entry) {
	if e.byDiscr[en.localDiscr] != en {
		return
	}
	e.closePath(en)
	delete(e.byDiscr, en.localDiscr)
	if e.leaving[en.slot.key] == en {
		delete(e.leaving, en.slot.key)
	}
	e.queue.remove(en)
}

// check looks whether packets can go and come, and opens the path if it is not
// open or the interface is another one now.
func (e *engine) check(en *entry) {
	en.nextCheck = e.now.Add(checkInterval)
	if en.state == stateAdminDown {
		return
	}
	var err error
	if en.path != nil {
		var stale bool
		if stale, err = en.path.check(); stale {
			e.closePath(en)
		}
	}
	if en.path == nil {
		err = e.openPath(en)
	}
	switch {
	case err != nil:
		e.fail(en, err.Error(), false)
	case !en.sendErr:
		e.fail(en, "", false)
	}
	if en.err != "" {
		en.nextCheck = e.now.Add(retryInterval)
	}
}

// openPath opens the session's path and has a packet sent at once.
func (e *engine) openPath(en *entry) error {
	p, err := e.net.dial(&en.cfg)
	if err != nil {
		return err
	}
	en.path = p
	en.addr = addrKey{
		peer: en.slot.key.peer, local: en.slot.key.local,
		ifindex: p.index(), multihop: en.cfg.Multihop,
	}
	e.byAddr[en.addr] = en
	en.sendErr = false
	en.sendNow, en.lastTx = true, time.Time{}
	return nil
}

func (e *engine) closePath(en *entry) {
	if en.path == nil {
		return
	}
	en.path.close()
	en.path = nil
	if e.byAddr[en.addr] == en {
		delete(e.byAddr, en.addr)
	}
}
