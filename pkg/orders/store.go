package orders

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what a Store needs.
type Options struct {
	Log *slog.Logger
	// Dir holds the file. It must survive a reboot. It is made with the first
	// order.
	Dir string
	// Changed is called after each change, with no lock held by the caller of
	// Change but that of the store: it must not call the store's writers.
	Changed func()
	// Expired is told the names of run-time VIPs that were not renewed; may be nil.
	Expired func(names []string)
}

// Store keeps the orders. Its methods may be called from any goroutine.
type Store struct {
	opt     Options
	current atomic.Pointer[Orders]
	wake    chan struct{}

	mu   sync.Mutex // one change at a time
	file file

	behind atomic.Bool // the file may not have the orders in force
}

// Open reads what a former process left. A file that cannot be read is no error:
// see Orders.Damage.
func Open(o Options) *Store {
	s := &Store{opt: o, wake: make(chan struct{}, 1), file: newFile(o.Dir)}
	orders, err := s.file.read()
	if err != nil {
		orders = &Orders{Damage: err.Error()}
		o.Log.Error("orders of a former process are not readable, every vip counts as drained", "error", err)
	}
	if info, err := os.Stat(o.Dir); err == nil && !info.IsDir() {
		o.Log.Error("no order can be taken: the data directory is no directory", "directory", o.Dir)
	}
	now := time.Now()
	for i := range orders.VIPs {
		orders.VIPs[i].Expires = orders.VIPs[i].end(now)
	}
	s.current.Store(orders)
	return s
}

// Orders is the snapshot in force, never nil.
func (s *Store) Orders() *Orders { return s.current.Load() }

// ErrDamaged tells that no order is taken while the file cannot be read.
var ErrDamaged = errors.New("what was ordered before is not known")

// Change makes a change: it gives a copy of the snapshot to do, which may replace
// its lists but not write into them. Once Change returns nil, the orders are on
// disk and published. An error of do, or of the disk, changes nothing, or says that a
// restart may carry the order out all the same.
func (s *Store) Change(do func(next *Orders, now time.Time) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if damage := s.current.Load().Damage; damage != "" {
		return fmt.Errorf("%w: %s; 'vipspeaker undrain --all' puts the file aside and begins anew", ErrDamaged, damage)
	}
	return s.change(do)
}

// Reset is Change for an order that makes those before it void: a file that
// cannot be read is put aside.
func (s *Store) Reset(do func(next *Orders, now time.Time) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.Load().Damage == "" {
		return s.change(do)
	}
	kept, err := s.file.putAside()
	if err != nil {
		return err
	}
	s.opt.Log.Warn("unreadable orders put aside", "file", kept)
	s.current.Store(&Orders{})
	return s.change(do)
}

func (s *Store) change(do func(next *Orders, now time.Time) error) error {
	now := time.Now()
	next := *s.current.Load()
	expired := next.purge(now)
	if err := do(&next, now); err != nil {
		return err
	}
	if err := s.file.write(&next); err != nil {
		return s.takeBack(err)
	}
	s.behind.Store(false)
	s.current.Store(&next)
	if len(expired) > 0 && s.opt.Expired != nil {
		s.opt.Expired(expired)
	}
	s.opt.Changed()
	s.poke()
	return nil
}

// takeBack sees to it that an order which could not be written is not carried out by a
// restart: the file may have it although its directory could not be synced. It returns
// what the caller is told.
func (s *Store) takeBack(err error) error {
	if !s.file.unsure {
		return err
	}
	back := s.file.write(s.current.Load())
	if back == nil {
		return err
	}
	s.late(back)
	s.poke()
	return fmt.Errorf("%w; it is not in force now, but cannot be taken back on the disk either (%w): until it can, a restart may carry it out", err, back)
}

// late notes that the file does not have the orders in force, and tells so once.
func (s *Store) late(err error) {
	if !s.behind.Swap(true) {
		s.opt.Log.Warn("orders in force not written", "error", err)
	}
}

// poke has Run look again.
func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// retry is the time to the next try to write the orders to a disk that does not take
// them.
const retry = 5 * time.Second

// Run ends what is over, until ctx does.
func (s *Store) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		wait := s.expire()
		timer.Reset(wait)
	}
}

// expire ends what is over and returns the time to the next look.
func (s *Store) expire() time.Duration {
	wait := time.Hour
	if next := s.Orders().next(); !next.IsZero() {
		wait = min(wait, time.Until(next))
	}
	if wait <= 0 {
		s.end()
		return 0
	}
	if s.behind.Load() && !s.catchUp() {
		return min(wait, retry)
	}
	return wait
}

// end publishes what is left of the orders. A dead owner's VIP goes also when the
// disk does not take that.
func (s *Store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.current.Load()
	expired := next.purge(time.Now())
	if err := s.file.write(&next); err == nil {
		s.behind.Store(false)
	} else {
		s.late(err)
	}
	s.current.Store(&next)
	if len(expired) > 0 && s.opt.Expired != nil {
		s.opt.Expired(expired)
	}
	s.opt.Changed()
}

// catchUp writes what the file lacks. Without it a restart would bring back what is
// over, or was refused. It tells whether the file is right.
func (s *Store) catchUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file.write(s.current.Load()) != nil {
		return false
	}
	if s.behind.Swap(false) {
		s.opt.Log.Info("orders in force written")
	}
	return true
}
