package bfd

import (
	"errors"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// shortSlice is the time slice asked for in nanoseconds, the shortest there is.
const shortSlice = 100_000

// promptThread keeps the calling goroutine on its thread and has the kernel run
// it as soon as it wants to when all processors are busy. What is not permitted
// is left as it is. release gives the thread back as it was.
//
// The other threads of the process matter as well. The runtime's monitor takes
// the processor (P) from a goroutine that was in system calls for 10 ms, and a
// locked thread gets it back by way of others: when those wait behind busy
// loops, the real-time thread waits for them. Measured at a load of 12 on two
// processors, the worst lateness of a turn was 40 to 54 ms with a real-time
// thread among ordinary ones, 31 ms with short slices for all, and 1 to 5 ms
// with all threads in the real-time class. The last is only for a process of
// which nothing else can keep the processors from others: dedicated.
func promptThread(dedicated bool) (realTime bool, release func()) {
	runtime.LockOSThread()
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return false, runtime.UnlockOSThread
	}
	// The lowest real-time priority needs CAP_SYS_NICE. A short slice makes a
	// thread that wakes up preempt those with longer ones, without any
	// privilege, from Linux 6.12 on; it gives no larger share of the processor.
	wish := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
	slice := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: before.Policy, Nice: before.Nice, Runtime: shortSlice}
	if !dedicated || setThreads(wish) != nil {
		_ = setThreads(slice) // older kernels ignore it
	}
	if dedicated {
		wish.Priority = 2 // before the others, which take their turns
	} else {
		wish.Flags = unix.SCHED_FLAG_RESET_ON_FORK // not for threads that it starts
	}
	err = unix.SchedSetAttr(0, wish, 0)
	return err == nil, func() {
		_ = unix.SchedSetAttr(0, before, 0)
		runtime.UnlockOSThread()
	}
}

// setThreads applies attr to all threads of the process; those that they start
// inherit it. It returns the first error.
func setThreads(attr *unix.SchedAttr) error {
	var first error
	for range 3 { // a thread that was being started is found the next time
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, task := range tasks {
			id, bad := strconv.Atoi(task.Name())
			if bad == nil {
				bad = unix.SchedSetAttr(id, attr, 0)
			}
			if first == nil && !errors.Is(bad, unix.ESRCH) { // it may have ended
				first = bad
			}
		}
	}
	return first
}
