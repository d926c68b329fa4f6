package main

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"

	"vipspeaker/pkg/status"
)

// keeper writes into the state directory what the next process needs to know of this
// one: the router id and the fronts. It does so beside the control loop, which a disk
// that hangs must not hold up. Of what it is told the newest counts.
type keeper struct {
	dir  string
	log  *slog.Logger
	wake chan struct{} // cap 1

	mu       sync.Mutex // guards what is told
	routerID netip.Addr // the one in force, zero if the configuration gives it
	known    bool       // routerID was told
	fronts   []netip.Prefix
	fresh    bool // fronts were told since they were written last

	// What follows belongs to write.

	written netip.Addr      // the router id in the directory
	kept    bool            // there may be a file of fronts
	failing map[string]bool // by name of the file
}

func newKeeper(dir string, logger *slog.Logger) *keeper {
	return &keeper{dir: dir, log: logger, wake: make(chan struct{}, 1), failing: map[string]bool{}}
}

// adopt tells what a former process has left in the directory, before run.
func (k *keeper) adopt(routerID netip.Addr, fronts []netip.Prefix) {
	k.written, k.kept = routerID, len(fronts) > 0
}

// keep takes a picture; given is the router id of the configuration, which is not kept:
// nor is one that was chosen before it, which routers know no more. It never waits for
// the disk.
func (k *keeper) keep(s *status.Status, given netip.Addr) {
	list := fronts(s)
	k.mu.Lock()
	if s.RouterID.IsValid() {
		k.routerID, k.known = s.RouterID, true
		if s.RouterID == given {
			k.routerID = netip.Addr{}
		}
	}
	if !s.Stopping { // what was there before the stop counts
		k.fronts, k.fresh = list, true
	}
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, and then what is left to be written.
func (k *keeper) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			k.write()
			return nil
		case <-k.wake:
			k.write()
		}
	}
}

// write writes what was told since the last time, and tries again what failed then.
func (k *keeper) write() {
	k.mu.Lock()
	id, known, list, fresh := k.routerID, k.known, k.fronts, k.fresh
	k.fresh = false
	k.mu.Unlock()
	if known && id != k.written {
		err := writeRouterID(k.dir, id)
		if err == nil {
			k.written = id
		}
		k.tell(routerIDName, err)
	}
	if fresh && (len(list) > 0 || k.kept) {
		k.kept = true
		err := writeFronts(k.dir, list)
		if err == nil {
			k.kept = len(list) > 0
		}
		k.tell(frontsName, err)
	}
}

// tell logs once that a file cannot be written, and that it can again: there are
// passes all the time.
func (k *keeper) tell(name string, err error) {
	switch {
	case err != nil && !k.failing[name]:
		k.log.Warn("state not kept for the next start", "file", name, "error", err)
	case err == nil && k.failing[name]:
		k.log.Info("state kept for the next start again", "file", name)
	}
	k.failing[name] = err != nil
}
