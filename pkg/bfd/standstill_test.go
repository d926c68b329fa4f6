package bfd

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// shortestStandstill is what is told: less does not end a session of 10 ms × 3.
const shortestStandstill = 20 * time.Millisecond

// tellStandstills watches each processor by a thread of a high real-time priority
// that wakes up every 2 ms, and prints the times, in nanoseconds of the clock, in
// which one did not: nothing ran there, the machine stood still. It ends with
// stdin. It is a process of its own, with nothing that a collector of garbage or
// another goroutine could hold up.
func tellStandstills() error {
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(runtime.NumCPU() + 2) // or those that wait would wait for each other
	failed := make(chan error)
	for cpu := range runtime.NumCPU() {
		go func() { failed <- tellStandstill(cpu) }()
	}
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		failed <- err
	}()
	return <-failed
}

func tellStandstill(cpu int) error {
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
	for last := time.Now(); ; {
		if err := unix.Nanosleep(&step, nil); err != nil && err != unix.EINTR {
			return fmt.Errorf("sleep: %w", err)
		}
		now := time.Now()
		if now.Sub(last) >= shortestStandstill {
			_, _ = fmt.Fprintln(os.Stdout, last.UnixNano(), now.UnixNano())
		}
		last = now
	}
}
