package bfd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Resource limits of a BFD process.
const (
	limitData = 1 << 30 // private writable memory, octets
	// Processor time that a real-time thread may use without waiting once,
	// microseconds: at the first limit the Go runtime ends the process with a
	// trace, at the second the kernel does.
	limitBusy, limitBusyHard = 1_000_000, 2_000_000
)

// nobody is the user that a BFD process runs as when the daemon may choose.
const nobody = 65534

// parentGone is the signal that a BFD process gets when the daemon's thread that
// started it ends. It says goodbye to the other ends then, as when the
// connection closes, so that a daemon that crashed is not taken for a path that
// failed.
const parentGone = unix.SIGUSR1

// restrict takes away what a BFD process never needs: every capability but
// CAP_SYS_NICE, and ways to get any (capabilities(7), prctl(2)). It tells whether
// the process could be restricted at all.
func restrict(logger *slog.Logger) (able bool, err error) {
	err = prctlAll(unix.PR_SET_NO_NEW_PRIVS, 1)
	if errors.Is(err, syscall.ENOTSUP) {
		// A binary with cgo, as the race detector needs it, cannot do this.
		logger.Warn("privileges are not dropped on all threads, because the binary uses cgo")
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("set no_new_privs: %w", err)
	}
	// Again here, because exec forgets it for a file with capabilities.
	if err := prctlAll(unix.PR_SET_PDEATHSIG, uintptr(parentGone)); err != nil {
		return false, fmt.Errorf("set parent death signal: %w", err)
	}
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		err := prctlAll(unix.PR_CAPBSET_DROP, c)
		if errors.Is(err, unix.EPERM) {
			break // without CAP_SETPCAP; no_new_privs holds anyway
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // a kernel that knows fewer
			return false, fmt.Errorf("drop capability %d from bounding set: %w", c, err)
		}
	}
	if err := prctlAll(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil {
		return false, fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := setCapabilities(1 << unix.CAP_SYS_NICE & permitted()); err != nil {
		return false, err
	}
	for resource, limit := range map[int]unix.Rlimit{
		unix.RLIMIT_CORE: {}, unix.RLIMIT_FSIZE: {},
		unix.RLIMIT_DATA:   {Cur: limitData, Max: limitData},
		unix.RLIMIT_RTTIME: {Cur: limitBusy, Max: limitBusyHard},
	} {
		if err := lowerLimit(resource, limit); err != nil {
			return false, err
		}
	}
	return true, nil
}

// dropLast gives up what restrict left, once the threads have their priority,
// which those that they start inherit (sched(7)).
func dropLast() error { return setCapabilities(0) }

func lowerLimit(resource int, limit unix.Rlimit) error {
	var have unix.Rlimit
	if err := unix.Getrlimit(resource, &have); err != nil {
		return fmt.Errorf("read resource limit %d: %w", resource, err)
	}
	limit.Cur, limit.Max = min(limit.Cur, have.Max), min(limit.Max, have.Max)
	if err := unix.Setrlimit(resource, &limit); err != nil {
		return fmt.Errorf("set resource limit %d to %d: %w", resource, limit.Cur, err)
	}
	return nil
}

// permitted returns the lower half of this thread's permitted capabilities.
func permitted() uint32 {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0
	}
	return data[0].Permitted
}

// setCapabilities makes low the effective and permitted set of all threads and
// empties the inheritable one.
func setCapabilities(low uint32) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: low, Permitted: low}}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0) //nolint:gosec // the arguments of capset(2)
	if errno != 0 {
		return fmt.Errorf("set capabilities: %w", errno)
	}
	return nil
}

// prctlAll calls prctl(2) on every thread of the process.
func prctlAll(option, a uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, option, a, 0); errno != 0 {
		return errno
	}
	return nil
}

// processAttributes are the attributes of a new BFD process: it hears of the end
// of the daemon's thread that started it, and is nobody where the daemon may
// switch users.
func processAttributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: parentGone}
	caps := permitted()
	if os.Geteuid() != 0 || !maySwitch(caps) || !nobodyExists() {
		return attr
	}
	attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	if caps&(1<<unix.CAP_SYS_NICE) != 0 {
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_NICE}
	}
	return attr
}

// maySwitch tells whether a daemon with these capabilities can have a process of
// another user: it must also be able to kill one that hangs (kill(2)).
func maySwitch(caps uint32) bool {
	const need = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID | 1<<unix.CAP_KILL
	return caps&need == need
}

// nobodyExists tells whether this user namespace has the user.
func nobodyExists() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	f := strings.Fields(string(text))
	if len(f) != 3 || f[0] != "0" {
		return false
	}
	n, err := strconv.ParseUint(f[2], 10, 64)
	return err == nil && n > nobody
}
