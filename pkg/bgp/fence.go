package bgp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// fenceBound is how long the withdraw of fenced paths may take, once their time
// is over, before the process ends itself: that closes the connections, which is
// a withdraw that needs nobody's help.
const fenceBound = 250 * time.Millisecond

// errFence ends a speaker process that cannot withdraw in time.
var errFence = errors.New("fenced paths could not be withdrawn in time")

// bootTime is CLOCK_BOOTTIME, which nobody can set and which counts the time that
// the machine was suspended.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("bgp: read CLOCK_BOOTTIME: %v", err)) // the kernel has it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// fenceMessage says until when fenced paths may be announced.
type fenceMessage struct {
	Until time.Duration `json:"until"` // on CLOCK_BOOTTIME
}

// setFence takes a new end. Fenced paths that had to go come back if it allows
// them to.
func (w *worker) setFence(until time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := bootTime()
	was, is := now >= w.fence, now >= until
	if is && was && w.swept == w.fence {
		w.swept = until // nothing has come since all was withdrawn
	} else {
		w.swept = 0
	}
	w.fence = until
	poke(w.fenced)
	if is && !was {
		w.interrupt()
	}
	if was || is {
		poke(w.changed)
	}
}

// standing are the wanted paths whose time is not over, and the fence if it is
// over, else 0. Both are of one moment: a list with fenced paths must never count
// as one without. The caller holds mu.
func (w *worker) standing(now time.Duration) (list []Path, over time.Duration) {
	if now >= w.fence {
		over = w.fence
	}
	list = make([]Path, 0, len(w.paths))
	for _, p := range w.paths {
		if !p.Fenced || now < w.fence {
			list = append(list, p)
		}
	}
	return list, over
}

// holdsFenced tells whether the RIB has a fenced path. The caller holds mu.
func (w *worker) holdsFenced() bool {
	announced := w.speaker.State().Announced
	for _, p := range w.paths {
		if _, found := slices.BinarySearchFunc(announced, p.Prefix, comparePrefix); p.Fenced && found {
			return true
		}
	}
	return false
}

// guard withdraws the fenced paths when their time is over, whatever the daemon
// does: it may be stopped, hang, or have lost its word to this process.
func (w *worker) guard(ctx context.Context) error {
	clock, err := newAlarm()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, clock.close)
	defer stop()
	defer clock.close()
	rang := make(chan struct{}, 1)
	go clock.ring(rang)
	for {
		w.mu.Lock()
		until := w.fence
		at := until
		if w.swept == until {
			at = 0 // all is done
		}
		w.mu.Unlock()
		if err := clock.set(at); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.fenced:
			continue
		case <-rang:
		}
		w.mu.Lock()
		over := w.fence > 0 && bootTime() >= w.fence && w.swept != w.fence
		if over {
			w.interrupt()
			poke(w.changed)
		}
		w.mu.Unlock()
		if over {
			w.sweep(ctx, until)
		}
	}
}

// sweep waits until the paths whose time was over are gone, and ends the process
// if they are not in time.
func (w *worker) sweep(ctx context.Context, until time.Duration) {
	w.log.Warn("fenced paths are withdrawn: nobody has said in time that they may stay")
	deadline := time.NewTimer(fenceBound)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for over := false; ; {
		w.mu.Lock()
		done := w.swept == until || w.fence != until
		w.mu.Unlock()
		switch {
		case done:
			return
		case over: // looked at once more: the machine may have stood still since the last time
			w.die(errFence)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-deadline.C:
			over = true
		}
	}
}

// dieNow ends the process without a word.
func (w *worker) dieNow(err error) {
	w.log.Error("speaker process ends itself", "error", err)
	os.Exit(1)
}

// alarm rings at a time on CLOCK_BOOTTIME, also when the machine was suspended
// until then: Go's timers do not count that.
type alarm struct {
	file *os.File
	fd   int
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	return &alarm{file: os.NewFile(uintptr(fd), "timer"), fd: fd}, nil
}

// set makes it ring at a time, at once for one that is over, never for 0.
func (a *alarm) set(at time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(at))}
	if err := unix.TimerfdSettime(a.fd, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	return nil
}

// ring tells of each end until the alarm is closed.
func (a *alarm) ring(rang chan struct{}) {
	var buf [8]byte
	for {
		if _, err := a.file.Read(buf[:]); err != nil {
			return
		}
		poke(rang)
	}
}

func (a *alarm) close() { _ = a.file.Close() } // closed already, or nobody reads it any more
