package bgp

import (
	"syscall"

	"golang.org/x/sys/unix"

	"vipspeaker/internal/privilege"
)

// confinement is what a speaker process keeps: binding to a low port, and death
// with the daemon's thread that started it. A router may send as many routes as it
// likes; memory that it fills costs its own interface's speaker only.
func confinement() *privilege.Confinement {
	const (
		files = 512
		data  = 2 << 30 // private writable memory, octets
	)
	return &privilege.Confinement{
		Keep: 1 << unix.CAP_NET_BIND_SERVICE, ParentGone: syscall.SIGKILL,
		Limits: map[int]unix.Rlimit{
			unix.RLIMIT_CORE: {}, unix.RLIMIT_FSIZE: {}, unix.RLIMIT_NOFILE: {Cur: files, Max: files}, unix.RLIMIT_DATA: {Cur: data, Max: data},
		},
	}
}
