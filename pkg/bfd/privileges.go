package bfd

import (
	"golang.org/x/sys/unix"

	"vipspeaker/internal/privilege"
)

// parentGone is the signal that a BFD process gets when the daemon's thread that
// started it ends. It says goodbye to the other ends then, as when the
// connection closes, so that a daemon that crashed is not taken for a path that
// failed.
const parentGone = unix.SIGUSR1

// confinement is what a BFD process keeps: real-time priority for its threads,
// until they have it; those that they start inherit it (sched(7)).
func confinement() *privilege.Confinement {
	const (
		data = 1 << 30 // private writable memory, octets
		// Processor time that a real-time thread may use without waiting once,
		// microseconds: at the first limit the Go runtime ends the process with a
		// trace, at the second the kernel does.
		busy, busyHard = 1_000_000, 2_000_000
	)
	return &privilege.Confinement{
		Keep: 1 << unix.CAP_SYS_NICE, ParentGone: parentGone,
		Limits: map[int]unix.Rlimit{
			unix.RLIMIT_CORE: {}, unix.RLIMIT_FSIZE: {}, unix.RLIMIT_DATA: {Cur: data, Max: data}, unix.RLIMIT_RTTIME: {Cur: busy, Max: busyHard},
		},
	}
}
