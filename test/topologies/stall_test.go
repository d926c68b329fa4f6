package topologies

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stallWatch notes for how long this machine keeps an ordinary thread waiting that
// wants to run: what it does to that it does to the daemon.
type stallWatch struct {
	mu   sync.Mutex
	list []stall
}

// stall is one wait of a millisecond or more.
type stall struct{ from, to time.Time }

// watchStalls watches until the test ends.
func watchStalls(t *testing.T) *stallWatch {
	t.Helper()
	w := &stallWatch{}
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		step := unix.NsecToTimespec(int64(500 * time.Microsecond))
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			default:
			}
			if err := unix.Nanosleep(&step, nil); err != nil && err != unix.EINTR {
				t.Errorf("watch for stalls: %v", err)
				return
			}
			now := time.Now()
			if due := last.Add(500 * time.Microsecond); now.Sub(due) >= time.Millisecond {
				w.mu.Lock()
				w.list = append(w.list, stall{due, now})
				w.mu.Unlock()
			}
			last = now
		}
	}()
	return w
}

// longest is the longest wait that was in a time, even in part.
func (w *stallWatch) longest(from, to time.Time) (d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.list {
		if s.from.Before(to) && s.to.After(from) {
			d = max(d, s.to.Sub(s.from))
		}
	}
	return d
}
