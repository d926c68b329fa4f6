package privilege

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

// nobody is the user that a process runs as when the daemon may choose.
const nobody = 65534

// Confinement is what a process that the daemon starts for one task may keep.
type Confinement struct {
	// Keep are the capabilities that it needs, as bits (capabilities(7)); it has
	// those of them that the daemon has.
	Keep uint32
	// ParentGone is the signal that it gets when the daemon's thread that started
	// it ends (PR_SET_PDEATHSIG).
	ParentGone syscall.Signal
	// Limits are its resource limits, by RLIMIT_ number; those of the daemon if they
	// are lower.
	Limits map[int]unix.Rlimit
}

// Attributes are those that the daemon starts the process with: it is nobody
// where the daemon may switch users.
func (c *Confinement) Attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: c.ParentGone}
	caps := permitted()
	if os.Geteuid() != 0 || !maySwitch(caps) || !nobodyExists() {
		return attr
	}
	attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	for bit := range uintptr(unix.CAP_LAST_CAP + 1) {
		if bit < 32 && c.Keep&caps&(1<<bit) != 0 {
			attr.AmbientCaps = append(attr.AmbientCaps, bit)
		}
	}
	return attr
}

// Enter takes away from the calling process, on all its threads, what it may not
// keep, and every way to get more (capabilities(7), prctl(2)). It tells whether
// that was possible: in a binary with cgo it is not, and logger is told.
func (c *Confinement) Enter(logger *slog.Logger) (able bool, err error) {
	err = prctlAll(unix.PR_SET_NO_NEW_PRIVS, 1)
	if errors.Is(err, syscall.ENOTSUP) {
		// The race detector needs cgo.
		logger.Warn("privileges are not dropped on all threads, because the binary uses cgo")
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("set no_new_privs: %w", err)
	}
	// Again here, because exec forgets it for a file with capabilities.
	if err := prctlAll(unix.PR_SET_PDEATHSIG, uintptr(c.ParentGone)); err != nil {
		return false, fmt.Errorf("set parent death signal: %w", err)
	}
	if err := dropBounding(); err != nil {
		return false, err
	}
	if err := prctlAll(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil {
		return false, fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := setCapabilities(c.Keep & permitted()); err != nil {
		return false, err
	}
	for resource, limit := range c.Limits {
		if err := lowerLimit(resource, limit); err != nil {
			return false, err
		}
	}
	return true, nil
}

// DropAll takes all capabilities away from every thread of the calling process.
func DropAll() error { return setCapabilities(0) }

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

// dropBounding empties the bounding set, where the process may.
func dropBounding() error {
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		err := prctlAll(unix.PR_CAPBSET_DROP, c)
		if errors.Is(err, unix.EPERM) {
			return nil // without CAP_SETPCAP; no_new_privs holds anyway
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // a kernel that knows fewer
			return fmt.Errorf("drop capability %d from bounding set: %w", c, err)
		}
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
	if err := capset(&hdr, &data); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// capset calls capset(2) on every thread of the process.
func capset(hdr *unix.CapUserHeader, data *[2]unix.CapUserData) error {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(hdr)), uintptr(unsafe.Pointer(&data[0])), 0) //nolint:gosec // the kernel's interface for it
	if errno != 0 {
		return errno
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
