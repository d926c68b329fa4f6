package bgp

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

// Resource limits of a speaker process. A router may send as many routes as it
// likes; memory that it fills costs its own interface's speaker only.
const (
	limitFiles = 512
	limitData  = 2 << 30 // private writable memory, octets
)

// nobody is the user that a speaker process runs as when the daemon may choose.
const nobody = 65534

// dropPrivileges leaves the process with CAP_NET_BIND_SERVICE at most, on all
// its threads, and with no way to get more (capabilities(7), prctl(2)).
func dropPrivileges(logger *slog.Logger) error {
	if err := prctlAll(unix.PR_SET_NO_NEW_PRIVS, 1); errors.Is(err, syscall.ENOTSUP) {
		// A binary with cgo, as the race detector needs it, cannot do this.
		logger.Warn("privileges are not dropped on all threads, because the binary uses cgo")
		return nil
	} else if err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	// Again here, because exec forgets it for a file with capabilities.
	if err := prctlAll(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL)); err != nil {
		return fmt.Errorf("set parent death signal: %w", err)
	}
	if err := dropBounding(); err != nil {
		return err
	}
	if err := prctlAll(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	keep := uint32(1 << unix.CAP_NET_BIND_SERVICE)
	if err := setCapabilities(keep & permitted()); err != nil {
		return err
	}
	for resource, limit := range map[int]uint64{
		unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: 0, unix.RLIMIT_NOFILE: limitFiles, unix.RLIMIT_DATA: limitData,
	} {
		if err := lowerLimit(resource, limit); err != nil {
			return err
		}
	}
	return nil
}

func lowerLimit(resource int, limit uint64) error {
	var have unix.Rlimit
	if err := unix.Getrlimit(resource, &have); err != nil {
		return fmt.Errorf("read resource limit %d: %w", resource, err)
	}
	limit = min(limit, have.Max)
	if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("set resource limit %d to %d: %w", resource, limit, err)
	}
	return nil
}

// dropBounding takes every other capability out of the bounding set, where the
// process may.
func dropBounding() error {
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if c == unix.CAP_NET_BIND_SERVICE {
			continue
		}
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

// processAttributes are the attributes of a new speaker process: it dies with
// the daemon's thread that started it, and is nobody where the daemon may
// switch users.
func processAttributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	caps := permitted()
	canSwitch := caps&(1<<unix.CAP_SETUID) != 0 && caps&(1<<unix.CAP_SETGID) != 0
	if os.Geteuid() != 0 || !canSwitch || !fullUserMap() {
		return attr
	}
	attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	if caps&(1<<unix.CAP_NET_BIND_SERVICE) != 0 {
		attr.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	}
	return attr
}

// fullUserMap tells whether all users exist in this user namespace.
func fullUserMap() bool {
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
