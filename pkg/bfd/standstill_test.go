package bfd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// shortestStandstill is what is told: three of less do not end a session of 10 ms × 3.
const shortestStandstill = 5 * time.Millisecond

// tellStandstills watches each processor by a thread of a high real-time priority
// that wakes up every 2 ms, and prints the times, as instants, in which one did not:
// nothing ran there, the machine stood still. For each octet of stdin each thread
// prints a line "so far" when it has told all that was before; it ends with stdin. It
// is a process of its own, with nothing that a collector of garbage or another
// goroutine could hold up.
func tellStandstills() error {
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(runtime.NumCPU() + 2) // or those that wait would wait for each other
	failed := make(chan error)
	var asked atomic.Int64
	for cpu := range runtime.NumCPU() {
		go func() { failed <- tellStandstill(cpu, &asked) }()
	}
	go func() {
		for b := make([]byte, 1); ; asked.Add(1) {
			if _, err := os.Stdin.Read(b); err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				failed <- err
				return
			}
		}
	}()
	return <-failed
}

func tellStandstill(cpu int, asked *atomic.Int64) error {
	runtime.LockOSThread()
	var own unix.CPUSet
	own.Set(cpu)
	if err := unix.SchedSetaffinity(0, &own); err != nil {
		return fmt.Errorf("bind to processor %d: %w", cpu, err)
	}
	high := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 50, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if err := unix.SchedSetAttr(0, high, 0); err != nil {
		return fmt.Errorf("take real-time priority: %w", err)
	}
	_, _ = fmt.Fprintln(os.Stdout, "ready")
	step := unix.NsecToTimespec(int64(2 * time.Millisecond))
	told := int64(0)
	for last := newClock().mono; ; {
		question := asked.Load()
		if err := unix.Nanosleep(&step, nil); err != nil && err != unix.EINTR {
			return fmt.Errorf("sleep: %w", err)
		}
		now := newClock().mono
		if time.Duration(now-last) >= shortestStandstill {
			_, _ = fmt.Fprintln(os.Stdout, last, now)
		}
		last = now
		if told < question {
			told = question
			_, _ = fmt.Fprintln(os.Stdout, "so far")
		}
	}
}
